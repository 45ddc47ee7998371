"""A table of a model's weights: shapes, active weights, sparsity, FLOPs, bytes."""

from typing import NamedTuple

import numpy as np

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.costs.counting import ModelCost, model_cost


class SummaryRow(NamedTuple):
    """One weight of a model.

    Attributes:
      path: where it is in the model, such as "conv1/kernel".
      shape: tuple of ints.
      active: int, how many of its entries may differ from 0.
      size: int, how many entries it has.
      masked: bool, whether it has a mask.
      flops: FLOPs of a forward pass of one example, with the bias and activation of
        each output; None where they cannot be known, and for what is no kernel.
      bytes: bytes with the biases of its outputs, as `rigl_keras.cost` counts them;
        None for what is no kernel.
    """

    path: str
    shape: tuple[int, ...]
    active: int
    size: int
    masked: bool
    flops: float | None = None
    bytes: float | None = None

    @property
    def sparsity(self):
        """Share of zeros, in [0, 1)."""
        return 1 - self.active / self.size


class Summary(NamedTuple):
    """What `summary` prints, as data.

    Attributes:
      rows: list of `SummaryRow`, one for each weight, in the order of the layers.
      cost: the `rigl_keras.cost.ModelCost` of the model, or None where it could not be
        counted.
      missing: None, or why there is no cost.
    """

    rows: list[SummaryRow]
    cost: ModelCost | None = None
    missing: str | None = None

    @property
    def active(self):
        """How many of the model's weights are active, dense ones included."""
        return sum(row.active for row in self.rows)

    @property
    def size(self):
        """How many weights the model has."""
        return sum(row.size for row in self.rows)

    @property
    def sparsity(self):
        """Share of zeros among all weights of the model."""
        return 1 - self.active / self.size

    @property
    def kernel_sparsity(self):
        """Share of zeros among the weights of the masked kernels; 0 without any."""
        masked = [row for row in self.rows if row.masked]
        size = sum(row.size for row in masked)
        return 1 - sum(row.active for row in masked) / size if size else 0.0


def summary(model, print_fn=print, input_shape=None):
    """Prints a table of a model's weights, dense and sparse.

    FLOPs and bytes are those of `rigl_keras.model_cost`; "-" stands for FLOPs that
    cannot be known. Where the model's own code does not let itself be traced, the table
    has no costs and ends with the reason.

    Args:
      model: a built model.
      print_fn: function that is given each line; None prints nothing.
      input_shape: shape of one example, without the batch, as in `model_cost`.

    Returns:
      A `Summary`.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when it has no weights yet.
    """
    compat.check_layer(model, "a model")
    cost, missing = _cost(model, input_shape)
    data = Summary(_rows(model, cost), cost, missing)
    if not data.rows:
        raise ValueError(
            f"Model {model.name!r} has no weights yet. Give it a keras.Input, or call "
            "model.build(input_shape), before summary."
        )
    if print_fn is not None:
        for line in _lines(model.name, data):
            print_fn(line)
    return data


def _cost(model, input_shape):
    """The model's cost, and why there is none where it cannot be counted."""
    try:
        return model_cost(model, input_shape=input_shape), None
    except Exception as error:
        # The model's own code runs in the trace and may raise anything. The table is of
        # use without costs, unless the caller has said how to count them.
        if input_shape is not None:
            raise
        return None, f"{type(error).__name__}: {error}"


def _rows(model, cost):
    costs = {} if cost is None else {row.path: row for row in cost.rows}
    masks = {kernel.path: kernel.mask for kernel in sparse_kernels(model)}
    hidden = {id(mask) for mask in masks.values()}
    rows = []
    for path, _, weight in kernels.named_weights(model):
        if id(weight) in hidden:
            continue
        shape = tuple(weight.shape)
        size = int(np.prod(shape))
        mask = masks.get(path)
        active = size if mask is None else int(np.count_nonzero(mask.numpy()))
        row = SummaryRow(path, shape, active, size, mask is not None)
        if path in costs:
            row = row._replace(flops=costs[path].flops, bytes=costs[path].bytes)
        rows.append(row)
    return rows


def _lines(name, data):
    cells = [("weight", "shape", "active", "size", "sparsity", "FLOPs", "bytes")]
    cells += [
        (
            row.path,
            "×".join(map(str, row.shape)) or "scalar",
            f"{row.active:,}",
            f"{row.size:,}",
            f"{row.sparsity:.2%}" if row.masked else "dense",
            "" if row.bytes is None else _number(row.flops),
            "" if row.bytes is None else _number(row.bytes),
        )
        for row in data.rows
    ]
    masked = [row for row in data.rows if row.masked]
    kernels_only = [row for row in data.rows if row.bytes is not None]
    totals = [
        ("masked kernels", "", *_totals(masked), *_total_costs(masked)),
        ("all weights", "", *_totals(data.rows), *_total_costs(kernels_only)),
    ]
    widths = [max(len(row[i]) for row in cells + totals) for i in range(len(cells[0]))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    body = [_line(row, widths) for row in cells]
    return [
        f"Sparsity of {name!r}",
        rule,
        body[0],
        rule,
        *body[1:],
        rule,
        *(_line(row, widths) for row in totals),
        rule,
        *_why_costs_are_missing(data.missing),
    ]


def _why_costs_are_missing(reason):
    if reason is None:
        return []
    lines = [line for line in reason.splitlines() if line.strip()]
    return ["FLOPs and bytes are missing, since they cannot be counted:", *lines]


def _totals(rows):
    active = sum(row.active for row in rows)
    size = sum(row.size for row in rows)
    return f"{active:,}", f"{size:,}", f"{1 - active / size if size else 0:.2%}"


def _total_costs(rows):
    """Sums as text; what is unknown in one row is unknown in the sum."""
    values = ([row.flops for row in rows], [row.bytes for row in rows])
    return [
        _number(None if None in known or not known else sum(known)) for known in values
    ]


def _number(value):
    return "-" if value is None else f"{value:,.0f}"


def _line(row, widths):
    path, shape, *numbers = row
    left = f"{path:<{widths[0]}}  {shape:<{widths[1]}}"
    right = "  ".join(f"{n:>{w}}" for n, w in zip(numbers, widths[2:], strict=True))
    return f"{left}  {right}".rstrip()
