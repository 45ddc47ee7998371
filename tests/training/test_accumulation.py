"""Gradients of several batches that Keras 3 accumulates to one step."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from golden import exact_net
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, SNFS, Pruning, RigL, Static

pytestmark = pytest.mark.skipif(
    not tiny.IS_KERAS_3, reason="only Keras 3 accumulates gradients"
)
OPTIMIZERS = keras.optimizers


def sgd(accumulated, **options):
    return OPTIMIZERS.SGD(
        2.0**-6, momentum=0.5, gradient_accumulation_steps=accumulated, **options
    )


X, Y = tiny.integers((64, 6, 6, 1), 1), tiny.integers((64, 1), 2)


def trained(optimizer, *callbacks, batch_size=16, epochs=1, sparsity=None, **options):
    model = exact_net()
    if sparsity is not None:
        model = tiny.sparsify(rigl_keras.strip(model), sparsity)
    model = tiny.compiled(model, optimizer, **options)
    fit(model, *callbacks, batch_size=batch_size, epochs=epochs)
    return model


def fit(model, *callbacks, x=X, y=Y, **options):
    options = {"shuffle": False, "verbose": 0, **options}
    model.fit(x, y, callbacks=list(callbacks), **options)


def assert_same(left, right):
    """The same masks; weights but for the order in which gradients are summed."""
    tiny.assert_same_masks(rigl_keras.get_masks(left), rigl_keras.get_masks(right))
    others = tiny.weights(right)
    for path, weights in tiny.weights(left).items():
        np.testing.assert_allclose(weights, others[path], 1e-5, 1e-6, err_msg=path)


@pytest.mark.parametrize(
    ("callback", "jit_compile", "accumulated"),
    [
        (SET, False, 4),
        (SNFS, False, 4),
        (RigL, False, 2),
        (RigL, False, 4),
        pytest.param(RigL, True, 4, marks=pytest.mark.release),
    ],
)
def test_many_small_batches_train_as_few_large_ones(callback, jit_compile, accumulated):
    few = trained(OPTIMIZERS.SGD(2.0**-6, 0.5), tiny.forever(callback, 2))
    many = trained(
        sgd(accumulated),
        tiny.forever(callback, 2),
        tiny.EveryStep(tiny.assert_zero_off_masks),
        batch_size=16 // accumulated,
        jit_compile=jit_compile,
    )
    assert_same(few, many)


def test_growth_is_by_the_mean_over_all_batches():
    """The last batch alone, or the first, would grow other connections."""
    model = tiny.sparse_mlp(sgd(2, name="accumulates"))
    x, y = tiny.data(16)
    before = rigl_keras.get_masks(model)["out/kernel"]
    gradients = [gradient_at(model, x[i : i + 8], y[i : i + 8]) for i in (0, 8)]
    weights = []
    note = tiny.EveryStep(lambda model: weights.append(tiny.weights(model)))
    tiny.fit(model, tiny.forever(RigL, 1, 0.9), note, samples=16)
    after = rigl_keras.get_masks(model)["out/kernel"]
    candidates = {
        "mean": np.mean(gradients, axis=0),
        "first": gradients[0],
        "last": gradients[1],
    }
    # Of the dropped ones, too, those with the largest gradient return.
    moved = weights[0]["out/kernel"] - 2.0**-6 * candidates["mean"] * before
    masks = {
        name: tiny.reference_mask(before, np.abs(moved), np.abs(gradient), 0.9)
        for name, gradient in candidates.items()
    }
    np.testing.assert_array_equal(after, masks["mean"])
    assert (masks["mean"] != masks["first"]).any()
    assert (masks["mean"] != masks["last"]).any()


def gradient_at(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    kernel = model.layers[-1].layer.kernel
    return tape.gradient(loss, kernel.value).numpy()


def test_updates_are_counted_in_steps_of_the_optimizer():
    model = tiny.sparse_mlp(sgd(2))
    callback = SET(2, 0.5, schedule="constant")
    steps = tiny.update_steps(
        model, callback, samples=64, batch_size=4, epochs=1, shuffle=False
    )
    # 16 batches make 8 steps; 75 % of them are 6.
    assert int(callback.state.last_update_step.numpy()) == 6
    assert steps == [2, 4, 6]


@tiny.too_short
def test_a_step_that_spans_two_fits():
    few = trained(OPTIMIZERS.SGD(2.0**-6, 0.5), tiny.forever(RigL, 2))
    model = tiny.compiled(exact_net(), sgd(4))
    callback = tiny.forever(RigL, 2)
    # 16 batches in fits of 7, 2 and 7.
    for first, last in ((0, 28), (28, 36), (36, 64)):
        fit(model, callback, x=X[first:last], y=Y[first:last], batch_size=4)
    assert_same(few, model)


@tiny.too_short
@pytest.mark.parametrize("every", [1, 3])
def test_pruning_comes_before_the_first_batch_of_a_step(every):
    def prune(accumulated):
        schedule = rigl_keras.schedules.polynomial_decay(0, 0.9, 2, 7, frequency=every)
        optimizer = sgd(accumulated) if accumulated > 1 else sgd(None)
        callback = Pruning(schedule)
        return trained(optimizer, callback, batch_size=16 // accumulated, sparsity=0)

    assert_same(prune(1), prune(4))


def test_an_update_in_place_of_a_step():
    def train(optimizer, **options):
        return trained(
            optimizer, tiny.forever(RigL, 2, skip_weight_step=True), **options
        )

    few = train(OPTIMIZERS.SGD(2.0**-6, 0.5))
    assert_same(few, train(sgd(2), batch_size=8))


def test_several_batches_in_one_execution():
    few = trained(OPTIMIZERS.SGD(2.0**-6, 0.5), tiny.forever(RigL, 2))
    many = trained(sgd(2), tiny.forever(RigL, 2), batch_size=8, steps_per_execution=4)
    assert_same(few, many)
    with pytest.raises(ValueError, match="after 2 batches"):
        trained(sgd(2), tiny.forever(RigL, 1), batch_size=8, steps_per_execution=4)


def test_slots_and_accumulators_off_the_masks_stay_as_new():
    model = tiny.sparse_mlp(OPTIMIZERS.Adam(0.01, gradient_accumulation_steps=3))

    def check(model):
        tiny.assert_zero_off_masks(model)
        for path, mask in rigl_keras.get_masks(model).items():
            slots = tiny.slots(model, path)
            assert len(slots) == 3  # two moments, one accumulator
            assert all((slot[~mask] == 0).all() for slot in slots), path

    tiny.fit(model, tiny.forever(RigL, 2), tiny.EveryStep(check), epochs=3)


def test_loss_scaling_skips_single_batches():
    """A batch that overflows counts for nothing; the step takes the next ones."""
    inner = OPTIMIZERS.SGD(2.0**-6, gradient_accumulation_steps=2)
    optimizer = OPTIMIZERS.LossScaleOptimizer(inner, initial_scale=1.0)
    model = tiny.compiled(exact_net(), optimizer)
    y = Y.copy()
    y[16:32] = 1e38  # the second of four batches
    before = rigl_keras.get_masks(model)
    fit(model, tiny.forever(RigL, 1), y=y, batch_size=16)
    assert int(inner.iterations) == 1  # of batches 1 and 3; 4 waits
    expected = tiny.compiled(exact_net(), OPTIMIZERS.SGD(2.0**-6))
    used = [*range(16), *range(32, 48)]
    fit(expected, tiny.forever(RigL, 1), x=X[used], y=Y[used], batch_size=32)
    assert_same(model, expected)
    after = rigl_keras.get_masks(model)
    assert any((before[path] != after[path]).any() for path in after)


def test_on_replicas_keras_itself_fails_and_this_is_said():
    with tiny.two_replicas().scope():
        model = tiny.sparse_mlp(sgd(2))
    with pytest.raises(ValueError, match="gradient_accumulation_steps=2 on 2 replicas"):
        tiny.fit(model, Static())
    with tiny.two_replicas().scope():
        model = tiny.sparse_mlp(steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution=2 on 2 replicas"):
        tiny.fit(model, Static())


@tiny.too_short
def test_a_step_that_began_before_another_callback_came_is_not_grown_by():
    model = tiny.compiled(exact_net(), sgd(4))
    fit(model, tiny.forever(RigL, 2), x=X[:28], y=Y[:28], batch_size=4)
    before = rigl_keras.get_masks(model)
    # Its eighth batch ends the second step, of which it has not seen the others.
    with pytest.warns(UserWarning, match="began before a training went on"):
        fit(model, tiny.forever(RigL, 2), x=X[28:32], y=Y[28:32], batch_size=4)
    tiny.assert_same_masks(before, rigl_keras.get_masks(model))
