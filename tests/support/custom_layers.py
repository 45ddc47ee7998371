"""Layers with sublayers of their own."""

from tensorflow import keras

LAYERS = keras.layers


class Blocks(LAYERS.Layer):
    """A custom layer that builds its sublayers only when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = LAYERS.Dense(5, name="first")
        self.second = LAYERS.Dense(3, name="second")

    def call(self, inputs):
        return self.second(self.first(inputs))


class BuiltBlocks(Blocks):
    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((*input_shape[:-1], 5))
        self.built = True


class TwoOutputs(Blocks):
    def call(self, inputs):
        hidden = self.first(inputs)
        return {"hidden": hidden, "out": self.second(hidden)}
