"""Exact masks of the highest scores in each of many groups.

Groups of a few scores, such as those of 2 of 4 weights, are ranked by comparing all
pairs. In larger groups the threshold of each is found bit by bit from the top. Both
take static shapes only, whatever the scores and counts are.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from rigl_keras.core.score_keys import BITS, COUNT, key_dtype, lowest, ordered_keys
from rigl_keras.core.selection import top_k_mask

# Groups of more scores take longer to compare in pairs than bit by bit.
_MOST_PAIRED = 8


def top_k_in_groups(scores: tf.Tensor, counts: Any, where: tf.Tensor) -> tf.Tensor:
    """Marks in each group exactly so many entries with the largest scores.

    The result is exact and the same, bit for bit, eagerly, in a `tf.function` and under
    XLA. Order and ties within a group are those of `top_k_mask`: of equal scores the
    one of lower index comes first, and NaN ranks below every number.

    Args:
      scores: tensor of static shape [groups, units], of a floating or signed integer
        type.
      counts: how many to mark of each group: integers of shape [groups], or one for all
        of them. Each is clipped to [0, units].
      where: bool tensor of the shape of `scores`. Entries where it is False rank below
        all others of their group, in index order.

    Returns:
      A bool tensor of the shape of `scores`.
    """
    groups, units = scores.shape
    if groups == 1:
        counts = tf.reshape(tf.cast(counts, COUNT), [-1])[0]
        return top_k_mask(scores, counts, where)
    counts = tf.clip_by_value(tf.cast(counts, COUNT), 0, units)
    counts = tf.broadcast_to(counts, [groups])
    bits = BITS[scores.dtype]
    choose = _chooser(bits, units if units <= _MOST_PAIRED else None)
    return tf.ensure_shape(
        choose(ordered_keys(scores, bits), counts, where), scores.shape
    )


@functools.cache
def _chooser(bits: int, paired_units: int | None) -> Callable[..., tf.Tensor]:
    """The selection as one graph for any number of groups, as in `selection`."""
    rows = [None, paired_units]

    @tf.function(
        input_signature=[
            tf.TensorSpec(rows, key_dtype(bits)),
            tf.TensorSpec([None], COUNT),
            tf.TensorSpec(rows, tf.bool),
        ],
        autograph=False,
        experimental_attributes={"_noinline": True},  # known to TensorFlow 2.21
    )
    def choose(keys: tf.Tensor, counts: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
        counts = counts[:, tf.newaxis]
        inside_count = _counted(where)
        wanted = tf.minimum(counts, inside_count)
        if paired_units is None:
            inside = _above_threshold(keys, wanted, where, bits=bits)
        else:
            inside = _of_high_rank(keys, wanted, where)
        # Entries outside are wanted by few callers, and only where all inside are.
        return tf.cond(
            tf.reduce_all(wanted == counts),
            lambda: inside,
            lambda: inside | _first(~where, counts - wanted),
        )

    return choose


def _of_high_rank(keys: tf.Tensor, wanted: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
    """The entries that fewer than `wanted` others of their group come before."""
    columns, inside = tf.unstack(keys, axis=1), tf.unstack(where, axis=1)
    # Counted in floats, since TensorFlow sums int32 on the host of a GPU.
    wanted = tf.cast(wanted[:, 0], tf.float32)
    chosen = []
    for index, key in enumerate(columns):
        before = [
            inside[other] & (rival >= key if other < index else rival > key)
            for other, rival in enumerate(columns)
            if other != index
        ]
        # A group of one score has no rivals.
        none = tf.zeros_like(wanted)
        rank = tf.add_n([none, *(tf.cast(one, tf.float32) for one in before)])
        chosen.append(inside[index] & (rank < wanted))
    return tf.stack(chosen, axis=1)


def _above_threshold(
    keys: tf.Tensor, wanted: tf.Tensor, where: tf.Tensor, *, bits: int
) -> tf.Tensor:
    """The `wanted` entries with the largest keys of each group."""
    threshold = _thresholds(keys, wanted, where, bits=bits)
    above, ties = where & (keys > threshold), where & (keys == threshold)
    missing = wanted - _counted(above)
    # Telling ties apart costs as much as all the rest, and mostly there are none.
    return tf.cond(
        tf.reduce_all(_counted(ties) == missing),
        lambda: above | ties,
        lambda: above | _first(ties, missing),
    )


def _thresholds(
    keys: tf.Tensor, wanted: tf.Tensor, where: tf.Tensor, *, bits: int
) -> tf.Tensor:
    """The largest integer that `wanted` keys of each group reach, of shape [groups, 1].

    It is built from the highest bit down: a bit is kept where enough keys are left.
    """
    dtype = keys.dtype

    def reached(candidate: tf.Tensor) -> tf.Tensor:
        return _counted(where & (keys >= candidate)) >= wanted

    zero = tf.zeros_like(wanted, dtype)
    threshold = tf.where(reached(zero), zero, tf.constant(lowest(bits), dtype))
    for bit in reversed(range(bits - 1)):
        candidate = threshold + tf.constant(1 << bit, dtype)
        threshold = tf.where(reached(candidate), candidate, threshold)
    return threshold


def _counted(condition: tf.Tensor) -> tf.Tensor:
    """How often it holds in each group, of shape [groups, 1]."""
    return tf.math.count_nonzero(condition, axis=1, keepdims=True, dtype=COUNT)


def _first(condition: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """The first `counts` entries of each group where `condition` holds."""
    earlier = tf.cumsum(tf.cast(condition, COUNT), axis=1, exclusive=True)
    return condition & (earlier < counts)
