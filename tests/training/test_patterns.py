"""Callbacks on kernels whose masks have a pattern: what is refused, what is said."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import Pruning, RigL, Static, schedules

STEPS = 4


def model_of(pattern, sparsity=0.0, **options):
    """8 → 8 → 4 in a pattern, compiled."""
    layers = [
        keras.Input((tiny.INPUTS,)),
        keras.layers.Dense(8, name="first"),
        keras.layers.Dense(8, name="hidden"),
        keras.layers.Dense(tiny.OUTPUTS, name="out"),
    ]
    patterns = {"hidden/*": pattern, "out/*": pattern}
    model = keras.Sequential(layers)
    sparse = tiny.sparsify(
        model, sparsity, overrides={"first/*": 0}, pattern=patterns, **options
    )
    return tiny.compiled(sparse)


def pruned_to(sparsity, **options):
    schedule = schedules.polynomial_decay(0.0, sparsity, 1, STEPS, frequency=1)
    return Pruning(schedule, **options)


def said(model, callback, steps=STEPS):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.fit(model, callback, samples=8 * steps)
    return "".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    ("pattern", "callback", "message"),
    [
        ("n_of_m(2, 4)", pruned_to(0.9), r"final sparsity 0\.5 of 'hidden/k.*got 0\.9"),
        ("n_of_m(2, 4)", pruned_to(0.25), r"final sparsity 0\.5 .*got 0\.25"),
        (
            "n_of_m(2, 4)",
            Pruning(lambda step: (step > 0, 0.8 * tf.cast(step > 2, tf.float32))),
            r"at most the sparsity 0\.5 of 'hidden/kernel'.*got 0\.8",
        ),
        (
            "blocks(4, 1, 'inputs')",
            pruned_to(0.5, ranking="global"),
            r"hidden/kernel \(blocks\(4, 1, 'inputs'\)\).*ranking='layer'",
        ),
        (
            ["blocks(8, 1)", "blocks(4, 1)"],
            pruned_to(0.5, ranking="global"),
            None,  # both kernels have 8 inputs
        ),
    ],
)
def test_pruning_refuses_what_a_pattern_does_not_do(pattern, callback, message):
    model = model_of(pattern)
    if message is None:
        assert said(model, callback) == ""
        return
    with pytest.raises(ValueError, match=message):
        tiny.fit(model, callback, samples=8 * STEPS)
    # Nothing was trained: neither masks nor the optimizer have moved.
    assert all(mask.all() for mask in rigl_keras.get_masks(model).values())
    assert int(model.optimizer.iterations.numpy()) == 0


def test_units_of_different_sizes_are_not_ranked_together():
    layers = [keras.Input((8,)), keras.layers.Dense(8, name="a")]
    layers += [keras.layers.Dense(3, name="b")]
    model = tiny.sparsify(
        keras.Sequential(layers), 0.0, pattern={"a/*": "blocks(4, 1)"}
    )
    with pytest.raises(ValueError, match=r"units of \[1, 4\] weights"):
        rigl_keras.prune_once(model, "magnitude", 0.5)
    rigl_keras.prune_once(model, "magnitude", 0.5, ranking="layer")
    assert tiny.counts(model) == {"a/kernel": 32, "b/kernel": 12}


def test_n_of_m_is_pruned_by_way_of_more_of_m():
    model, seen = model_of("n_of_m(2, 4)"), []
    note = tiny.EveryStep(lambda model: seen.append(tiny.counts(model)))
    tiny.fit(model, pruned_to(0.5), note, samples=8 * STEPS)
    # 0.5 * (1 - (2/3)^3) = 0.35 of 4 leave 3; 0.48 and 0.5 leave 2.
    per_group = [counts["hidden/kernel"] // 16 for counts in seen]
    assert per_group == [4, 3, 2, 2]


def test_pruning_once_takes_the_sparsity_of_the_pattern_only():
    model = model_of("n_of_m(2, 4)")
    with pytest.raises(ValueError, match=r"sparsity 0\.5 of 'hidden/kernel'"):
        rigl_keras.prune_once(model, "magnitude", 0.75, ranking="layer")
    assert all(mask.all() for mask in rigl_keras.get_masks(model).values())


def test_drop_fractions_are_of_units():
    # 4 blocks of hidden and 1 or 2 of out: a fifth of 4 is no block.
    model = model_of("blocks(8, 1)", 0.5)
    text = said(model, tiny.forever(RigL, fraction=0.2))
    assert "no kernel has more than 4 active units of its pattern" in text
    assert said(model, tiny.forever(RigL, fraction=0.25)) == ""


def test_groups_that_are_rounded_are_not_reported_as_too_dense():
    # 10 % of each block's 8 outputs are 0.8, so 1; and of 3 outputs 0.3, so 1 too.
    model = model_of("blocks(4, 1, 'inputs')")
    assert said(model, pruned_to(0.9)) == ""
    assert tiny.counts(model) == {"hidden/kernel": 2 * 4, "out/kernel": 2 * 4}


def test_masks_that_lost_their_pattern_are_refused_at_the_start():
    model = model_of("blocks(4, 1)", 0.5)
    kernel = rigl_keras.sparse_kernels(model)[0]
    mask = kernel.mask.numpy()
    first, absent = np.argwhere(mask)[0], np.argwhere(~mask)[0]
    mask[tuple(first)], mask[tuple(absent)] = False, True
    tiny.raw(kernel.mask).assign(mask)  # as tf.train.Checkpoint might
    with pytest.raises(ValueError, match=r"'hidden/kernel' to have the pattern blo"):
        tiny.fit(model, Static())


def test_ablation_switches_outputs_off_and_keeps_the_connections():
    model = model_of("constant_fan_in(1.0)", 0.5)
    before = tiny.counts(model)
    tiny.fit(model, tiny.forever(RigL), samples=8 * STEPS)
    assert tiny.counts(model) == before
    fan_in = rigl_keras.get_masks(model)["hidden/kernel"].sum(axis=0)
    on = fan_in[fan_in > 0]
    assert len(on) < len(fan_in) and on.max() - on.min() <= 1
    rigl_keras.set_masks(model, rigl_keras.get_masks(model))
