"""What an algorithm sees of a kernel when it decides which connections exist."""

from typing import Any, NamedTuple

import tensorflow as tf

from rigl_keras.common.seeding import random_integers
from rigl_keras.core.compressed_units import spread_units
from rigl_keras.core.grouping import Grouping, Layout
from rigl_keras.core.pattern_kinds import UNSTRUCTURED
from rigl_keras.core.patterns import Pattern


class KernelState(NamedTuple):
    """What an algorithm sees of a kernel: tensors of its shape, a seed, its pattern.

    Attributes:
      weights: the kernel's weights, 0 off the mask.
      mask: bool, True where a connection exists.
      gradient: the dense gradient of the training step's loss or, with `grow_data`, of
        the loss on that batch times its number of examples, regularisers included; None
        where the algorithm asks for none.
      seed: stateless seed, int64 of shape [2], for this kernel and this update; pruners
        draw nothing and do without.
      hessian_gradient: the Hessian times the gradient, or None likewise.
      pattern: the pattern that the mask has. Scores have nothing to do with it.
      axes: the kernel's axes that count input units, and those that count outputs,
        which some patterns need.
      first: how many entries of the kernel come before these; more than 0 where a large
        compressed kernel is looked at in parts.
    """

    weights: tf.Tensor
    mask: tf.Tensor
    gradient: tf.Tensor | None = None
    seed: tf.Tensor | None = None
    hessian_gradient: tf.Tensor | None = None
    pattern: Pattern = UNSTRUCTURED
    axes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    first: int | tf.Tensor = 0

    @property
    def connections(self) -> tf.Tensor:
        """What says which connections exist: the mask."""
        return self.mask

    @property
    def grouping(self) -> Grouping:
        """How the pattern groups the kernel's weights."""
        return self.pattern.grouping(tuple(self.mask.shape), *self.axes)

    def in_units(self) -> "KernelState":
        """The state of the pattern's units, as if each were one weight.

        Returns:
          A state whose tensors have the shape [groups, units]: a unit's weight and
          gradient are the sums of those of its elements.
        """
        grouping = self.grouping
        gradient = None if self.gradient is None else grouping.sums(self.gradient)
        return KernelState(
            grouping.sums(self.weights),
            grouping.present(self.mask),
            gradient,
            self.seed,
        )

    def random_integers(self) -> tf.Tensor:
        """Random int32 numbers, one for each entry, however the kernel is stored."""
        shape = self.mask.shape.as_list()
        return random_integers(shape, self.seed, self.first)


class CompressedState(NamedTuple):
    """What an algorithm sees of a kernel that is stored without its zeros.

    Attributes:
      weights: the weights that exist, [groups, existing units, elements].
      indices: int32 [groups, existing units], which units of each group exist,
        ascending.
      units: int, how many units a group has that exist or not.
      gradient: float32 [groups, units], the gradients of all units, each the sum over
        its elements; None where the algorithm asks for none.
      seed: see `KernelState`.
      own_gradient: that of `weights`, or None likewise. Regularisers, which only
        weights that exist have any, are included here and not in `gradient`.
    """

    weights: tf.Tensor
    indices: tf.Tensor
    units: int
    gradient: tf.Tensor | None = None
    seed: tf.Tensor | None = None
    own_gradient: tf.Tensor | None = None

    @property
    def connections(self) -> tf.Tensor:
        """What says which connections exist: the indices."""
        return self.indices

    def existing(self) -> KernelState:
        """The weights that exist, as the state of a kernel that has no others."""
        mask = tf.ones(self.weights.shape, tf.bool)
        return KernelState(self.weights, mask, self.own_gradient, self.seed)

    def sums(self, scores: tf.Tensor) -> tf.Tensor:
        """Scores of the units that exist, summed as `Grouping.sums` does.

        Args:
          scores: real tensor of the shape of `weights`.

        Returns:
          A tensor of shape [groups, existing units].
        """
        shape = tuple(self.weights.shape)
        layout = Layout(shape, groups=(0,), units=(1,))
        return Grouping(shape, range(3), layout).sums(scores)

    def part(self, start: Any, groups: int) -> "CompressedState":
        """The state of some of the groups.

        Args:
          start: int or integer scalar, the first of them.
          groups: int, how many.
        """
        rows = tf.range(groups) + tf.cast(start, tf.int32)
        own: Any = self.own_gradient
        gradient = None if self.gradient is None else tf.gather(self.gradient, rows)
        return self._replace(
            weights=tf.gather(self.weights, rows),
            indices=tf.gather(self.indices, rows),
            gradient=gradient,
            own_gradient=None if own is None else tf.gather(own, rows),
        )

    def in_units(self, first: int | tf.Tensor) -> KernelState:
        """All units of these groups, those that do not exist too: [groups, units].

        Args:
          first: how many units of the kernel come before these.
        """
        exists = self.spread(tf.ones(self.indices.shape, tf.int32))
        exists = tf.cast(exists, tf.bool)
        gradient = self.gradient
        if gradient is not None and self.own_gradient is not None:
            own = self.spread(self.sums(self.own_gradient))
            gradient = tf.where(exists, own, gradient)
        return KernelState(
            self.spread(self.sums(self.weights)),
            exists,
            gradient,
            self.seed,
            first=first,
        )

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Values of the units that exist among zeros for all others.

        Args:
          values: number tensor of shape [groups, existing units].

        Returns:
          A tensor of shape [groups, units].
        """
        return spread_units(values, self.indices, self.units)
