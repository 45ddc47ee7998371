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


class BreaksUnit(rigl_keras.mask_updaters.SET):
    """Moves a weight from the first unit that exists to one that does not."""

    def new_mask(self, state, drop_fraction):
        mask = tf.reshape(super().new_mask(state, drop_fraction), [-1])
        places = tf.range(tf.size(mask))
        old, new = (
            places == tf.argmax(each, output_type=tf.int32) for each in (mask, ~mask)
        )
        return tf.reshape(mask & ~old | new, state.mask.shape)


class MovesUnit(rigl_keras.mask_updaters.SET):
    """Grows as if the whole kernel were one group."""

    def new_mask(self, state, drop_fraction):
        moved = state._replace(pattern=one_group(state.pattern))
        return super().new_mask(moved, drop_fraction)


def one_group(pattern):
    """The same units, all in one group."""

    def layout(self, *sizes):
        own = pattern.layout(*sizes)
        return own._replace(groups=(), units=own.groups + own.units)

    return type("OneGroup", (rigl_keras.patterns.Pattern,), {"layout": layout})()


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


@pytest.mark.parametrize(
    ("updater", "pattern", "message"),
    [
        (BreaksUnit, "blocks(4, 1)", "units of conv/kernel after step 2"),
        (BreaksUnit, "blocks('all', 1)", "units of conv/kernel after step 2"),
        (BreaksUnit, "n_of_m(2, 4)", "connections of conv/kernel after step 2"),
        (
            MovesUnit,
            "blocks(2, 2, 'inputs')",
            "connections of conv/kernel after step 2",
        ),
        (MovesUnit, "constant_fan_in", "connections of conv/kernel after step 2"),
        (MovesUnit, "constant_fan_in(0.3)", "connections of outputs of conv/kernel"),
        (MovesUnit, "woven", "connections of .* after step"),
    ],
)
def test_an_updater_that_breaks_a_pattern_is_found(
    updater, pattern, message, monkeypatch
):
    monkeypatch.setitem(ALL, updater.__name__, evolving(updater))
    _, history = plain(updater.__name__, pattern)
    with pytest.raises(AssertionError, match=message):
        assert_contract(ALL[updater.__name__], history, pattern)


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
    assert_contract(ALL["rigl"], history, "unstructured")
    spoil(history)
    with pytest.raises(AssertionError, match=message):
        assert_contract(ALL["rigl"], history, "unstructured")
