"""One training after another: with the same callback, another, or none."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, RigL, RigLInverted, Static
from rigl_keras.training import session


def test_a_fit_goes_on_where_the_last_one_ended():
    once, twice = tiny.sparse_mlp(), tiny.sparse_mlp()
    tiny.fit(once, tiny.forever(RigL, 3, 0.6), epochs=2)
    callback = tiny.forever(RigL, 3, 0.6)
    tiny.fit(twice, callback)
    tiny.fit(twice, callback)
    tiny.assert_same_masks(rigl_keras.get_masks(once), rigl_keras.get_masks(twice))
    tiny.assert_same_masks(tiny.weights(once), tiny.weights(twice))


def test_another_callback_in_the_second_fit():
    model = tiny.sparse_mlp(keras.optimizers.Adam(0.01))
    for callback in (
        tiny.forever(RigL),
        tiny.forever(SET),
        Static(),
        tiny.forever(RigLInverted),
    ):
        steps = tiny.update_steps(model, callback)
        assert bool(steps) == (type(callback) is not Static)
        tiny.assert_zero_off_masks(model)


def test_a_callback_after_a_fit_without_one():
    model = tiny.sparse_mlp(keras.optimizers.SGD(0.125, momentum=0.5))
    tiny.fit(model)
    # Without the callback momentum is dense; attaching clears it.
    path = "hidden/kernel"
    mask = rigl_keras.get_masks(model)[path]
    assert (tiny.slots(model, path)[0][~mask] != 0).any()
    seen = []

    def check(model):
        mask = rigl_keras.get_masks(model)[path]
        seen.append((tiny.slots(model, path)[0][~mask] == 0).all())

    tiny.fit(model, tiny.forever(RigL, 2), tiny.EveryStep(check))
    assert seen == [True] * 4


def test_a_fit_without_callback_changes_no_mask_and_keeps_zeros():
    model = tiny.sparse_mlp()
    tiny.fit(model, tiny.forever(RigL))
    masks = rigl_keras.get_masks(model)
    history = tiny.fit(model)
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    tiny.assert_zero_off_masks(model)
    assert "sparsity" not in history.history


@pytest.mark.parametrize("callback", [tiny.forever(RigL, 2), Static()])
def test_another_batch_size_trained_between_two_fits(callback):
    """Steps traced while no callback was there must not be used with it again."""
    model = tiny.sparse_mlp(keras.optimizers.SGD(2.0**-6, momentum=0.5))
    tiny.fit(model, callback, batch_size=8)
    tiny.fit(model, batch_size=4)

    def check(model):
        for path, mask in rigl_keras.get_masks(model).items():
            assert (tiny.slots(model, path)[0][~mask] == 0).all()

    tiny.fit(model, callback, tiny.EveryStep(check), batch_size=4)


def test_compiling_again_between_fits():
    model = tiny.sparse_mlp()
    callback = tiny.forever(RigL, 2, 0.8)
    tiny.fit(model, callback)
    tiny.compiled(model, keras.optimizers.Adam(0.01), loss="mae")
    assert tiny.update_steps(model, callback) == [2, 4]
    tiny.assert_zero_off_masks(model)


def test_compiling_again_with_the_same_optimizer_and_another_loss():
    model = tiny.sparse_mlp(keras.optimizers.SGD(0.0))
    callback = Static()
    first = tiny.fit(model, callback).history["loss"]
    tiny.compiled(model, model.optimizer, loss="mae")
    second = tiny.fit(model, callback).history["loss"]
    x, y = tiny.data()
    assert second != first
    assert second[0] == pytest.approx(np.abs(model.predict(x, verbose=0) - y).mean())


def test_one_callback_for_two_models():
    callback = tiny.forever(SET, 2, 0.8)
    for model in (tiny.sparse_mlp(), tiny.sparse_mlp(seed=1)):
        assert tiny.update_steps(model, callback) == [2, 4]


class StopError(Exception):
    pass


def broken_off(model, *callbacks):
    def fail(model):
        raise StopError

    with pytest.raises(StopError):
        tiny.fit(model, *callbacks, tiny.EveryStep(fail))


@pytest.mark.parametrize("same", [True, False])
def test_a_fit_after_one_that_broke_off(same):
    model = tiny.sparse_mlp()
    callback = tiny.forever(RigL, 2, 0.8)
    broken_off(model, callback)
    callback = callback if same else tiny.forever(SET, 2, 0.8)
    assert tiny.update_steps(model, callback) == [2, 4]
    tiny.assert_zero_off_masks(model)


def test_a_callback_of_a_fit_that_broke_off_does_nothing_in_another():
    model = tiny.sparse_mlp()
    broken_off(model, tiny.forever(SET, 1, 0.8))
    masks = rigl_keras.get_masks(model)
    with pytest.warns(UserWarning, match="SET: its training broke off"):
        history = tiny.fit(model, epochs=2)
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    assert "sparsity" not in history.history


def test_an_evaluation_inside_a_training_does_not_end_it():
    x, y = tiny.data()
    model = tiny.sparse_mlp()

    def evaluate(model):
        model.evaluate(x, y, verbose=0)
        model.predict(x, verbose=0)

    callbacks = tiny.forever(RigL), tiny.EveryStep(evaluate)
    assert tiny.update_steps(model, *callbacks, epochs=2) == list(range(1, 9))


def test_the_model_is_left_as_it_was():
    model = tiny.sparse_mlp()
    tiny.fit(model)
    attributes = set(vars(model)), set(vars(model.optimizer))
    callback = tiny.forever(RigL)
    tiny.fit(model, callback)
    assert (set(vars(model)), set(vars(model.optimizer))) == attributes


def test_a_training_that_broke_off_in_a_step_ends_there():
    model, callback = tiny.sparse_mlp(), tiny.forever(RigL, 2, 0.8)
    plain_apply = model.optimizer.apply_gradients

    def batches():
        yield from [tiny.data(8)] * 2
        raise StopError

    with pytest.raises((StopError, tf.errors.OpError)):
        model.fit(
            batches(), steps_per_epoch=4, epochs=1, verbose=0, callbacks=[callback]
        )
    assert session.session_of(model) is None
    assert "make_train_function" not in vars(model)
    assert model.optimizer.apply_gradients == plain_apply
    assert tiny.update_steps(model, callback) == [4, 6]


def test_a_training_that_broke_off_between_steps_holds_nothing():
    model = tiny.sparse_mlp()
    broken_off(model, tiny.forever(RigL, 2, 0.8), rigl_keras.GradientFlow(tiny.data()))
    assert session.session_of(model) is not None
    reference = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert reference() is None


def test_a_loop_of_ones_own_after_a_fit_that_broke_off():
    model = tiny.sparse_mlp()
    broken_off(model, tiny.forever(RigL, 2, 0.8))
    with Static().attached(model, total_steps=2) as callback:
        assert len(session.session_of(model)._members) == 1
        callback.run(model.train_on_batch, *tiny.data(8))
    assert session.session_of(model) is None
    tiny.assert_zero_off_masks(model)
