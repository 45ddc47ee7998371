"""Copies of callbacks, such as tuners make one of for each trial."""

import copy

import numpy as np
import pytest
import tensorflow as tf
import tiny

import rigl_keras
from rigl_keras import SET, SNFS, GradientFlow, Pruning, RigL, RigLInverted, Static

X, Y = tiny.data()
SCHEDULE = rigl_keras.schedules.polynomial_decay(0.5, 0.9, 1, 6, frequency=2)
CALLBACKS = {
    "SET": lambda: SET(2, 0.5),
    "RigL": lambda: RigL(2, 0.5),
    "RigL on a batch": lambda: RigL(2, 0.5, grow_data=(X, tf.constant(Y))),
    "by learning rate": lambda: RigL(2, 0.5, schedule="lr", last_update_step=-1),
    "RigLInverted": lambda: RigLInverted(2, 0.5),
    "SNFS": lambda: SNFS(2, 0.5),
    "by name": lambda: rigl_keras.MaskUpdates("rigl", 2, 0.5),
    "Pruning": lambda: Pruning(SCHEDULE),
    "Static": Static,
}
ALSO_BEFORE_A_RELEASE = (
    "RigL on a batch",
    "by learning rate",
    "RigLInverted",
    "by name",
)


def trained(*callbacks):
    model = tiny.sparse_mlp()
    tiny.fit(model, *callbacks)
    return model


def assert_same_values(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


def state_of(callback):
    return [variable.numpy() for variable in callback.state.variables]


@tiny.too_short
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.release] * (name in ALSO_BEFORE_A_RELEASE)
        )
        for name in CALLBACKS
    ],
)
def test_a_copy_trains_as_its_original(name):
    original = CALLBACKS[name]()
    first = copy.deepcopy(original)
    model = trained(first)
    assert not original.state.variables  # It was not trained.
    second, before = copy.deepcopy(first), state_of(first)
    assert second.model is None and second.attachment is None
    assert_same_values(state_of(second), before)
    assert_same_values(trained(original).get_weights(), model.get_weights())
    model = trained(second)
    assert_same_values(state_of(first), before)  # It has its own.
    assert_same_values(trained(first).get_weights(), model.get_weights())


@tiny.too_short
@pytest.mark.both_kerases
def test_a_copy_is_taken_while_a_training_goes_on():
    original, duplicates = RigL(2, 0.5), []
    copying = tiny.EveryStep(lambda _: duplicates.append(copy.deepcopy(original)))
    trained(original, copying)
    assert all(duplicate.logs == {} for duplicate in duplicates)
    trained(duplicates[-1])


@pytest.mark.slow
def test_a_copy_of_a_callback_that_was_trained_on_replicas():
    original = SNFS(2, 0.5, schedule="lr", last_update_step=-1)
    with tiny.two_replicas().scope():
        model = tiny.sparse_mlp()
    tiny.fit(model, original)
    duplicate = copy.deepcopy(original)
    assert_same_values(state_of(duplicate), state_of(original))
    with tiny.two_replicas().scope():
        other = tiny.sparse_mlp()
    tiny.fit(other, duplicate)
    tiny.assert_zero_off_masks(other)


@tiny.too_short
@pytest.mark.both_kerases
def test_a_copy_of_an_observer_measures_on_its_own():
    original = GradientFlow((X, Y), every=2)
    trained(RigL(2, 0.5), original)
    records = len(original.records)
    duplicate = copy.deepcopy(original)
    trained(RigL(2, 0.5), duplicate)
    assert len(original.records) == records
    assert len(duplicate.records) == 2 * records
