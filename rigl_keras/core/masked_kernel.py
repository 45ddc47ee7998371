"""What training needs of a sparse kernel, and the kernel that is stored in full."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.core.grouping import Grouping
from rigl_keras.core.kernel_state import KernelState
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
    def is_compressed(self) -> bool:
        """Whether it is stored without its zeros."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return tuple(self.kernel.shape)

    @property
    def variable(self) -> Any:
        """The variable that the optimizer trains: the kernel."""
        return self.kernel

    @property
    def index_variables(self) -> tuple[Any, ...]:
        """The variables that say which connections exist: the mask."""
        return (self.mask,)

    @property
    def active(self) -> int:
        """How many weights exist."""
        return int(np.count_nonzero(self.mask.numpy()))

    @property
    def grouping(self) -> Grouping:
        """How the pattern groups its weights."""
        return self.pattern.grouping(self.shape, self.in_axes, self.out_axes)

    def weights(self) -> tf.Tensor:
        """The kernel as a tensor."""
        return tf.convert_to_tensor(compat.raw(self.kernel))

    def trained(self, keeps_gradient: bool = False) -> "MaskedKernel":
        """The kernel as training sees it; see `TrainedKernel`."""
        return MaskedKernel(self, keeps_gradient)

    def assign(self, mask: Any, weights: tf.Tensor) -> None:
        """Sets the mask and the weights: the one place where a mask is assigned.

        Args:
          mask: bool tensor or array of the kernel's shape.
          weights: tensor of the kernel's shape and dtype, 0 off the mask.
        """
        variable = compat.raw(self.mask)
        variable.assign(tf.cast(mask, variable.dtype))
        compat.raw(self.kernel).assign(weights)

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

    `rigl_keras.training` reads a kernel and changes its connections through this
    interface only. So every algorithm trains a kernel with a mask and one that is
    stored without its zeros.

    All methods are traced, with and without XLA: shapes are static, and a method
    changes nothing but what it says. `masked_gradient` and `keep` are called on each
    replica, in every training step. The others are called between the steps, under the
    model's strategy.

    How weights stay 0 off the mask while the optimizer moves them is the kernel's own
    affair: a `MaskedKernel` has a constraint for it.

    Attributes:
      path: where the kernel is in the model, such as "conv1/kernel".
      shape: the dense shape.
      axes: the axes of `shape` that count input units, and those that count outputs.
      pattern: the pattern that the mask has, before and after every change.
      variable: the Keras variable that the optimizer is given a gradient for.
      gradient_variable: None where no gradient is kept; or the float32 variable that
        holds it, of the shape that the kernel's `state` takes. Each replica has its
        own, and their sum is the gradient. A checkpoint holds it where it is a moving
        average over the steps.
      is_compressed: whether it is stored without its zeros.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...]]
    pattern: Pattern
    variable: Any
    gradient_variable: Any
    is_compressed: bool

    def mask(self) -> tf.Tensor:
        """Which connections exist: a bool tensor of `shape`."""

    def weights(self) -> tf.Tensor:
        """The weights, of the variable's dtype and shape, 0 off the mask."""

    def active_count(self) -> tf.Tensor:
        """How many connections exist: an int64 scalar."""

    def state(self, gradient: Any, seed: tf.Tensor) -> Any:
        """What an algorithm sees: a `KernelState` or `CompressedState`.

        Args:
          gradient: what `kept_gradient` or `gradient_on_batch` returned, or None.
          seed: stateless seed, int64 of shape [2].
        """

    def kept_gradient(self) -> Any:
        """The gradient that was kept last, also of connections that do not exist.

        Returns:
          What `state` takes, summed over the replicas; None where none is kept.
        """

    def gradient_on_batch(self, gradient: tf.Tensor) -> Any:
        """The same on a batch that was evaluated while the kernel listened.

        Args:
          gradient: that of `variable`.
        """

    def masked_gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """What the optimizer is to see of a gradient: 0 where no connection exists.

        Args:
          gradient: the gradient with respect to `variable`.
        """

    def keep(
        self, gradient: tf.Tensor, added: Callable[..., tf.Tensor], scale: tf.Tensor
    ) -> None:
        """Keeps the gradient of a training step, where it passes the optimizer.

        Args:
          gradient: a replica's part of the gradient with respect to `variable`.
          added: function `(kept, gradient) -> what is to be kept`.
          scale: how many times as large gradients are in the backward pass.
        """

    def listen(self, is_asked: Callable[[], Any] | None) -> None:
        """Has it kept in the backward pass, where it does not pass the optimizer.

        Args:
          is_asked: function, traced in the backward pass, that returns whether the
            gradient is to be kept, as a bool tensor; None to stop.
        """

    def forget(self) -> None:
        """Prepares for a step whose gradient will be kept."""

    def replace(self, connections: tf.Tensor, slots: Sequence[Slot]) -> None:
        """Replaces what says which connections exist, and with it weights and slots.

        A connection that exists before and after keeps its weight and its slots'
        entries. For all others the weight becomes 0 and the slots start anew.

        Args:
          connections: as `state(...).connections`.
          slots: those of `variable`.
        """

    def clear(self, slots: Sequence[Slot]) -> None:
        """Clears what is left off the mask, of weights and slots.

        Args:
          slots: those of `variable`.
        """


class MaskedKernel:
    """A kernel stored in full, with a mask of its shape: a `TrainedKernel`.

    Args:
      kernel: the `SparseKernel`.
      keeps_gradient: whether it has a `gradient_variable`, at 4 bytes a weight. Create
        it under the model's strategy then.
    """

    is_compressed = False

    def __init__(self, kernel: SparseKernel, keeps_gradient: bool = False) -> None:
        self.path = kernel.path
        self.shape = tuple(kernel.kernel.shape)
        self.axes = kernel.in_axes, kernel.out_axes
        self.pattern = kernel.pattern
        self.variable = kernel.kernel
        self.gradient_variable: tf.Variable | None = None
        if keeps_gradient:
            self.gradient_variable = gradient_variable(kernel.path, self.shape)
        self._mask = kernel.mask
        self._assign = kernel.assign

    def __repr__(self) -> str:
        """Where it is."""
        return f"MaskedKernel(path={self.path!r}, shape={self.shape})"

    def mask(self) -> tf.Tensor:
        """The mask as a bool tensor."""
        return read_mask(compat.raw(self._mask))

    def weights(self) -> tf.Tensor:
        """The kernel as a tensor."""
        return tf.convert_to_tensor(compat.raw(self.variable))

    def active_count(self) -> tf.Tensor:
        """How many connections exist."""
        return tf.math.count_nonzero(self.mask())

    def state(self, gradient: tf.Tensor | None, seed: tf.Tensor) -> KernelState:
        """See `TrainedKernel`."""
        return KernelState(
            self.weights(),
            self.mask(),
            gradient,
            seed,
            pattern=self.pattern,
            axes=self.axes,
        )

    def kept_gradient(self) -> tf.Tensor | None:
        """What is in the `gradient_variable`, dense."""
        if self.gradient_variable is None:
            return None
        return tf.convert_to_tensor(self.gradient_variable)

    def gradient_on_batch(self, gradient: tf.Tensor) -> tf.Tensor:
        """The gradient, which is dense."""
        return gradient

    def masked_gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """The gradient with zeros off the mask."""
        return masked(gradient, compat.raw(self._mask))

    def keep(
        self, gradient: tf.Tensor, added: Callable[..., tf.Tensor], scale: tf.Tensor
    ) -> None:
        """Keeps the dense gradient."""
        kept: Any = self.gradient_variable
        kept.assign(added(tf.convert_to_tensor(kept), gradient))

    def listen(self, is_asked: Callable[[], Any] | None) -> None:
        """Does nothing: the dense gradient passes the optimizer."""

    def forget(self) -> None:
        """Does nothing: what is kept first takes the place of what was kept before."""

    def replace(self, connections: tf.Tensor, slots: Sequence[Slot]) -> None:
        """Replaces the mask; what did not stay starts anew."""
        old_mask = self.mask()
        for slot in slots:
            variable = compat.raw(slot.variable)
            values = tf.convert_to_tensor(variable)
            values = surviving(values, old_mask, connections, slot.initial_value)
            variable.assign(values)
        self._assign(connections, surviving(self.weights(), old_mask, connections))

    def clear(self, slots: Sequence[Slot]) -> None:
        """Has weights and slots start anew off the mask."""
        self.replace(self.mask(), slots)


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


def gradient_variable(path: str, shape: tuple[int, ...]) -> tf.Variable:
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
