"""What training needs of a sparse kernel, and the kernel that is stored in full."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.core.grouping import Grouping
from rigl_keras.core.kernels import masked, read_mask
from rigl_keras.core.pattern_kinds import UNSTRUCTURED
from rigl_keras.core.patterns import Pattern


class SparseKernel(NamedTuple):
    """A kernel and the mask that decides which of its connections exist.

    Attributes:
      path: where it is in the model, such as "conv1/kernel"; the same in both Kerases.
      kernel: the kernel's variable, exactly 0 wherever the mask is False.
      mask: a variable of the kernel's shape, of bools; of 0.0 and 1.0 where it is
        TFMOT's.
      in_axes: axes that count input units.
      out_axes: axes that count output units.
      pattern: the `rigl_keras.patterns.Pattern` that its mask has.
    """

    path: str
    kernel: Any
    mask: Any
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    pattern: Pattern = UNSTRUCTURED

    @property
    def grouping(self) -> Grouping:
        """How the pattern groups its weights."""
        shape = tuple(self.kernel.shape)
        return self.pattern.grouping(shape, self.in_axes, self.out_axes)

    def __repr__(self) -> str:
        """Where it is and how sparse, instead of all its weights."""
        text = f"SparseKernel(path={self.path!r}, shape={tuple(self.kernel.shape)}"
        if tf.executing_eagerly():  # A graph does not know yet.
            zeros = 1 - np.mean(self.mask.numpy())
            text += f", sparsity={zeros:.6g}"
        if self.pattern != UNSTRUCTURED:
            text += f", pattern={self.pattern}"
        return f"{text})"


class Slot(NamedTuple):
    """State that an optimizer keeps for every weight of a variable, such as momentum.

    Attributes:
      variable: the optimizer's variable, of the shape of the one that it optimizes.
      initial_value: the value at which all entries start.
    """

    variable: Any
    initial_value: float


class TrainedKernel(Protocol):
    """What training needs of a kernel, however its connections are stored.

    `rigl_keras.training` reads a kernel and changes its mask through this interface
    only. So a kernel that is stored otherwise, such as one without its zeros, is
    trained by every algorithm once a class of its own provides what follows.

    All methods are traced, with and without XLA: shapes are static, and a method
    changes nothing but what it says. `masked_gradient` is called on each replica, in
    every training step. The others are called between the steps, under the model's
    strategy.

    How weights stay 0 off the mask while the optimizer moves them is the kernel's own
    affair: a `MaskedKernel` has a constraint for it.

    Attributes:
      path: where the kernel is in the model, such as "conv1/kernel".
      shape: the dense shape, which mask, weights and dense gradient have too.
      axes: the axes of `shape` that count input units, and those that count outputs.
      pattern: the pattern that the mask has, before and after every change.
      variable: the Keras variable that the optimizer is given a gradient for.
      gradient_variable: None where no gradient is kept; or the float32 variable of
        `shape` that holds it. Each replica has its own, and their sum is the dense
        gradient. `GradientHook` assigns it; a checkpoint holds it where it is a moving
        average over the steps.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...]]
    pattern: Pattern
    variable: Any
    gradient_variable: Any

    def mask(self) -> tf.Tensor:
        """Which connections exist: a bool tensor of `shape`."""

    def weights(self) -> tf.Tensor:
        """The weights, of the variable's dtype and of `shape`, 0 off the mask."""

    def dense_gradient(self) -> tf.Tensor | None:
        """The gradient that was kept last, off the mask too; None where none is kept.

        Returns:
          A float32 tensor of `shape`, summed over the replicas.
        """

    def masked_gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """What the optimizer is to see of a gradient: 0 where no connection exists.

        Args:
          gradient: dense tensor, the gradient with respect to `variable`.
        """

    def replace(self, new_mask: tf.Tensor, slots: Sequence[Slot]) -> None:
        """Replaces the mask, and with it weights and slots.

        A connection that exists before and after keeps its weight and its slots'
        entries. For all others the weight becomes 0 and the slots start anew. With the
        mask of now it clears what is left off the mask.

        Args:
          new_mask: bool tensor of `shape`.
          slots: those of `variable`.
        """


class MaskedKernel:
    """A kernel stored in full, with a mask of its shape: a `TrainedKernel`.

    Args:
      kernel: the `SparseKernel`.
      keeps_gradient: whether it has a `gradient_variable`, at 4 bytes a weight. Create
        it under the model's strategy then.
    """

    def __init__(self, kernel: SparseKernel, keeps_gradient: bool = False) -> None:
        self.path = kernel.path
        self.shape = tuple(kernel.kernel.shape)
        self.axes = kernel.in_axes, kernel.out_axes
        self.pattern = kernel.pattern
        self.variable = kernel.kernel
        self.gradient_variable: tf.Variable | None = None
        if keeps_gradient:
            self.gradient_variable = _gradient_variable(kernel.path, self.shape)
        self._mask = kernel.mask

    def __repr__(self) -> str:
        """Where it is."""
        return f"MaskedKernel(path={self.path!r}, shape={self.shape})"

    def mask(self) -> tf.Tensor:
        """The mask as a bool tensor."""
        return read_mask(compat.raw(self._mask))

    def weights(self) -> tf.Tensor:
        """The kernel as a tensor."""
        return tf.convert_to_tensor(compat.raw(self.variable))

    def dense_gradient(self) -> tf.Tensor | None:
        """What is in the `gradient_variable`."""
        if self.gradient_variable is None:
            return None
        return tf.convert_to_tensor(self.gradient_variable)

    def masked_gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """The gradient with zeros off the mask."""
        return masked(gradient, compat.raw(self._mask))

    def replace(self, new_mask: tf.Tensor, slots: Sequence[Slot]) -> None:
        """Replaces the mask; what did not stay starts anew."""
        old_mask = self.mask()
        for slot in slots:
            variable = compat.raw(slot.variable)
            values = tf.convert_to_tensor(variable)
            variable.assign(surviving(values, old_mask, new_mask, slot.initial_value))
        self.assign(new_mask, surviving(self.weights(), old_mask, new_mask))

    def assign(self, mask: Any, weights: tf.Tensor) -> None:
        """Sets the mask and the weights: the one place where a mask is assigned.

        Args:
          mask: bool tensor or array of the kernel's shape.
          weights: tensor of the kernel's shape and dtype, 0 off the mask.
        """
        variable = compat.raw(self._mask)
        variable.assign(tf.cast(mask, variable.dtype))
        compat.raw(self.variable).assign(weights)


def surviving(
    values: tf.Tensor,
    old_mask: tf.Tensor,
    new_mask: tf.Tensor,
    initial_value: float = 0.0,
) -> tf.Tensor:
    """Values after a mask update: kept connections keep theirs, all others start anew.

    A connection that was dropped and grown in the same update keeps its value too.

    Args:
      values: tensor of a kernel's shape, its weights or a slot.
      old_mask: bool tensor of that shape, the mask before the update.
      new_mask: likewise, the mask after it.
      initial_value: the value at which a connection starts.
    """
    kept = tf.logical_and(old_mask, new_mask)
    if initial_value == 0.0:
        return masked(values, kept)
    return tf.where(kept, values, tf.cast(initial_value, values.dtype))


def _gradient_variable(path: str, shape: tuple[int, ...]) -> tf.Variable:
    """A variable that each replica assigns for itself, and that is read as the sum.

    So replicas exchange nothing until an update reads it.
    """
    return tf.Variable(
        np.zeros(shape, np.float32),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
        name=f"{path}/dense_gradient".replace("/", "_"),
    )
