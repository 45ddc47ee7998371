"""How the weights of one kernel form units, and the units groups.

A kernel of shape [taps, inputs, outputs] is reshaped, and each axis of the new shape
counts groups, units of a group, or elements of a unit. A unit exists as a whole or not
at all. A mask update leaves every group the number of units that it has.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Layout(NamedTuple):
    """A kernel's weights as groups of units.

    Attributes:
      shape: what the kernel, of shape [taps, inputs, outputs], is reshaped into.
      groups: axes of `shape` that count groups, in the order in which groups are
        numbered; none for one group.
      units: axes of `shape` that count the units of a group, likewise. All other axes
        count the elements of a unit.

    Each is a tuple of ints. Axes are counted from 0, none is in both `groups` and
    `units`, and the product of `shape` is that of [taps, inputs, outputs].

    Example:
      # Units of 4 consecutive inputs to one output, equally many for each output.
      Layout((taps, inputs // 4, 4, outputs), groups=(3,), units=(0, 1))
    """

    shape: tuple[int, ...]
    groups: tuple[int, ...]
    units: tuple[int, ...]


class Grouping:
    """The groups, units and elements of one kernel.

    Args:
      shape: the kernel's.
      order: the kernel's axes in the order in which `layout` has them: taps, inputs,
        outputs.
      layout: the `Layout` of the kernel with its axes in that order.

    Attributes:
      groups: int, how many groups there are.
      units: int, how many units each group has.
      elements: int, how many weights each unit has.

    Example:
      rigl_keras.sparse_kernels(model)[0].grouping.units
    """

    def __init__(
        self, shape: Sequence[int], order: Sequence[int], layout: Layout
    ) -> None:
        self._shape, self._order = tuple(shape), tuple(order)
        self._layout = layout
        axes = range(len(layout.shape))
        self._elements = [
            axis for axis in axes if axis not in layout.groups + layout.units
        ]
        self.groups = self._size(layout.groups)
        self.units = self._size(layout.units)
        self.elements = self._size(self._elements)

    def __repr__(self) -> str:
        """How many there are of each."""
        return (
            f"Grouping(groups={self.groups}, units={self.units}, "
            f"elements={self.elements})"
        )

    def sums(self, scores: tf.Tensor) -> tf.Tensor:
        """The scores of units: the sums of their elements' scores.

        Sums are taken in an order of their own, in halves, so that XLA gives the same.

        Args:
          scores: real tensor of the kernel's shape.

        Returns:
          A tensor of shape [groups, units].
        """
        if self.elements > 1 and scores.dtype in (tf.float16, tf.bfloat16):
            # XLA may keep sums of 16 bits at 32.
            scores = tf.cast(scores, tf.float32)
        return self._folded(scores, tf.add)

    def present(self, mask: tf.Tensor) -> tf.Tensor:
        """Which units a mask has weights of.

        Args:
          mask: bool tensor of the kernel's shape.

        Returns:
          A bool tensor of shape [groups, units].
        """
        return self._folded(mask, tf.logical_or)

    def spread(self, units: tf.Tensor) -> tf.Tensor:
        """The mask that has all weights of some units.

        Args:
          units: bool tensor of shape [groups, units].

        Returns:
          A bool tensor of the kernel's shape.
        """
        layout = self._layout
        outer = layout.groups + layout.units
        parts = tf.reshape(units, [layout.shape[axis] for axis in outer])
        parts = _transposed(parts, [sorted(outer).index(axis) for axis in outer], True)
        single = [
            1 if axis in self._elements else size
            for axis, size in enumerate(layout.shape)
        ]
        return self._put_back(tf.broadcast_to(tf.reshape(parts, single), layout.shape))

    def split(self, values: tf.Tensor) -> tf.Tensor:
        """All weights by group, unit and element.

        Args:
          values: tensor of the kernel's shape.

        Returns:
          A tensor of shape [groups, units, elements].
        """
        parts = _transposed(self._laid_out(values), self._axes)
        return tf.reshape(parts, [self.groups, self.units, self.elements])

    def joined(self, parts: tf.Tensor) -> tf.Tensor:
        """The kernel of weights by group, unit and element: undoes `split`.

        Args:
          parts: tensor of shape [groups, units, elements].

        Returns:
          A tensor of the kernel's shape.
        """
        shape = [self._layout.shape[axis] for axis in self._axes]
        laid_out = _transposed(tf.reshape(parts, shape), self._axes, True)
        return self._put_back(laid_out)

    @property
    def _axes(self) -> list[int]:
        """The layout's axes: of groups, of units, of elements."""
        return [*self._layout.groups, *self._layout.units, *self._elements]

    def _laid_out(self, values: tf.Tensor) -> tf.Tensor:
        """The kernel in the layout's shape."""
        return tf.reshape(_transposed(values, self._order), self._layout.shape)

    def _put_back(self, laid_out: tf.Tensor) -> tf.Tensor:
        """The kernel whose weights are in the layout's shape."""
        ordered = tf.reshape(laid_out, [self._shape[axis] for axis in self._order])
        return _transposed(ordered, self._order, True)

    def _folded(self, values: tf.Tensor, combine: Any) -> tf.Tensor:
        """One value for each unit, as a tensor of shape [groups, units]."""
        layout = self._layout
        values = self._laid_out(values)
        for axis in self._elements:
            values = _halved(values, axis, combine)
        outer = layout.groups + layout.units
        kept = [layout.shape[axis] for axis in sorted(outer)]
        order = [sorted(outer).index(axis) for axis in outer]
        values = _transposed(tf.reshape(values, kept), order)
        return tf.reshape(values, [self.groups, self.units])

    def _size(self, axes: Sequence[int]) -> int:
        return math.prod(self._layout.shape[axis] for axis in axes)


def _halved(values: tf.Tensor, axis: int, combine: Any) -> tf.Tensor:
    """Combines all values along an axis, one half with the other until one is left."""
    while (size := values.shape[axis]) > 1:
        half, rest = divmod(size, 2)
        left, right, *odd = tf.split(values, [half, half] + rest * [1], axis)
        values = combine(left, right)
        if odd:
            values = tf.concat([values, *odd], axis)
    return values


def _transposed(
    values: tf.Tensor, order: Sequence[int], is_inverse: bool = False
) -> tf.Tensor:
    """The values with their axes in an order; or, inversely, put back from it."""
    if list(order) == sorted(order):
        return values
    if is_inverse:
        order = [list(order).index(axis) for axis in range(len(order))]
    return tf.transpose(values, order)
