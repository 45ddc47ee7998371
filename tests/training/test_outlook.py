"""What a training will not do, or has not done, is said."""

import warnings

import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, Pruning, RigL, Static, schedules


def warned(model, callback, steps, *others, **options):
    """What a training of so many steps warns of, as a text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.fit(model, callback, *others, samples=8 * steps, **options)
    return "".join(str(warning.message) for warning in caught)


def masks_of(model):
    return {path: mask.copy() for path, mask in rigl_keras.get_masks(model).items()}


def constant(sparsity, begin, frequency=100):
    return Pruning(schedules.constant_sparsity(sparsity, begin, frequency=frequency))


@pytest.mark.parametrize("steps", [4, 80, 120])
def test_rigl_by_its_defaults_in_a_short_training(steps):
    model = tiny.sparse_mlp()
    before = masks_of(model)
    text = warned(model, RigL(), steps)
    assert f"RigL: no mask update is due in this training, steps 1 to {steps}" in text
    assert "Set update_freq to" in text
    tiny.assert_same_masks(masks_of(model), before)


def test_rigl_whose_one_update_replaces_next_to_nothing():
    # 75 % of 150 steps are 112, and 0.15 * (1 + cos(pi * 100 / 112)) is 0.0083.
    text = warned(tiny.sparse_mlp(), RigL(), 150)
    assert "1 in steps 1 to 150, will replace only 0.8% of the weights" in text


@pytest.mark.parametrize(
    "callback", [RigL(1), tiny.forever(SET, 2), SET(9, last_update_step=0), Static()]
)
def test_what_acts_or_is_not_to_act_says_nothing(callback):
    assert warned(tiny.sparse_mlp(), callback, 8) == ""


def test_a_callback_of_an_earlier_training():
    model, callback = tiny.sparse_mlp(), RigL(1)
    assert warned(model, callback, 4) == ""
    text = warned(model, callback, 40)
    assert "steps 5 to 44: the last one was due at step 3" in text
    assert "use a new one" in text


def test_a_drop_fraction_that_replaces_no_connection():
    # 24 of 48 weights are active, and 12 of 24.
    text = warned(tiny.sparse_mlp(), RigL(1, 0.04), 8)
    assert "no mask will change: no kernel has more than 24 active weights" in text
    assert warned(tiny.sparse_mlp(), RigL(1, 0.05), 8) == ""


@pytest.mark.parametrize("callback", [RigL(1), constant(0.5, 1)])
def test_a_model_whose_sparse_kernels_are_frozen(callback):
    inputs = keras.Input((6,))
    hidden = tiny.sparsify(keras.Sequential([inputs, keras.layers.Dense(8)]), 0.5)
    hidden.trainable = False
    layers = [keras.Input((6,)), hidden, keras.layers.Dense(3)]
    model = tiny.compiled(keras.Sequential(layers))
    assert "all of its kernels are frozen" in warned(model, callback, 8)


@pytest.mark.parametrize(
    ("pruning", "steps"),
    [
        # TFMOT counts from 0: the first is due at step 100.
        (constant(0.5, 0), 2),
        (Pruning(schedules.polynomial_decay(0.0, 0.5, 1000, 2000)), 2),
        (Pruning(lambda step: (step == 9, 0.5)), 8),
    ],
)
def test_pruning_that_is_never_due(pruning, steps):
    model = tiny.sparse_mlp(sparsity=0)
    text = warned(model, pruning, steps)
    assert f"marks no step of this training, steps 1 to {steps}" in text
    assert "0.00% sparse" in text and "begin_step" in text
    assert min(tiny.counts(model).values()) == 24


def test_pruning_that_ends_on_its_way():
    schedule = schedules.polynomial_decay(0.0, 0.9, 0, 600, frequency=10)
    text = warned(tiny.sparse_mlp(sparsity=0), Pruning(schedule), 20)
    reached = 0.9 - 0.9 * (1 - 20 / 600) ** 3
    assert f"gets to {reached:.2%} in this training, steps 1 to 20" in text
    assert "on its way to 90.00%" in text


@pytest.mark.parametrize("ranking", ["layer", "global"])
def test_pruning_to_less_than_there_is(ranking):
    model = tiny.sparse_mlp(sparsity=0.5)
    schedule = schedules.constant_sparsity(0.25, 1, frequency=1)
    text = warned(model, Pruning(schedule, ranking), 8)
    assert "50.00% sparse, are sparser already than the schedule's 25.00%" in text
    # What has been reached is no mistake: a training goes on after the last pruning.
    schedule = schedules.constant_sparsity(0.5, 1, frequency=1)
    assert warned(model, Pruning(schedule, ranking), 8) == ""


def of_unknown_length(steps):
    x, y = tiny.data(8 * steps)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8).filter(lambda *_: True)


@pytest.mark.parametrize(
    ("callback", "text"),
    [
        (tiny.forever(RigL, 9), "RigL: no mask was updated in this training, steps 1"),
        (constant(0.5, 9, 1), "Pruning: the schedule marks no step of this training"),
        (
            Pruning(schedules.polynomial_decay(0.0, 0.9, 0, 600, frequency=1)),
            "on its way to 90.00%",
        ),
    ],
)
def test_a_training_of_unknown_length_says_it_at_its_end(callback, text):
    model = tiny.sparse_mlp(sparsity=0.5 if callback.method == "RigL" else 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(of_unknown_length(6), verbose=0, callbacks=[callback])
    # Keras says that the data have ended.
    ours = [str(w.message) for w in caught if callback.method in str(w.message)]
    assert len(ours) == 1
    assert text in ours[0]


class Stop(keras.callbacks.Callback):
    """Stops a training after a step, as early stopping does."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self._step:
            self.model.stop_training = True


def test_a_training_that_is_stopped_early_says_it_at_its_end():
    text = warned(tiny.sparse_mlp(), tiny.forever(RigL, 5), 4, Stop(4), epochs=9)
    assert "no mask was updated in this training, steps 1 to 4" in text
    schedule = schedules.polynomial_decay(0.0, 0.9, 0, 36, frequency=1)
    model = tiny.sparse_mlp(sparsity=0)
    text = warned(model, Pruning(schedule), 4, Stop(4), epochs=9)
    assert "steps 1 to 4, on its way to 90.00%" in text


def test_a_loop_of_ones_own_says_it_too():
    model = tiny.sparse_mlp()
    with (
        pytest.warns(UserWarning, match="no mask update is due"),
        tiny.forever(RigL, 9).attached(model, total_steps=4),
    ):
        pass


def test_a_training_that_goes_on_was_planned_when_it_began():
    model = tiny.sparse_mlp()
    model.optimizer.iterations.assign(90)
    options = {"epochs": 24, "initial_epoch": 23}
    assert warned(model, SET(2, last_update_step=90), 4, **options) == ""
    # A checkpoint is restored after `prepare`, as the command line does.
    callback = SET(2, last_update_step=100)
    callback.prepare(model)
    model.optimizer.iterations.assign(100)
    assert warned(model, callback, 4) == ""


def test_a_sparsity_out_of_range_is_refused_at_its_step_where_no_end_is_known():
    model = tiny.sparse_mlp(sparsity=0)
    with pytest.raises(ValueError, match=r"\[0, 1\), got 90.0 at step 3"):
        model.fit(
            of_unknown_length(4),
            verbose=0,
            callbacks=[Pruning(lambda step: (step == 3, 90.0))],
        )
    assert int(model.optimizer.iterations.numpy()) == 2
