"""Outputs that SRigL switches off, and where their connections go."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from pattern_reference import GroupedKernel

from rigl_keras.core.ablation import redistributed
from rigl_keras.core.patterns import from_text
from rigl_keras.mask_updaters import ALGORITHMS, KernelState

UNITS = 6


def new_counts(counts, salient, share, units=UNITS):
    new = redistributed(tf.constant(counts), tf.constant(salient), share, units=units)
    return new.numpy().tolist()


@pytest.mark.parametrize(
    ("counts", "salient", "share", "expected"),
    [
        # All have enough.
        ([4, 4, 4], [2, 4, 3], 0.5, [4, 4, 4]),
        # Of 4 connections 2 are half: 1 is too few.
        ([4, 4, 4, 4], [4, 1, 2, 3], 0.5, [6, 0, 5, 5]),
        # The remainder goes to those that have more.
        ([2, 3, 2, 3], [2, 3, 0, 3], 0.5, [3, 4, 0, 3]),
        # What is off stays off, however many of its connections would be salient.
        ([3, 0, 3], [3, 6, 3], 1.0, [3, 0, 3]),
        ([3, 0, 3, 3], [3, 6, 3, 0], 0.1, [5, 0, 4, 0]),
        # 12 connections need 2 outputs of 6: the best of the weak stays.
        ([4, 4, 4], [4, 0, 1], 0.5, [6, 0, 6]),
        # None is strong; of equal ones the lower index stays.
        ([4, 4, 4], [1, 1, 1], 1.0, [6, 6, 0]),
        ([1, 1, 1], [0, 0, 0], 1.0, [3, 0, 0]),
        # Full outputs have nowhere to go.
        ([6, 6], [0, 0], 1.0, [6, 6]),
        ([1], [0], 0.3, [1]),
    ],
)
def test_hand_worked_counts(counts, salient, share, expected):
    assert new_counts(counts, salient, share) == expected


@st.composite
def outputs(draw):
    """Counts of outputs, of which those that are on differ by one at most."""
    units, groups = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    count = draw(st.integers(1, units))
    among = st.sampled_from([0, count, min(count + 1, units)])
    counts = draw(st.lists(among, min_size=groups, max_size=groups).filter(any))
    salient = [draw(st.integers(0, units)) for _ in counts]
    return counts, salient, draw(st.floats(1 / 64, 1, width=32)), units


@hypothesis.given(drawn=outputs())
def test_no_connection_is_lost_and_outputs_stay_even(drawn):
    counts, salient, share, units = drawn
    new = new_counts(counts, salient, share, units)
    assert sum(new) == sum(counts)
    on = [count for count in new if count]
    assert max(on) <= units and max(on) - min(on) <= 1
    assert all(a == 0 for a, b in zip(new, counts, strict=True) if b == 0)
    # An output that stays keeps room for all that it has.
    assert all(a == 0 or a >= b for a, b in zip(new, counts, strict=True))


def test_a_hand_worked_update():
    # Three outputs of two inputs each; the third has the smallest weights.
    weights = np.float32([[9, 6, 1], [8, 0, 0], [0, 5, 2], [0, 0, 0]])
    gradient = np.float32([[0, 0, 0], [0, 9, 0], [8, 0, 0], [1, 2, 3]])
    state = KernelState(
        tf.constant(weights),
        tf.constant(weights != 0),
        tf.constant(gradient),
        pattern=from_text("constant_fan_in(0.5)"),
        axes=((0,), (1,)),
    )
    # Both of its weights go, and 9 and 8 are the best to grow, in the others.
    new = ALGORITHMS["rigl"]().new_mask(state, tf.constant(0.4))
    expected = [[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(new, np.array(expected, bool))


@hypothesis.settings(max_examples=8)
@hypothesis.given(seed=st.integers(0, 999), share=st.sampled_from([0.3, 0.7, 1]))
def test_outputs_that_are_off_stay_off_over_many_updates(seed, share):
    generator = np.random.RandomState(seed)
    text = f"constant_fan_in({share})"
    expected = GroupedKernel(text, (10, 6), (0,), (1,))
    mask = expected.mask_of([(group, unit) for group in range(6) for unit in (0, 5, 7)])
    update = ALGORITHMS["rigl"]().new_mask
    for _ in range(4):
        weights = np.where(mask, generator.randint(-9, 10, mask.shape), 0).astype("f")
        gradient = generator.randint(-9, 10, mask.shape).astype("f")
        state = KernelState(
            tf.constant(weights),
            tf.constant(mask),
            tf.constant(gradient),
            pattern=from_text(text),
            axes=((0,), (1,)),
        )
        new = update(state, tf.constant(0.4)).numpy()
        by_lists = expected.updated(
            mask,
            expected.sums(np.abs(weights)),
            expected.sums(np.abs(gradient)),
            fraction=0.4,
        )
        np.testing.assert_array_equal(new, by_lists)
        assert not new[:, ~mask.any(0)].any()
        from_text(text).check_counts(new.sum(0), 10)
        mask = new
