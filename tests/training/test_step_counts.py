"""Steps beyond 32 bits, and that nothing grows from one update to the next."""

import gc

import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, SNFS, GradientFlow, Pruning, RigL
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.schedules import polynomial_decay

BEYOND = 2**31
DECAY = keras.optimizers.schedules.ExponentialDecay(2.0**-6, BEYOND, 0.5)
# Multiples of 3 are 2³¹ − 2, 2³¹ + 1, ...; updates by cosine end at 2³¹ + 7.
CASES = {
    "RigL": (0.5, lambda: RigL(3, 0.5), [-2, 1, 4]),
    "RigL by learning rate": (
        0.5,
        lambda: RigL(3, 0.5, schedule="lr", last_update_step=-1),
        [-2, 1, 4, 7, 10],
    ),
    "SET": (0.5, lambda: tiny.forever(SET, 3), [-2, 1, 4, 7, 10]),
    "SNFS": (0.5, lambda: tiny.forever(SNFS, 3), [-2, 1, 4, 7, 10]),
    # Pruned as the step begins that is after so many; the first prunes nothing.
    "Pruning": (
        0.0,
        lambda: Pruning(polynomial_decay(0.0, 0.8, BEYOND - 4, BEYOND + 8, 1, 3)),
        [-1, 2, 5, 8],
    ),
}


def model_at(step, sparsity=0.5):
    model = tiny.sparse_mlp(keras.optimizers.SGD(DECAY, momentum=0.5), sparsity)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(step)
    return model


def steps_of_updates(model, *callbacks):
    return [step - BEYOND for step in tiny.update_steps(model, *callbacks, epochs=4)]


@tiny.too_short
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.both_kerases
            if name in ("RigL", "Pruning")
            else pytest.mark.release,
        )
        for name in CASES
    ],
)
def test_updates_come_at_their_steps_beyond_32_bits(tmp_path, name):
    sparsity, make, expected = CASES[name]
    model, callback = model_at(BEYOND - 5, sparsity), make()
    assert steps_of_updates(model, callback) == expected
    assert int(model.optimizer.iterations.numpy()) == BEYOND + 11

    parts = {"model": model, "optimizer": model.optimizer, "state": callback.state}
    path = tf.train.Checkpoint(**parts).save(str(tmp_path / "checkpoint"))
    other, resumed = model_at(0, sparsity), make()
    resumed.prepare(other)
    parts = {"model": other, "optimizer": other.optimizer, "state": resumed.state}
    restoring = tf.train.Checkpoint(**parts).restore(path)
    restoring.assert_existing_objects_matched()
    steps = steps_of_updates(model, callback)
    assert steps_of_updates(other, resumed) == steps
    tiny.assert_same_masks(rigl_keras.get_masks(other), rigl_keras.get_masks(model))


@tiny.too_short
def test_records_come_at_their_steps_beyond_32_bits():
    flow = GradientFlow(tiny.data(8), every=4)
    tiny.fit(model_at(BEYOND - 5), RigL(3, 0.5, last_update_step=BEYOND + 2), flow)
    assert [record["step"] - BEYOND for record in flow.records] == [-4]
    assert [update["step"] - BEYOND for update in flow.updates] == [-2]


def test_draws_of_steps_differ_beyond_32_bits():
    steps = [7, BEYOND - 1, BEYOND, BEYOND + 7, 2 * BEYOND + 7, tf.constant(2**40)]
    seeds = [tuple(stateless_seed("grow", 0, step=step).numpy()) for step in steps]
    assert [int(step) for _, step in seeds] == [int(step) for step in steps]
    assert len({key for key, _ in seeds}) == 1


class Census(keras.callbacks.Callback):
    """Counts Python's objects, and the graphs among them, at two steps."""

    def __init__(self, *steps):
        super().__init__()
        self._steps, self.counts = steps, []

    def on_train_batch_end(self, batch, logs=None):
        if batch in self._steps:
            gc.collect()
            kinds = [type(each).__name__ for each in gc.get_objects()]
            self.counts.append((len(kinds), kinds.count("ConcreteFunction")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["RigL", pytest.param("Pruning", marks=pytest.mark.release)]
)
def test_nothing_grows_with_the_number_of_updates(name):
    schedule = polynomial_decay(0.0, 0.8, 1, 2000, 3, 3)
    sparsity, callback = {
        "RigL": (0.5, RigL(3, 0.5, schedule=lambda step: 0.5 / step)),
        "Pruning": (0.0, Pruning(schedule)),
    }[name]
    census = Census(200, 1400)
    # More steps than `Pruning` asks its schedule for at a time.
    tiny.fit(tiny.sparse_mlp(sparsity=sparsity), callback, census, samples=8 * 1500)
    (objects, graphs), (later_objects, later_graphs) = census.counts
    assert later_graphs == graphs
    assert later_objects - objects < 100  # of some 400 updates
