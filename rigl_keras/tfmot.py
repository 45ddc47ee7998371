"""Models that TensorFlow Model Optimization's `prune_low_magnitude` has wrapped."""

from rigl_keras import compat, kernels
from rigl_keras.conversion import sparsify, strip
from rigl_keras.kernels import masked
from rigl_keras.masks import MaskConstraint, get_masks, is_sparse
from rigl_keras.model_copies import scope_of
from rigl_keras.tfmot_wrappers import is_pruning_wrapper, pruned_weights, stop_pruning


def from_tfmot(model, verbose=True):
    """Makes a sparse copy of a model that TFMOT's `prune_low_magnitude` has wrapped.

    TFMOT's masks become those of `Sparse` layers, and the wrappers are left out, so
    that weights have the paths that they have in the plain model. Outputs are those of
    the wrapped model. The copy is to be compiled anew. For the way back give
    `rigl_keras.strip(sparse)` to `prune_low_magnitude`.

    TFMOT can prune weights that have no mask here: those of rank 1, which a layer's own
    `get_prunable_weights` may name. They keep their values, with the zeros, and train
    densely.

    Args:
      model: a built Sequential or Functional model of Keras 2 with TFMOT's wrappers, at
        any depth, as they were made or trained by TFMOT.
      verbose: bool, whether to print which weights stay dense, and of which TFMOT's
        masks are lost.

    Returns:
      A model of the same kind and name, as `sparsify` returns.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: in Keras 3, whose models TFMOT does not wrap; when TFMOT prunes no
        weight of the model that can have a mask here; when the model cannot be copied.
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
    with scope_of(model):
        sparse = sparsify(strip(model), masks=get_masks(model), verbose=verbose)
    if verbose:
        _print_lost_masks(model)
    return sparse


def _find_pruned(model):
    """All pairs of a weight that TFMOT prunes and its mask, each weight once."""
    found = {}
    for layer, _ in kernels.walk(model):
        for weight, mask in pruned_weights(layer):
            found[id(weight)] = (weight, mask)
    return list(found.values())


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


def adopt(model):
    """Lets callbacks train the masks of TFMOT's wrappers, where a model has any.

    The mask variables stay TFMOT's, so that `strip_pruning` and saving go on as before.
    Its schedules end for good; training needs no `UpdatePruningStep`, and may have it.
    Weights that TFMOT prunes and that have no mask here, of rank 1, keep TFMOT's.

    Args:
      model: a built model.

    Raises:
      ValueError: when a wrapper prunes blocks or m of n weights, patterns that an
        update of single connections would break.
    """
    wrappers = [each for each, _ in kernels.walk(model) if is_pruning_wrapper(each)]
    built = [wrapper for wrapper in wrappers if wrapper.built]
    for wrapper in built:
        _check_unstructured(wrapper)
    for wrapper in built:
        stop_pruning(wrapper)
        for weight, mask in pruned_weights(wrapper):
            if not is_sparse(weight):
                constraint = MaskConstraint(mask, weight.constraint)
                compat.set_constraint(weight, constraint)
            weight.assign(masked(compat.raw(weight), mask))


def _check_unstructured(wrapper):
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
