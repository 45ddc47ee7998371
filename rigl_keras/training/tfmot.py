"""Training the masks of TensorFlow Model Optimization's `prune_low_magnitude`."""

from typing import Any

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.masks import MaskConstraint, apply_masks, is_sparse
from rigl_keras.core.tfmot_wrappers import (
    is_pruning_wrapper,
    pruned_weights,
    stop_pruning,
)


def adopt(model: Any) -> None:
    """Lets callbacks train the masks of TFMOT's wrappers, where a model has any.

    The mask variables stay TFMOT's, so that `strip_pruning` and saving go on as before.
    TFMOT's schedules end for good; training needs no `UpdatePruningStep`, and may have
    it. Weights of rank 1 that TFMOT prunes keep the masks that they have.

    Args:
      model: a built model.

    Raises:
      ValueError: when a wrapper prunes blocks or m of n weights, patterns that an
        update of single connections would break.
    """
    wrappers = [
        layer
        for layer, _ in kernels.walk(model)
        if is_pruning_wrapper(layer) and layer.built
    ]
    for wrapper in wrappers:
        _check_unstructured(wrapper)
    for wrapper in wrappers:
        stop_pruning(wrapper)
        for weight, mask in pruned_weights(wrapper):
            if not is_sparse(weight):
                constraint = MaskConstraint(mask, weight.constraint)
                compat.set_constraint(weight, constraint)
    if wrappers:
        apply_masks(model)


def _check_unstructured(wrapper: Any) -> None:
    if not wrapper.pruning_vars:
        return
    block, m_by_n = tuple(wrapper.block_size), wrapper.sparsity_m_by_n
    if block != (1, 1) or m_by_n:
        pattern = f"{m_by_n[0]} of {m_by_n[1]}" if m_by_n else f"block_size={block}"
        raise ValueError(
            f"TFMOT prunes layer {wrapper.layer.name!r} in a pattern ({pattern}), but "
            "the masks here change connection by connection and would break it. Wrap "
            "the layer with block_size=(1, 1) and no sparsity_m_by_n; or give up the "
            "pattern knowingly, rigl_keras.from_tfmot(model)."
        )
