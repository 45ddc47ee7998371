"""Which Keras runs, and what belongs to it."""

import os

from tensorflow import keras

IS_KERAS_3 = hasattr(keras, "ops")

KERAS_NAME = "Keras 3" if IS_KERAS_3 else "Keras 2 (tf_keras, by TF_USE_LEGACY_KERAS=1)"


if IS_KERAS_3 and keras.backend.backend() != "tensorflow":
    raise ImportError(
        "rigl_keras needs Keras on TensorFlow, but Keras runs on the "
        f"{keras.backend.backend()!r} backend. Set KERAS_BACKEND=tensorflow before "
        "Keras is imported."
    )

register_serializable = keras.utils.register_keras_serializable(package="rigl_keras")


def keras_version():
    """Version of the Keras in use, such as "3.15.1"."""
    if IS_KERAS_3:
        return keras.__version__
    import tf_keras

    return tf_keras.__version__


def needs_deterministic_ops():
    """Whether `tf.config.experimental.enable_op_determinism` was called.

    TensorFlow has no public way to ask; checked with 2.21, and Keras asks likewise.
    """
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()


def check_layer(layer, what="a layer"):
    """Refuses what is no layer or model of the Keras in use.

    Raises:
      TypeError: for a layer of the other Keras, or for no layer at all.
    """
    if isinstance(layer, keras.layers.Layer):
        return
    modules = {cls.__module__.split(".")[0] for cls in type(layer).__mro__}
    if modules & {"keras", "tf_keras"}:
        switch = "set" if IS_KERAS_3 else "unset"
        raise TypeError(
            f"Expected {what} of {KERAS_NAME}, which tf.keras is here, but "
            f"{type(layer).__name__} comes from {'/'.join(sorted(modules))}, the other "
            f"Keras. Build it with `from tensorflow import keras`, or {switch} "
            "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported."
        )
    raise TypeError(f"Expected {what} of Keras, but got {_described(layer)}.")


def check_model(model, advice):
    """Refuses what is no model of the Keras in use.

    Args:
      model: what came.
      advice: what to do with a layer that is no model, as a sentence.

    Raises:
      TypeError: for a layer, a model of the other Keras, or neither.
    """
    check_layer(model, "a model")
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected a model of Keras, but got the layer {model.name!r} "
            f"({type(model).__name__}). {advice}"
        )


def _described(thing):
    """What came in place of a layer or model, and how to make one of it."""
    if isinstance(thing, str | os.PathLike):
        return f"{thing!r}. Load a saved model first: keras.models.load_model(path)"
    if isinstance(thing, list | tuple):
        return (
            f"a {type(thing).__name__} of {len(thing)}. Make a model of layers first: "
            "keras.Sequential([keras.Input(shape), ...])"
        )
    if isinstance(thing, type) or callable(thing):
        name = getattr(thing, "__name__", type(thing).__name__)
        return f"{name} itself. Call what makes the model or layer first: {name}(...)"
    return repr(thing)
