"""Models of classes that train in a way of their own."""

import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL, Sparse, SparseModel

LAYERS = keras.layers


class Plain(keras.Model):
    """Without a config, as people write them."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = LAYERS.Dense(8), LAYERS.Dense(tiny.OUTPUTS)

    def call(self, inputs):
        return self.out(self.hidden(inputs))


class OwnStep(Plain):
    def train_step(self, data):
        return super().train_step(data)


class OwnFit(Plain):
    def fit(self, *args, **kwargs):
        return super().fit(*args, **kwargs)


class OwnFitAndPreprocessor(OwnFit):
    preprocessor = None


class OwnFunction(Plain):
    def make_train_function(self, force=False):
        return super().make_train_function(force)


class OwnGraph(keras.Model):
    """Makes its graph itself, so that Keras copies it as a Functional model."""

    def __init__(self, width=8):
        inputs = keras.Input((tiny.INPUTS,))
        super().__init__(inputs, LAYERS.Dense(width)(inputs))

    def train_step(self, data):
        return super().train_step(data)


class OwnSequence(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


def own_sequence():
    return OwnSequence([keras.Input((tiny.INPUTS,)), LAYERS.Dense(8)])


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (OwnStep, "train_step"),
        (OwnFit, "fit"),
        (OwnFitAndPreprocessor, "fit"),
        (OwnFunction, "make_train_function"),
    ],
)
def test_a_training_of_its_own_is_refused_with_the_way_that_works(cls, name, built):
    model = cls()
    if built:
        model(tiny.data()[0])
    for convert in (
        rigl_keras.sparsify,
        lambda model: SparseModel(Sparse(model, 0.5)),
    ):
        with pytest.raises(ValueError, match=f"{cls.__name__} defines .'{name}'") as it:
            convert(model)
        text = str(it.value)
        assert f"{cls.__name__}(rigl_keras.sparsify(encoder), ...)" in text
        assert "rigl_keras.Sparse(keras.layers.Dense(64), 0.9)" in text
        assert "SparseModel(" not in text


@pytest.mark.parametrize("make", [OwnGraph, own_sequence])
def test_a_train_step_that_a_copy_would_lose_is_refused(make):
    with pytest.raises(ValueError, match=r"train_step.*rigl_keras.Sparse"):
        rigl_keras.sparsify(make(), 0.5)


def test_a_class_that_keras_copies_as_it_is_keeps_its_train_step():
    class OfTensors(keras.Model):
        calls = 0

        def train_step(self, data):
            OfTensors.calls += 1
            return super().train_step(data)

    inputs = keras.Input((tiny.INPUTS,))
    model = OfTensors(inputs, LAYERS.Dense(tiny.OUTPUTS)(inputs))
    sparse = tiny.compiled(tiny.sparsify(model))
    tiny.fit(sparse, tiny.forever(RigL))
    assert OfTensors.calls


class OwnParts(keras.Model):
    """What the advice says: its parts are sparse before it gets them."""

    def __init__(self, encoder, width=4):
        super().__init__()
        self.encoder = encoder
        self.hidden = Sparse(LAYERS.Dense(width, name="hidden"), 0.5)
        self.out = LAYERS.Dense(tiny.OUTPUTS, name="out")

    def call(self, inputs):
        return self.out(self.hidden(self.encoder(inputs)))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        pairs = zip(gradients, self.trainable_variables, strict=True)
        self.optimizer.apply_gradients(pairs)
        return {"loss": loss}


def test_what_the_refusal_advises_trains_sparsely():
    model = tiny.compiled(OwnParts(tiny.sparsify(tiny.mlp())))
    model(tiny.data()[0])
    before = rigl_keras.get_masks(model)
    assert len(before) == 3
    steps = tiny.update_steps(model, tiny.forever(RigL))
    assert steps
    tiny.assert_zero_off_masks(model)
