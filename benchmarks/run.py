"""What sparse training costs: steps, updates, selection, memory, start-up.

Each part is measured in a process of its own, in which all contestants take turns. The
numbers go to results/performance/benchmark.json in a folder, ./benchmark if nothing is
said, the tables to its performance.md; a figure lies beside the numbers. Parts that are
not measured keep the numbers that the folder has; --keep measures only those that have
none of this revision and these arguments, so that a run goes on that was stopped. More
--rounds make the intervals of steps, selections and updates narrower.

Example:
  python -m benchmarks.run                  # in less than 20 minutes on two cores
  python -m benchmarks.run --quick          # in three minutes
  python -m benchmarks.run --full --keep    # what takes longer, too
  python -m benchmarks.run --only 'steps/lenet5*' --rounds=61
  python -m benchmarks.run --output docs    # into the page of this clone
"""

import argparse
import dataclasses
import fnmatch
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from benchmarks import page
from rigl_keras.program import files

ROOT = Path(__file__).resolve().parents[1]
MILLION = 2**20
FORMAT = 2  # of the file of numbers
_KINDS = ("quick", "default", "full")
_WITH_ROUNDS = ("trainings:", "selections:")  # what --rounds is about


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
    "import": Part("footprint:measure_import", kind="quick", quick={"rounds": 3}),
    "command line/static": _command_line("mnist/static.gin", "full"),
    "command line/RigL": _command_line("mnist/rigl.gin", "full"),
}


def run(part, changes):
    """Measures a part in a process of its own.

    Args:
      part: `Part`.
      changes: dict of arguments that are others than the part's.

    Returns:
      What its function returns, with the seconds that it took, the arguments, and the
      versions, revision and machine.
    """
    arguments = {**part.arguments, **changes}
    began = time.time()
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TF_USE_LEGACY_KERAS": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BENCHMARK_STARTED": str(began),
        **part.environment,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "measured.json")
        command = [sys.executable, "-m", "benchmarks.worker", part.function]
        subprocess.run(
            [*command, json.dumps(arguments), path],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        measured = files.read_json(path)
    return {
        **measured,
        "seconds_in_all": time.time() - began,
        "arguments": arguments,
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


def _changes(part, args):
    """The arguments of a part that the command line changes."""
    changes = dict(part.quick) if args.quick else {}
    if args.rounds and part.function.startswith(_WITH_ROUNDS):
        changes["rounds"] = args.rounds
    return changes


def _is_known(name, parts, args, revision):
    """Whether a part was measured as it would be now."""
    if name not in parts:
        return False
    arguments = {**PARTS[name].arguments, **_changes(PARTS[name], args)}
    known = parts[name]
    return (
        known["arguments"] == arguments
        and known["environment"]["git_revision"] == revision
    )


def _arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog=__doc__[__doc__.index("Example:") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="little, in three minutes")
    size.add_argument("--full", action="store_true", help="what takes long, too")
    parser.add_argument("--only", default="*", help="glob pattern of parts to measure")
    parser.add_argument("--keep", action="store_true", help="measure what is missing")
    parser.add_argument(
        "--rounds", type=int, help="turns of each, in place of a part's own number"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark"), help="folder; ./benchmark"
    )
    args = parser.parse_args()
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {args.rounds}.")
    args.kind = "quick" if args.quick else "full" if args.full else "default"
    if not chosen(args.kind, args.only):
        parser.error(f"--only={args.only!r} matches none of {chosen(args.kind)}.")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("the figure needs matplotlib: pip install matplotlib.")
    return args


def _known_parts(record):
    """The parts in a file, but for one of another version of this program."""
    known = files.read_json(record) or {}
    return known.get("parts", {}) if known.get("format") == FORMAT else {}


def _measure(part, changes):
    """A part's numbers, or None when it failed; says how it went."""
    try:
        measured = run(part, changes)
    except subprocess.CalledProcessError as error:
        # Such as a run on MNIST where TFDS has none: the others go on.
        print(f"failed ({error.returncode}):\n{error.stderr[-3000:]}", flush=True)
        return None
    print(f"{measured['seconds_in_all']:.0f} s", flush=True)
    return measured


def main():
    """Measures, and writes numbers, tables and figure.

    Returns:
      The exit code: 1 when a part failed, 130 when it was interrupted.
    """
    args = _arguments()
    record = args.output / "results" / "performance" / "benchmark.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    parts = _known_parts(record)
    # Now: in a clone, the first numbers may make it another revision, a "dirty" one.
    revision = files.environment()["git_revision"]
    names, code = chosen(args.kind, args.only), 0
    if args.keep:
        names = [n for n in names if not _is_known(n, parts, args, revision)]
    if not names:
        print("Nothing to measure: all is there.")
    began = time.monotonic()
    try:
        for index, name in enumerate(names, start=1):
            print(f"[{index}/{len(names)}] {name}", end=" ", flush=True)
            parts[name] = _measure(PARTS[name], _changes(PARTS[name], args))
            if parts[name] is None:
                del parts[name]
                code = 1
            else:
                parts[name]["environment"]["git_revision"] = revision
            parts = {name: parts[name] for name in PARTS if name in parts}  # in order
            files.write_json(record, {"format": FORMAT, "parts": parts})
    except KeyboardInterrupt:
        print("interrupted; --keep goes on from here.")
        code = 130
    print(page.write(args.output, parts))
    print(f"{time.monotonic() - began:.0f} s in all.")
    return code


if __name__ == "__main__":
    sys.exit(main())
