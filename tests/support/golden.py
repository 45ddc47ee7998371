"""Networks whose sums are exact, and the masks that every set-up gives for them."""

import hashlib

import numpy as np
import tiny
from tensorflow import keras

LAYERS = keras.layers


def net(**options):
    """A convolution, normalisation, dropout and two dense layers."""
    layers = [
        keras.Input((4, 4, 2)),
        LAYERS.Conv2D(5, 3, activation="relu", name="conv", **options),
        LAYERS.BatchNormalization(),
        LAYERS.Flatten(),
        LAYERS.Dropout(0.2),
        LAYERS.Dense(7, activation="relu", name="hidden", **options),
        LAYERS.Dense(3, name="out", **options),
    ]
    return keras.Sequential(layers)


def images(samples=48):
    generator = np.random.RandomState(3)
    x = generator.randn(samples, 4, 4, 2).astype(np.float32)
    return x, generator.randint(0, 3, samples)


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def exact_net(sparsity=0.5, seed=3, **options):
    """A sparse linear network; further arguments are those of `sparsify`."""
    layers = [
        keras.Input((6, 6, 1)),
        LAYERS.Conv2D(4, 3, name="conv"),
        LAYERS.Flatten(),
        LAYERS.Dense(16, name="hidden"),
        LAYERS.Dense(1, name="out"),
    ]
    model = keras.Sequential(layers)
    tiny.set_integer_weights(model, 4.0)
    return tiny.sparsify(model, sparsity, seed=seed, **options)


def wide_net(sparsity=0.5, seed=3, **options):
    """Like `exact_net`, with numbers of inputs and outputs that patterns divide."""
    layers = [
        keras.Input((6, 6, 1)),
        LAYERS.Reshape((3, 3, 4)),
        LAYERS.Conv2D(8, 2, name="conv"),
        LAYERS.Flatten(),
        LAYERS.Dense(16, name="hidden"),
        LAYERS.Dense(8, name="out"),
    ]
    model = keras.Sequential(layers)
    tiny.set_integer_weights(model, 4.0)
    return tiny.sparsify(model, sparsity, seed=seed, **options)


def digest(masks):
    joined = b"".join(path.encode() + m.tobytes() for path, m in masks.items())
    return hashlib.sha256(joined).hexdigest()[:16]


# Worked out once; both Kerases and every set-up give these.
GOLDEN = {
    "rigl": "ab4d5678fcf3efcb",
    "rigl_inverted": "a0c32549e6e3ee7b",
    "set": "5ac0e2c6a3300326",
    "rigl, grow_data": "ecc0b0076731ab55",
}
