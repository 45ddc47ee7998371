import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import compat
from rigl_keras.gradient_hook import GradientHook


def one_layer(optimizer, **options):
    """y = x W with integer weights; its mean squared error has a simple gradient."""
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, use_bias=False, name="d")]
    )
    tiny.set_integer_weights(model)
    return tiny.compiled(tiny.sparsify(model), optimizer, **options)


def closed_form(x, y, kernel):
    return 2 * x.T @ (x @ kernel - y) / y.size


def make_hook(model, keep=True, follow=False):
    compat.build_optimizer(model.optimizer, model.trainable_variables)
    found = rigl_keras.sparse_kernels(model)
    return GradientHook(model.optimizer, found, keep, follow), found


def step(model, x, y):
    model.fit(x, y, batch_size=len(x), verbose=0)


def test_keeps_the_dense_gradient_of_the_one_step_asked_for():
    model = one_layer(keras.optimizers.SGD(0.0))
    hook, (kernel,) = make_hook(model)
    hook.attach()
    x, y = tiny.data(8, 6, 8)
    expected = closed_form(x, y, kernel.kernel.numpy())
    hook.keep_at(2)
    step(model, x, y)
    assert not hook.has_kept(1)
    np.testing.assert_array_equal(hook.kept_gradient(kernel.kernel), np.zeros((6, 8)))
    step(model, 2 * x, y)
    assert hook.has_kept(2)
    expected = closed_form(2 * x, y, kernel.kernel.numpy())
    np.testing.assert_array_equal(hook.kept_gradient(kernel.kernel), expected)
    step(model, x, y)
    np.testing.assert_array_equal(hook.kept_gradient(kernel.kernel), expected)
    assert hook.has_kept(2) and not hook.has_kept(3)


def test_the_optimizer_sees_masked_gradients():
    model = one_layer(keras.optimizers.SGD(1.0))
    hook, (kernel,) = make_hook(model, keep=False)
    hook.attach()
    x, y = tiny.data(8, 6, 8)
    before, mask = kernel.kernel.numpy(), kernel.mask.numpy()
    step(model, x, y)
    expected = before - np.where(mask, closed_form(x, y, before), 0)
    np.testing.assert_allclose(kernel.kernel.numpy(), expected, rtol=1e-6)


def test_detached_it_sees_nothing():
    model = one_layer(keras.optimizers.SGD(0.0))
    before = dict(vars(model.optimizer))
    hook, _ = make_hook(model)
    hook.attach()
    hook.detach()
    hook.detach()
    assert ("apply" in vars(model.optimizer)) == ("apply" in before)
    assert "apply_gradients" not in vars(model.optimizer)
    hook.keep_at(1)
    step(model, *tiny.data(8, 6, 8))
    assert not hook.has_kept(1)


def test_gradients_of_a_custom_loop_pass_too():
    model = one_layer(keras.optimizers.SGD(1.0))
    hook, (kernel,) = make_hook(model)
    hook.attach()
    hook.keep_at(1)
    x, y = tiny.data(8, 6, 8)
    before, mask = kernel.kernel.numpy(), kernel.mask.numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    dense = closed_form(x, y, before)
    assert hook.has_kept(1)
    np.testing.assert_allclose(hook.kept_gradient(kernel.kernel), dense, rtol=1e-6)
    np.testing.assert_allclose(
        kernel.kernel.numpy(), before - np.where(mask, dense, 0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_norms_are_those_of_the_masked_gradients(clip):
    model = tiny.sparse_mlp(keras.optimizers.SGD(1.0, **{clip: 0.25}))
    x, y = tiny.data(8)
    before = [v.numpy() for v in model.trainable_variables]
    masks = iter(rigl_keras.get_masks(model).values())
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    variables = [tiny.raw(v) for v in model.trainable_variables]
    gradients = [
        g.numpy() * next(masks) if g.shape.rank == 2 else g.numpy()
        for g in tape.gradient(loss, variables)
    ]
    norms = [np.sqrt(np.square(g, dtype=np.float64).sum()) for g in gradients]
    if clip == "global_clipnorm":
        norms = [np.sqrt(np.square(norms).sum())] * len(norms)
    assert min(norms) > 0.25
    tiny.fit(model, rigl_keras.Static(), samples=8)
    for variable, value, gradient, norm in zip(
        model.trainable_variables, before, gradients, norms, strict=True
    ):
        expected = value - gradient * 0.25 / norm
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_highest_learning_rate_of_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 1, 3], [0.0, 0.25, 0.5, 0.125]
    )
    model = one_layer(keras.optimizers.SGD(schedule))
    hook, _ = make_hook(model, keep=False, follow=True)
    hook.attach()
    highest = []
    for _ in range(6):
        step(model, *tiny.data(8, 6, 8))
        highest.append(float(hook.highest_learning_rate.numpy()))
    assert highest == [0.0, 0.25, 0.5, 0.5, 0.5, 0.5]


def test_kernels_that_the_loss_does_not_reach_stay_as_they_are():
    inputs = keras.Input((6,))
    first = keras.layers.Dense(8, name="first")(inputs)
    second = keras.layers.Dense(8, name="second")(inputs)
    model = tiny.sparsify(keras.Model(inputs, [first, second]))
    model.compile("sgd", loss=["mse", None])
    before = rigl_keras.get_masks(model)
    x, y = tiny.data(8, 6, 8)
    callback = rigl_keras.RigL(1, 0.5, "constant", -1)
    with pytest.warns(UserWarning, match=r"not depend on \['second/kernel'\]"):
        model.fit(x, [y, y], verbose=0, callbacks=[callback])
    after = rigl_keras.get_masks(model)
    assert (before["first/kernel"] != after["first/kernel"]).any()
    np.testing.assert_array_equal(before["second/kernel"], after["second/kernel"])
    tiny.assert_zero_off_masks(model)


def test_under_replicas_the_kept_gradient_is_that_of_the_whole_batch():
    x, y = tiny.data(16, 6, 8)
    strategy = tiny.two_replicas()
    with strategy.scope():
        model = one_layer(keras.optimizers.SGD(0.0))
        hook, (kernel,) = make_hook(model)
        hook.attach()
        hook.keep_at(1)
    expected = closed_form(x, y, kernel.kernel.numpy())
    step(model, x, y)
    with strategy.scope():
        gradient = hook.kept_gradient(kernel.kernel)
    assert hook.has_kept(1)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.skipif(compat.IS_KERAS_3, reason="Keras 3 takes no empty list itself")
def test_a_step_without_gradients_passes():
    model = one_layer(keras.optimizers.SGD(0.125))
    hook, (kernel,) = make_hook(model)
    hook.attach()
    before = kernel.kernel.numpy()
    model.optimizer.apply_gradients([])
    np.testing.assert_array_equal(kernel.kernel.numpy(), before)
