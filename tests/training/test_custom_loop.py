"""Training loops of the user's own: `attached` and `run`."""

import contextlib
import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from golden import GOLDEN, digest, exact_net
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, RigL, Static

X, Y = tiny.integers((64, 6, 6, 1), 1), tiny.integers((64, 1), 2)
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)]


def sgd():
    return keras.optimizers.SGD(2.0**-6, momentum=0.5)


def make_step(model, optimizer, replicas=1, jit_compile=None):
    """The step of mean squared error that anyone would write."""

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) / replicas
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return loss

    return tf.function(step, jit_compile=jit_compile)


def golden_rigl():
    """The callback of which the golden masks are known."""
    return tiny.forever(RigL, 2, 0.4)


def train(model, optimizer, callback, **options):
    with callback.attached(model, optimizer, total_steps=4):
        step = make_step(model, optimizer, **options)
        for x, y in BATCHES:
            callback.run(step, x, y)
            tiny.assert_zero_off_masks(model)
    return rigl_keras.get_masks(model)


def test_masks_under_xla_are_those_of_fit():
    masks = train(exact_net(), sgd(), golden_rigl(), jit_compile=True)
    assert digest(masks) == GOLDEN["rigl"]


def test_masks_of_an_eager_step_are_those_of_fit():
    model, optimizer, callback = exact_net(), sgd(), golden_rigl()
    with callback.attached(model, optimizer):
        step = make_step(model, optimizer).python_function
        for x, y in BATCHES:
            callback.run(step, x, y)
    assert digest(rigl_keras.get_masks(model)) == GOLDEN["rigl"]


def test_several_batches_in_one_call():
    model, optimizer, callback = exact_net(), sgd(), golden_rigl()
    with callback.attached(model, optimizer, total_steps=4, steps_per_run=2):
        step = make_step(model, optimizer)

        @tf.function
        def two_steps(data):
            for x, y in data:
                step(x, y)

        for first in (0, 32):
            part = (X[first : first + 32], Y[first : first + 32])
            callback.run(two_steps, tf.data.Dataset.from_tensor_slices(part).batch(16))
    assert digest(rigl_keras.get_masks(model)) == GOLDEN["rigl"]


def test_an_update_inside_a_call_of_several_batches_is_refused():
    with (
        pytest.raises(ValueError, match="after 3 batches"),
        tiny.forever(SET, 3).attached(exact_net(), sgd(), 8, steps_per_run=2),
    ):
        pass


def test_an_update_in_place_of_the_step_leaves_the_weights():
    model, optimizer = exact_net(), sgd()
    callback = tiny.forever(RigL, 2, skip_weight_step=True)
    before, weights = rigl_keras.get_masks(model), []
    with callback.attached(model, optimizer):
        step = make_step(model, optimizer)
        for x, y in BATCHES[:2]:
            callback.run(step, x, y)
            weights.append(tiny.weights(model))
    masks = rigl_keras.get_masks(model)
    assert any((before[path] != masks[path]).any() for path in masks)
    for path, mask in masks.items():
        expected = np.where(mask & before[path], weights[0][path], 0)
        np.testing.assert_array_equal(weights[1][path], expected)


def test_the_length_decides_the_last_update():
    for total, last in ((4, 3), (40, 30)):
        callback = SET(1, 0.5)
        with callback.attached(exact_net(), sgd(), total_steps=total):
            assert int(callback.state.last_update_step.numpy()) == last


def test_the_logs_tell_sparsity_and_drop_fraction():
    callback = SET(2, 0.5, schedule=lambda step: 0.25, last_update_step=-1)
    model = exact_net()
    assert callback.logs == {}
    train(model, sgd(), callback)
    masks = rigl_keras.get_masks(model).values()
    active = sum(m.sum() for m in masks) / sum(m.size for m in masks)
    assert callback.logs["drop_fraction"] == 0.25
    assert callback.logs["sparsity"] == pytest.approx(1 - active)


def test_two_callbacks_each_with_its_kernels():
    model, optimizer = exact_net(), sgd()
    before = rigl_keras.get_masks(model)
    rigl = tiny.forever(RigL, 2, kernels="conv/*")
    with rigl.attached(model, optimizer), Static("hidden/*").attached(model, optimizer):
        step = make_step(model, optimizer)
        for x, y in BATCHES:
            rigl.run(step, x, y)
            tiny.assert_zero_off_masks(model)
    masks = rigl_keras.get_masks(model)
    changed = [path for path in masks if (masks[path] != before[path]).any()]
    assert changed == ["conv/kernel"]


def test_a_loop_goes_on_from_a_checkpoint(tmp_path):
    def make():
        model, optimizer, callback = exact_net(), sgd(), SET(1, 0.5)
        callback.prepare(model, optimizer)
        state = {"model": model, "optimizer": optimizer, "sparse": callback.state}
        return model, optimizer, callback, tf.train.Checkpoint(**state)

    def run(model, optimizer, callback, batches):
        with callback.attached(model, optimizer, total_steps=4):
            step = make_step(model, optimizer)
            for x, y in batches:
                callback.run(step, x, y)

    straight, optimizer, callback, _ = make()
    run(straight, optimizer, callback, BATCHES)
    *begun, checkpoint = make()
    run(*begun, BATCHES[:2])
    path = checkpoint.save(os.path.join(tmp_path, "ckpt"))
    *resumed, checkpoint = make()
    checkpoint.restore(path).assert_existing_objects_matched()
    run(*resumed, BATCHES[2:])
    for left, right in zip(straight.weights, resumed[0].weights, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())


def test_a_second_loop_with_the_same_step():
    model, optimizer, callback = exact_net(), sgd(), tiny.forever(RigL, 1)
    with callback.attached(model, optimizer):
        step = make_step(model, optimizer)
        callback.run(step, *BATCHES[0])
    before = rigl_keras.get_masks(model)
    with callback.attached(model, optimizer):
        callback.run(step, *BATCHES[1])
    after = rigl_keras.get_masks(model)
    assert any((before[path] != after[path]).any() for path in after)
    tiny.assert_zero_off_masks(model)


# What is refused


def test_a_step_traced_before_is_refused():
    model, optimizer = exact_net(), sgd()
    step = make_step(model, optimizer)
    step(*BATCHES[0])
    callback = tiny.forever(SET)
    with (
        pytest.raises(ValueError, match="inside `attached`"),
        callback.attached(model, optimizer),
    ):
        callback.run(step, *BATCHES[0])


def test_a_step_by_another_optimizer_is_told():
    model, callback = exact_net(), tiny.forever(SET)
    with (
        pytest.warns(UserWarning, match="made no step"),
        callback.attached(model, sgd()),
    ):
        callback.run(make_step(model, sgd()), *BATCHES[0])


def test_a_call_of_more_steps_than_was_said_is_refused():
    def train(callback, **options):
        """Trains by a function that applies gradients twice; True for new masks."""
        model, optimizer = exact_net(), sgd()
        before = rigl_keras.get_masks(model)
        with callback.attached(model, optimizer, **options):
            step = make_step(model, optimizer)
            callback.run(lambda: [step(*BATCHES[0]) for _ in range(2)])
        after = rigl_keras.get_masks(model)
        return any((before[path] != after[path]).any() for path in before)

    with pytest.raises(ValueError, match="steps_per_run=2"):
        train(tiny.forever(SET, 2))
    assert train(tiny.forever(SET, 2), steps_per_run=2, total_steps=4)
    assert not train(Static())


def test_run_outside_of_the_context_is_refused():
    callback = Static()
    with pytest.raises(ValueError, match="attached"):
        callback.run(lambda: None)
    model, optimizer = exact_net(), sgd()
    train(model, optimizer, callback)
    with pytest.raises(ValueError, match="attached"):
        callback.run(lambda: None)


@pytest.mark.parametrize(
    ("callback", "options", "message"),
    [
        (lambda: SET(1, 0.5), {}, "total_steps"),
        (Static, {"optimizer": None}, "no optimizer"),
        (Static, {"total_steps": 0}, "total_steps"),
        (Static, {"steps_per_run": 0}, "steps_per_run"),
        (lambda: Static("no*"), {}, "`kernels`"),
        (lambda: tiny.forever(RigL, grow_data=(X, Y)), {}, "compile"),
    ],
)
def test_what_cannot_be_is_refused(callback, options, message):
    options = {"optimizer": sgd(), **options}
    with (
        pytest.raises(ValueError, match=message),
        callback().attached(exact_net(), **options),
    ):
        pass


def test_a_loop_that_broke_off_leaves_the_optimizer_as_it_was():
    model, optimizer, callback = exact_net(), sgd(), Static()
    before = set(vars(optimizer))
    with contextlib.suppress(KeyError), callback.attached(model, optimizer):
        callback.run(make_step(model, optimizer), *BATCHES[0])
        raise KeyError
    assert not {"apply", "apply_gradients"} & (set(vars(optimizer)) - before)
    train(model, optimizer, callback)


def test_a_loop_of_train_on_batch():
    model = tiny.compiled(exact_net(), sgd())
    callback = golden_rigl()
    with callback.attached(model):
        for x, y in BATCHES:
            callback.run(model.train_on_batch, x, y)
    assert digest(rigl_keras.get_masks(model)) == GOLDEN["rigl"]


def test_a_sparse_layer_alone_is_trained():
    layer = rigl_keras.Sparse(keras.layers.Dense(3), 0.5, seed=1)
    x, y = tiny.data()
    layer(x)
    with tiny.forever(RigL).attached(layer, sgd()) as callback:
        step = make_step(layer, callback.attachment.optimizer)
        before = rigl_keras.get_masks(layer)
        for i in range(0, 32, 8):
            callback.run(step, x[i : i + 8], y[i : i + 8])
            tiny.assert_zero_off_masks(layer)
    (old,), (new,) = before.values(), rigl_keras.get_masks(layer).values()
    assert old.sum() == new.sum() and (old != new).any()
