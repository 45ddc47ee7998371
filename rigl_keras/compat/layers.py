"""Layers and models: what is below them, their configs, how they are built."""

import contextlib

import tensorflow as tf
from tensorflow import keras

from rigl_keras.compat.which import IS_KERAS_3


def sublayers(layer):
    """The layers directly below a layer, in the order in which it got them."""
    return [
        child
        for child in layer._flatten_layers(include_self=False, recursive=False)
        if not isinstance(child, keras.layers.InputLayer)
    ]


def is_graph_model(layer):
    """True for a Sequential or Functional model, which can be cloned layer by layer.

    Not for one of a class with a config of its own, such as KerasHub's: its clone would
    be another class, without the attributes and methods that the model is used by.
    """
    if not isinstance(layer, keras.Model) or _has_own_config(layer):
        return False
    return isinstance(layer, keras.Sequential) or bool(getattr(layer, "inputs", None))


def is_nested_graph_model(layer):
    """True for a model inside another one that is to be cloned layer by layer too.

    Keras 2 counts the calls of a Functional model, of whatever class, from 1 and those
    of any other layer from 0: with another in its place its clone would not end.
    """
    is_functional = isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    return is_graph_model(layer) or (not IS_KERAS_3 and bool(is_functional))


def _has_own_config(model):
    owner = next(cls for cls in type(model).__mro__ if "get_config" in vars(cls))
    return owner.__module__.split(".")[0] not in ("keras", "tf_keras")


def is_subclassed_model(layer):
    """True for a model that only its own code can call."""
    return isinstance(layer, keras.Model) and not is_graph_model(layer)


class AfterLoading(keras.losses.Loss):
    """Calls a function when a layer's own weights and those below it are loaded.

    Both Kerases load a layer, then its attributes that are layers, metrics, optimizers
    or losses: private ones last. So a layer holds it under a private name. It is a loss
    because Keras tracks the others, as parts of the layer.

    Args:
      function: without arguments.
    """

    def __init__(self, function):
        super().__init__(name="after_loading")
        self._function = function

    def load_own_variables(self, store):
        """Calls the function; of its own it has nothing in the file."""
        self._function()


def has_config(layer):
    """False for a model whose `get_config` is Keras 2's own, which knows nothing of it.

    Keras 3 keeps the arguments of the constructor, or says that it cannot.
    """
    if IS_KERAS_3 or not is_subclassed_model(layer):
        return True
    return _has_own_config(layer)


def set_name(layer, name):
    """Names a layer; the config of a subclassed model in Keras 2 leaves it out."""
    if IS_KERAS_3:
        layer.name = name
    else:
        layer._name = name


def serialized(layer):
    """A layer as a dict of JSON types, for the config of another one."""
    if IS_KERAS_3:
        return keras.layers.serialize(layer)
    return keras.layers.serialize(layer, use_legacy_format=False)


def deserialized(config, custom_objects=None):
    """The layer of such a dict, or of one as HDF5 files of Keras 2 hold them."""
    if IS_KERAS_3:
        return keras.layers.deserialize(config, custom_objects)
    is_legacy = "module" not in config
    return keras.layers.deserialize(config, custom_objects, use_legacy_format=is_legacy)


def build_config(model):
    """What `build_from_config` needs to build a model like this one."""
    return _plain(model.get_build_config())


def _plain(shapes):
    """Nested shapes in plain dicts and tuples: Keras 3 reads none that it tracks."""
    if isinstance(shapes, dict):
        return {key: _plain(value) for key, value in shapes.items()}
    if isinstance(shapes, list | tuple):
        is_shape = all(size is None or isinstance(size, int) for size in shapes)
        return tuple(shapes) if is_shape else [_plain(shape) for shape in shapes]
    return shapes


def weights(layer):
    """A layer's weights; none where Keras 2 complains that a model is not built."""
    try:
        return layer.weights
    except ValueError:
        if layer.built:
            raise
        return []


def trace(layer, *args, **kwargs):
    """Calls a layer on symbolic inputs like these, so that it and its sublayers build.

    Args:
      layer: a layer or model.
      *args: of the call; tensors or symbolic tensors, nested or not, and others.
      **kwargs: likewise.
    """
    args, kwargs = tf.nest.map_structure(_spec, (args, kwargs))
    # A graph may be being traced already; the variables do not belong in it.
    with tf.init_scope():
        call = tf.function(lambda *args, **kwargs: layer(*args, **kwargs))
        call.get_concrete_function(*args, **kwargs)


def _spec(value):
    is_tensor = hasattr(value, "shape") and hasattr(value, "dtype")
    return tf.TensorSpec(value.shape, value.dtype) if is_tensor else value


@contextlib.contextmanager
def unchanged_trace_seeds(layer):
    """Puts back what a trace within the context does to the seeds of later traces.

    In Keras 2 every trace of a random layer, such as dropout, counts up its seed.
    """
    generators = [
        child._random_generator
        for child in layer._flatten_layers()
        if hasattr(child, "_random_generator")
    ]
    seeds = [generator._seed for generator in generators]
    try:
        yield
    finally:
        for generator, seed in zip(generators, seeds, strict=True):
            generator._seed = seed


@contextlib.contextmanager
def unchanged_losses(layer):
    """Puts back the losses of the last call, which a trace within makes symbolic."""
    name = "_losses" if IS_KERAS_3 else "_eager_losses"
    held = [
        (child, list(getattr(child, name)))
        for child in layer._flatten_layers()
        if hasattr(child, name)
    ]
    try:
        yield
    finally:
        for child, losses in held:
            getattr(child, name)[:] = losses
