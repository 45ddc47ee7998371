"""Copies of models, in which layers may become others; and their weights."""

import contextlib

import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.masks import masks_by_weight
from rigl_keras.core.tfmot_wrappers import is_pruning_wrapper
from rigl_keras.layers.compressed import Compressed
from rigl_keras.layers.sparse import Sparse
from rigl_keras.layers.sparse_model import SparseModel, check_wrapped


def copy_model(model, convert):
    """Copies a model, Sequential, Functional or subclassed; weights are its own.

    Args:
      model: a built model.
      convert: function from a layer to one in its place, or to None to copy it. Of a
        subclassed model it is given the whole.

    Returns:
      A built model.

    Raises:
      ValueError: for a subclassed model without a config, or that its config does not
        build.
    """
    if isinstance(model, SparseModel):
        return _copy_subclassed(model.sparse.layer, lambda layer: None)
    if compat.is_graph_model(model):
        return _clone(model, convert)
    return _copy_subclassed(model, convert)


def scope_of(model):
    """The scope for a copy to be trained: of the strategy in scope, else the model's.

    Several workers have to make it together, as its variables are sent around.
    """
    if tf.distribute.has_strategy():
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def _clone(model, convert):
    copies: dict[int, keras.layers.Layer] = {}

    def copy(layer):
        if id(layer) not in copies:
            copies[id(layer)] = make(layer)
        return copies[id(layer)]

    def make(layer):
        if compat.is_nested_graph_model(layer):
            return clone_graph(layer)
        replacement = convert(layer)
        return copy_layer(layer) if replacement is None else replacement

    def clone_graph(model):
        clone = keras.models.clone_model(model, clone_function=copy)
        if not model.trainable:  # which Keras does not copy
            clone.trainable = False
        return clone

    clone = clone_graph(model)
    if not clone.built:
        clone.build(model.input_shape)
    return clone


def _copy_subclassed(model, convert):
    sparse = convert(model)
    if sparse is not None:
        check_wrapped(model)
    copy = copy_layer(model) if sparse is None else sparse.layer
    copy.build_from_config(compat.build_config(model))
    copy.built = True
    paths = [kernel.path for kernel in kernels.find_maskable(model)]
    if [kernel.path for kernel in kernels.find_maskable(copy)] != paths:
        raise ValueError(
            f"A copy of {type(model).__name__} could not be built as the model was "
            f"itself: not all of {paths} came into being. Wrap the model as it is, "
            "rigl_keras.SparseModel(rigl_keras.Sparse(model, sparsity)), and call it "
            "on a batch; or let its `build` create all its weights."
        )
    if sparse is not None:
        sparse.build()
        copy = SparseModel(sparse)
    if not model.trainable:  # which a config of its own may leave out
        copy.trainable = False
    return copy


def copy_layer(layer):
    """A copy of a layer by its config, without its weights.

    Raises:
      ValueError: when the config is not the layer's own.
    """
    if isinstance(layer, keras.layers.Lambda):
        return layer  # It has no weights, and Keras 3 copies no function.
    try:
        if not compat.has_config(layer):
            raise NotImplementedError("get_config is Keras's own.")
        copy = type(layer).from_config(layer.get_config())
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"{type(layer).__name__} cannot be copied, because its get_config does not "
            "give the arguments of its constructor. Define one that does; or wrap the "
            "model as it is, rigl_keras.SparseModel(rigl_keras.Sparse(model, sparsity))"
            ", and call it on a batch."
        ) from error
    if compat.is_subclassed_model(layer):
        compat.set_name(copy, layer.name)
    if isinstance(layer, keras.layers.Layer) and copy.name != layer.name:
        raise ValueError(
            f"Layer {layer.name!r} cannot be copied: {type(layer).__name__}.get_config "
            "leaves out its name. Let it start from super().get_config()."
        )
    return copy


def copy_weights(source, target):
    """Copies all weights between a model and its copy, layer by layer, masked.

    Not list by list: wrapped layers list their weights in another order in Keras 2.
    Layers that are frozen are frozen in the copy too.

    Raises:
      ValueError: when a layer of `target` has other weights, or layers of `source`
        share a weight that is two in `target`.
    """
    copies: dict[int, int] = {}
    masks = masks_by_weight(source)
    new_layers = _plain_layers(target)
    layers = _without_leftovers(_plain_layers(source), new_layers)
    for layer, copy in zip(layers, new_layers, strict=True):
        weights, new_weights = _stored_alike(layer, copy)
        if _described(weights) != _described(new_weights):
            raise ValueError(
                f"Layer {layer.name!r} has the weights {_described(weights)}, but made "
                f"anew from its config {_described(new_weights)}, so it cannot be "
                "copied. Do not share single weights between layers, nor add or "
                "replace any, and let get_config say all that `build` needs."
            )
        for weight, new in zip(weights, new_weights, strict=True):
            if copies.setdefault(id(weight), id(new)) != id(new):
                raise ValueError(
                    f"Layer {layer.name!r} shares the weight "
                    f"{compat.variable_name(weight)!r} with another layer, which "
                    "Keras loses when it copies them. Share the layer itself, or let "
                    "one layer hold both."
                )
            values = compat.raw(weight)
            if id(weight) in masks:
                values = kernels.masked(values, masks[id(weight)])
            new.assign(values)
        if isinstance(layer, Compressed) != isinstance(copy, Compressed):
            _copy_kernel(layer, copy, masks)
        if hasattr(copy, "finalize_state") and copy.built:
            copy.finalize_state()  # Preprocessing computes with what it derives here.
    _copy_freezing(layers, new_layers)


def _stored_alike(layer, copy):
    """The weights of a layer and its copy, but for a kernel stored in another way."""
    is_alike = isinstance(layer, Compressed) == isinstance(copy, Compressed)
    return [
        kernels.own_weights(one)
        if is_alike
        else [w for w in kernels.own_weights(one) if compat.variable_name(w) == "bias"]
        for one in (layer, copy)
    ]


def _copy_kernel(layer, copy, masks):
    """Copies a kernel from full storage to compressed or back."""
    if isinstance(copy, Compressed):
        weights = compat.raw(layer.kernel)
        mask = kernels.read_mask(compat.raw(masks[id(layer.kernel)]))
        copy.compressed_kernel.assign(mask, tf.convert_to_tensor(weights))
    else:
        compat.raw(copy.kernel).assign(layer.compressed_kernel.weights())


def _copy_freezing(layers, copies):
    """Freezes and unfreezes copies as the layers are, which configs may leave out."""
    for layer, copy in zip(layers, copies, strict=True):
        # A layer is before those below it, to which Keras passes it on.
        if copy.trainable != layer.trainable:
            copy.trainable = layer.trainable


def _described(weights):
    return [(compat.variable_name(weight), tuple(weight.shape)) for weight in weights]


def _plain_layers(model):
    return [
        layer
        for layer, _ in kernels.walk(model)
        if not is_wrapper(layer) and not isinstance(layer, SparseModel)
    ]


def _without_leftovers(layers, copies):
    """The layers but for those without weights of which there is no copy.

    Keras keeps a layer that was an attribute once, such as a preprocessor.
    """
    if len(layers) == len(copies):
        return layers
    kept: list[keras.layers.Layer] = []
    for layer in layers:
        rest = copies[len(kept) :]
        if kernels.own_weights(layer) or (rest and type(rest[0]) is type(layer)):
            kept.append(layer)
    return kept


def is_wrapper(layer):
    """True for what gives the kernels of a layer masks: `Sparse` or TFMOT's."""
    return isinstance(layer, Sparse) or is_pruning_wrapper(layer)
