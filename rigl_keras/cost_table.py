"""Prints what a network costs: parameters, FLOPs and bytes, without training it.

Example:
  python -m rigl_keras.cost_table --network=resnet50 --input_shape=224,224,3 \
      --num_classes=1000 --sparsity=0.8 --distribution=erk --method=rigl

counts as docs/cost.md says, planned sparsities as the real numbers that they are.
"""

import argparse
import ast
import json
import sys

from rigl_keras import networks
from rigl_keras.algorithms import schedules
from rigl_keras.common import tables
from rigl_keras.core import distributions, kernels
from rigl_keras.costs import counting
from rigl_keras.program import command_line, files


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
    add("--input_shape", required=True, type=_ints, help="such as 224,224,3")
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
    add("--method", action="append", default=[], choices=counting.METHODS)
    add("--steps", type=int, default=32_000)
    add("--batch_size", type=int, default=4096)
    add("--update_freq", type=int, default=100, help="steps between mask updates")
    add("--begin_step", type=int, help="of pruning to the sparsity, by a cubic")
    add("--end_step", type=int, help="of pruning")
    return parser


def _ints(text):
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected ints such as 224,224,3, got {text!r}"
        ) from None


def _network_arguments(pairs):
    arguments = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(
                f"expected --network_args=NAME=VALUE with a Python value such as "
                f"width_multiplier=0.5 or kernel_initializer='he_normal', got {pair!r}"
            ) from None
    return arguments


def compute(options):
    """The costs that a parsed command line asks for.

    Returns:
      A `ModelCost` and a dict from methods to the FLOPs of a whole training.

    Raises:
      TypeError: for an argument that the network does not have.
      ValueError: for a value out of range.
    """
    model = networks.build(
        options.network,
        options.input_shape,
        options.num_classes,
        **_network_arguments(options.network_args),
    )
    shapes = {each.path: each.connection_shape for each in kernels.find_kernels(model)}
    distribute = distributions.from_name(options.distribution)
    dense = dict.fromkeys(options.dense, 0.0)
    planned = distribute(shapes, options.sparsity, dense)
    counted = counting.model_cost(model, planned)
    trainings = {
        method: counting.training_flops(
            counted,
            method,
            options.steps,
            options.batch_size,
            options.update_freq,
            _schedule(options) if method == "pruning" else None,
        )
        for method in options.method
    }
    return counted, trainings


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


def as_dict(counted, trainings):
    """All numbers, for JSON."""
    totals = (
        "parameters",
        "active_parameters",
        "inference_flops",
        "dense_flops",
        "size_bytes",
        "dense_size_bytes",
    )
    columns = ("path", "shape", "active", "size", "density", "flops", "dense_flops")
    return {
        **{name: getattr(counted, name) for name in totals},
        "training_flops": trainings,
        "rows": [
            {name: getattr(row, name) for name in (*columns, "bytes", "dense_bytes")}
            for row in counted.rows
        ],
    }


def _totals_table(counted, trainings, options):
    dense_training = counting.training_flops(
        counted, "dense", options.steps, options.batch_size
    )
    numbers = {
        "parameters": (counted.parameters, counted.active_parameters),
        "inference FLOPs": (counted.dense_flops, counted.inference_flops),
        "size, bytes": (counted.dense_size_bytes, counted.size_bytes),
        **{
            f"training FLOPs, {method}": (dense_training, flops)
            for method, flops in trainings.items()
        },
    }
    return [
        ["", "dense", "sparse", "ratio"],
        *(
            [name, _number(dense), _number(sparse), f"{sparse / dense:.4f}"]
            for name, (dense, sparse) in numbers.items()
        ),
    ]


def _number(value):
    return f"{value:,.0f}" if value < 1e12 else f"{value:.4e}"


def _layers_table(counted):
    return [
        ["kernel", "shape", "density", "FLOPs", "bytes"],
        *(
            [
                row.path,
                "×".join(map(str, row.shape)),
                f"{row.density:.4f}",
                _number(row.flops),
                _number(row.bytes),
            ]
            for row in counted.rows
        ),
    ]


def main(arguments=None):
    """Runs the command line.

    Returns:
      The exit code.
    """
    try:
        options = make_parser().parse_args(arguments)
        counted, trainings = compute(options)
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    if options.json:
        description = {
            **vars(options),
            **as_dict(counted, trainings),
            **files.environment(),
        }
        print(json.dumps(description, indent=1))
        return 0
    if options.layers:
        print(tables.markdown(_layers_table(counted)), end="\n\n")
    print(tables.markdown(_totals_table(counted, trainings, options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
