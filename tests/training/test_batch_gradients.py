import functools

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.training.batch_gradients import BatchGradients

LAYERS = keras.layers


def regularised(loss="mse"):
    """A linear layer with an L2 penalty of 0.5 w²."""
    layer = LAYERS.Dense(
        8, use_bias=False, name="d", kernel_regularizer=keras.regularizers.L2(0.5)
    )
    model = keras.Sequential([keras.Input((6,)), layer])
    tiny.set_integer_weights(model)
    return tiny.compiled(tiny.sparsify(model), keras.optimizers.SGD(0.0), loss=loss)


def batch_gradients(model, data, **options):
    variables = [kernel.kernel for kernel in rigl_keras.sparse_kernels(model)]
    return BatchGradients(model, data, variables, **options)


def evaluate(model, function):
    with model.distribute_strategy.scope():
        return [values.numpy() for values in tf.function(function)()]


def gradients(model, data):
    return evaluate(model, batch_gradients(model, data).gradients)


def under_two_replicas(make_model):
    with tiny.two_replicas().scope():
        return make_model()


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
    model = under_two_replicas(regularised)
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


@pytest.mark.slow
def test_it_leaves_no_trace_in_the_model():
    model = noisy_model()
    tiny.fit(model, rigl_keras.Static())
    x, y = tiny.data(16)
    before = state_of(model)
    batch = batch_gradients(model, (100 * x, y))
    directions = [tf.ones((2, *v.shape)) for v in tiny.weights(model).values()]
    for _ in range(2):
        tf.function(batch.gradients)()
        tf.function(lambda: batch.hessian_gradient_products([None, None]))()
        tf.function(lambda: batch.hessian_products(directions))()
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
    tiny.fit(
        model,
        rigl_keras.RigL(
            4, 0.6, schedule="constant", last_update_step=-1, grow_data=data
        ),
        samples=32,
    )
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
    callback = rigl_keras.RigL(
        1, 0.5, schedule="constant", last_update_step=-1, grow_data=(x, y)
    )
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    after = rigl_keras.get_masks(model)
    assert all((before[path] != after[path]).any() for path in before)


@pytest.mark.parametrize(
    "data", [None, np.ones((3, 6)), (np.ones((3, 6)),), (1, 2, 3, 4), "xy"]
)
def test_what_is_no_batch_is_refused(data):
    with pytest.raises(ValueError, match=r"\(x, y\)"):
        BatchGradients(regularised(), data, [])


def test_gradient_without_regularisers():
    x, y = tiny.data(4, 6, 8)
    model = regularised()
    (kernel,) = tiny.weights(model).values()
    expected = 2 * x.T @ (x @ kernel - y) / y.size
    for net in (model, under_two_replicas(regularised)):
        batch = batch_gradients(net, (x, y), regularized=False)
        (gradient,) = evaluate(net, batch.gradients)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


class WithSumOfOutputs(keras.Sequential):
    """Adds the sum of the outputs to the loss."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        loss = super().compute_loss(x, y, y_pred, sample_weight, **kwargs)
        return loss + tf.reduce_sum(y_pred)


def test_a_loss_of_the_models_own_counts():
    layer = LAYERS.Dense(8, use_bias=False, kernel_regularizer="l2")
    model = tiny.compiled(WithSumOfOutputs([keras.Input((6,)), layer]))
    x, y = tiny.data(4, 6, 8)
    error = x @ layer.kernel.numpy() - y
    expected = 2 * x.T @ error / y.size + x.T @ np.ones_like(y)
    batch = BatchGradients(model, (x, y), [layer.kernel], regularized=False)
    (gradient,) = evaluate(model, batch.gradients)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("regularized", [True, False])
@pytest.mark.parametrize("is_masked", [True, False])
def test_hessian_gradient_product_of_a_linear_model(regularized, is_masked):
    x, y = tiny.data(4, 6, 8)
    model = regularised()
    (kernel,) = tiny.weights(model).values()
    (mask,) = rigl_keras.get_masks(model).values()
    penalty = 1.0 if regularized else 0.0
    direction = 2 * x.T @ (x @ kernel - y) / y.size + penalty * kernel
    if is_masked:
        direction *= mask
    expected = 2 * x.T @ (x @ direction) / y.size + penalty * direction
    masks = [tf.constant(mask) if is_masked else None]
    for net in (model, under_two_replicas(regularised)):
        batch = batch_gradients(net, (x, y), regularized=regularized)
        (product,) = evaluate(
            net, functools.partial(batch.hessian_gradient_products, masks)
        )
        np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regularized", [True, False])
def test_hessian_products_of_a_linear_model(regularized):
    x, y = tiny.data(4, 6, 8)
    directions = tiny.integers((3, 6, 8), seed=5)
    penalty = 1.0 if regularized else 0.0
    expected = 2 * x.T @ (x @ directions) / y.size + penalty * directions
    for model in (regularised(), under_two_replicas(regularised)):
        batch = batch_gradients(model, (x, y), regularized=regularized)
        [products] = evaluate(
            model, functools.partial(batch.hessian_products, [tf.constant(directions)])
        )
        np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def double_precision():
    keras.backend.set_floatx("float64")
    keras.mixed_precision.set_global_policy("float64")
    yield
    keras.backend.set_floatx("float32")


def curved_model(loss):
    layers = [
        keras.Input((6, 6, 1)),
        LAYERS.Conv2D(2, 3, activation="softplus"),
        LAYERS.Flatten(),
        LAYERS.Dense(4, activation="tanh", kernel_regularizer="l2"),
        LAYERS.Dense(3),
    ]
    return tiny.compiled(keras.Sequential(layers), loss=loss)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (keras.losses.MeanSquaredError, np.arange(15.0).reshape(5, 3) / 10),
        (
            functools.partial(
                keras.losses.SparseCategoricalCrossentropy, from_logits=True
            ),
            np.array([0, 2, 1, 1, 0]),
        ),
    ],
)
@pytest.mark.parametrize("regularized", [True, False])
def test_hessian_products_are_differences_of_gradients(loss, labels, regularized):
    model, random = curved_model(loss()), np.random.RandomState(0)
    variables = [tiny.raw(variable) for variable in model.trainable_variables]
    assert all(variable.dtype == tf.float64 for variable in variables)
    data = random.normal(size=(5, 6, 6, 1)), labels
    batch = BatchGradients(
        model, data, model.trainable_variables, regularized=regularized
    )
    directions = [random.normal(size=(2, *v.shape)) for v in variables]
    products = evaluate(model, lambda: batch.hessian_products(directions))
    gradients, step = tf.function(batch.gradients), 1e-5
    for index in range(2):
        sides = []
        for sign in (1, -2):  # From the point to one side, then over to the other.
            for variable, direction in zip(variables, directions, strict=True):
                variable.assign_add(sign * step * direction[index])
            sides.append([gradient.numpy() for gradient in gradients()])
        for variable, direction in zip(variables, directions, strict=True):
            variable.assign_add(step * direction[index])
        for product, right, left in zip(products, *sides, strict=True):
            difference = (right - left) / (2 * step)
            np.testing.assert_allclose(product[index], difference, 1e-6, 1e-8)


def test_hessian_gradient_product_couples_layers():
    layers = [
        LAYERS.Dense(4, activation="tanh", use_bias=False),
        LAYERS.Dense(3, use_bias=False),
    ]
    model = tiny.compiled(keras.Sequential([keras.Input((6,)), *layers]))
    x, y = tiny.data(8)
    sizes = 6 * 4, 4 * 3
    point = tf.concat([tf.reshape(layer.kernel, [-1]) for layer in layers], 0)
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(point)
        inner.watch(point)
        first, second = tf.split(point, sizes)
        hidden = tf.tanh(x @ tf.reshape(first, (6, 4)))
        error = hidden @ tf.reshape(second, (4, 3)) - y
        gradient = inner.gradient(tf.reduce_mean(error**2), point)
    hessian = outer.jacobian(gradient, point).numpy()
    mask = np.arange(4 * 3).reshape(4, 3) % 2 == 0
    direction = gradient.numpy() * np.concatenate([np.ones(6 * 4), mask.ravel()])
    batch = BatchGradients(model, (x, y), [layer.kernel for layer in layers])
    products = evaluate(
        model,
        functools.partial(batch.hessian_gradient_products, [None, tf.constant(mask)]),
    )
    np.testing.assert_allclose(
        np.concatenate([values.ravel() for values in products]),
        hessian @ direction,
        rtol=1e-4,
        atol=1e-5,
    )


def test_what_the_loss_does_not_depend_on():
    model = tiny.compiled(tiny.mlp())
    variables = [model.trainable_variables[0], model.trainable_variables[1]]
    other = LAYERS.Dense(3)
    other.build((None, 2))
    batch = BatchGradients(model, tiny.data(4), [*variables, other.kernel])
    *known, unknown = tf.function(batch.gradients)()
    assert unknown is None and all(gradient is not None for gradient in known)
    products = evaluate(
        model, functools.partial(batch.hessian_gradient_products, [None] * 3)
    )
    np.testing.assert_array_equal(products[2], np.zeros((2, 3)))
    assert np.abs(products[0]).max() > 0
    ones = [tf.ones((4, *v.shape)) for v in (*variables, other.kernel)]
    products = evaluate(model, functools.partial(batch.hessian_products, ones))
    np.testing.assert_array_equal(products[2], np.zeros((4, 2, 3)))
    assert np.abs(products[0]).max() > 0


def test_the_gradient_of_an_embedding_is_dense():
    layers = [LAYERS.Embedding(5, 2), LAYERS.Flatten(), LAYERS.Dense(1)]
    model = tiny.compiled(keras.Sequential([keras.Input((2,)), *layers]))
    table = model.trainable_variables[0]
    batch = BatchGradients(model, (np.array([[1, 3]]), np.ones((1, 1))), [table])
    (gradient,) = evaluate(model, batch.gradients)
    assert gradient.shape == (5, 2)
    np.testing.assert_array_equal(
        gradient.any(axis=1), [False, True, False, True, False]
    )


def test_float16_does_not_lose_the_gradients_of_a_large_batch():
    keras.mixed_precision.set_global_policy("mixed_float16")
    layers = [LAYERS.Dense(8, use_bias=False), LAYERS.Dense(3, use_bias=False)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    # Small enough that what reaches the first layer is near the least of float16.
    tiny.set_integer_weights(model, divisor=2.0**13)
    model = tiny.compiled(model)
    x, y = tiny.data(1000)
    first, second = (layer.kernel.numpy().astype(np.float64) for layer in layers)
    expected = 2 * x.T @ ((x @ first @ second - y) @ second.T) / y.size
    batch = BatchGradients(model, (x, y), [layers[0].kernel])
    (gradient,) = evaluate(model, batch.gradients)
    error = np.abs(gradient - expected).max() / np.abs(expected).max()
    assert error < 0.005  # without scaling: 0.05
