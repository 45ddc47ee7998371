"""The parts of the benchmark: what is measured, in a process of its own each."""

import dataclasses
import fnmatch
from typing import Any

MILLION = 2**20
_KINDS = ("quick", "default", "full")


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that is measured in a process of its own.

    Attributes:
      function: of a module of `benchmarks`, as "module:function".
      arguments: of the function.
      kind: the smallest benchmark that it belongs to: "quick", "default" or "full".
      quick: arguments that are others in the quick benchmark.
      environment: variables of the process.
    """

    function: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    kind: str = "default"
    quick: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def _steps(setup, kind="default", jit_compile=False, **options):
    arguments = {"setup": setup, "jit_compile": jit_compile, **options}
    return Part("trainings:measure", arguments, kind, quick={"rounds": 3})


def _command_line(config, kind="default"):
    arguments = {"steps": 11719, "log_freq": 200, "save_freq": 500}
    return Part("command_line:measure", {"config": config, **arguments}, kind)


def _compressed(function, *, name, kind="default", **options):
    """A part for one and for two threads, plain and compiled by XLA, by name."""
    return {
        f"compressed/{name}/{threads}{'/xla' if xla else ''}": Part(
            f"compressed:{function}",
            {**options, "threads": threads, "jit_compile": xla},
            kind,
            quick={"rounds": 3},
            # Read when TensorFlow starts.
            environment=dict.fromkeys(_THREADS, str(threads)),
        )
        for threads in (1, 2)
        for xla in (False, True)
    }


_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
_BESIDE_TFMOT = ["dense", "static", "SET", "RigL", "RigL, always updating"]
_BESIDE_TFMOT += ["TFMOT", "TFMOT, always updating"]

PARTS = {
    "steps/lenet5": _steps("lenet5", "quick"),
    "steps/lenet5/xla": _steps("lenet5", jit_compile=True),
    "steps/lenet5/keras2": dataclasses.replace(
        _steps("lenet5", names=_BESIDE_TFMOT), environment={"TF_USE_LEGACY_KERAS": "1"}
    ),
    "steps/lenet5/keras2/xla": dataclasses.replace(
        _steps("lenet5", "full", jit_compile=True),
        environment={"TF_USE_LEGACY_KERAS": "1"},
    ),
    "steps/mlp-1024": _steps("mlp-1024", "quick"),
    "steps/mlp-1024/xla": _steps("mlp-1024", jit_compile=True),
    "steps/transformer": _steps("transformer"),
    "steps/transformer/xla": _steps("transformer", jit_compile=True),
    "steps/mobilenet-v2": _steps("mobilenet-v2"),
    "steps/mobilenet-v2/xla": _steps("mobilenet-v2", "full", jit_compile=True),
    "steps/resnet50": _steps("resnet50"),
    "steps/resnet50/xla": _steps("resnet50", "full", jit_compile=True),
    "steps/resnet50-224": _steps("resnet50-224", names=["RigL, always updating"]),
    **{
        f"selection/{size}{'/xla' if xla else ''}": Part(
            "selections:measure",
            {"size": size * MILLION, "jit_compile": xla, "rounds": rounds},
            kind=kind,
        )
        for size, rounds, kind in ((1, 15, "quick"), (4, 9, "default"), (25, 3, "full"))
        for xla in (False, True)
    },
    **{
        f"updates{'/xla' if xla else ''}": Part(
            "selections:measure_updates",
            {
                "sizes": [size * MILLION for size in (1, 2, 4, 8, 16, 32)],
                "jit_compile": xla,
                "sorts_up_to": 8 * MILLION,
                "rounds": 3,
            },
        )
        for xla in (False, True)
    },
    **{
        f"patterns{'/xla' if xla else ''}": Part(
            "patterns:measure_updates", {"jit_compile": xla, "rounds": 5}, kind
        )
        for xla, kind in ((False, "default"), (True, "full"))
    },
    "initialization": Part("initialization:measure", kind="quick"),
    **{
        f"memory/{method}": Part(
            "footprint:measure_memory",
            {"method": method},
            "quick",
        )
        for method in ("dense", "static", "SET", "RigL")
    },
    **{
        f"growth/{method}": Part(
            "footprint:measure_memory",
            {"method": method, "width": 512, "batch_size": 32, "steps": 9000},
            "full",
            # So that the memory of Python's objects is seen too.
            environment={"PYTHONMALLOC": "malloc"},
        )
        for method in ("dense", "static", "SET", "RigL")
    },
    **_compressed("measure_fit", name="fit/SGD", kind="quick", optimizer="SGD"),
    **_compressed("measure_fit", name="fit/Adam", optimizer="Adam", rigl=False),
    **{
        name: part
        for inputs in (1024, 4096)
        for name, part in _compressed(
            "measure_layers", name=f"layer/{inputs}", widths=[inputs, 1024], rows=128
        ).items()
    },
    **_compressed(
        "measure_layers",
        name="feed-forward",
        widths=[256, 1024, 256],
        rows=1024,
        sparsities=[0.95],
    ),
    "compressed/memory": Part("compressed_memory:measure_memory", kind="quick"),
    "compressed/large": Part("compressed_memory:measure_large"),
    "import": Part("footprint:measure_import", kind="quick", quick={"rounds": 3}),
    "command line/static": _command_line("mnist/static.gin", "full"),
    "command line/RigL": _command_line("mnist/rigl.gin", "full"),
}


def chosen(kind, pattern="*"):
    """The names of the parts to measure.

    Args:
      kind: "quick", "default" or "full".
      pattern: glob pattern on the names.
    """
    kinds = _KINDS[: _KINDS.index(kind) + 1]
    return [
        name
        for name, part in PARTS.items()
        if part.kind in kinds and fnmatch.fnmatchcase(name, pattern)
    ]
