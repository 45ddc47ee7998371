"""A table of a model's weights: shapes, active weights, sparsity."""

from typing import NamedTuple

import numpy as np

from rigl_keras import compat, kernels
from rigl_keras.masks import sparse_kernels
from rigl_keras.tfmot_wrappers import is_pruning_wrapper


class SummaryRow(NamedTuple):
    """One weight of a model.

    Attributes:
      path: where it is in the model, such as "conv1/kernel".
      shape: tuple of ints.
      active: int, how many of its entries may differ from 0.
      size: int, how many entries it has.
      masked: bool, whether it has a mask.
    """

    path: str
    shape: tuple[int, ...]
    active: int
    size: int
    masked: bool

    @property
    def sparsity(self):
        """Share of zeros, in [0, 1)."""
        return 1 - self.active / self.size


class Summary(NamedTuple):
    """What `summary` prints, as data.

    Attributes:
      rows: list of `SummaryRow`, one for each weight, in the order of the layers.
    """

    rows: list[SummaryRow]

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


def summary(model, print_fn=print):
    """Prints a table of a model's weights, dense and sparse.

    Args:
      model: a built model.
      print_fn: function that is given each line; None prints nothing.

    Returns:
      A `Summary`.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when it has no weights yet.
    """
    compat.check_layer(model, "a model")
    data = Summary(_rows(model))
    if not data.rows:
        raise ValueError(
            f"Model {model.name!r} has no weights yet. Give it a keras.Input, or call "
            "model.build(input_shape), before summary."
        )
    if print_fn is not None:
        for line in _lines(model.name, data):
            print_fn(line)
    return data


def _rows(model):
    masks = {id(each.kernel): each.mask for each in sparse_kernels(model)}
    hidden = {id(mask) for mask in masks.values()}
    rows, seen = [], set()
    for layer, path in kernels.walk(model):
        if is_pruning_wrapper(layer):
            continue  # Masks, thresholds and step counts.
        for weight in kernels.own_weights(layer):
            if id(weight) in hidden or id(weight) in seen:
                continue
            seen.add(id(weight))
            shape = tuple(weight.shape)
            size = int(np.prod(shape))
            mask = masks.get(id(weight))
            active = size if mask is None else int(np.count_nonzero(mask.numpy()))
            name = kernels.join(path, compat.variable_name(weight))
            rows.append(SummaryRow(name, shape, active, size, mask is not None))
    return rows


def _lines(name, data):
    cells = [("weight", "shape", "active", "size", "sparsity")]
    cells += [
        (
            row.path,
            "×".join(map(str, row.shape)) or "scalar",
            f"{row.active:,}",
            f"{row.size:,}",
            f"{row.sparsity:.2%}" if row.masked else "dense",
        )
        for row in data.rows
    ]
    totals = [
        ("masked kernels", "", *_totals([r for r in data.rows if r.masked])),
        ("all weights", "", *_totals(data.rows)),
    ]
    widths = [max(len(row[i]) for row in cells + totals) for i in range(5)]
    rule = "─" * (sum(widths) + 8)
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
    ]


def _totals(rows):
    active = sum(row.active for row in rows)
    size = sum(row.size for row in rows)
    return f"{active:,}", f"{size:,}", f"{1 - active / size if size else 0:.2%}"


def _line(row, widths):
    path, shape, *numbers = row
    left = f"{path:<{widths[0]}}  {shape:<{widths[1]}}"
    right = "  ".join(f"{n:>{w}}" for n, w in zip(numbers, widths[2:], strict=True))
    return f"{left}  {right}".rstrip()
