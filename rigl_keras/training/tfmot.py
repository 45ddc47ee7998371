"""Training the masks of TensorFlow Model Optimization's `prune_low_magnitude`."""

from typing import Any

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.masks import (
    MaskConstraint,
    apply_masks,
    check_patterns,
    is_sparse,
    sparse_kernels,
)
from rigl_keras.core.pattern_kinds import UNSTRUCTURED
from rigl_keras.core.tfmot_patterns import check_wrapper_patterns
from rigl_keras.core.tfmot_wrappers import (
    is_pruning_wrapper,
    pruned_weights,
    stop_pruning,
)


def adopt(model: Any) -> None:
    """Lets callbacks train the masks of TFMOT's wrappers, where a model has any.

    The mask variables stay TFMOT's, so that `strip_pruning` and saving go on as before.
    Masks keep the pattern in which TFMOT prunes. Its schedules end for good; training
    needs no `UpdatePruningStep`, and may have it. Weights of rank 1 that TFMOT prunes
    keep the masks that they have.

    Args:
      model: a built model.

    Raises:
      ValueError: when a wrapper prunes in a pattern that is none of those here, or its
        masks do not have the pattern in which it prunes.
    """
    wrappers = [
        layer
        for layer, _ in kernels.walk(model)
        if is_pruning_wrapper(layer) and layer.built
    ]
    if not wrappers:
        return
    check_wrapper_patterns(model)
    check_patterns(model)
    patterns = {id(kernel.kernel): kernel.pattern for kernel in sparse_kernels(model)}
    for wrapper in wrappers:
        stop_pruning(wrapper)
        for weight, mask in pruned_weights(wrapper):
            if not is_sparse(weight):
                pattern = patterns.get(id(weight), UNSTRUCTURED)
                constraint = MaskConstraint(mask, weight.constraint, pattern)
                compat.set_constraint(weight, constraint)
    apply_masks(model)
