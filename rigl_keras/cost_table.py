"""Prints what a network costs: parameters, FLOPs and bytes, without training it.

Example:
  python -m rigl_keras.cost_table --network=resnet50 --input_shape=224,224,3 \
      --num_classes=1000 --sparsity=0.8 --distribution=erk --method=rigl

counts as docs/cost.md says, planned sparsities as the real numbers that they are.
"""

import argparse
import json
import sys

from rigl_keras import networks
from rigl_keras.algorithms import schedules
from rigl_keras.common import tables
from rigl_keras.costs.counting import METHODS, model_cost
from rigl_keras.costs.table import CostTable, planned_sparsities
from rigl_keras.program import command_line, files
from rigl_keras.program.arguments import ints, named_values


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Has `main` report wrong arguments as it does wrong values."""
        raise ValueError(f"{message} (see --help)")


def make_parser():
    """The parser of the command line."""
    parser = _Parser(
        prog="python -m rigl_keras.cost_table",
        description="Prints the parameters, FLOPs and bytes of a network.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--network", required=True, choices=networks.NETWORKS)
    add("--input_shape", required=True, type=ints, help="such as 224,224,3")
    add("--num_classes", required=True, type=int)
    add(
        "--network_args",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of the network, such as width_multiplier=0.5; repeatable",
    )
    add("--sparsity", type=float, default=0.0, help="share of zeros; default: dense")
    add("--distribution", default="erk", help="erk (default), er or uniform")
    add(
        "--dense",
        action="append",
        default=[],
        metavar="PATTERN",
        help="glob pattern on the paths of kernels that stay dense; repeatable",
    )
    add("--layers", action="store_true", help="print a line for each kernel too")
    add("--json", action="store_true", help="print JSON in place of tables")
    training = parser.add_argument_group("FLOPs of a training")
    add = training.add_argument
    add("--method", action="append", default=[], choices=METHODS)
    add("--steps", type=int, default=32_000)
    add("--batch_size", type=int, default=4096)
    add("--update_freq", type=int, default=100, help="steps between mask updates")
    add("--begin_step", type=int, help="of pruning to the sparsity, by a cubic")
    add("--end_step", type=int, help="of pruning")
    return parser


def _schedule(options):
    if options.begin_step is None or options.end_step is None:
        raise ValueError("--method=pruning needs --begin_step and --end_step")
    return schedules.polynomial_decay(
        0.0,
        options.sparsity,
        options.begin_step,
        options.end_step,
        frequency=options.update_freq,
    )


def compute(options):
    """The `CostTable` that a parsed command line asks for."""
    model = networks.build(
        options.network,
        options.input_shape,
        options.num_classes,
        **named_values("--network_args", options.network_args),
    )
    planned = planned_sparsities(
        model, options.sparsity, options.distribution, dense=options.dense
    )
    return CostTable.of(
        model_cost(model, planned),
        options.method,
        steps=options.steps,
        batch_size=options.batch_size,
        update_freq=options.update_freq,
        schedule=_schedule(options) if "pruning" in options.method else None,
    )


def main(arguments=None):
    """Runs the command line; returns the exit code."""
    try:
        options = make_parser().parse_args(arguments)
        table = compute(options)
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    if options.json:
        description = {**vars(options), **table.as_dict(), **files.environment()}
        print(json.dumps(description, indent=1))
        return 0
    if options.layers:
        print(tables.markdown(table.layers()), end="\n\n")
    print(tables.markdown(table.totals()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
