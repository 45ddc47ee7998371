"""The units that exist of a kernel stored without its zeros: where they are.

`indices`, int32 of shape [groups, existing units], has the units of each group that
exist, ascending. A group has `units` that exist or not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from rigl_keras.core.grouped_selection import top_k_in_groups

# Units, existing or not, that are looked at together: some 16 MB for each tensor.
_UNITS_A_PART = 2**22


def spread_units(values: tf.Tensor, indices: tf.Tensor, units: int) -> tf.Tensor:
    """Values of the units that exist among zeros for all others.

    Args:
      values: number tensor of shape [groups, existing units, ...].
      indices: int32 tensor of shape [groups, existing units].
      units: int, how many units a group has.

    Returns:
      A tensor of shape [groups, units, ...].
    """
    groups, existing = indices.shape
    inner = values.shape[2:].as_list()
    places = indices + units * tf.range(groups)[:, tf.newaxis]
    flat = tf.scatter_nd(
        tf.reshape(places, [-1, 1]),
        tf.reshape(values, [groups * existing, *inner]),
        [groups * units, *inner],
    )
    return tf.reshape(flat, [groups, units, *inner])


def places_of(exists: tf.Tensor, count: int) -> tf.Tensor:
    """The places of `count` entries of each row where it is True, ascending.

    Args:
      exists: bool tensor of static shape [groups, units], with `count` in each row.
      count: int.

    Returns:
      An int32 tensor of shape [groups, count].
    """
    units = exists.shape[1]
    # The lowest places are the highest numbers of `top_k`, which needs static shapes.
    left = tf.where(exists, tf.range(units, 0, -1), 0)
    return units - tf.math.top_k(left, count).values


def random_indices(
    shape: Sequence[int], units: int, draw: Callable[[list[int], Any], tf.Tensor]
) -> tf.Tensor:
    """Units drawn at random, as many in each group.

    Args:
      shape: (groups, existing units).
      units: int, how many units a group has.
      draw: function `(shape, first) -> scores`, of some groups; `first` is how many
        units of the kernel come before them.

    Returns:
      An int32 tensor of that shape, ascending in each group.
    """

    def chosen(start: Any, groups: int) -> tf.Tensor:
        scores = draw([groups, units], tf.cast(start, tf.int64) * units)
        everywhere = tf.ones([groups, units], tf.bool)
        return places_of(top_k_in_groups(scores, shape[1], everywhere), shape[1])

    return by_parts(chosen, shape, units, dtype=tf.int32)


def by_parts(
    function: Callable[[Any, int], tf.Tensor],
    shape: Sequence[int],
    units: int,
    *,
    dtype: tf.DType,
) -> tf.Tensor:
    """What a function makes of all groups, some of them at a time.

    So nothing as large as the mask of a large kernel is in memory.

    Args:
      function: of a first group and a number of groups; returns a tensor of `dtype` and
        shape [groups, existing units].
      shape: (groups, existing units).
      units: int, how many units a group has.
      dtype: of the result.

    Returns:
      A tensor of that shape.
    """
    groups, existing = shape
    most = max(1, _UNITS_A_PART // units)
    size = next(size for size in range(min(most, groups), 0, -1) if groups % size == 0)
    if size == groups:
        return function(0, groups)
    parts = tf.map_fn(
        lambda start: function(start, size),
        tf.range(0, groups, size),
        fn_output_signature=tf.TensorSpec([size, existing], dtype),
        parallel_iterations=1,  # or several parts would be in memory
    )
    return tf.reshape(parts, [groups, existing])
