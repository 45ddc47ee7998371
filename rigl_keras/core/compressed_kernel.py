"""A kernel that is stored without its zeros: the weights that exist, and where."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.core.compressed_units import (
    groups_of_a_part,
    places_of,
    spread_units,
)
from rigl_keras.core.gradient_tap import GradientTap, Listener, set_to_zero
from rigl_keras.core.grouping import Grouping
from rigl_keras.core.kernel_state import CompressedState
from rigl_keras.core.masked_kernel import Slot, gradient_variable
from rigl_keras.core.pattern_kinds import Blocks
from rigl_keras.core.patterns import Pattern


class CompressedKernel(NamedTuple):
    """A kernel in blocks of inputs × 1 output, equally many for each block of inputs.

    It is read like a `SparseKernel`, but `kernel` and `mask` are tensors that are made
    anew each time, of the dense shape.

    Attributes:
      path: where it is in the model, such as "dense/kernel".
      variable: the weights that exist, [groups, blocks of a group, inputs of a block].
      indices: int32 variable [groups, blocks of a group]: the output of each block,
        ascending.
      shape: tuple of ints, the dense shape.
      in_axes: axes of `shape` that count input units.
      out_axes: axes of `shape` that count output units.
      pattern: `Blocks(inputs, 1, balanced="inputs")`.
      tap: where the layer hands over what the gradients of all units are made of.
    """

    path: str
    variable: Any
    indices: Any
    shape: tuple[int, ...]
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    pattern: Pattern
    tap: GradientTap

    @property
    def is_compressed(self) -> bool:
        """Whether it is stored without its zeros."""
        return True

    @property
    def grouping(self) -> Grouping:
        """How the pattern groups its weights."""
        return self.pattern.grouping(self.shape, self.in_axes, self.out_axes)

    @property
    def mask(self) -> tf.Tensor:
        """The mask, a bool tensor of the dense shape."""
        indices = tf.convert_to_tensor(compat.raw(self.indices))
        grouping = self.grouping
        exists = spread_units(tf.ones_like(indices), indices, grouping.units)
        return grouping.spread(tf.cast(exists, tf.bool))

    @property
    def kernel(self) -> tf.Tensor:
        """The kernel with its zeros, a tensor of the dense shape."""
        return self.weights()

    def weights(self) -> tf.Tensor:
        """The kernel with its zeros, a tensor of the dense shape."""
        values = tf.convert_to_tensor(compat.raw(self.variable))
        indices = tf.convert_to_tensor(compat.raw(self.indices))
        grouping = self.grouping
        return grouping.joined(spread_units(values, indices, grouping.units))

    @property
    def index_variables(self) -> tuple[Any, ...]:
        """The variables that say which connections exist."""
        return (self.indices,)

    @property
    def active(self) -> int:
        """How many weights exist."""
        return int(np.prod(tuple(self.variable.shape)))

    def assign(self, mask: Any, weights: tf.Tensor) -> None:
        """Sets which connections exist, and the weights.

        Args:
          mask: bool tensor or array of the dense shape, with as many blocks in each
            group as are stored.
          weights: tensor of the dense shape.
        """
        grouping = self.grouping
        exists = grouping.present(tf.convert_to_tensor(mask))
        indices = places_of(exists, self.indices.shape[1])
        compat.raw(self.indices).assign(indices)
        values = tf.gather(grouping.split(weights), indices, batch_dims=1)
        compat.raw(self.variable).assign(values)

    def check_indices(self) -> None:
        """Refuses indices that name no blocks, after a file or checkpoint was loaded.

        Raises:
          ValueError: saying what was expected.
        """
        indices = compat.raw(self.indices).numpy()
        units = self.grouping.units
        is_ascending = (np.diff(indices, axis=1) > 0).all()
        if not (is_ascending and indices.min() >= 0 and indices.max() < units):
            raise ValueError(
                f"The indices that were loaded or set for {self.path!r} are no blocks "
                f"of a kernel of shape {self.shape}: expected each row to ascend, in "
                f"[0, {units - 1}]. Load an earlier file; or make the model anew."
            )

    def trained(self, keeps_gradient: bool = False) -> "TrainedCompressedKernel":
        """The kernel as training sees it; see `TrainedKernel`."""
        return TrainedCompressedKernel(self, keeps_gradient)

    def __repr__(self) -> str:
        """Where it is and how sparse, instead of all its weights."""
        zeros = 1 - self.active / np.prod(self.shape)
        return (
            f"CompressedKernel(path={self.path!r}, shape={self.shape}, "
            f"sparsity={zeros:.6g}, pattern={self.pattern})"
        )


class KeptGradients(NamedTuple):
    """The gradients that algorithms see of a compressed kernel.

    Attributes:
      units: float32 [groups, units], of all units, summed over their elements; a tensor
        or, where it is large, the variable.
      existing: of the weights that exist, regularisers included.
    """

    units: Any
    existing: tf.Tensor


class TrainedCompressedKernel:
    """A kernel that is stored without its zeros: a `TrainedKernel`.

    Args:
      kernel: the `CompressedKernel`.
      keeps_gradient: whether it has a `gradient_variable`, at 4 bytes a unit, of those
        that do not exist too. Create it under the model's strategy then.
    """

    is_compressed = True

    def __init__(self, kernel: CompressedKernel, keeps_gradient: bool = False) -> None:
        self.path = kernel.path
        self.shape = kernel.shape
        self.axes = kernel.in_axes, kernel.out_axes
        self.pattern = kernel.pattern
        self.variable = kernel.variable
        self.gradient_variable: tf.Variable | None = None
        grouping = kernel.grouping
        self._units = grouping.units
        if keeps_gradient:
            shape = (grouping.groups, grouping.units)
            self.gradient_variable = gradient_variable(kernel.path, shape)
            own_shape = tuple(kernel.variable.shape)
            self._own_gradient = gradient_variable(f"{kernel.path}/own", own_shape)
        self._kernel = kernel

    def __repr__(self) -> str:
        """Where it is."""
        return f"TrainedCompressedKernel(path={self.path!r}, shape={self.shape})"

    def mask(self) -> tf.Tensor:
        """The mask as a bool tensor of the dense shape."""
        return self._kernel.mask

    def weights(self) -> tf.Tensor:
        """The weights that exist."""
        return tf.convert_to_tensor(compat.raw(self.variable))

    def active_count(self) -> tf.Tensor:
        """How many connections exist."""
        return tf.constant(self._kernel.active, tf.int64)

    def kept_gradient(self) -> KeptGradients | None:
        """What the tap has kept, and what has passed the optimizer."""
        if self.gradient_variable is None:
            return None
        return self.gradient_on_batch(tf.convert_to_tensor(self._own_gradient))

    def gradient_on_batch(self, gradient: tf.Tensor) -> KeptGradients:
        """The gradients of all units, which the tap has kept meanwhile, and these."""
        return KeptGradients(self._unit_gradients(), gradient)

    def _unit_gradients(self) -> Any:
        """What is in the `gradient_variable`; of a large one the variable itself.

        Its rows are read then, and it is not copied as a whole. On replicas what is
        read is a sum, a tensor anyway.
        """
        kept: Any = self.gradient_variable
        is_small = groups_of_a_part(*kept.shape) == kept.shape[0]
        if is_small or isinstance(kept, tf.distribute.DistributedValues):
            return tf.convert_to_tensor(kept)
        return kept

    def masked_gradient(self, gradient: tf.Tensor) -> tf.Tensor:
        """The gradient as it is: there is none but of weights that exist."""
        return gradient

    def keep(
        self, gradient: tf.Tensor, added: Callable[..., tf.Tensor], scale: tf.Tensor
    ) -> None:
        """Keeps that of the weights that exist, as large as the tap's of all units."""
        own = self._own_gradient
        own.assign(added(tf.convert_to_tensor(own), scale * gradient))

    def listen(self, is_asked: Callable[[], Any] | None) -> None:
        """Has the layer's backward pass keep the gradients of all units when asked."""
        listener = None
        if is_asked is not None and self.gradient_variable is not None:
            listener = Listener(is_asked, self.gradient_variable)
        self._kernel.tap.listener = listener

    def forget(self) -> None:
        """Sets what is kept to 0, to which the backward passes of a step are added."""
        if self.gradient_variable is not None:
            set_to_zero(self.gradient_variable)

    def state(self, gradient: KeptGradients | None, seed: tf.Tensor) -> CompressedState:
        """See `TrainedKernel`."""
        units, existing = (None, None) if gradient is None else gradient
        return CompressedState(
            self.weights(), self._indices(), self._units, units, seed, existing
        )

    def replace(self, connections: tf.Tensor, slots: Sequence[Slot]) -> None:
        """Replaces the indices; what did not stay starts anew."""
        old = self._indices()
        place = tf.searchsorted(old, connections)
        place = tf.minimum(place, old.shape[1] - 1)
        stays = tf.gather(old, place, batch_dims=1) == connections

        def moved(values: tf.Tensor, initial_value: float = 0.0) -> tf.Tensor:
            initial = tf.cast(initial_value, values.dtype)
            there = tf.gather(values, place, batch_dims=1)
            return tf.where(stays[:, :, tf.newaxis], there, initial)

        for slot in slots:
            variable = compat.raw(slot.variable)
            values = tf.convert_to_tensor(variable)
            variable.assign(moved(values, slot.initial_value))
        compat.raw(self.variable).assign(moved(self.weights()))
        compat.raw(self._kernel.indices).assign(connections)

    def clear(self, slots: Sequence[Slot]) -> None:
        """Does nothing: there are no weights off the mask."""

    def _indices(self) -> tf.Tensor:
        return tf.convert_to_tensor(compat.raw(self._kernel.indices))


def is_compressible(pattern: Pattern) -> bool:
    """True for the pattern in which kernels can be stored without their zeros."""
    return (
        isinstance(pattern, Blocks)
        and pattern.outputs == 1
        and pattern.balanced == "inputs"
    )
