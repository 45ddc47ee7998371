"""Between plain and sparse models: `sparsify` and `strip`."""

import collections.abc

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat, distributions, kernels
from rigl_keras.kernels import masked
from rigl_keras.layers import (
    MaskConstraint,
    Sparse,
    check_initializer,
    check_mask,
    initial_values,
    sparse_kernels,
)
from rigl_keras.seeding import stateless_seed
from rigl_keras.selection import random_mask, top_k_mask


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
):
    """Makes a sparse copy of a model: every layer with kernels is wrapped in `Sparse`.

    Weights are copied. The copy is to be compiled anew. Prints which weights of rank 2
    or more stay dense.

    Args:
      model: a built Sequential or Functional model, nested ones included, without
        Sparse layers. Any other layer in it may hold layers of its own.
      sparsity: share of zeros among the kernels' weights, in [0, 1). 0 gives every
        kernel a mask of ones, from which pruning starts.
      distribution: "uniform", "er" or "erk" (see `rigl_keras.distributions`), or a
        mapping from kernels' paths to sparsities, which leaves all others dense and in
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

    Returns:
      A model of the same kind and name. Without `masks` each kernel has
      round((1 - its sparsity) * size) active weights, at least 1.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: for a model that is not built, not Sequential or Functional, sparse
        already, or without kernels; for an argument out of range; for a pattern or path
        that matches no kernel; and when nothing would become sparse.

    Source: Evci et al. 2020 (RigL), section 3, for the distributions; Evci et al. 2022,
    section 3.1, for the initialisation.
    """
    _check_plain(model)
    check_initializer(initializer)
    if method not in ("random", "magnitude"):
        raise ValueError(
            f"Expected `method` to be 'random' or 'magnitude', but got {method!r}."
        )
    found = kernels.find_kernels(model)
    _check_distinct(found)
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
    sparse = _clone(model, lambda layer: _wrapped(layer, planned, seed))
    _copy_weights(model, sparse)
    init_seed = seed if init_seed is None else init_seed
    for index, kernel in enumerate(sparse_kernels(sparse)):
        values = compat.raw(kernel.kernel)
        if initializer is None:
            values = masked(values, kernel.mask)
        else:
            draw = stateless_seed("init", init_seed, index)
            values = initial_values(
                initializer, masks[kernel.path], kernel, draw, values.dtype
            )
        kernel.kernel.assign(values)
    if verbose:
        _print_dense_weights(sparse)
    return sparse


def strip(model):
    """Makes a plain copy of a sparse model, with the masks baked into the weights.

    Args:
      model: a Sequential or Functional model with `Sparse` layers.

    Returns:
      A model of plain Keras layers with the same outputs, to be compiled anew. It can
      be saved, loaded and converted where this package is not installed.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when it has no sparse kernel, is not Sequential or Functional, or has
        a layer that creates Sparse layers by itself.
    """
    compat.check_layer(model, "a model")
    _check_graph_model(model, "strip")
    if not sparse_kernels(model):
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel, so there is nothing to strip."
        )
    plain = _clone(model, _unwrapped)
    left = [layer.name for layer, _ in kernels.walk(plain) if isinstance(layer, Sparse)]
    if left:
        raise ValueError(
            f"Layers {left} are made inside a layer's own code, where they cannot be "
            "replaced. Build that layer without Sparse and copy the weights."
        )
    _copy_weights(model, plain)
    for kernel, target in zip(
        kernels.find_kernels(model), kernels.find_kernels(plain), strict=True
    ):
        if isinstance(kernel.variable.constraint, MaskConstraint):
            mask = kernel.variable.constraint.mask
            target.variable.assign(masked(compat.raw(kernel.variable), mask))
    return plain


def _print_dense_weights(model):
    sparse = {id(each.kernel) for each in sparse_kernels(model)}
    masks = {id(each.mask) for each in sparse_kernels(model)}
    dense = [
        kernels.join(path, compat.variable_name(weight))
        for layer, path in kernels.walk(model)
        for weight in kernels.own_weights(layer)
        if len(weight.shape) >= 2 and id(weight) not in sparse | masks
    ]
    print(
        f"sparsify: {len(sparse)} sparse kernels; left dense: "
        f"{', '.join(dense) if dense else 'none'}."
    )


def _check_plain(model):
    compat.check_layer(model, "a Keras model")
    _check_graph_model(model, "sparsify")
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} has no weights yet. Give it a keras.Input, or call "
            "model.build(input_shape), before sparsify."
        )
    if any(isinstance(layer, Sparse) for layer, _ in kernels.walk(model)):
        raise ValueError(
            f"Model {model.name!r} has Sparse layers already. Change its masks with "
            "rigl_keras.set_masks, or `strip` it first."
        )
    if not kernels.find_kernels(model):
        raise ValueError(
            f"Model {model.name!r} has nothing to make sparse: no weight named "
            "'...kernel' of rank 2 or more, such as those of Dense and Conv2D."
        )


def _check_graph_model(model, function):
    if not compat.is_graph_model(model):
        raise ValueError(
            f"{function} copies Sequential and Functional models, but "
            f"{type(model).__name__} is neither. Wrap the layers of a subclassed model "
            "in rigl_keras.Sparse where it creates them."
        )


def _check_distinct(found):
    paths = [kernel.path for kernel in found]
    if len(set(paths)) < len(paths):
        raise ValueError(
            "Two kernels of the model have the same path; give its layers different "
            f"names. Paths: {sorted(paths)}."
        )


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
        planned = distribute(shapes, sparsity, overrides)
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


def _clone(model, convert):
    """Copies a graph model; `convert` may replace a layer or return None to copy it."""
    copies: dict[int, keras.layers.Layer] = {}

    def copy(layer):
        if id(layer) not in copies:
            copies[id(layer)] = make(layer)
        return copies[id(layer)]

    def make(layer):
        if compat.is_graph_model(layer):
            return keras.models.clone_model(layer, clone_function=copy)
        replacement = convert(layer)
        return _copy_layer(layer) if replacement is None else replacement

    clone = keras.models.clone_model(model, clone_function=copy)
    if not clone.built:
        clone.build(model.input_shape)
    return clone


def _copy_layer(layer):
    if isinstance(layer, keras.layers.Lambda):
        return layer  # It has no weights, and Keras 3 copies no function.
    copy = type(layer).from_config(layer.get_config())
    if isinstance(layer, keras.layers.Layer) and copy.name != layer.name:
        raise ValueError(
            f"Layer {layer.name!r} cannot be copied: {type(layer).__name__}.get_config "
            "leaves out its name. Let it start from super().get_config()."
        )
    return copy


def _wrapped(layer, planned, seed):
    """A sparse copy of a layer with planned kernels; None for another one."""
    if not isinstance(layer, keras.layers.Layer):  # Keras 3 clones operations too.
        return None
    below = {
        kernel.path: planned[id(kernel.variable)]
        for kernel in kernels.find_kernels(layer)
        if id(kernel.variable) in planned
    }
    if not below:
        return None
    sparse = Sparse(
        _copy_layer(layer),
        {path: sparsity for path, (sparsity, _) in below.items()},
        seed=seed,
    )
    sparse.plan_masks({path: mask for path, (_, mask) in below.items()})
    return sparse


def _unwrapped(layer):
    return _copy_layer(layer.layer) if isinstance(layer, Sparse) else None


def _copy_weights(source, target):
    """Copies all weights but masks between a model and its copy, layer by layer.

    Not list by list: wrapped layers list their weights in another order in Keras 2.
    """
    for layer, copy in zip(_plain_layers(source), _plain_layers(target), strict=True):
        weights = kernels.own_weights(layer)
        for weight, new in zip(weights, kernels.own_weights(copy), strict=True):
            new.assign(compat.raw(weight))
        if hasattr(copy, "finalize_state"):
            copy.finalize_state()  # Preprocessing computes with what it derives here.


def _plain_layers(model):
    return [layer for layer, _ in kernels.walk(model) if not isinstance(layer, Sparse)]
