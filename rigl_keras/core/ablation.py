"""Switching off output units that have too few connections that matter (SRigL)."""

import tensorflow as tf

from rigl_keras.core.score_keys import COUNT
from rigl_keras.core.selection import top_k_mask


def redistributed(
    counts: tf.Tensor, salient: tf.Tensor, share: float, *, units: int
) -> tf.Tensor:
    """How many connections each group has once weak groups are switched off.

    A group is switched off where less than a share of its connections is salient. Its
    connections go to the groups that stay on, as evenly as their number allows. One
    that is off stays off. As many groups stay on as all connections need.

    Args:
      counts: integers of shape [groups], how many connections each has; those of
        groups that are on differ by 1 at most.
      salient: integers of shape [groups], how many salient connections each has.
      share: float in (0, 1].
      units: int, how many connections a group has room for.

    Returns:
      A tensor like `counts`, of the same sum.

    Source: Lasby et al. 2023, "Dynamic Sparse Training with Structured Sparsity",
    section 3.
    """
    counts, salient = tf.cast(counts, COUNT), tf.cast(salient, COUNT)
    is_on, total = counts > 0, tf.reduce_sum(counts)
    enough = share * tf.cast(counts, tf.float32)
    is_strong = is_on & (tf.cast(salient, tf.float32) >= enough)
    needed = tf.maximum((total + units - 1) // units, 1)
    staying = tf.maximum(tf.math.count_nonzero(is_strong, dtype=COUNT), needed)
    # Strong groups come first, then those with the most salient connections.
    rank = salient + (units + 1) * tf.cast(is_strong, COUNT)
    stays = top_k_mask(rank, staying, where=is_on) & is_on
    alive = tf.maximum(tf.math.count_nonzero(stays, dtype=COUNT), 1)
    # Groups that have more than others get the remainder, so that none loses any.
    is_larger = top_k_mask(counts, total % alive, where=stays)
    new = total // alive + tf.cast(is_larger, COUNT)
    new = tf.where(stays, new, tf.zeros_like(new))
    return tf.where(tf.reduce_all(stays == is_on), counts, new)
