"""The contract finds algorithms that are wrong."""

import copy

import numpy as np
import pytest
import tensorflow as tf
from contract import ALL, assert_contract, check, evolving, plain

import rigl_keras


class LosesOne(rigl_keras.mask_updaters.SET):
    """Leaves out the first connection that there is."""

    def new_mask(self, state, drop_fraction):
        mask = super().new_mask(state, drop_fraction)
        first = tf.argmax(tf.reshape(mask, [-1]), output_type=tf.int32)
        is_first = tf.range(tf.size(mask)) == first
        return mask & ~tf.reshape(is_first, tf.shape(mask))


class Idle(rigl_keras.mask_updaters.SET):
    """Keeps the masks."""

    def new_mask(self, state, drop_fraction):
        return state.mask


class Unseeded(rigl_keras.mask_updaters.SET):
    """Grows by draws that the seed does not determine."""

    draws = 0

    def grow_scores(self, state):
        Unseeded.draws += 1
        seed = [Unseeded.draws, 0]
        return tf.random.stateless_uniform(state.weights.shape, seed)


@pytest.mark.parametrize(
    ("updater", "message"),
    [
        (LosesOne, "connections of conv/kernel after step 2"),
        (Idle, "steps at which the masks change"),
        (Unseeded, "conv/kernel"),
    ],
)
def test_a_wrong_updater_is_found(updater, message, tmp_path, monkeypatch):
    monkeypatch.setitem(ALL, updater.__name__, evolving(updater))
    with pytest.raises(AssertionError, match=message):
        check(updater.__name__, "resumed", "unstructured", tmp_path)


def spoil_weight(history):
    mask, kernel = history[3]["mask/out/kernel"], history[3]["kernel/out/kernel"]
    kernel[~mask] = 1e-30


def spoil_slot(history):
    mask, slot = history[3]["mask/out/kernel"], history[3]["slot0/out/kernel"]
    slot[~mask] = 1e-30


def spoil_grown(history):
    grown = history[4]["mask/hidden/kernel"] & ~history[3]["mask/hidden/kernel"]
    history[4]["kernel/hidden/kernel"][grown] = 1e-30


def lose_slots(history):
    del history[2]["slot0/out/kernel"]


def change_at_3(history):
    """Moves a connection that the next update drops to where it grows none."""
    step, later = history[3], history[4]["mask/hidden/kernel"]
    mask = step["mask/hidden/kernel"]
    old, new = np.argwhere(mask & ~later)[0], np.argwhere(~mask & ~later)[0]
    mask[tuple(old)], mask[tuple(new)] = False, True
    for kind in ("kernel", "slot0"):
        step[f"{kind}/hidden/kernel"][tuple(old)] = 0


def not_finite(history):
    history[1]["kernel/out/kernel"][history[1]["mask/out/kernel"]] = np.nan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weight, "kernel of out/kernel off the mask after step 3"),
        (spoil_slot, "slot0 of out/kernel off the mask after step 3"),
        (spoil_grown, "grown kernel of hidden/kernel after step 4"),
        (lose_slots, "slots after step 2"),
        (change_at_3, "steps at which the masks change"),
        (not_finite, "kernel of out/kernel after step 1"),
    ],
)
def test_a_wrong_history_is_found(spoil, message):
    history = copy.deepcopy(plain("rigl", "unstructured")[1])
    assert_contract(ALL["rigl"], history)
    spoil(history)
    with pytest.raises(AssertionError, match=message):
        assert_contract(ALL["rigl"], history)
