"""Models wrapped by TensorFlow Model Optimization, as several test modules use them."""

import numpy as np
import pytest
import tiny
from tensorflow import keras

LAYERS = keras.layers


def theirs():
    """The API of TFMOT; every test that uses it is skipped in Keras 3."""
    if tiny.IS_KERAS_3:
        pytest.skip("TFMOT wraps models of Keras 2 only")
    import tensorflow_model_optimization as tfmot

    return tfmot.sparsity.keras


def wrap(to_wrap, sparsity=0.5, frequency=1, **options):
    schedule = theirs().ConstantSparsity(sparsity, 1, frequency=frequency)
    return theirs().prune_low_magnitude(to_wrap, schedule, **options)


def wrappers(model):
    """TFMOT's wrappers, by the name of what they wrap."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= wrappers(layer)
        elif type(layer).__name__ == "PruneLowMagnitude":
            found[layer.layer.name] = layer
    return found


def their_masks(model):
    return {
        name: [mask.numpy() for _, mask, _ in wrapper.pruning_vars]
        for name, wrapper in wrappers(model).items()
        if wrapper.pruning_vars
    }


def mlp():
    model = tiny.mlp()
    tiny.set_integer_weights(model)
    return model


def pruned_mlp(optimizer=None, sparsity=0.5, **options):
    """A wrapped MLP that TFMOT has trained for a few steps."""
    model = tiny.compiled(wrap(mlp(), sparsity), optimizer, **options)
    tiny.fit(model, theirs().UpdatePruningStep())
    return model


def nested():
    """A model in a model; layers that TFMOT wraps and has nothing to prune in."""
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            LAYERS.Conv2D(5, 3, activation="relu", name="conv"),
            LAYERS.BatchNormalization(name="norm"),
            LAYERS.Dropout(0.2),
            LAYERS.Flatten(),
        ],
        name="inner",
    )
    inputs = keras.Input((4, 4, 2))
    x = LAYERS.Dense(7, activation="relu", name="hidden")(inner(inputs))
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))


def images(samples=32):
    generator = np.random.RandomState(3)
    x = generator.randn(samples, 4, 4, 2).astype(np.float32)
    return x, generator.randn(samples, 3).astype(np.float32)


def train(model, *callbacks, epochs=2):
    x, y = images()
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def predicted(model):
    return model.predict(images()[0], verbose=0)


def pruned_nested(optimizer=None, **options):
    model = tiny.compiled(wrap(nested(), **options), optimizer)
    return train(model, theirs().UpdatePruningStep(), epochs=1)
