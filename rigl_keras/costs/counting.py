"""Parameters, FLOPs and bytes of a sparse model, and FLOPs of its training.

The conventions are those of the RigL paper's figures (Evci et al. 2020), so that they
can be compared:

- A multiplication counts 1 and an addition counts 1. Inactive weights cost nothing.
- Every output of a layer with a kernel has one addition of a bias and one
  multiplication of a ReLU, whatever the layer really has.
- Normalisation, pooling, residual additions and products of activations with each
  other, as in attention, are not counted. Padding is multiplied like any other input.
- An active weight takes 4 bytes. Each unit of a kernel with any sparsity takes one bit
  more, which says whether it exists: each weight, or where the pattern is blocks each
  block. Weights of n of m and of constant fan-in are units by themselves. Every output
  unit has a bias of 4 bytes. Normalisation takes none: its scale and shift go into the
  kernel and the bias.
"""

import collections.abc
import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.common.checks import call_problem, check_int
from rigl_keras.common.graphs import own_function
from rigl_keras.core import distributions, kernels
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.costs.uses import NO_PRODUCTS, find_uses

BYTES = 4  # of a float32
METHODS = ("dense", "static", "set", "snip", "snfs", "rigl", "pruning")


@dataclasses.dataclass(frozen=True)
class KernelCost:
    """What one kernel, or another weight of rank 2 or more, costs.

    Attributes:
      path: where it is in the model, such as "conv1/kernel".
      shape: tuple of ints.
      active: how many of its weights are active, a real number where it was planned.
      masked: whether it has a mask, or its sparsity was given.
      units: int, how many different biases its outputs have.
      uses: how often an example makes use of each weight, such as the pixels of a
        convolution's output; None where that cannot be known.
      outputs: how many numbers it computes for an example, or None.
      reason: why that cannot be known, or None where it is.
      elements: int, how many weights exist or vanish together in its pattern: those of
        a block, else 1.
    """

    path: str
    shape: tuple[int, ...]
    active: float
    masked: bool
    units: int
    uses: float | None
    outputs: float | None
    reason: str | None = None
    elements: int = 1

    @property
    def size(self):
        """How many weights it has."""
        return math.prod(self.shape)

    @property
    def density(self):
        """Share of active weights, in (0, 1]."""
        return self.active / self.size

    @property
    def flops(self):
        """FLOPs for one example, or None."""
        return self._flops(self.active)

    @property
    def dense_flops(self):
        """FLOPs for one example were all weights active, or None."""
        return self._flops(self.size)

    @property
    def bytes(self):
        """Bytes of the active weights, of what says where they are, and of biases.

        What says where they are is a bit for each `elements` weights.
        """
        bits = self.size / self.elements if self.active < self.size else 0
        return self._bytes(self.active) + bits / 8

    @property
    def dense_bytes(self):
        """Bytes of all weights and biases."""
        return self._bytes(self.size)

    def _flops(self, weights):
        if self.uses is None or self.outputs is None:
            return None
        # An output of n weights: n products, n - 1 sums, bias and ReLU.
        return 2 * self.uses * weights + self.outputs

    def _bytes(self, weights):
        return BYTES * (weights + self.units)


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """What a model costs: sums over its kernels.

    Attributes:
      rows: tuple of `KernelCost`, in the order of the layers.
      other_parameters: int, parameters that are in no row: biases, normalisation.
    """

    rows: tuple[KernelCost, ...]
    other_parameters: int

    @property
    def parameters(self):
        """How many parameters the model has, moving averages not among them."""
        return sum(row.size for row in self.rows) + self.other_parameters

    @property
    def active_parameters(self):
        """How many of them are active."""
        return sum(row.active for row in self.rows) + self.other_parameters

    @property
    def inference_flops(self):
        """FLOPs of a forward pass of one example; None if any row's are unknown."""
        return _sum(row.flops for row in self.rows)

    @property
    def dense_flops(self):
        """The same were the model dense."""
        return _sum(row.dense_flops for row in self.rows)

    @property
    def counted_flops(self):
        """FLOPs of the rows where they are known: the model's are at least these."""
        return sum(row.flops or 0 for row in self.rows)

    @property
    def counted_dense_flops(self):
        """The same were the model dense."""
        return sum(row.dense_flops or 0 for row in self.rows)

    @property
    def size_bytes(self):
        """Bytes of the model."""
        return sum(row.bytes for row in self.rows)

    @property
    def dense_size_bytes(self):
        """The same were it dense."""
        return sum(row.dense_bytes for row in self.rows)

    @property
    def uncounted(self):
        """Paths of the rows whose FLOPs cannot be known, a list."""
        return [row.path for row in self.rows if row.flops is None]

    @property
    def reasons(self):
        """Why they cannot be known: a dict from these paths to texts."""
        return {row.path: row.reason for row in self.rows if row.flops is None}


def _sum(values):
    values = list(values)
    return None if None in values else sum(values)


def model_cost(model, sparsities=None, input_shape=None):
    """Counts the parameters, FLOPs and bytes of a model.

    Calls of layers are counted in a trace of one forward pass: a shared layer as often
    as it is called. Layers that derive from Keras's Dense, EinsumDense (in
    MultiHeadAttention too), convolutions, Embedding and recurrent layers are known. The
    FLOPs of other weights of rank 2 or more are None, and so are those of layers that
    are not called, or called inside a loop of the model's own. Each such row says why,
    and the model's `counted_flops` are those of all others.

    Args:
      model: a built model, dense or sparse (also by TFMOT's `prune_low_magnitude`).
      sparsities: None counts the masks as they are; or a plan in their place, a mapping
        from kernels' paths to sparsities, real numbers in [0, 1), such as
        `rigl_keras.distributions` returns. Kernels that it leaves out are dense; those
        that have a mask keep its pattern.
      input_shape: shape of one example, without the batch, such as (224, 224, 3); for
        several inputs a list or dict of shapes, as the model takes them. None for the
        shapes of the model's own inputs, which a subclassed model does not have: its
        FLOPs then are None.

    Returns:
      A `ModelCost`.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: for a model that is not built, or a plan that names other weights.

    Source: the counts of Evci et al. 2020 (RigL), appendix; see this module's text.
    """
    compat.check_layer(model, "a model")
    maskable = kernels.find_maskable(model)
    if not maskable:
        raise ValueError(
            f"Model {model.name!r} has no kernel to count. Give it a keras.Input, or "
            "call model.build(input_shape), before."
        )
    active = _active(model, maskable, sparsities)
    found = find_uses(model, input_shape)
    elements = {each.path: each.grouping.elements for each in sparse_kernels(model)}
    rows = [
        _row(each, active.get(each.path), found, elements=elements.get(each.path, 1))
        for each in maskable
    ]
    return ModelCost(tuple(rows), _other_parameters(model, maskable))


def _row(kernel, count, found, *, elements):
    """The cost of a kernel, `count` of whose weights are active; None without mask."""
    key, shape = id(kernel.variable), kernel.shape
    use = found.uses.get(key)
    if use is None and _multiplies_nothing(kernel):
        use = NO_PRODUCTS
    return KernelCost(
        kernel.path,
        shape,
        math.prod(shape) if count is None else count,
        count is not None,
        kernel.connection_shape[-1] if use is None else use.units,
        None if use is None else use.uses,
        None if use is None else use.outputs,
        found.reasons.get(key, found.otherwise) if use is None else None,
        elements,
    )


def _active(model, maskable, sparsities):
    """How many weights are active in the kernels that are masked, by path."""
    if sparsities is None:
        return {kernel.path: kernel.active for kernel in sparse_kernels(model)}
    sizes = {kernel.path: math.prod(kernel.shape) for kernel in maskable}
    unknown = sorted(set(sparsities) - set(sizes))
    if unknown:
        raise ValueError(
            f"`sparsities` names {unknown}, but the kernels are {list(sizes)}."
        )
    return {
        path: (1 - distributions.check_sparsity(sparsity, f"The sparsity of {path!r}"))
        * sizes[path]
        for path, sparsity in sparsities.items()
    }


def _multiplies_nothing(kernel):
    """True for what a layer of another type adds: positions, a token, a scale."""
    name, shape = compat.variable_name(kernel.variable), kernel.shape
    is_table = name.endswith("embeddings") and not kernel.is_embedding
    is_vector = not kernel.is_kernel and math.prod(shape) == max(shape)
    return is_table or is_vector


def _other_parameters(model, maskable):
    counted = {id(kernel.variable) for kernel in maskable}
    masks = {
        id(variable)
        for kernel in sparse_kernels(model)
        for variable in kernel.index_variables
    }
    return sum(
        math.prod(weight.shape)
        for _, _, weight in kernels.named_weights(model)
        if id(weight) not in counted | masks and _is_parameter(weight)
    )


def _is_parameter(weight):
    # Moving averages are told by their names: a frozen layer trains nothing.
    is_average = compat.variable_name(weight).startswith("moving_")
    return tf.as_dtype(weight.dtype).is_floating and not is_average


def training_flops(
    model,
    method,
    steps,
    batch_size,
    update_freq=100,
    schedule=None,
    sparsities=None,
    input_shape=None,
):
    """FLOPs of a whole training, a backward pass costing twice a forward pass.

    With f_S and f_D the FLOPs of a forward pass of the sparse and the dense model, an
    example costs 3 f_D in "dense" training; 3 f_S in "static", "set" and "snip";
    2 f_S + f_D in "snfs", which needs the dense gradient in every step; (3 f_S n +
    2 f_S + f_D) / (n + 1) in "rigl", where n = `update_freq`; and in "pruning" the mean
    over the steps of 3 f_S at the sparsity of each.

    Args:
      model: a model, or its `ModelCost`.
      method: one of `METHODS`.
      steps: int >= 1, steps of the optimizer.
      batch_size: int >= 1, examples a step.
      update_freq: int >= 1, steps between two mask updates, for "rigl".
      schedule: for "pruning", as `rigl_keras.Pruning` takes it, or a function from a
        step, counted from 1, to the sparsity in [0, 1). It holds for all kernels with a
        mask, or that `sparsities` names.
      sparsities: as in `model_cost`; not with a `ModelCost`.
      input_shape: as in `model_cost`; not with a `ModelCost`.

    Returns:
      A float.

    Raises:
      ValueError: for an unknown method or an argument out of range; for a model whose
        FLOPs cannot be known; for "pruning" without schedule or without masks.

    Source: Evci et al. 2020 (RigL), appendix on FLOPs.
    """
    if method not in METHODS:
        raise ValueError(f"Expected `method` to be one of {METHODS}, got {method!r}.")
    steps = check_int("steps", steps, 1)
    batch_size = check_int("batch_size", batch_size, 1)
    update_freq = check_int("update_freq", update_freq, 1)
    cost = model
    if not isinstance(model, ModelCost):
        cost = model_cost(model, sparsities, input_shape)
    elif sparsities is not None or input_shape is not None:
        raise ValueError(
            "A ModelCost has its sparsities and input shape already: give them to "
            "model_cost."
        )
    if cost.uncounted:
        raise ValueError(
            f"The FLOPs of {cost.uncounted} cannot be known, so neither can those of "
            f"the training: {'; '.join(sorted(set(cost.reasons.values())))}."
        )
    sparse, dense = cost.inference_flops, cost.dense_flops
    if method == "pruning":
        example = 3 * _mean_pruned_flops(cost, schedule, steps)
    else:
        example = {
            "dense": 3 * dense,
            "snfs": 2 * sparse + dense,
            "rigl": (3 * sparse * update_freq + 2 * sparse + dense) / (update_freq + 1),
        }.get(method, 3 * sparse)
    return float(example) * steps * batch_size


def _mean_pruned_flops(cost, schedule, steps):
    """Mean FLOPs of a forward pass over the steps of a pruning schedule."""
    if not callable(schedule) or call_problem(schedule, 1) is not None:
        raise ValueError(
            "Expected `schedule` for method 'pruning', such as rigl_keras.schedules."
            f"polynomial_decay(0.0, 0.8, begin_step, end_step), got {schedule!r}."
        )
    pruned = [row for row in cost.rows if row.masked]
    if not pruned:
        raise ValueError(
            "No kernel has a mask, so nothing would be pruned. Give a model of "
            "rigl_keras.sparsify, or `sparsities` of the kernels that are pruned."
        )
    products = sum(2 * row.uses * row.size for row in pruned)
    sparsity = _sparsity_of_steps(schedule, steps)
    if not ((sparsity >= 0) & (sparsity < 1)).all():
        raise ValueError(
            "Expected the schedule's sparsities to lie in [0, 1), got some from "
            f"{sparsity.min()} to {sparsity.max()}."
        )
    return cost.dense_flops - products * float(sparsity.mean())


def _sparsity_of_steps(schedule, steps):
    """The sparsity in force at steps 1, 2, ..., `steps`, as an array."""
    first: Any = schedule(tf.constant(1, tf.int64))
    if not isinstance(first, collections.abc.Sequence):
        return np.array([float(schedule(step)) for step in range(1, steps + 1)])

    def evaluate():
        return tf.map_fn(
            lambda step: tuple(tf.cast(part, tf.float32) for part in schedule(step)),
            tf.range(1, steps + 1, dtype=tf.int64),
            fn_output_signature=(tf.float32, tf.float32),
        )

    is_due, sparsity = (part.numpy() for part in own_function(evaluate)())
    # Between two prunings that of the last one holds.
    last = np.maximum.accumulate(np.where(is_due > 0, np.arange(steps), -1))
    return np.where(last >= 0, sparsity[last], 0.0)
