"""Models that TensorFlow Model Optimization's `prune_low_magnitude` has wrapped."""

from rigl_keras import compat
from rigl_keras.conversion.convert import sparsify, strip
from rigl_keras.conversion.copies import scope_of
from rigl_keras.core import kernels
from rigl_keras.core.masks import get_masks, sparse_kernels
from rigl_keras.core.tfmot_patterns import check_wrapper_patterns
from rigl_keras.core.tfmot_wrappers import pruned_weights


def from_tfmot(model, verbose=True, pattern=None):
    """Makes a sparse copy of a model that TFMOT's `prune_low_magnitude` has wrapped.

    TFMOT's masks become those of `Sparse` layers, and the wrappers are left out, so
    that weights have the paths that they have in the plain model. Outputs are those of
    the wrapped model. The copy is to be compiled anew. For the way back give
    `rigl_keras.strip(sparse)` to `prune_low_magnitude`.

    TFMOT can prune weights that have no mask here: those of rank 1, which a layer's own
    `get_prunable_weights` may name. They keep their values, with the zeros, and train
    densely.

    Masks keep the pattern in which TFMOT prunes: blocks, or m of n weights. A model
    that TFMOT has saved and loaded no longer knows its `sparsity_m_by_n`: name the
    pattern then, which for (m, n) is "n_of_m(n - m, n)" with its numbers.

    Args:
      model: a built Sequential or Functional model of Keras 2 with TFMOT's wrappers, at
        any depth, as they were made or trained by TFMOT.
      verbose: bool, whether to print which weights stay dense, and of which TFMOT's
        masks are lost.
      pattern: None for the one in which TFMOT prunes each weight; or what the masks are
        to have in its place, as `sparsify` takes it, such as "unstructured".

    Returns:
      A model of the same kind and name, as `sparsify` returns.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: in Keras 3, whose models TFMOT does not wrap; when TFMOT prunes no
        weight of the model that can have a mask here; when the model cannot be copied;
        when TFMOT prunes in a pattern that is none of those here, such as blocks that
        do not divide a kernel; for masks that do not have their pattern.
    """
    if compat.IS_KERAS_3:
        raise ValueError(
            "TensorFlow Model Optimization wraps models of Keras 2 only, and tf.keras "
            "is Keras 3 here. Set TF_USE_LEGACY_KERAS=1 in the environment before "
            "TensorFlow is imported, and build the model with tf.keras. A model of "
            "Keras 3 is pruned without TFMOT: rigl_keras.Pruning."
        )
    compat.check_layer(model, "a model")
    if not _find_pruned(model):
        raise ValueError(
            f"Model {model.name!r} has no weight that TFMOT prunes, so there are no "
            "masks to take over. Wrap it with tfmot.sparsity.keras."
            "prune_low_magnitude and build it first, or make it sparse with "
            "rigl_keras.sparsify."
        )
    if pattern is None:
        check_wrapper_patterns(model)
        pattern = {kernel.path: kernel.pattern for kernel in sparse_kernels(model)}
    with scope_of(model):
        sparse = sparsify(
            strip(model), masks=get_masks(model), verbose=verbose, pattern=pattern
        )
    if verbose:
        _print_lost_masks(model)
    return sparse


def _find_pruned(model):
    """All pairs of a weight that TFMOT prunes and its mask, each weight once."""
    pruned: dict = {}
    for layer, _ in kernels.walk(model):
        for weight, mask in pruned_weights(layer):
            pruned[id(weight)] = (weight, mask)
    return list(pruned.values())


def _print_lost_masks(model):
    lost = [
        compat.variable_name(weight)
        for weight, _ in _find_pruned(model)
        if not kernels.is_maskable(weight)
    ]
    if lost:
        print(
            "from_tfmot: these weights keep their zeros for now, but train densely: "
            f"{', '.join(lost)}."
        )
