"""The analyses that make the paper's figures and Table 3 from the runs on MNIST."""

import subprocess
import sys
from pathlib import Path

from experiments.mnist.claims import HEAD, claims
from experiments.pages import write_sections
from rigl_keras import analyze
from rigl_keras.common import tables
from rigl_keras.program import files

_PLUS = (
    "A + after a name: its first weights are unit-scaled, by the number of each unit's "
    "own connections."
)
# label -> folder of the runs
_FLOW = {
    "Dense": "dense",
    "Small dense": "small_dense",
    "Pruned": "prune95",
    "Lottery": "lottery95",
    "Scratch": "scratch95_dense",
    "Scratch+": "scratch95_unit_fanavg",
    "SET+": "set95_unit_fanavg",
    "RigL": "rigl95_dense",
    "RigL+": "rigl95_unit_fanavg",
}
_EVOLVING = {
    "RigL+": "rigl95_unit_fanavg",
    "SET+": "set95_unit_fanavg",
    "RigL-Inverted+": "rigl_inverted95_unit_fanavg",
}
# One parent and five orders of the data, as in Table 3; then a parent for each seed.
_PAIRS = {
    "Lottery": "similar_lottery",
    "Scratch": "similar_scratch",
    "Lottery, five parents": "lottery95",
    "Scratch, five parents": "scratch95_unit_fanavg",
}
_SIMILAR = {
    "Lottery": "similar_lottery",
    "Scratch": "similar_scratch",
    "Scratch, layer-scaled": "similar_scratch_layer",
    "Scratch, different init": "similar_scratch_other",
    "Prune restart": "similar_restart",
    "Different pruned": "prune95",
}
_MAPPED = {
    "Lottery": "similar_lottery",
    "Scratch, different init": "similar_scratch_other",
    "Different pruned": "prune95",
}
# Around one early update, exact; its checkpoints are `ckpt--499` and `ckpt--500`.
_HESSIAN_RUN = "rigl95_unit_fanavg/seed0"
_HESSIAN_STEPS = [-499, -500]


def analyses(runs):
    """The command lines of `rigl_keras.analyze` for all figures.

    Args:
      runs: path of the folder of the runs, as a string.
    """

    def groups(folders):
        return [
            part
            for label, name in folders.items()
            for part in ("--group", label, f"{runs}/{name}")
        ]

    pruned, plus = ["--reference", f"{runs}/prune95/seed0"], ["--note", _PLUS]
    return [
        ["signals", "--name=fig_1c_signals"],
        ["gradient_flow", "--name=fig_2_gradient_flow", *groups(_FLOW), *plus],
        ["mask_updates", "--name=fig_3_mask_updates", *groups(_EVOLVING), *plus],
        ["map", "--name=fig_5a_map", *groups(_MAPPED), *pruned],
        ["distances", "--name=fig_5b_distances", *groups(_PAIRS)],
        ["interpolation", "--name=fig_5c_interpolation", *groups(_PAIRS)],
        ["ensembles", "--name=table_3_ensembles", *groups(_SIMILAR), *pruned],
        [
            "masks",
            "--name=masks",
            *groups({**_EVOLVING, "SNFS+": "snfs95"}),
            *plus,
        ],
        ["hessian", "--name=hessian", *groups({"RigL+": _HESSIAN_RUN}), *plus],
    ]


def hessian(runs):
    """The arguments of `rigl_keras.train` that find the Hessian's spectra.

    Args:
      runs: path of the folder of the runs, as a string.
    """
    return [
        "--mode=hessian",
        f"--logdir={runs}/{_HESSIAN_RUN}",
        "--gin_config=mnist/hessian.gin",
        f"--gin_bindings=hessian.ckpt_ids={_HESSIAN_STEPS}",
    ]


def make(runs, output):
    """Makes all figures of the paper, and checks its claims.

    Args:
      runs: path of the folder of the runs, as a string.
      output: path of the folder of paper.md and figures/.

    Returns:
      The exit code: 1 when an analysis failed.
    """
    command = [sys.executable, "-m", "rigl_keras.train", *hessian(runs)]
    subprocess.run(command, check=True)
    folder = output / "figures"
    for arguments in analyses(runs):
        if analyze.main([*arguments, f"--out={folder}"]):
            return 1
    checked = tables.markdown([HEAD, *claims(Path(runs), folder)]) + "\n"
    sections = {**figure_tables(folder), "claims": checked}
    write_sections(output / "paper.md", sections)
    return 0


def figure_tables(folder):
    """The tables beside the figures: dict from names of figures to Markdown.

    Args:
      folder: path of what `analyses` wrote.
    """
    names = [arguments[1].removeprefix("--name=") for arguments in analyses("")]
    shown = {name: files.read_json(folder / f"{name}.json")["table"] for name in names}
    return {
        name: tables.markdown([table["columns"], *table["rows"]]) + "\n"
        for name, table in shown.items()
    }
