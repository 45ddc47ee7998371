"""A mask update of a kernel that is stored without its zeros.

It leads to the connections that the update of the same kernel with a mask leads to.
What
is as large as the mask is looked at in parts.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from rigl_keras.core.compressed_units import by_parts, places_of
from rigl_keras.core.grouped_selection import top_k_in_groups
from rigl_keras.core.kernel_state import CompressedState
from rigl_keras.core.masked_kernel import TrainedKernel
from rigl_keras.core.selection import top_k_mask


def kept_units(
    drop_scores: tf.Tensor, exists: tf.Tensor, drop_fraction: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The units that an update does not drop.

    Args:
      drop_scores: real tensor of shape [groups, units].
      exists: bool tensor of that shape.
      drop_fraction: scalar float32 tensor in [0, 1].

    Returns:
      `(kept, replaced)`: a bool tensor of that shape, and how many are dropped, an
      int32 scalar.
    """
    active = tf.math.count_nonzero(exists, dtype=tf.int32)
    replaced = tf.cast(tf.floor(tf.cast(active, tf.float32) * drop_fraction), tf.int32)
    replaced = tf.minimum(replaced, active)  # which float32 may have rounded up
    return top_k_mask(drop_scores, active - replaced, where=exists), replaced


def new_indices(
    updater: Any, state: CompressedState, drop_fraction: tf.Tensor
) -> tf.Tensor:
    """The units that exist after one update, as `MaskUpdater.new_mask` chooses them.

    Args:
      updater: a `MaskUpdater`.
      state: the kernel's.
      drop_fraction: scalar float32 tensor in [0, 1].

    Returns:
      An int32 tensor like `state.indices`.
    """
    existing = state.indices.shape[1]
    drop_scores = state.sums(updater.drop_scores(state.existing()))
    if updater.drop_noise > 0:
        drop_scores += tf.cast(_noise(updater, state), drop_scores.dtype)
    exists = tf.ones(state.indices.shape, tf.bool)
    kept, _ = kept_units(drop_scores, exists, drop_fraction)

    def grown(start: Any, groups: int) -> tf.Tensor:
        part = state.part(start, groups)
        kept_here = _rows(kept, start, groups)
        stays = tf.cast(part.spread(tf.cast(kept_here, tf.int32)), tf.bool)
        missing = existing - tf.math.count_nonzero(kept_here, axis=1)
        scores = updater.grow_scores(part.in_units(_first(start, state)))
        new = top_k_in_groups(scores, missing, where=tf.logical_not(stays))
        return places_of(tf.logical_or(stays, new), existing)

    return by_parts(grown, state.indices.shape, state.units, dtype=tf.int32)


def _noise(updater: Any, state: CompressedState) -> tf.Tensor:
    """The noise of the units that exist, from that of all units."""

    def noise(start: Any, groups: int) -> tf.Tensor:
        shape = [groups, state.units]
        drawn = updater.noise_at(shape, state.seed, _first(start, state))
        return tf.gather(drawn, _rows(state.indices, start, groups), batch_dims=1)

    return by_parts(noise, state.indices.shape, state.units, dtype=tf.float32)


def _rows(values: tf.Tensor, start: Any, groups: int) -> tf.Tensor:
    return tf.gather(values, tf.range(groups) + tf.cast(start, tf.int32))


def _first(start: Any, state: CompressedState) -> Any:
    """How many units come before a group."""
    return tf.cast(start, tf.int64) * state.units


def check_suits_compressed(updater: Any, kernels: Sequence[TrainedKernel]) -> None:
    """Refuses an algorithm that cannot update the kernels that are compressed.

    Args:
      updater: a `MaskUpdater` or `Pruner`.
      kernels: those that it is to update.

    Raises:
      ValueError: saying why, and what to do.
    """
    compressed = [kernel.path for kernel in kernels if kernel.is_compressed]
    if not compressed:
        return
    reason = _problem(updater)
    if reason:
        raise ValueError(
            f"{type(updater).__name__} cannot train {compressed}, which are stored "
            f"without their zeros: {reason}. Train the masked model, "
            "rigl_keras.decompress(model); it can be compressed afterwards."
        )


def _problem(updater: Any) -> str | None:
    """Why an algorithm cannot update compressed kernels; None where it can."""
    if not hasattr(updater, "grow_scores"):
        return "it removes weights, and there is room for exactly as many as there are"
    if updater.gradient_decay:
        return "its average of gradients would be dense, and renewed in each step"
    own = [
        name
        for name in ("new_mask", "new_masks")
        if getattr(type(updater), name).__module__ != "rigl_keras.algorithms.base"
    ]
    return f"its own `{own[0]}` makes dense masks" if own else None
