"""A table of a model's weights: shapes, active weights, sparsity, FLOPs, bytes."""

from typing import NamedTuple

import numpy as np

from rigl_keras import compat
from rigl_keras.core import asked, kernels
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.costs.counting import ModelCost, model_cost
from rigl_keras.costs.text import lines

# Compressed kernels of more density or fewer weights are not faster than dense ones.
_MOST_DENSE = 0.2
_SMALLEST = 256 * 256


class SummaryRow(NamedTuple):
    """One weight of a model.

    Attributes:
      path: where it is in the model, such as "conv1/kernel".
      shape: tuple of ints.
      active: int, how many of its entries may differ from 0.
      size: int, how many entries it has.
      masked: bool, whether it has a mask, or is stored without its zeros.
      flops: FLOPs of a forward pass of one example, with the bias and activation of
        each output; None where they cannot be known, and for what is no kernel.
      bytes: bytes with the biases of its outputs, as `rigl_keras.cost` counts them;
        None for what is no kernel.
      kind: "kernel" for any weight of rank 2 or more that is no bias, such as an
        embedding too; "bias", "normalisation" or "other" for the rest.
      reason: why `sparsify` left it dense; None where it did not, or is not known.
      pattern: text of the pattern of its mask, such as "unstructured" or "blocks(16,
        1)"; None without a mask.
      storage: "masked", "compressed" for a kernel that is stored without its zeros, or
        None for a weight that is not sparse.
    """

    path: str
    shape: tuple[int, ...]
    active: int
    size: int
    masked: bool
    flops: float | None = None
    bytes: float | None = None
    kind: str = "kernel"
    reason: str | None = None
    pattern: str | None = None
    storage: str | None = None

    @property
    def pays(self):
        """Whether its storage is expected to make training faster than a dense one.

        That was measured for compressed kernels: docs/compressed.md.
        """
        is_sparse = 1 - self.sparsity <= _MOST_DENSE
        return self.storage == "compressed" and is_sparse and self.size >= _SMALLEST

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
      asked: the sparsity that `sparsify` was asked for; None where it was not given as
        one number, or is not known, as of a model that was loaded from a file.
    """

    rows: list[SummaryRow]
    cost: ModelCost | None = None
    missing: str | None = None
    asked: float | None = None

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
        return _zeros(row for row in self.rows if row.masked)

    @property
    def all_kernels_sparsity(self):
        """Share of zeros among the weights of all kernels, dense ones included."""
        return _zeros(row for row in self.rows if row.kind == "kernel")


def _zeros(rows):
    rows = list(rows)
    size = sum(row.size for row in rows)
    return 1 - sum(row.active for row in rows) / size if size else 0.0


def summary(model, print_fn=print, input_shape=None):
    """Prints a table of a model's weights, dense and sparse.

    Each kernel has a line, as has any weight of rank 2 or more that is no bias; all
    biases have one together, and so have all vectors of normalisation. A line says why
    `sparsify` left its kernel dense. Where a kernel has a pattern, a column names those
    of all masks; where one is stored without its zeros, a column says which, and a line
    under the table names those that are not expected to be faster for it. Under the
    table are the sparsity that `sparsify` was asked for and
    those that the model has. Files do not hold what was asked for nor the reasons: of a
    loaded model the table shows the masks alone.

    FLOPs and bytes are those of `rigl_keras.model_cost`: 4 bytes for each active weight
    and bias, and a bit for each weight of a sparse kernel or, where its pattern is
    blocks, for each block. "-" stands for FLOPs that
    cannot be known, and "at least" for a sum without these, whose reasons follow. Where
    the model's own code does not let itself be traced, the table has no costs and ends
    with the reason.

    Args:
      model: a built model.
      print_fn: function that is given each line; None prints nothing.
      input_shape: shape of one example, without the batch, as in `model_cost`.

    Returns:
      A `Summary`, with a row for every weight.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when it has no weights yet.
    """
    compat.check_layer(model, "a model")
    cost, missing = _cost(model, input_shape)
    wish = asked.noted(model) or asked.Asked(None, {})
    data = Summary(_rows(model, cost, wish.reasons), cost, missing, wish.sparsity)
    if not data.rows:
        raise ValueError(
            f"Model {model.name!r} has no weights yet. Give it a keras.Input, or call "
            "model.build(input_shape), before summary."
        )
    if print_fn is not None:
        for line in lines(model.name, data):
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


def _rows(model, cost, reasons):
    costs = {} if cost is None else {row.path: row for row in cost.rows}
    sparse = {kernel.path: kernel for kernel in sparse_kernels(model)}
    hidden = {
        id(variable)
        for kernel in sparse.values()
        for variable in kernel.index_variables
    }
    rows = []
    for path, owner, weight in kernels.named_weights(model):
        if id(weight) in hidden:
            continue
        kernel = sparse.get(path)
        shape = tuple(weight.shape) if kernel is None else kernel.shape
        size = int(np.prod(shape))
        active = size if kernel is None else kernel.active
        row = SummaryRow(
            path,
            shape,
            int(active),
            size,
            kernel is not None,
            kind=_kind(owner, weight),
            # A mask of ones may have changed since.
            reason=reasons.get(path) if active == size else None,
            pattern=None if kernel is None else str(kernel.pattern),
            storage=_storage(kernel),
        )
        if path in costs:
            row = row._replace(flops=costs[path].flops, bytes=costs[path].bytes)
        rows.append(row)
    return rows


def _storage(kernel):
    if kernel is None:
        return None
    return "compressed" if kernel.is_compressed else "masked"


def _kind(owner, weight):
    if compat.variable_name(weight).endswith("bias"):
        return "bias"
    if len(weight.shape) >= 2:
        return "kernel"
    is_norm = "Normalization" in type(owner).__name__
    return "normalisation" if is_norm else "other"
