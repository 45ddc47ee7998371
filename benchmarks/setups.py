"""What is trained: models of each kind with a batch of made-up data."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import networks


@dataclasses.dataclass(frozen=True)
class Setup:
    """A model and the batch that it is trained on.

    Attributes:
      name: for the tables.
      make: function that builds the model.
      input_shape: of one example.
      batch_size: number of examples.
      classes: number of logits.
      steps: training steps that are timed in one turn.
      warm_up: training steps before them.
      turns: how many turns each contestant has.
    """

    name: str
    make: Callable
    input_shape: tuple[int, ...]
    batch_size: int
    classes: int = 10
    steps: int = 10
    warm_up: int = 2
    turns: int = 9

    def batch(self):
        """One batch of normal inputs and random labels, drawn from a fixed seed."""
        generator = np.random.RandomState(0)
        x = generator.randn(self.batch_size, *self.input_shape).astype(np.float32)
        return x, generator.randint(0, self.classes, self.batch_size)

    def data(self):
        """That batch again and again, so that nothing of the input is measured."""
        data = tf.data.Dataset.from_tensors(self.batch()).repeat()
        # The thread that tunes holds up the end of every `fit`, by half a second.
        options = tf.data.Options()
        options.autotune.enabled = False
        return data.with_options(options)


def _network(name, **options):
    return lambda shape, classes: networks.build(name, shape, classes, **options)


def _mobilenet_v2(shape, classes):
    return keras.applications.MobileNetV2(
        shape, weights=None, classes=classes, classifier_activation=None
    )


def _transformer(shape, classes, *, blocks=2, heads=4):
    """An encoder of attention and Dense layers, on vectors in the place of words."""
    inputs = x = keras.Input(shape)
    width = shape[-1]
    for _ in range(blocks):
        attention = keras.layers.MultiHeadAttention(heads, width // heads)
        x = keras.layers.LayerNormalization()(x + attention(x, x))
        y = keras.layers.Dense(4 * width, activation="relu")(x)
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(width)(y))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


_IMAGE = (64, 64, 3)

SETUPS = {
    setup.name: setup
    for setup in (
        Setup("lenet5", _network("lenet5"), (28, 28, 1), 128, steps=50, turns=15),
        Setup(
            "mlp-1024",
            _network("mlp", hidden_sizes=(1024, 1024)),
            (28, 28, 1),
            128,
            steps=30,
            turns=15,
        ),
        Setup("transformer", _transformer, (64, 256), 16),
        Setup("mobilenet-v2", _mobilenet_v2, _IMAGE, 16, steps=5, turns=11),
        Setup("resnet50", _network("resnet50"), _IMAGE, 16, 1000, steps=2, turns=7),
        Setup(
            "resnet50-224",
            _network("resnet50"),
            (224, 224, 3),
            32,
            1000,
            steps=1,
            warm_up=1,
            turns=3,
        ),
    )
}
