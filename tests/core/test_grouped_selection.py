"""The highest scores of each group, against a sort of each."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from rigl_keras.core.grouped_selection import top_k_in_groups
from rigl_keras.core.score_keys import BITS

pytestmark = pytest.mark.one_keras

DTYPES = [dtype.name for dtype in BITS]
USUAL = ("bfloat16", "float32", "int32")
UNITS = (1, 2, 4, 8, 9, 64)
# All that hypothesis draws have one shape for each number of units, and one graph.
GROUPS = 5
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-40, 6e-8, 3e38, math.inf, -math.inf, math.nan]


@functools.cache
def compiled():
    return tf.function(top_k_in_groups, jit_compile=True, autograph=False)


def expected_mask(scores, counts, where):
    """Each group by numpy's stable sorts, from the last key to the first."""
    if scores.dtype.kind not in "if":  # bfloat16
        scores = scores.astype(np.float32)
    mask = np.zeros(scores.shape, bool)
    for group, (row, inside) in enumerate(zip(scores, where, strict=True)):
        is_nan = np.isnan(row)
        # Integers are compared as such: ~x is the order of -x without its overflow.
        value = ~row if row.dtype.kind == "i" else np.where(is_nan, 0, -row)
        # Scores outside rank by their place alone.
        value = np.where(inside, value, np.zeros_like(value))
        order = np.lexsort((np.arange(row.size), value, is_nan & inside, ~inside))
        mask[group, order[: max(counts[group], 0)]] = True
    return mask


@st.composite
def selections(draw, dtype, units):
    shape = (GROUPS, units)
    kind = tf.as_dtype(dtype)
    if kind.is_integer:
        elements = st.sampled_from([kind.min, -1, 0, 1, kind.max]) | st.integers(
            kind.min, kind.max
        )
        scores = draw(hnp.arrays(kind.as_numpy_dtype, shape, elements=elements))
    else:
        elements = st.sampled_from(SPECIAL) | st.floats(-2, 2, width=16)
        # Numbers too large for the type become infinite.
        with np.errstate(over="ignore"):
            scores = draw(hnp.arrays(np.float64, shape, elements=elements))
            scores = scores.astype(kind.as_numpy_dtype)
    counts = draw(hnp.arrays(np.int64, GROUPS, elements=st.integers(-1, units + 1)))
    where = draw(hnp.arrays(bool, shape) | st.just(np.ones(shape, bool)))
    return scores, counts, where


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("dtype", DTYPES)
@hypothesis.settings(max_examples=15)
@hypothesis.given(data=st.data())
def test_matches_a_sort_of_each_group(dtype, units, data):
    scores, counts, where = data.draw(selections(dtype, units))
    mask = top_k_in_groups(tf.constant(scores), tf.constant(counts), tf.constant(where))
    assert mask.shape == scores.shape and mask.dtype == tf.bool
    np.testing.assert_array_equal(mask, expected_mask(scores, counts, where))


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(name, marks=() if name in USUAL else pytest.mark.release)
        for name in DTYPES
    ],
)
@hypothesis.settings(max_examples=15)
@hypothesis.given(data=st.data())
def test_is_the_same_under_xla(dtype, units, data):
    scores, counts, where = data.draw(selections(dtype, units))
    mask = compiled()(tf.constant(scores), tf.constant(counts), tf.constant(where))
    np.testing.assert_array_equal(mask, expected_mask(scores, counts, where))


@pytest.mark.parametrize("units", [2, 8, 9, 64])
@pytest.mark.parametrize("count", [0, 1, "all"])
def test_one_count_for_all_groups(units, count):
    count = units if count == "all" else count
    scores = np.random.RandomState(0).randint(0, 3, (300, units)).astype(np.float32)
    where = np.random.RandomState(1).rand(300, units) < 0.7
    mask = top_k_in_groups(tf.constant(scores), count, where=tf.constant(where))
    expected = expected_mask(scores, [count] * 300, where)
    np.testing.assert_array_equal(mask, expected)
    assert (np.sum(mask, 1) == count).all()


# Of 4 and of 9 scores: groups are compared in pairs, or bit by bit.
@pytest.mark.parametrize("padding", [0, 5])
def test_a_hand_worked_ranking(padding):
    nan, inf = math.nan, math.inf
    scores = [[2.0, nan, 2.0, inf], [-inf, nan, -0.0, 0.0]]
    orders = [[3, 0, 2, 1], [2, 3, 0, 1]]
    where = tf.constant([[True] * 4 + [False] * padding] * 2)
    scores = tf.constant([row + [inf] * padding for row in scores])
    for count in range(5):
        mask = top_k_in_groups(scores, count, where=where).numpy()
        for row, order in zip(mask, orders, strict=True):
            assert set(np.flatnonzero(row)) == set(order[:count])


def test_one_group_may_have_any_kind_of_count():
    scores, where = tf.constant([[1.0, 3.0, 2.0]]), tf.ones([1, 3], tf.bool)
    for count in (2, np.int64(2), tf.constant(2), tf.constant([2], tf.int32)):
        mask = top_k_in_groups(scores, count, where=where)
        np.testing.assert_array_equal(mask, [[False, True, True]])


def test_numbers_of_groups_share_a_graph():
    @tf.function(autograph=False)
    def select(one, other):
        where = tf.ones_like(one, tf.bool), tf.ones_like(other, tf.bool)
        return (
            top_k_in_groups(one, 1, where[0]),
            top_k_in_groups(other, 2, where[1]),
        )

    def called(operation):
        return operation.get_attr("f").name

    graph = select.get_concrete_function(tf.ones([3, 4]), tf.ones([7, 4])).graph
    calls = [op for op in graph.get_operations() if "PartitionedCall" in op.type]
    assert len(calls) == 2
    assert len(set(map(called, calls))) == 1
