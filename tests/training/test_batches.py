"""Batches that are none, or not for the model, are refused before a graph is made."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import GradientFlow, RigL
from rigl_keras.training.batches import check_batch
from rigl_keras.training.gradient_flow import FlowMeter

LAYERS = keras.layers
X, Y = tiny.data(10)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X, r"`name` to be \(x, y\).*ndarray of length 10"),
        (tf.data.Dataset.from_tensors((X, Y)), r"next\(iter\(dataset\)\)"),
        ((X, Y[:8]), r"x of shape \(10, 6\), y of shape \(8, 3\)"),
        ((X, Y, np.ones(9)), r"sample_weight of shape \(9,\)"),
        (([X, X[:4]], Y), r"an array in x of shape \(4, 6\)"),
        (({"a": X, "b": X}, Y[:4]), "as many examples"),
        ((X[:0], Y[:0]), r"it is empty: x of shape \(0, 6\)"),
        ((X, None), "y of `name` to be an array.*got None"),
        ((X, 3.0), "got 3.0"),
        ((X, [0, 1, 2]), "y of `name` to be an array.*got 0 in it"),
    ],
)
def test_what_is_no_batch(data, message):
    with pytest.raises(ValueError, match=message):
        check_batch("name", data)


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y, np.ones(10)],
        (tf.constant(X), Y.tolist() and tf.constant(Y)),
        ([X, X], {"a": Y}),
    ],
)
def test_batches(data):
    check_batch("name", data)


@pytest.mark.parametrize("data", [(X, Y[:8]), (X[:0], Y[:0]), X])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda data: RigL(grow_data=data), "grow_data"),
        (GradientFlow, "data"),
        (lambda data: FlowMeter(tiny.sparse_mlp(), data), "data"),
        (lambda data: rigl_keras.prune_once(tiny.sparse_mlp(), "snip", 0.7, data), "d"),
    ],
)
def test_they_are_refused_where_they_are_given(make, name, data):
    with pytest.raises(ValueError, match=f"`{name}.*"):
        make(data)


WRONG = (X[:, :5], Y)
TAKES = r"\(\?, 6\), as model '\w+' takes it, but got \(10, 5\)"


@pytest.mark.both_kerases
@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (lambda: RigL(2, grow_data=WRONG), "grow_data"),
        (lambda: GradientFlow(WRONG), "data"),
    ],
)
def test_x_of_another_shape_is_refused_as_training_begins(callback, name):
    model = tiny.sparse_mlp()
    with pytest.raises(ValueError, match=f"x of `{name}` to be {TAKES}"):
        tiny.fit(model, callback())
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.both_kerases
def test_x_of_another_shape_is_refused_elsewhere():
    for function in (
        lambda model: FlowMeter(model, WRONG),
        lambda model: rigl_keras.prune_once(model, "grasp", 0.7, WRONG),
    ):
        with pytest.raises(ValueError, match=f"x of `data` to be {TAKES}"):
            function(tiny.sparse_mlp())


def two_inputs():
    left, right = keras.Input((4,), name="left"), keras.Input((1,), name="right")
    both = LAYERS.Concatenate()([left, right])
    return tiny.compiled(keras.Model([left, right], LAYERS.Dense(3)(both)))


@pytest.mark.both_kerases
def test_several_inputs():
    model, left = two_inputs(), tiny.integers((10, 4))
    for right in (tiny.integers((10, 1)), tiny.integers((10,))):
        FlowMeter(model, ([left, right], Y))
    FlowMeter(model, ({"left": left, "right": tiny.integers((10, 1))}, Y))
    with pytest.raises(ValueError, match=r"2 arrays \(\?, 4\), \(\?, 1\), .*\(10, 4\)"):
        FlowMeter(model, (left, Y))
    with pytest.raises(ValueError, match=r"got 2 arrays \(10, 4\), \(10, 2\)"):
        FlowMeter(model, ([left, tiny.integers((10, 2))], Y))


def test_sizes_that_the_model_leaves_open():
    inputs = keras.Input((None, 4))
    outputs = LAYERS.Dense(3)(LAYERS.GlobalAveragePooling1D()(inputs))
    model = tiny.compiled(keras.Model(inputs, outputs))
    FlowMeter(model, (tiny.integers((10, 7, 4)), Y))
    with pytest.raises(ValueError, match=r"\(\?, \?, 4\).*\(10, 7, 5\)"):
        FlowMeter(model, (tiny.integers((10, 7, 5)), Y))


@pytest.mark.both_kerases
def test_a_loss_that_cannot_be_evaluated_says_on_what():
    labels = np.zeros((10, 5), np.float32)
    said = r"on `{}`, x of shape \(10, 6\), y of shape \(10, 5\)\. Give one batch"
    with pytest.raises(ValueError, match=said.format("data")):
        FlowMeter(tiny.sparse_mlp(), (X, labels)).measure()
    with pytest.raises(ValueError, match=said.format("grow_data")) as refusal:
        tiny.fit(tiny.sparse_mlp(), tiny.forever(RigL, grow_data=(X, labels)))
    text = str(refusal.value)
    assert "Dimensions must be equal" in text and "user code" not in text
