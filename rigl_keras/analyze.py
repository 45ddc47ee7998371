"""Analyses saved runs: a figure, a table and the numbers of each analysis.

Example:
  python -m rigl_keras.analyze ensembles --out=runs/analysis \
      --group lottery runs/lottery --group scratch runs/scratch \
      --reference runs/prune/seed0

writes ensembles.json (table, settings, versions), ensembles.npz (numbers) and
ensembles.png. A folder after the label of a group stands for all runs in it.
"""

import argparse
import sys

from rigl_keras import networks
from rigl_keras.common import tables
from rigl_keras.findings import signals
from rigl_keras.findings.of_groups import ANALYSES, REFERENCES, analyse
from rigl_keras.plots import style
from rigl_keras.program import command_line


def make_parser():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rigl_keras.analyze", description=_summary(sys.modules[__name__])
    )
    commands = parser.add_subparsers(dest="analysis", required=True)
    for name, function in ANALYSES.items():
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
        if name in REFERENCES:
            command.add_argument(
                "--reference",
                required=name == "map",
                help=REFERENCES[name],
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
    command.add_argument("--note", help="sentence to add to its text")
    return command


def _analyse(options):
    if options.analysis == "signals":
        return signals.find(
            options.network,
            tuple(options.input_shape),
            options.num_classes,
            sparsities=options.sparsities,
            num_networks=options.num_networks,
            seed=options.seed,
        )
    others = {}
    if options.analysis == "interpolation":
        others["num_train"] = options.num_train
    reference = getattr(options, "reference", None)
    return analyse(options.analysis, options.group, reference, **others)


def main(arguments=None):
    """Runs the command line.

    Returns:
      The exit code.
    """
    options = make_parser().parse_args(arguments)
    try:
        style.check_installed()
        finding = _analyse(options).noted(options.note)
        finding.write(vars(options), options.out, options.name)
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    print(finding.title)
    print(tables.markdown([finding.columns, *finding.rows]))
    print(f"\nIn {options.out}: {options.name}.png, .json, .npz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
