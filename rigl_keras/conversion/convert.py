"""Between plain and sparse models: `sparsify` and `strip`."""

from collections.abc import Mapping

import numpy as np
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_choice
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.conversion.compress import compress
from rigl_keras.conversion.copies import (
    copy_layer,
    copy_model,
    copy_weights,
    is_wrapper,
    scope_of,
)
from rigl_keras.core import asked, kernels
from rigl_keras.core.choosing import DEFAULT_SPARSITY
from rigl_keras.core.initial_masks import METHODS, given_masks, plan_masks
from rigl_keras.core.initializers import check_initializer, initial_values
from rigl_keras.core.kernels import masked
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.core.tfmot_wrappers import is_pruning_wrapper
from rigl_keras.layers.compressed import Compressed
from rigl_keras.layers.sparse import Sparse
from rigl_keras.layers.sparse_model import SparseModel, check_training_is_keras_own

STORAGES = ("masked", "compressed")
# How a user copies what `strip` cannot.
_COPY = (
    "plain.set_weights(sparse.layer.get_weights()), where `sparse` is a Sparse layer; "
    "its own get_weights() holds the masks too"
)


def sparsify(
    model,
    sparsity=None,
    distribution="erk",
    initializer=None,
    overrides=None,
    method="random",
    seed=0,
    init_seed=None,
    verbose=True,
    masks=None,
    include=(),
    pattern=None,
    storage="masked",
):
    """Makes a sparse copy of a model: every layer with kernels is wrapped in `Sparse`.

    Weights are copied. The copy is to be compiled anew. Prints which weights of rank 2
    or more, but biases, stay dense, and why; and, where it is not what was asked for,
    how sparse that makes the masked kernels and all of them. `summary` shows it again.

    Args:
      model: a built Sequential or Functional model, nested ones included, without
        Sparse layers; any other layer in it may hold layers of its own. Or a subclassed
        model with a config, of which the copy is a `SparseModel`.
      sparsity: share of zeros, in [0, 1), among all weights of the kernels that no
        override matches. Of these "er" and "erk" may leave small ones dense and make
        the others sparser for it. What is overridden, and what is no kernel, does not
        count: the whole model has another sparsity. 0 gives every kernel a mask of
        ones, from which pruning starts. None for 0.9, or what the pattern sets.
      distribution: "uniform", "er" or "erk" (see `rigl_keras.distributions`); a
        function `(shapes, sparsity, overrides) -> sparsities` like those; or a mapping
        from kernels' paths to sparsities, which leaves all others dense and stands in
        place of `sparsity`.
      initializer: None keeps the weights, "unit_scaled" or "layer_scaled" (He) draws
        the masked kernels anew for their masks, as does a function `(mask, in_axes,
        out_axes, seed) -> values`.
      overrides: mapping from glob patterns on paths, such as "conv1/*", to a sparsity;
        the first match wins, and 0 leaves a kernel dense.
      method: "random", or "magnitude" to keep each kernel's largest weights.
      seed: int, for random masks.
      init_seed: int, for the initializer; `seed` when None.
      verbose: bool, whether to print what stays dense and, where one of them differs
        from `sparsity` by more than 0.1 percentage points, the sparsity of the masked
        kernels and of all weights of rank 2 or more but biases.
      masks: None, or a mapping from kernels' paths to arrays of 0/1 or bool, of their
        shapes, such as `get_masks` returns: the masks themselves, in place of
        `sparsity`, `distribution` and `method`. Kernels it leaves out stay dense.
      include: a glob pattern, or several, on the paths of weights that are to be sparse
        beside the kernels: any of rank 2 or more that is no bias, such as
        "*/embeddings" or "*/depthwise_kernel". A mapping as `distribution` or `masks`
        may name them too.
        An initializer leaves embeddings' values as they are.
      pattern: how the weights that exist lie in each kernel. None for anywhere; or a
        `rigl_keras.patterns.Pattern`, such as `Blocks(16)`, or its text, "blocks(16)";
        or a list of them, of which each kernel takes the first that suits it, with
        "dense" for no mask; or a mapping from glob patterns on paths to all of these,
        the first match wins, and kernels without a match are unstructured.
      storage: "masked" keeps kernels in full, beside a mask; "compressed" stores those
        without their zeros that can be, see `compress`.

    Returns:
      A model of the same name; of the same kind if that is Sequential or Functional.
      Without `masks` each kernel has round((1 - its sparsity) * size) active weights,
      at least 1; or, by a pattern, so many units in each of its groups.

    Raises:
      TypeError: when `model` is no model of the Keras in use, a sparsity no number, or
        `overrides` no mapping, or `pattern` no pattern.
      ValueError: for a model that is not built, sparse already, without kernels,
        quantised, that trains in a way of its own, or that cannot be copied; for an
        argument out of range; for a pattern or path that matches no kernel; for
        a kernel that its `pattern` does not suit, or that is asked for another sparsity
        than that sets; when nothing would become sparse; and with
        `storage="compressed"` when no kernel can be stored so.

    Source: Evci et al. 2020 (RigL), section 3, for the distributions; Evci et al. 2022,
    section 3.1, for the initialisation.
    """
    _check_plain(model)
    check_initializer(initializer)
    check_choice("`storage`", storage, STORAGES)
    maskable = kernels.find_maskable(model)
    if masks is None:
        plan = plan_masks(
            maskable,
            sparsity,
            distribution,
            overrides=overrides,
            include=include,
            pattern=pattern,
            method=method,
            seed=seed,
        )
    else:
        check_choice("`method`", method, METHODS)
        plan = given_masks(
            maskable, masks, overrides=overrides, include=include, pattern=pattern
        )
    sparse = _masked_copy(model, maskable, plan, seed=seed)
    if initializer is not None:
        _draw_weights(sparse, initializer, seed if init_seed is None else init_seed)
    is_one_number = masks is None and not isinstance(distribution, Mapping)
    wish = _wish(sparsity, plan) if is_one_number else None
    reasons = asked.dense_reasons(
        maskable,
        plan,
        distribution=distribution,
        overrides=overrides,
        masks=masks,
        include=include,
        pattern=pattern,
    )
    asked.note(sparse, asked.Asked(wish, reasons))
    if verbose:
        _print_dense_weights(sparse, reasons)
        _print_sparsity(maskable, plan, wish)
    compat.refuse_fit(sparse)
    return compress(sparse, verbose) if storage == "compressed" else sparse


def _wish(sparsity, plan):
    """The sparsity that was asked for; None where all patterns set their own."""
    own = [initial.pattern.own_sparsity for initial in plan.values()]
    if sparsity is None and None in own:
        return DEFAULT_SPARSITY
    return sparsity


def _masked_copy(model, maskable, plan, *, seed):
    """A copy of a model with the planned masks on its weights."""
    planned = {
        id(kernel.variable): plan[kernel.path]
        for kernel in maskable
        if kernel.path in plan
    }
    for kernel in maskable:
        if kernel.path in plan:
            kernels.check_effective(kernel)
    with scope_of(model):
        sparse = copy_model(model, lambda layer: _wrapped(layer, planned, seed))
    if not isinstance(sparse, type(model)):
        # Keras copies models of other classes as Functional or Sequential ones.
        check_training_is_keras_own(model)
    copy_weights(model, sparse)
    for kernel in sparse_kernels(sparse):
        kernel.kernel.assign(masked(compat.raw(kernel.kernel), kernel.mask))
    return sparse


def _draw_weights(sparse, initializer, seed):
    """Draws the masked kernels of a sparse model anew, but for embeddings."""
    embeddings = {
        kernel.path for kernel in kernels.find_maskable(sparse) if kernel.is_embedding
    }
    for index, kernel in enumerate(sparse_kernels(sparse)):
        if kernel.path in embeddings:
            continue
        values = initial_values(
            initializer,
            kernel.mask.numpy(),
            kernel,
            seed=stateless_seed("init", seed, index),
            dtype=kernel.kernel.dtype,
        )
        kernel.kernel.assign(values)


def strip(model):
    """Makes a plain copy of a sparse model, with the masks baked into the weights.

    Args:
      model: a Sequential or Functional model with `Sparse` layers or TFMOT's wrappers,
        or a `SparseModel`.

    Returns:
      A model of plain Keras layers, or of the class that the `SparseModel` wraps, with
      the same outputs, to be compiled anew. It can be saved, loaded and converted where
      this package is not installed.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when it has no sparse kernel, is no such model, or has a layer that
        creates Sparse layers by itself. Of a model with a `train_step` of its own,
        strip each part; docs/training.md shows how.
    """
    compat.check_model(
        model,
        "Strip the whole model; Sparse layers have the plain one as `layer`.",
    )
    if compat.is_subclassed_model(model) and not isinstance(model, SparseModel):
        raise ValueError(
            f"strip copies Sequential and Functional models and SparseModel, but "
            f"{type(model).__name__} is none of them. Where its parts are such models, "
            "strip each part and make the model of them. Else build it without Sparse "
            f"layers and copy layer by layer: {_COPY}."
        )
    if not sparse_kernels(model):
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel, so there is nothing to strip."
        )
    # Outside of the model's strategy, so that one worker alone may strip and save it.
    plain = copy_model(model, _unwrapped)
    copy_weights(model, plain)
    return plain


def _print_dense_weights(model, reasons):
    sparse = {id(kernel.variable) for kernel in sparse_kernels(model)}
    masks = {id(v) for kernel in sparse_kernels(model) for v in kernel.index_variables}
    dense = [
        path
        for path, _, weight in kernels.named_weights(model)
        if len(weight.shape) >= 2
        and not compat.variable_name(weight).endswith("bias")
        and id(weight) not in sparse | masks
    ]
    by_reason: dict = {}
    for path in dense:
        by_reason.setdefault(reasons.get(path), []).append(path)
    parts = [
        ", ".join(paths) + (f" ({reason})" if reason else "")
        for reason, paths in by_reason.items()
    ]
    print(
        f"sparsify: {len(sparse)} sparse kernels; left dense: "
        f"{'; '.join(parts) if parts else 'none'}."
    )


def _print_sparsity(maskable, plan, wish):
    """Prints how sparse the model is, if that is not what was asked for."""
    planned = [initial.mask for initial in plan.values()]
    zeros = sum(mask.size - np.count_nonzero(mask) for mask in planned)
    masked_share = zeros / sum(mask.size for mask in planned)
    whole = zeros / sum(np.prod(kernel.shape) for kernel in maskable)
    expected = masked_share if wish is None else wish
    if max(abs(masked_share - expected), abs(whole - expected)) > 0.001:
        print(f"sparsify: {asked.described(wish, masked_share, whole)}.")


def _check_plain(model):
    compat.check_model(
        model,
        "A layer is made sparse where the model gets it: rigl_keras.Sparse(layer, "
        "sparsity). Or sparsify the whole model.",
    )
    if compat.is_subclassed_model(model):
        check_training_is_keras_own(model)
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} has no weights yet. Give it a keras.Input, or call "
            "model.build(input_shape), before sparsify."
        )
    if any(is_pruning_wrapper(layer) for layer, _ in kernels.walk(model)):
        raise ValueError(
            f"Model {model.name!r} has wrappers of TFMOT's prune_low_magnitude, with "
            "masks of their own. Take those over, rigl_keras.from_tfmot(model), or "
            "`strip` it first."
        )
    if any(isinstance(layer, Sparse | Compressed) for layer, _ in kernels.walk(model)):
        raise ValueError(
            f"Model {model.name!r} has sparse layers already. Change its masks with "
            "rigl_keras.set_masks, or `strip` it first."
        )
    if not kernels.find_kernels(model):
        raise ValueError(
            f"Model {model.name!r} has nothing to make sparse: no weight named "
            "'...kernel' of rank 2 or more, such as those of Dense and Conv2D, that is "
            "not quantised."
        )


def _wrapped(layer, planned, seed):
    """A sparse copy of a layer with planned kernels; None for another one."""
    if not isinstance(layer, keras.layers.Layer):  # Keras 3 clones operations too.
        return None
    below = {
        kernel.path: planned[id(kernel.variable)]
        for kernel in kernels.find_maskable(layer)
        if id(kernel.variable) in planned
    }
    if not below:
        return None
    sparsities = {path: initial.sparsity for path, initial in below.items()}
    patterns = {path: initial.pattern for path, initial in below.items()}
    sparse = Sparse(copy_layer(layer), sparsities, seed=seed, pattern=patterns)
    sparse.plan_masks({path: initial.mask for path, initial in below.items()})
    return sparse


def _is_sparse_layer(layer):
    return is_wrapper(layer) or isinstance(layer, Compressed)


def _unwrapped(layer):
    if _is_sparse_layer(layer):
        return copy_layer(layer.layer)
    if isinstance(layer, keras.layers.Layer):  # Keras 3 clones operations too.
        held = [
            child.name for child, _ in kernels.walk(layer) if _is_sparse_layer(child)
        ]
        if held:
            raise ValueError(
                f"Layers {held} are made inside a layer's own code, where they cannot "
                "be replaced. Build that layer without wrappers and copy the weights: "
                f"{_COPY}."
            )
    return None
