import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import compat
from rigl_keras.core.masked_kernel import MaskedKernel
from rigl_keras.training.gradient_hook import GradientHook

# The two Kerases call their optimizers in different ways.
pytestmark = pytest.mark.both_kerases


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
    kernels = [
        MaskedKernel(kernel, keep) for kernel in rigl_keras.sparse_kernels(model)
    ]
    hook = GradientHook(
        model.optimizer, kernels, keeps_gradients=keep, follow_learning_rate=follow
    )
    return hook, kernels


def step(model, x, y):
    model.fit(x, y, batch_size=len(x), verbose=0)


def test_keeps_the_dense_gradient_of_the_one_step_asked_for():
    model = one_layer(keras.optimizers.SGD(0.0))
    hook, (kernel,) = make_hook(model)
    hook.attach()
    x, y = tiny.data(8, 6, 8)
    expected = closed_form(x, y, kernel.variable.numpy())
    hook.keep_at(2)
    step(model, x, y)
    assert not hook.has_kept(1)
    np.testing.assert_array_equal(kernel.kept_gradient(), np.zeros((6, 8)))
    step(model, 2 * x, y)
    assert hook.has_kept(2)
    expected = closed_form(2 * x, y, kernel.variable.numpy())
    np.testing.assert_array_equal(kernel.kept_gradient(), expected)
    step(model, x, y)
    np.testing.assert_array_equal(kernel.kept_gradient(), expected)
    assert hook.has_kept(2) and not hook.has_kept(3)


def test_the_optimizer_sees_masked_gradients():
    model = one_layer(keras.optimizers.SGD(1.0))
    hook, (kernel,) = make_hook(model, keep=False)
    hook.attach()
    x, y = tiny.data(8, 6, 8)
    before, mask = kernel.variable.numpy(), kernel.mask().numpy()
    step(model, x, y)
    expected = before - np.where(mask, closed_form(x, y, before), 0)
    np.testing.assert_allclose(kernel.variable.numpy(), expected, rtol=1e-6)


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
    before, mask = kernel.variable.numpy(), kernel.mask().numpy()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    dense = closed_form(x, y, before)
    assert hook.has_kept(1)
    np.testing.assert_allclose(kernel.kept_gradient(), dense, rtol=1e-6)
    np.testing.assert_allclose(
        kernel.variable.numpy(), before - np.where(mask, dense, 0), rtol=1e-5, atol=1e-6
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
    callback = rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1)
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
    expected = closed_form(x, y, kernel.variable.numpy())
    step(model, x, y)
    with strategy.scope():
        gradient = kernel.kept_gradient()
    assert hook.has_kept(1)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.skipif(compat.IS_KERAS_3, reason="Keras 3 takes no empty list itself")
def test_a_step_without_gradients_passes():
    model = one_layer(keras.optimizers.SGD(0.125))
    hook, (kernel,) = make_hook(model)
    hook.attach()
    before = kernel.variable.numpy()
    model.optimizer.apply_gradients([])
    np.testing.assert_array_equal(kernel.variable.numpy(), before)


def two_heads(*losses):
    """Two layers on one input, each with an output; a loss of None leaves one out."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    outputs = [keras.layers.Dense(8, name=name)(inputs) for name in ("first", "second")]
    model = tiny.sparsify(keras.Model(inputs, outputs))
    model.compile(keras.optimizers.SGD(2.0**-6), loss=list(losses))
    return model


def changed(before, model):
    return {
        path.partition("/")[0]
        for path, mask in rigl_keras.get_masks(model).items()
        if (mask != before[path]).any()
    }


def test_after_compile_with_another_loss_no_old_gradient_is_used():
    model, callback = two_heads("mse", "mse"), tiny.forever(rigl_keras.RigL)
    x, y = tiny.data(8, 6, 8)
    model.fit(x, [y, y], verbose=0, callbacks=[callback])
    for losses, expected in ((["mse", None], "first"), ([None, "mse"], "second")):
        model.compile(model.optimizer, loss=losses)
        before = rigl_keras.get_masks(model)
        with pytest.warns(UserWarning, match="does not depend"):
            model.fit(x, [y, y], verbose=0, callbacks=[callback])
        assert changed(before, model) == {expected}


def test_steps_with_losses_in_turn_use_no_old_gradient():
    model, callback = two_heads("mse", "mse"), tiny.forever(rigl_keras.RigL)
    x, y = tiny.data(8, 6, 8)

    def make_step(head):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x)[head] - y))
            variables = model.layers[1 + head].trainable_variables
            gradients = tape.gradient(loss, variables)
            model.optimizer.apply_gradients(zip(gradients, variables, strict=True))

        return step

    def train():
        steps, heads = [make_step(0), make_step(1)], []
        with callback.attached(model, total_steps=6):
            for number in range(6):
                before = rigl_keras.get_masks(model)
                callback.run(steps[number % 2])
                heads.append(changed(before, model))
                tiny.assert_zero_off_masks(model)
        assert heads[:2] == [{"first"}, {"second"}]
        assert set.union(*heads[::2]) == {"first"}
        assert set.union(*heads[1::2]) == {"second"}

    with pytest.warns(UserWarning, match="does not depend"):
        train()


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_a_tape_has_watched_is_masked_too(replicas):
    strategy = tiny.two_replicas() if replicas == 2 else tf.distribute.get_strategy()
    x, y = tiny.data(8, 6, 8)
    with strategy.scope():
        optimizer = keras.optimizers.SGD(2.0**-6, momentum=0.5)
        model = one_layer(optimizer)

    @tf.function
    def step():
        def on_replica():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x) - y))
            # TensorFlow's variables, not those of Keras.
            variables = tape.watched_variables()
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        strategy.run(on_replica)

    callback = tiny.forever(rigl_keras.RigL)
    before = rigl_keras.get_masks(model)
    with callback.attached(model, optimizer, total_steps=3):
        for _ in range(3):
            callback.run(step)
            tiny.assert_zero_off_masks(model)
    assert changed(before, model)
    masks = rigl_keras.get_masks(model)
    (slot,) = tiny.slots(model, "d/kernel")
    assert slot.any() and not slot[~masks["d/kernel"]].any()


def test_variables_may_come_from_an_iterator():
    model = one_layer(keras.optimizers.SGD(1.0))
    hook, (kernel,) = make_hook(model, keep=False)
    hook.attach()
    x, y = tiny.data(8, 6, 8)
    before = kernel.variable.numpy()
    gradient = tf.constant(closed_form(x, y, before))
    pairs = [(gradient, kernel.variable)]
    model.optimizer.apply_gradients(iter(pairs))
    np.testing.assert_array_equal(
        kernel.variable.numpy(), before - np.where(kernel.mask().numpy(), gradient, 0)
    )
    if compat.IS_KERAS_3:
        model.optimizer.apply(iter([gradient]), iter([kernel.variable]))
        assert (kernel.variable.numpy() != before).any()
