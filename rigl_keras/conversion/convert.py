"""Between plain and sparse models: `sparsify` and `strip`."""

import collections.abc

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.conversion.copies import (
    copy_layer,
    copy_model,
    copy_weights,
    is_wrapper,
    scope_of,
)
from rigl_keras.core import distributions, kernels
from rigl_keras.core.kernels import masked
from rigl_keras.core.masks import check_mask, sparse_kernels
from rigl_keras.core.selection import random_mask, top_k_mask
from rigl_keras.core.tfmot_wrappers import is_pruning_wrapper
from rigl_keras.layers.sparse import Sparse, check_initializer, initial_values
from rigl_keras.layers.sparse_model import SparseModel


def sparsify(
    model,
    sparsity=0.9,
    distribution="erk",
    initializer=None,
    overrides=None,
    method="random",
    seed=0,
    init_seed=None,
    verbose=True,
    masks=None,
    include=(),
):
    """Makes a sparse copy of a model: every layer with kernels is wrapped in `Sparse`.

    Weights are copied. The copy is to be compiled anew. Prints which weights of rank 2
    or more, but biases, stay dense.

    Args:
      model: a built Sequential or Functional model, nested ones included, without
        Sparse layers; any other layer in it may hold layers of its own. Or a subclassed
        model with a config, of which the copy is a `SparseModel`.
      sparsity: share of zeros among the kernels' weights, in [0, 1). 0 gives every
        kernel a mask of ones, from which pruning starts.
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
      verbose: bool, whether to print what stays dense.
      masks: None, or a mapping from kernels' paths to arrays of 0/1 or bool, of their
        shapes, such as `get_masks` returns: the masks themselves, in place of
        `sparsity`, `distribution` and `method`. Kernels it leaves out stay dense.
      include: a glob pattern, or several, on the paths of weights that are to be sparse
        beside the kernels: any of rank 2 or more that is no bias, such as
        "*/embeddings" or "*/depthwise_kernel". A mapping as `distribution` or `masks`
        may name them too.
        An initializer leaves embeddings' values as they are.

    Returns:
      A model of the same name; of the same kind if that is Sequential or Functional.
      Without `masks` each kernel has round((1 - its sparsity) * size) active weights,
      at least 1.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: for a model that is not built, sparse already, without kernels,
        quantised, or that cannot be copied; for an argument out of range; for a pattern
        or path that matches no kernel; and when nothing would become sparse.

    Source: Evci et al. 2020 (RigL), section 3, for the distributions; Evci et al. 2022,
    section 3.1, for the initialisation.
    """
    _check_plain(model)
    check_initializer(initializer)
    if method not in ("random", "magnitude"):
        raise ValueError(
            f"Expected `method` to be 'random' or 'magnitude', but got {method!r}."
        )
    maskable = kernels.find_maskable(model)
    _check_distinct(maskable)
    found = _chosen(maskable, include, masks, distribution)
    if masks is None:
        sparsities = _plan_sparsities(found, sparsity, distribution, overrides)
        masks = {
            kernel.path: _first_mask(
                kernel, sparsities[kernel.path], method, seed, index
            )
            for index, kernel in enumerate(found)
            if kernel.path in sparsities
        }
    else:
        masks = _given_masks(found, masks, overrides)
        sparsities = {path: float(1 - mask.mean()) for path, mask in masks.items()}
    planned = {
        id(kernel.variable): (sparsities[kernel.path], masks[kernel.path])
        for kernel in found
        if kernel.path in masks
    }
    for kernel in found:
        if id(kernel.variable) in planned:
            kernels.check_effective(kernel)
    with scope_of(model):
        sparse = copy_model(model, lambda layer: _wrapped(layer, planned, seed))
    copy_weights(model, sparse)
    init_seed = seed if init_seed is None else init_seed
    embeddings = {each.path for each in found if each.is_embedding}
    for index, kernel in enumerate(sparse_kernels(sparse)):
        values = compat.raw(kernel.kernel)
        if initializer is None or kernel.path in embeddings:
            values = masked(values, kernel.mask)
        else:
            draw = stateless_seed("init", init_seed, index)
            values = initial_values(
                initializer, masks[kernel.path], kernel, draw, values.dtype
            )
        kernel.kernel.assign(values)
    if verbose:
        _print_dense_weights(sparse)
    compat.refuse_fit(sparse)
    return sparse


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
        creates Sparse layers by itself.
    """
    compat.check_layer(model, "a model")
    if compat.is_subclassed_model(model) and not isinstance(model, SparseModel):
        raise ValueError(
            f"strip copies Sequential and Functional models and SparseModel, but "
            f"{type(model).__name__} is none of them. Build the model without Sparse "
            "layers and copy the weights; inactive ones are 0."
        )
    if not sparse_kernels(model):
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel, so there is nothing to strip."
        )
    # Outside of the model's strategy, so that one worker alone may strip and save it.
    plain = copy_model(model, _unwrapped)
    copy_weights(model, plain)
    return plain


def _print_dense_weights(model):
    sparse = {id(each.kernel) for each in sparse_kernels(model)}
    masks = {id(each.mask) for each in sparse_kernels(model)}
    dense = [
        kernels.join(path, compat.variable_name(weight))
        for layer, path in kernels.walk(model)
        for weight in kernels.own_weights(layer)
        if len(weight.shape) >= 2
        and not compat.variable_name(weight).endswith("bias")
        and id(weight) not in sparse | masks
    ]
    print(
        f"sparsify: {len(sparse)} sparse kernels; left dense: "
        f"{', '.join(dense) if dense else 'none'}."
    )


def _check_plain(model):
    compat.check_layer(model, "a Keras model")
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
    if any(isinstance(layer, Sparse) for layer, _ in kernels.walk(model)):
        raise ValueError(
            f"Model {model.name!r} has Sparse layers already. Change its masks with "
            "rigl_keras.set_masks, or `strip` it first."
        )
    if not kernels.find_kernels(model):
        raise ValueError(
            f"Model {model.name!r} has nothing to make sparse: no weight named "
            "'...kernel' of rank 2 or more, such as those of Dense and Conv2D, that is "
            "not quantised."
        )


def _check_distinct(found):
    paths = [kernel.path for kernel in found]
    if len(set(paths)) < len(paths):
        raise ValueError(
            "Two kernels of the model have the same path; give its layers different "
            f"names. Paths: {sorted(paths)}."
        )


def _chosen(maskable, include, masks, distribution):
    """The kernels, and the other weights that are asked for by pattern or path."""
    named = set()
    for mapping in (masks, distribution):
        if isinstance(mapping, collections.abc.Mapping):
            named |= set(mapping)
    if include:
        paths = [each.path for each in maskable]
        named |= kernels.matching(paths, include, "include")
    # Kernels first, so that what else is chosen does not change their draws.
    kernel_first = sorted(maskable, key=lambda each: not each.is_kernel)
    return [each for each in kernel_first if each.is_kernel or each.path in named]


def _given_masks(found, masks, overrides):
    shapes = {kernel.path: tuple(kernel.variable.shape) for kernel in found}
    if not isinstance(masks, collections.abc.Mapping):
        raise ValueError(
            f"Expected `masks` to map some of {list(shapes)} to arrays, but got a "
            f"{type(masks).__name__}."
        )
    unknown = sorted(set(masks) - set(shapes))
    if unknown or not masks or overrides:
        raise ValueError(
            f"Expected `masks` of some of the kernels {list(shapes)} and no "
            f"`overrides`, got masks of {list(masks)} and overrides {overrides}."
        )
    return {path: check_mask(path, masks[path], shapes[path]) for path in masks}


def _plan_sparsities(found, sparsity, distribution, overrides):
    """The sparsity of each kernel that gets a mask, by path."""
    shapes = {kernel.path: kernel.connection_shape for kernel in found}
    own = distributions.overridden(shapes, overrides or {})
    if isinstance(distribution, collections.abc.Mapping):
        planned = {**_named(shapes, distribution), **own}
        dense = {path for path, value in planned.items() if value == 0}
    else:
        distribute = distributions.from_name(distribution)
        planned = _named(shapes, distribute(shapes, sparsity, overrides))
        # With sparsity 0 all masks are ones, for pruning to start from.
        zeros = planned if sparsity > 0 else own
        dense = {path for path in zeros if planned[path] == 0}
    sparse = {path: value for path, value in planned.items() if path not in dense}
    if not sparse:
        raise ValueError(
            "Every kernel would stay dense: nothing to make sparse. Raise `sparsity`, "
            "or change `distribution` or `overrides`."
        )
    return sparse


def _named(shapes, distribution):
    unknown = sorted(set(distribution) - set(shapes))
    if unknown:
        raise ValueError(
            f"`distribution` names {unknown}, but the kernels are {list(shapes)}."
        )
    return {
        path: distributions.check_sparsity(value, f"The sparsity of {path!r}")
        for path, value in distribution.items()
    }


def _first_mask(kernel, sparsity, method, seed, index):
    shape = tuple(kernel.variable.shape)
    count = distributions.active_count(int(np.prod(shape)), sparsity)
    if method == "magnitude":
        scores = tf.abs(tf.convert_to_tensor(compat.raw(kernel.variable)))
        return top_k_mask(scores, count).numpy()
    return random_mask(shape, count, stateless_seed("mask", seed, index)).numpy()


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
    sparse = Sparse(
        copy_layer(layer),
        {path: sparsity for path, (sparsity, _) in below.items()},
        seed=seed,
    )
    sparse.plan_masks({path: mask for path, (_, mask) in below.items()})
    return sparse


def _unwrapped(layer):
    if is_wrapper(layer):
        return copy_layer(layer.layer)
    if isinstance(layer, keras.layers.Layer):  # Keras 3 clones operations too.
        held = [child.name for child, _ in kernels.walk(layer) if is_wrapper(child)]
        if held:
            raise ValueError(
                f"Layers {held} are made inside a layer's own code, where they cannot "
                "be replaced. Build that layer without wrappers and copy the weights."
            )
    return None
