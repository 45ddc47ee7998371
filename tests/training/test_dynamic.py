import csv
import glob
import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, RigL, RigLInverted, Static

DYNAMIC = [RigL, RigLInverted, SET]


# When updates come


def test_updates_come_at_multiples_of_update_freq():
    model = tiny.sparse_mlp()
    # 4 steps an epoch: an update falls where no epoch does.
    assert tiny.update_steps(model, tiny.forever(SET, 3, 0.8), epochs=3) == [
        3,
        6,
        9,
        12,
    ]


@tiny.too_short
def test_none_is_three_quarters_of_the_training_resolved_once():
    model = tiny.sparse_mlp()
    callback = SET(1, 0.8, schedule="constant")
    assert tiny.update_steps(model, callback, epochs=2) == [1, 2, 3, 4, 5, 6]
    assert int(callback.state.last_update_step.numpy()) == 6
    assert tiny.update_steps(model, callback, epochs=4) == []
    # A new callback counts from where it begins.
    assert tiny.update_steps(model, SET(1, 0.8, schedule="constant"), epochs=1) == [
        25,
        26,
        27,
    ]


def test_never_and_a_given_last_step():
    model = tiny.sparse_mlp()
    assert (
        tiny.update_steps(model, SET(1, 0.8, schedule="constant", last_update_step=0))
        == []
    )
    assert tiny.update_steps(
        model, SET(1, 0.8, schedule="constant", last_update_step=6)
    ) == [5, 6]


def test_cosine_falls_to_0_at_the_last_update():
    model = tiny.sparse_mlp()
    fractions = []
    note = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: fractions.append(logs["drop_fraction"])
    )
    tiny.fit(model, SET(1, 0.4, last_update_step=6), note, epochs=2)
    expected = [0.2 * (1 + np.cos(np.pi * step / 6)) for step in range(1, 7)]
    np.testing.assert_allclose(fractions, [*expected, 0, 0], atol=1e-7)


def test_a_function_as_schedule():
    model = tiny.sparse_mlp()
    history = tiny.fit(model, SET(1, schedule=lambda step: step / 100), epochs=2)
    assert history.history["drop_fraction"] == pytest.approx([0.04, 0.06])
    with pytest.raises(ValueError, match=r"step 9 .*\[0, 1\]"):
        tiny.fit(model, SET(1, schedule=lambda step: 2, last_update_step=-1))


def test_cosine_from_the_step_at_which_the_training_begins():
    model = tiny.sparse_mlp()
    tiny.fit(model, epochs=2)
    history = tiny.fit(model, SET(1, 0.4), epochs=2)
    # 8 steps, updates end at the 6th; half-way through its fall at the 3rd.
    callback = SET(3, 0.4)
    fractions = []
    note = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: fractions.append(logs["drop_fraction"])
    )
    model = tiny.sparse_mlp()
    tiny.fit(model, epochs=3)
    tiny.fit(model, callback, note, epochs=2)
    assert fractions[2:5] == pytest.approx([0.2] * 3)
    assert fractions[-1] == pytest.approx(0, abs=1e-7)
    assert history.history["drop_fraction"][-1] == pytest.approx(0, abs=1e-7)


# Schedules that follow the learning rate


def lr_fractions(optimizer, *callbacks, epochs=1):
    model, fractions = tiny.sparse_mlp(optimizer), []
    note = keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: fractions.append(logs["drop_fraction"])
    )
    follow = SET(1, 0.4, schedule="lr", last_update_step=-1)
    tiny.fit(model, *callbacks, follow, note, epochs=epochs)
    return fractions


def test_lr_follows_a_schedule_object_and_warm_up_from_0():
    # The rate of the step to come, relative to the highest of those made.
    rates = [0.0, 0.25, 0.5, 0.125, 0.0]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1, 2, 3], rates)
    fractions = lr_fractions(keras.optimizers.SGD(schedule))
    assert fractions == pytest.approx([0.4, 0.4, 0.1, 0.0])


def test_lr_follows_callbacks_that_set_it():
    by_epoch = keras.callbacks.LearningRateScheduler(
        lambda epoch, lr: 2.0 ** -(8 + epoch)
    )
    fractions = lr_fractions(keras.optimizers.SGD(2.0**-8), by_epoch, epochs=3)
    assert fractions == pytest.approx([0.4] * 4 + [0.2] * 4 + [0.1] * 4)


def test_lr_follows_reduce_on_plateau():
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=1, min_delta=1e9
    )
    fractions = lr_fractions(keras.optimizers.SGD(2.0**-8), plateau, epochs=3)
    assert fractions[0] == pytest.approx(0.4)
    assert fractions[-1] == pytest.approx(0.2)


# Refusals


@pytest.mark.parametrize("callback", DYNAMIC)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_freq": 0}, "update_freq"),
        ({"update_freq": 1.5}, "update_freq"),
        ({"update_freq": "10"}, "update_freq"),
        ({"drop_fraction": 1.5}, "drop_fraction"),
        ({"drop_fraction": float("nan")}, "drop_fraction"),
        ({"schedule": "linear"}, "linear"),
        ({"schedule": None}, "schedule"),
        ({"last_update_step": -2}, "last_update_step"),
        ({"last_update_step": 1.5}, "last_update_step"),
        ({"last_update_step": -1}, "cosine"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
    ],
)
def test_bad_arguments_are_refused(callback, options, message):
    with pytest.raises(ValueError, match=message):
        callback(**options)


@pytest.mark.parametrize("callback", [Static(), tiny.forever(RigL), tiny.forever(SET)])
def test_models_that_cannot_be_trained_sparsely_are_refused(callback):
    with pytest.raises(ValueError, match=r"no sparse kernel.*sparsify"):
        tiny.fit(tiny.compiled(tiny.mlp()), callback)


def test_two_callbacks_are_refused_and_leave_the_model_usable():
    model = tiny.sparse_mlp()
    with pytest.raises(ValueError, match=r"Two callbacks, Static and SET"):
        tiny.fit(model, Static(), tiny.forever(SET))
    assert tiny.update_steps(model, tiny.forever(SET, 2, 0.8)) == [2, 4]


def unknown_length():
    x, y = tiny.data()
    return tf.data.Dataset.from_generator(
        lambda: zip(x.reshape(4, 8, 6), y.reshape(4, 8, 3), strict=True),
        output_signature=(tf.TensorSpec((8, 6)), tf.TensorSpec((8, 3))),
    )


def test_an_unknown_length_is_refused_where_it_is_needed():
    model = tiny.sparse_mlp()
    with pytest.raises(ValueError, match=r"length is unknown.*steps_per_epoch"):
        model.fit(unknown_length(), verbose=0, callbacks=[SET(1)])
    model.fit(unknown_length(), verbose=0, callbacks=[tiny.forever(SET)])
    model.fit(
        unknown_length().repeat(), verbose=0, steps_per_epoch=4, callbacks=[SET(1)]
    )
    model = tiny.sparse_mlp(steps_per_execution=2)
    with pytest.raises(ValueError, match=r"length is unknown|size of the data"):
        model.fit(unknown_length(), verbose=0, callbacks=[tiny.forever(SET)])


@pytest.mark.parametrize(
    ("size", "every", "epochs", "expected"),
    [
        (2, 2, 2, [2, 4, 6, 8]),
        (4, 4, 2, [4, 8]),
        (3, 4, 2, [4, 8]),  # executions end at 3, 4, 7, 8
        (3, 7, 2, [7]),
        (16, 4, 2, [4, 8]),  # longer than the epoch
    ],
)
def test_updates_at_the_end_of_an_execution(size, every, epochs, expected):
    model = tiny.sparse_mlp(steps_per_execution=size)
    steps = tiny.update_steps(model, tiny.forever(RigL, every, 0.8), epochs=epochs)
    assert steps == expected
    assert int(model.optimizer.iterations.numpy()) == 4 * epochs


@pytest.mark.parametrize(("size", "every"), [(2, 3), (4, 2), (3, 2), (2, 1)])
def test_updates_inside_an_execution_are_refused(size, every):
    model = tiny.sparse_mlp(steps_per_execution=size)
    with pytest.raises(ValueError, match=r"inside an execution of .*update_freq"):
        tiny.fit(model, tiny.forever(RigL, every), epochs=3)
    assert int(model.optimizer.iterations.numpy()) == 0


@tiny.too_short
def test_what_is_due_after_the_trainings_end_does_not_matter():
    model = tiny.sparse_mlp(steps_per_execution=3)
    # Executions end at 3, 4, 7, 8; 9 would be inside one of a third epoch.
    assert tiny.update_steps(model, tiny.forever(RigL, 9), epochs=2) == []
    model = tiny.sparse_mlp(steps_per_execution=3)
    x, y = tiny.data()
    callback = tiny.forever(RigL, 5)
    model.fit(
        x, y, batch_size=8, epochs=9, initial_epoch=8, verbose=0, callbacks=[callback]
    )


def test_steps_in_one_execution_train_as_steps_alone():
    alone, together = tiny.sparse_mlp(), tiny.sparse_mlp(steps_per_execution=2)
    for model in (alone, together):
        tiny.fit(model, tiny.forever(RigL, 2, 0.6), epochs=2)
    tiny.assert_same_masks(rigl_keras.get_masks(alone), rigl_keras.get_masks(together))
    tiny.assert_same_masks(tiny.weights(alone), tiny.weights(together))


# What is reported


class Logs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(dict(logs))


def test_logs_reach_history_and_callbacks_before_and_after():
    model, before, after = tiny.sparse_mlp(), Logs(), Logs()
    history = tiny.fit(model, before, tiny.forever(RigL, 2, 0.25), after, epochs=2)
    assert history.history["sparsity"] == [0.5, 0.5]
    assert history.history["drop_fraction"] == [0.25, 0.25]
    for logs in (before.seen, after.seen):
        assert [each["drop_fraction"] for each in logs] == [0.0] + [0.25] * 7
        assert {each["sparsity"] for each in logs} == {0.5}
        assert all("loss" in each for each in logs)


def test_static_reports_the_sparsity():
    history = tiny.fit(tiny.sparse_mlp(sparsity=0.75), Static())
    assert history.history["sparsity"] == [0.75]
    assert "drop_fraction" not in history.history


def test_logs_reach_csv_and_tensorboard(tmp_path):
    file, logdir = os.path.join(tmp_path, "log.csv"), os.path.join(tmp_path, "board")
    tiny.fit(
        tiny.sparse_mlp(),
        keras.callbacks.CSVLogger(file),
        keras.callbacks.TensorBoard(logdir),
        tiny.forever(RigL, 2, 0.25),
        epochs=2,
    )
    with open(file) as rows:
        assert [row["sparsity"] for row in csv.DictReader(rows)] == ["0.5", "0.5"]
    tags = set()
    for path in glob.glob(os.path.join(logdir, "train", "events*")):
        for event in tf.compat.v1.train.summary_iterator(path):
            tags |= {value.tag for value in event.summary.value}
    assert {"epoch_sparsity", "epoch_drop_fraction"} <= tags


def test_validation_and_evaluate_are_left_alone():
    model = tiny.sparse_mlp(metrics=["mae"])
    history = tiny.fit(model, tiny.forever(RigL), validation_data=tiny.data(16))
    assert "val_mae" in history.history and "val_sparsity" not in history.history
    assert set(model.evaluate(*tiny.data(), verbose=0, return_dict=True)) == {
        "loss",
        "mae",
    }


def test_a_callback_placed_before_sees_the_updated_masks():
    model, seen = tiny.sparse_mlp(), []
    early = tiny.EveryStep(lambda model: seen.append(rigl_keras.get_masks(model)))
    first = rigl_keras.get_masks(model)
    tiny.fit(model, early, tiny.forever(RigL, 2, 0.8))
    tiny.assert_same_masks(seen[0], first)
    assert all((seen[1][path] != first[path]).any() for path in first)
    tiny.assert_same_masks(seen[3], rigl_keras.get_masks(model))


def test_a_checkpoint_callback_saves_the_updated_masks(tmp_path):
    path = os.path.join(tmp_path, "{epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=4)
    model = tiny.sparse_mlp()
    tiny.fit(model, save, tiny.forever(RigL, 4, 0.8))
    other = tiny.sparse_mlp(seed=5)
    other.load_weights(path.format(epoch=1))
    tiny.assert_same_masks(rigl_keras.get_masks(other), rigl_keras.get_masks(model))


# Steps that go wrong


def poisoned(samples=32, at=12):
    x, y = tiny.data(samples)
    x = x.copy()
    x[at] = np.inf
    return x, y


@pytest.mark.parametrize("callback", [RigL, RigLInverted])
def test_gradients_that_are_not_finite_change_no_mask(callback):
    model = tiny.sparse_mlp()
    masks = rigl_keras.get_masks(model)
    x, y = poisoned()
    with pytest.warns(UserWarning, match=r"no mask update at step [234]: .*not finite"):
        model.fit(
            x,
            y,
            batch_size=8,
            shuffle=False,
            verbose=0,
            callbacks=[tiny.forever(callback, 2)],
        )
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)


def test_weights_that_are_not_finite_change_no_mask():
    model = tiny.sparse_mlp()
    masks = rigl_keras.get_masks(model)
    model.layers[0].layer.kernel.assign(np.full((6, 8), np.nan, np.float32))
    with pytest.warns(UserWarning, match="not finite"):
        tiny.fit(model, tiny.forever(SET))
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)


def loss_scaled(optimizer):
    """A model in mixed precision, whose first steps do not overflow."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    if tiny.IS_KERAS_3:
        wrapper = keras.optimizers.LossScaleOptimizer
    else:
        wrapper = keras.mixed_precision.LossScaleOptimizer
    return tiny.sparse_mlp(wrapper(optimizer, initial_scale=8.0))


def test_an_update_skipped_by_loss_scaling_uses_no_older_gradient():
    model, noted = loss_scaled(keras.optimizers.SGD(2.0**-10)), tiny.UpdateSteps()
    callbacks = [tiny.forever(RigL, 2, 0.8), noted]
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    x, y = poisoned(at=28)  # in the fourth step
    if tiny.IS_KERAS_3:
        # The skipped step does not count; the next one is the fourth.
        model.fit(x, y, callbacks=callbacks, **options)
    else:
        with pytest.warns(UserWarning, match="no mask update at step 4: .*skipped"):
            model.fit(x, y, callbacks=callbacks, **options)
    assert noted.steps == [2]
    tiny.fit(model, *callbacks)
    assert noted.steps == ([2, 4, 6] if tiny.IS_KERAS_3 else [2, 6, 8])
    assert set(tiny.counts(model).values()) == {24, 12}


def test_mixed_precision_trains():
    model = loss_scaled(keras.optimizers.Adam(0.01))
    losses = tiny.fit(
        model, tiny.forever(RigL, 2, 0.3), samples=64, epochs=4, shuffle=True
    ).history["loss"]
    assert losses[-1] < losses[0]
    tiny.assert_zero_off_masks(model)
    assert tiny.counts(model) == {"hidden/kernel": 24, "out/kernel": 12}
    for path, mask in rigl_keras.get_masks(model).items():
        for slot in tiny.slots(model, path):
            assert (slot[~mask] == 0).all()
