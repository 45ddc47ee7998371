import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.grow_data import GrowData

LAYERS = keras.layers


def regularised(loss="mse"):
    """A linear layer with an L2 penalty of 0.5 w²."""
    layer = LAYERS.Dense(
        8, use_bias=False, name="d", kernel_regularizer=keras.regularizers.L2(0.5)
    )
    model = keras.Sequential([keras.Input((6,)), layer])
    tiny.set_integer_weights(model)
    return tiny.compiled(tiny.sparsify(model), keras.optimizers.SGD(0.0), loss=loss)


def gradients(model, data):
    grow = GrowData(model, data, rigl_keras.sparse_kernels(model))
    with model.distribute_strategy.scope():
        return [g.numpy() for g in tf.function(grow.gradients)()]


def test_gradient_with_sample_weights_and_regulariser():
    model = regularised()
    x, y = tiny.data(4, 6, 8)
    weight = np.float32([0, 1, 2, 1])
    (kernel,) = tiny.weights(model).values()
    error = (x @ kernel - y) * weight[:, None]
    expected = 2 * x.T @ error / y.size + 2 * 0.5 * kernel
    (gradient,) = gradients(model, (x, y, weight))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    mask = rigl_keras.get_masks(model)["d/kernel"]
    assert (gradient[~mask] != 0).any()


def test_gradient_without_sample_weights():
    model = regularised()
    x, y = tiny.data(4, 6, 8)
    (kernel,) = tiny.weights(model).values()
    expected = 2 * x.T @ (x @ kernel - y) / y.size + kernel
    np.testing.assert_allclose(gradients(model, [x, y])[0], expected, rtol=1e-6)


def test_under_replicas_it_is_the_gradient_of_the_batch():
    x, y = tiny.data(4, 6, 8)
    (expected,) = gradients(regularised(), (x, y))
    strategy = tiny.two_replicas()
    with strategy.scope():
        model = regularised()
    np.testing.assert_array_equal(gradients(model, (x, y))[0], expected)


def noisy_model():
    layers = [
        keras.Input((6,)),
        LAYERS.Dense(8, name="hidden"),
        LAYERS.BatchNormalization(),
        LAYERS.Dropout(0.5),
        LAYERS.GaussianNoise(0.1),
        LAYERS.Dense(3, name="out"),
    ]
    model = tiny.sparsify(keras.Sequential(layers))
    return tiny.compiled(
        model, keras.optimizers.Adam(0.1), metrics=["mae"], weighted_metrics=["mae"]
    )


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    variables += [v for metric in model.metrics for v in metric.variables]
    return [tf.identity(tiny.raw(v)).numpy() for v in variables]


def test_it_leaves_no_trace_in_the_model():
    model = noisy_model()
    tiny.fit(model, rigl_keras.Static())
    x, y = tiny.data(16)
    before = state_of(model)
    grow = GrowData(model, (100 * x, y), rigl_keras.sparse_kernels(model))
    for _ in range(2):
        tf.function(grow.gradients)()
    after = state_of(model)
    assert len(before) == len(after)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)


def test_batch_normalisation_uses_the_batch_as_in_training():
    layers = [keras.Input((6,)), LAYERS.Dense(8, name="d"), LAYERS.BatchNormalization()]
    model = tiny.compiled(tiny.sparsify(keras.Sequential(layers)))
    x, y = tiny.data(16, 6, 8)
    kernel = tiny.raw(rigl_keras.sparse_kernels(model)[0].kernel)
    with tf.GradientTape() as tape:
        hidden = tf.constant(x) @ kernel
        mean, variance = tf.nn.moments(hidden, [0])
        normal = (hidden - mean) / tf.sqrt(variance + 1e-3)
        loss = tf.reduce_mean(tf.square(normal - y))
    expected = tape.gradient(loss, kernel)
    np.testing.assert_allclose(
        gradients(model, (x, y))[0], expected, rtol=1e-3, atol=1e-6
    )


def test_metrics_of_the_epoch_do_not_count_the_batch():
    def mae(callback):
        model = tiny.sparse_mlp(keras.optimizers.SGD(0.0), metrics=["mae"])
        return tiny.fit(model, callback).history

    x, y = tiny.data(16)
    never = {"drop_fraction": 0.0, "schedule": "constant", "last_update_step": -1}
    grown = mae(rigl_keras.RigL(1, grow_data=(100 * x, y), **never))
    static = mae(rigl_keras.Static())
    assert grown["mae"] == static["mae"] and grown["loss"] == static["loss"]


def test_masks_grow_by_the_fixed_batch():
    model = tiny.sparse_mlp(keras.optimizers.SGD(0.0))
    before, kernels = rigl_keras.get_masks(model), tiny.weights(model)
    x, y = tiny.data(64)
    data = x[40:50], y[40:50]
    scores = dict(zip(before, gradients(model, data), strict=True))
    tiny.fit(model, rigl_keras.RigL(4, 0.6, "constant", -1, grow_data=data), samples=32)
    for path, after in rigl_keras.get_masks(model).items():
        expected = tiny.reference_mask(
            before[path], np.abs(kernels[path]), np.abs(scores[path]), 0.6
        )
        np.testing.assert_array_equal(after, expected, err_msg=path)


def test_several_inputs_and_outputs_by_name():
    left, right = keras.Input((4,), name="left"), keras.Input((5,), name="right")
    both = LAYERS.Concatenate()([left, right])
    first = LAYERS.Dense(2, name="first")(both)
    second = LAYERS.Dense(3, name="second")(both)
    model = keras.Model(
        {"left": left, "right": right}, {"first": first, "second": second}
    )
    model = tiny.sparsify(model)
    model.compile("sgd", loss={"first": "mse", "second": "mse"})
    x = {"left": tiny.integers((8, 4)), "right": tiny.integers((8, 5), 1)}
    y = {"first": tiny.integers((8, 2), 2), "second": tiny.integers((8, 3), 3)}
    before = rigl_keras.get_masks(model)
    callback = rigl_keras.RigL(1, 0.5, "constant", -1, grow_data=(x, y))
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    after = rigl_keras.get_masks(model)
    assert all((before[path] != after[path]).any() for path in before)


@pytest.mark.parametrize(
    "data", [None, np.ones((3, 6)), (np.ones((3, 6)),), (1, 2, 3, 4), "xy"]
)
def test_what_is_no_batch_is_refused(data):
    with pytest.raises(ValueError, match=r"\(x, y\)"):
        GrowData(regularised(), data, [])
