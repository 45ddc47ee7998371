"""Training the masks of TensorFlow Model Optimization's `prune_low_magnitude`."""

from typing import Any

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.choosing import check_fits
from rigl_keras.core.kernels import read_mask
from rigl_keras.core.masks import (
    MaskConstraint,
    apply_masks,
    is_sparse,
    sparse_kernels,
)
from rigl_keras.core.pattern_kinds import UNSTRUCTURED
from rigl_keras.core.patterns import Pattern
from rigl_keras.core.tfmot_patterns import check_patterns
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
    check_patterns(model)
    patterns = _checked_patterns(model)
    for wrapper in wrappers:
        stop_pruning(wrapper)
        for weight, mask in pruned_weights(wrapper):
            if not is_sparse(weight):
                pattern = patterns.get(id(weight), UNSTRUCTURED)
                constraint = MaskConstraint(mask, weight.constraint, pattern)
                compat.set_constraint(weight, constraint)
    apply_masks(model)


def _checked_patterns(model: Any) -> dict[int, Pattern]:
    """The patterns of a model's sparse kernels by the ids of their variables."""
    patterns = {}
    for kernel in sparse_kernels(model):
        if kernel.pattern != UNSTRUCTURED:
            mask = read_mask(compat.raw(kernel.mask)).numpy()
            check_fits(kernel.path, mask, kernel.pattern, grouping=kernel.grouping)
        patterns[id(kernel.kernel)] = kernel.pattern
    return patterns
