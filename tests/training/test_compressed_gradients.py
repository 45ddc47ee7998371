"""The gradients of all units that compressed kernels keep for an update."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import Compressed, RigL
from rigl_keras.algorithms import RigL as RigLScores
from rigl_keras.training.attachment import Attachment

LAYERS = keras.layers
PATTERN = "blocks(2, 1, 'inputs')"


def compressed(units, **options):
    dense = LAYERS.Dense(units, **options)
    return Compressed(dense, 0.5, seed=0, pattern=PATTERN)


def one_layer(optimizer, **options):
    model = keras.Sequential([keras.Input((6,)), compressed(8)])
    model.layers[0].values.assign(tiny.integers((3, 4, 2), 3) / 2)
    return tiny.compiled(model, optimizer, **options)


def attached(model):
    attachment = Attachment(model, model.optimizer, RigLScores())
    attachment.attach()
    attachment.expect_update(1)
    return attachment


def train(model, attachment, x, y, batch_size=None):
    attachment.in_step(True)
    model.fit(x, y, batch_size=batch_size or len(x), shuffle=False, verbose=0)
    attachment.in_step(False)


def kept(attachment):
    with attachment._strategy.scope():
        return attachment.kernels[0].kept_gradient().units.numpy()


def sums_of_units(x, y, kernel):
    """Those of the gradient of the mean squared error of a linear layer."""
    upstream = 2 * (x @ kernel - y) / y.size
    return (x.T @ upstream).reshape(3, 2, -1).sum(axis=1)


def weights_of(model):
    return model.layers[0].compressed_kernel.weights().numpy()


def test_it_is_the_sum_over_the_weights_of_each_unit():
    model = one_layer(keras.optimizers.SGD(0.5))
    attachment = attached(model)
    before = weights_of(model)
    x, y = tiny.data(16, 6, 8)
    train(model, attachment, x, y)
    np.testing.assert_allclose(kept(attachment), sums_of_units(x, y, before), 1e-5)


def test_only_the_step_that_is_asked_for_is_kept():
    model = one_layer(keras.optimizers.SGD(0.25))
    attachment = attached(model)
    attachment.expect_update(2)
    x, y = tiny.data(24, 6, 8)
    train(model, attachment, x[:8], y[:8])
    assert not kept(attachment).any()
    before, bias = weights_of(model), model.layers[0].bias.numpy()
    train(model, attachment, x[8:], y[8:], batch_size=8)
    wanted = sums_of_units(x[8:16], y[8:16] - bias, before)
    np.testing.assert_allclose(kept(attachment), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [16, 12, 9])
def test_two_replicas_keep_the_gradient_of_the_whole_batch(samples):
    if samples % 2 and tiny.IS_KERAS_3:
        pytest.skip("Keras 3 adds up what its replicas are given")
    x, y = tiny.data(samples, 6, 8)
    with tiny.two_replicas().scope():
        model = one_layer(keras.optimizers.SGD(0.0))
        attachment = attached(model)
    before = weights_of(model)
    train(model, attachment, x, y)
    # The loss is the mean of the two replicas' own.
    half = (samples + 1) // 2
    parts = [
        sums_of_units(x[part], y[part], before) / 2
        for part in (slice(half), slice(half, None))
    ]
    np.testing.assert_allclose(kept(attachment), sum(parts), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not tiny.IS_KERAS_3, reason="only Keras 3 accumulates gradients")
def test_accumulated_batches_are_added_up():
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    model = one_layer(optimizer)
    attachment = attached(model)
    before = weights_of(model)
    x, y = tiny.data(16, 6, 8)
    train(model, attachment, x, y, batch_size=8)
    parts = [sums_of_units(x[i : i + 8], y[i : i + 8], before) for i in (0, 8)]
    np.testing.assert_allclose(kept(attachment), sum(parts), rtol=1e-5, atol=1e-6)


def test_a_shared_layer_adds_up_its_calls():
    layer = compressed(6, use_bias=False)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layer(layer(inputs)))
    layer.values.assign(tiny.integers((3, 3, 2), 3) / 2)
    tiny.compiled(model, keras.optimizers.SGD(0.5))
    attachment = attached(model)
    kernel = layer.compressed_kernel.weights().numpy()
    x, y = tiny.data(8, 6, 6)
    train(model, attachment, x, y)
    hidden = x @ kernel
    upstream = 2 * (hidden @ kernel - y) / y.size
    dense = hidden.T @ upstream + x.T @ (upstream @ kernel.T)
    wanted = dense.reshape(3, 2, 6).sum(axis=1)
    np.testing.assert_allclose(kept(attachment), wanted, rtol=1e-5, atol=1e-5)


# Training


def mlp(storage, optimizer=None, **options):
    model = tiny.mlp()
    tiny.set_integer_weights(model)
    names = {"hidden/kernel": 0.5, "out/kernel": 1 / 3}
    model = tiny.sparsify(
        model, None, distribution=names, pattern=PATTERN, storage=storage
    )
    return tiny.compiled(model, optimizer, **options)


def assert_same(left, right):
    masks = rigl_keras.get_masks(left)
    tiny.assert_same_masks(masks, rigl_keras.get_masks(right))
    others = tiny.weights(right)
    for path, weights in tiny.weights(left).items():
        np.testing.assert_allclose(weights, others[path], 1e-4, 1e-5, err_msg=path)


class OwnGradient(keras.callbacks.Callback):
    """Computes gradients of its own around each step, as a user may."""

    def __init__(self, compiled):
        super().__init__()
        self._function = tf.function(self._gradient) if compiled else self._gradient

    def _gradient(self):
        with tf.GradientTape() as tape:
            loss = 1000 * tf.reduce_sum(self.model(tiny.integers((4, 6), 9)) ** 3)
        tape.gradient(loss, [tiny.raw(v) for v in self.model.trainable_variables])

    def on_train_batch_begin(self, batch, logs=None):
        self._function()

    def on_train_batch_end(self, batch, logs=None):
        self._function()


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_of_the_users_own_change_no_update(every, compiled):
    model, other = mlp("compressed"), mlp("compressed")
    tiny.fit(model, tiny.forever(RigL, every))
    tiny.fit(other, tiny.forever(RigL, every), OwnGradient(compiled))
    assert_same(other, model)


@pytest.mark.slow
def test_measuring_gradient_flow_changes_no_update():
    models = [mlp("compressed"), mlp("compressed"), mlp("masked")]
    x, y = tiny.data(8)
    flow = rigl_keras.GradientFlow((x, y), every=1)
    for model, callbacks in zip(models, [[], [flow], []], strict=True):
        tiny.fit(model, tiny.forever(RigL), *callbacks)
    assert_same(models[1], models[0])
    assert_same(models[2], models[0])


@pytest.mark.parametrize("options", [{}, {"grow_data": tiny.data(8)}])
def test_trained_as_the_masked_model(options):
    masked, model = mlp("masked"), mlp("compressed")
    start = rigl_keras.get_masks(model)
    for each in (masked, model):
        tiny.fit(each, tiny.forever(RigL, 2, **options))
    assert_same(model, masked)
    after = rigl_keras.get_masks(model)
    assert any((after[path] != mask).any() for path, mask in start.items())


@pytest.mark.filterwarnings("ignore:RigL. no mask update at step:UserWarning")
def test_a_step_that_loss_scaling_skips_leaves_nothing():
    keras.mixed_precision.set_global_policy("mixed_float16")
    masks = []
    x, y = tiny.data(32)
    x = np.concatenate([x[:8], np.full((8, 6), np.inf, np.float32), x[8:]])
    y = np.concatenate([y[:8], y[:8], y[8:]])
    for storage in ("masked", "compressed"):
        optimizer = keras.optimizers.SGD(2.0**-6)
        model = mlp(storage, keras.mixed_precision.LossScaleOptimizer(optimizer))
        model.fit(
            x,
            y,
            batch_size=8,
            shuffle=False,
            verbose=0,
            callbacks=[tiny.forever(RigL, 2)],
        )
        masks.append(rigl_keras.get_masks(model))
    tiny.assert_same_masks(*masks)
