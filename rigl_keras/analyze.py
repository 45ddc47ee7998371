"""Analyses saved runs: a figure, a table and the numbers of each analysis.

Example:
  python -m rigl_keras.analyze ensembles --out=runs/analysis \
      --group lottery runs/lottery --group scratch runs/scratch \
      --reference runs/prune/seed0

writes ensembles.json (table, settings, versions), ensembles.npz (numbers) and
ensembles.png. A folder after the label of a group stands for all runs in it.
"""

import argparse
import os
import sys
from collections.abc import Callable

from rigl_keras import networks
from rigl_keras.common import tables
from rigl_keras.findings import comparisons, of_runs, signals
from rigl_keras.findings.finding import Finding
from rigl_keras.program import command_line, files
from rigl_keras.program.saved_runs import SavedRun, find_runs

_RUNS: dict[str, Callable[..., Finding]] = {
    "gradient_flow": of_runs.gradient_flow,
    "mask_updates": of_runs.mask_updates,
    "distances": comparisons.distance_to_reference,
    "map": comparisons.solution_map,
    "interpolation": comparisons.interpolations,
    "ensembles": comparisons.ensemble,
    "masks": of_runs.masks_over_time,
    "hessian": of_runs.hessian,
}
_PARENT = "run to compare with; default: the one that each run's masks come from"
_ONE = "run to compare with"
# Those that compare runs with one more run; the map cannot do without.
_REFERENCE = {
    "distances": _PARENT,
    "map": _ONE,
    "interpolation": _PARENT,
    "ensembles": _ONE,
}


def make_parser():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rigl_keras.analyze", description=_summary(sys.modules[__name__])
    )
    commands = parser.add_subparsers(dest="analysis", required=True)
    for name, function in _RUNS.items():
        command = _add_command(commands, name, _summary(function))
        command.add_argument(
            "--group",
            action="append",
            nargs="+",
            required=True,
            metavar=("LABEL", "RUN"),
            help="label of a group and folders of its runs, or of folders that hold "
            "them; repeatable",
        )
        if name in _REFERENCE:
            command.add_argument(
                "--reference",
                required=name == "map",
                help=_REFERENCE[name],
            )
    command = commands.choices["interpolation"]
    command.add_argument(
        "--num_train", type=int, default=10_000, help="training records for the loss"
    )
    command = _add_command(commands, "signals", _summary(signals.find))
    command.add_argument("--network", choices=networks.NETWORKS, default="lenet5")
    command.add_argument(
        "--input_shape", type=int, nargs=3, default=[28, 28, 3], metavar="N"
    )
    command.add_argument("--num_classes", type=int, default=10)
    command.add_argument(
        "--sparsities", type=float, nargs="+", default=list(signals.SPARSITIES)
    )
    command.add_argument("--num_networks", type=int, default=5)
    command.add_argument("--seed", type=int, default=0)
    return parser


def _summary(documented):
    """The first line of a docstring."""
    return (documented.__doc__ or "").split("\n")[0]


def _add_command(commands, name, text):
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--out", default="analysis", help="folder for what it finds")
    command.add_argument("--name", default=name, help="name of the files")
    return command


def open_groups(groups):
    """Opens the runs of the groups of a command line.

    Args:
      groups: lists of a label and folders.

    Returns:
      A dict from labels to lists of `SavedRun`.

    Raises:
      ValueError: for a label that comes twice, or without a run.
    """
    opened: dict[str, list[SavedRun]] = {}
    for label, *folders in groups:
        if label in opened or not folders:
            raise ValueError(
                f"Expected --group LABEL RUN..., each label once; got {label!r} "
                f"{'again' if label in opened else 'without a run'}."
            )
        opened[label] = [run for folder in folders for run in find_runs(folder)]
    return opened


def analyse(options):
    """Makes the analysis of a parsed command line.

    Returns:
      `Finding`.

    Raises:
      ValueError: for runs that lack what the analysis needs.
    """
    if options.analysis == "signals":
        return signals.find(
            options.network,
            tuple(options.input_shape),
            options.num_classes,
            options.sparsities,
            options.num_networks,
            options.seed,
        )
    arguments = {}
    if options.analysis in _REFERENCE:
        reference = options.reference
        arguments["reference"] = None if reference is None else SavedRun(reference)
    if options.analysis == "interpolation":
        arguments["num_train"] = options.num_train
    return _RUNS[options.analysis](open_groups(options.group), **arguments)


def write(finding, settings, folder, name):
    """Writes NAME.json, NAME.npz and NAME.png.

    Args:
      finding: `Finding`.
      settings: dict with the "analysis" and its arguments, for the files to carry.
      folder: where to.
      name: NAME.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    finding.draw(f"{path}.png")
    description = {
        "analysis": settings["analysis"],
        "title": finding.title,
        "text": finding.text,
        "table": {"columns": finding.columns, "rows": finding.rows},
        "config": settings,
        **files.environment(),
    }
    files.write_arrays(f"{path}.npz", finding.arrays, description)
    # Last: where it is, all is.
    files.write_json(f"{path}.json", description)


def main(arguments=None):
    """Runs the command line.

    Returns:
      The exit code.
    """
    options = make_parser().parse_args(arguments)
    try:
        finding = analyse(options)
        write(finding, vars(options), options.out, options.name)
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    print(finding.title)
    print(tables.markdown([finding.columns, *finding.rows]))
    print(f"\nIn {options.out}: {options.name}.png, .json, .npz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
