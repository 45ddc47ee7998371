import functools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core import selection

pytestmark = pytest.mark.one_keras

SHAPE = (3, 2, 4)
SIZE = 24
FLOATS = ("bfloat16", "float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64")
MODES = ("eager", "graph", "compiled")


def modes_and_types(types):
    """Every type in every mode; in the default tier graphs of the usual ones alone."""
    return [
        pytest.param(
            mode,
            dtype,
            marks=pytest.mark.release
            if mode != "eager" and dtype not in ("float32", "int32")
            else (),
        )
        for mode in MODES
        for dtype in types
    ]


@functools.cache
def in_mode(mode, function=selection.top_k_mask):
    if mode == "eager":
        return function
    # One function per mode: k is a tensor, so a shape and a type are traced once.
    return tf.function(function, jit_compile=mode == "compiled")


def ranking(scores, where=None):
    """Flat indices from best to worst, by Python's stable sort."""
    scores = np.asarray(scores).ravel()
    if scores.dtype.kind != "i":
        scores = scores.astype(np.float64)
    scores = scores.tolist()
    inside = [True] * len(scores) if where is None else np.ravel(where).tolist()

    def rank(index):
        if not inside[index]:
            return (2, 0)
        if isinstance(scores[index], float) and math.isnan(scores[index]):
            return (1, 0)
        return (0, -scores[index])

    return sorted(range(len(scores)), key=rank)


def expected_mask(scores, k, where=None):
    mask = np.zeros(np.size(scores), bool)
    mask[ranking(scores, where)[:k]] = True
    return mask.reshape(np.shape(scores))


def special_patterns(dtype):
    """Bit patterns of the numbers at which a comparison could go wrong."""
    numpy_dtype = tf.as_dtype(dtype).as_numpy_dtype
    lowest, highest = tf.as_dtype(dtype).min, tf.as_dtype(dtype).max
    if dtype in INTEGERS:
        numbers = [lowest, lowest + 1, -1, 0, 1, highest - 1, highest]
    else:
        numbers = [-math.inf, lowest, -1.0, -0.0, 0.0, 1.0, highest, math.inf, math.nan]
    values = np.array(numbers, numpy_dtype)
    patterns = values.view(f"u{values.itemsize}").tolist()
    if dtype in FLOATS:
        sign = 1 << (8 * values.itemsize - 1)
        # The smallest subnormal numbers, and NaNs with the extreme payloads.
        patterns += [1, 2, 3, sign | 1, sign | 2, sign | 3, sign - 1, 2 * sign - 1]
    return patterns


@st.composite
def score_arrays(draw, dtype):
    numpy_dtype = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    bits = 8 * numpy_dtype.itemsize
    patterns = st.integers(0, 2**bits - 1) | st.sampled_from(special_patterns(dtype))
    pool = draw(st.lists(patterns, min_size=1, max_size=SIZE))
    array = draw(
        hnp.arrays(f"u{numpy_dtype.itemsize}", SHAPE, elements=st.sampled_from(pool))
    )
    return array.view(numpy_dtype)


@pytest.mark.parametrize(("mode", "dtype"), modes_and_types(FLOATS + INTEGERS))
@hypothesis.given(data=st.data(), k=st.integers(-2, SIZE + 2))
def test_matches_a_stable_sort(mode, dtype, data, k):
    scores = data.draw(score_arrays(dtype))
    where = data.draw(st.none() | hnp.arrays(bool, SHAPE))
    where_tensor = None if where is None else tf.constant(where)
    mask = in_mode(mode)(tf.constant(scores), tf.constant(k), where_tensor)
    expected = expected_mask(scores, min(max(k, 0), SIZE), where)
    assert mask.dtype == tf.bool
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("mode", MODES)
def test_matches_argsort_on_a_large_tensor(mode):
    rng = np.random.default_rng(0)
    # Few distinct values, so that the threshold has many ties.
    scores = np.round(rng.normal(size=(300, 500)), 2).astype(np.float32)
    k = 40_000
    expected = np.zeros(scores.size, bool)
    expected[np.argsort(-scores.ravel(), kind="stable")[:k]] = True
    mask = in_mode(mode)(tf.constant(scores), tf.constant(k))
    np.testing.assert_array_equal(mask, expected.reshape(scores.shape))


@pytest.mark.parametrize(("mode", "dtype"), modes_and_types(FLOATS))
def test_subnormal_scores_keep_their_order(mode, dtype):
    numpy_dtype = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    # Every pattern below 100 is subnormal in all four types; enough for all threads.
    patterns = (np.arange(200_000) % 100).astype(f"u{numpy_dtype.itemsize}")
    scores = patterns.view(numpy_dtype)
    mask = in_mode(mode)(tf.constant(scores), tf.constant(2_000))
    np.testing.assert_array_equal(mask, patterns == 99)


def test_hand_made_ranking():
    nan, inf = math.nan, math.inf
    scores = [0.0, nan, -inf, -0.0, 2.0, 2.0, inf, -1.0]
    order = [6, 4, 5, 0, 3, 7, 2, 1]
    for k in range(9):
        mask = selection.top_k_mask(scores, k).numpy()
        assert set(np.flatnonzero(mask)) == set(order[:k])


def test_excluded_entries_rank_below_nan_and_in_index_order():
    scores = [9.0, math.nan, 1.0, 10.0, -math.inf]
    where = [False, True, True, False, True]
    order = [2, 4, 1, 0, 3]
    for k in range(6):
        mask = selection.top_k_mask(scores, k, where).numpy()
        assert set(np.flatnonzero(mask)) == set(order[:k])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_lowest_integer_ranks_above_excluded_entries(dtype):
    lowest = np.iinfo(dtype).min
    scores = tf.constant([0, lowest, lowest, lowest], dtype)
    where = [False, False, True, True]
    order = [2, 3, 0, 1]
    for k in range(5):
        mask = selection.top_k_mask(scores, k, where).numpy()
        assert set(np.flatnonzero(mask)) == set(order[:k])


def test_counts_beyond_the_integers_of_float32():
    size = 2**24 + 9
    scores = np.zeros(size, np.int8)
    scores[-1] = 1
    mask = selection.top_k_mask(scores, 2**24 + 3).numpy()
    assert np.count_nonzero(mask) == 2**24 + 3
    assert mask[: 2**24 + 2].all()
    assert mask[-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty_scores(mode, shape):
    mask = in_mode(mode)(tf.zeros(shape), tf.constant(4))
    assert mask.shape == shape
    assert mask.dtype == tf.bool


def test_scalar_scores():
    assert bool(selection.top_k_mask(-3.0, 1))
    assert not bool(selection.top_k_mask(-3.0, 0))


def test_kinds_of_k():
    for k in (3, np.int16(3), tf.constant(3, tf.uint8), tf.Variable(3)):
        mask = selection.top_k_mask([1, 5, 2, 4], k)
        np.testing.assert_array_equal(mask, [False, True, True, True])


@pytest.mark.parametrize("k", [-1, 5])
def test_python_k_out_of_range(k):
    with pytest.raises(ValueError, match=rf"\[0, 4\].*got {k}"):
        selection.top_k_mask(tf.zeros([2, 2]), k)


def test_k_of_the_wrong_type():
    for k in (1.0, True, "1", tf.constant(1.0)):
        with pytest.raises(TypeError, match="k must be an integer"):
            selection.top_k_mask(tf.zeros([4]), k)


def test_k_that_is_no_scalar():
    with pytest.raises(ValueError, match="scalar"):
        selection.top_k_mask(tf.zeros([4]), tf.constant([1, 2]))


@pytest.mark.parametrize("scores", [[True], [1j], ["a"], np.ones(1, np.uint32)])
def test_scores_of_the_wrong_type(scores):
    with pytest.raises(TypeError, match="Scores must be"):
        selection.top_k_mask(scores, 1)


def test_scores_of_unknown_shape():
    signature = tf.TensorSpec([None], tf.float32)
    function = tf.function(lambda scores: selection.top_k_mask(scores, 1))
    with pytest.raises(ValueError, match="static shape"):
        function.get_concrete_function(signature)


def test_where_that_does_not_fit():
    with pytest.raises(TypeError, match="bool"):
        selection.top_k_mask(tf.zeros([4]), 1, where=tf.ones([4]))
    with pytest.raises(ValueError, match="shape of the scores"):
        selection.top_k_mask(tf.zeros([4]), 1, where=tf.ones([2, 2], tf.bool))


@hypothesis.given(k=st.integers(0, SIZE), seed=st.integers(0, 2**40))
def test_random_mask_has_exactly_k(k, seed):
    seed = stateless_seed("test", seed)
    mask = selection.random_mask(SHAPE, k, seed)
    assert mask.shape == SHAPE
    assert mask.dtype == tf.bool
    assert np.count_nonzero(mask) == k
    for mode in ("graph", "compiled"):
        drawn = in_mode(mode, _random_mask)(tf.constant(k), seed)
        np.testing.assert_array_equal(drawn, mask)


def _random_mask(k, seed):
    return selection.random_mask(SHAPE, k, seed)


def test_random_masks_are_uniform():
    draws, size, k = 2000, 10, 3
    function = tf.function(lambda seed: selection.random_mask([size], k, seed))
    masks = np.stack([function(stateless_seed("test", i)) for i in range(draws)])
    # Every entry and every pair is drawn as often as any other, to 5 deviations.
    singles = masks.sum(0)
    p = k / size
    assert np.abs(singles - draws * p).max() < 5 * math.sqrt(draws * p * (1 - p))
    pairs = (masks.T.astype(int) @ masks)[np.triu_indices(size, 1)]
    p = k * (k - 1) / (size * (size - 1))
    assert np.abs(pairs - draws * p).max() < 5 * math.sqrt(draws * p * (1 - p))


def test_random_mask_k_out_of_range():
    with pytest.raises(ValueError, match=r"\[0, 4\]"):
        selection.random_mask([2, 2], 5, stateless_seed("test", 0))


@pytest.fixture
def deterministic_ops():
    from tensorflow.python.framework import config

    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        config.disable_op_determinism()


def device_of_counts():
    @tf.function(autograph=False)
    def select(scores):
        with tf.device("CPU:1"):
            return selection.top_k_mask(scores, 5)

    graph = select.get_concrete_function(tf.zeros(SHAPE)).graph.as_graph_def()
    [call] = [node for node in graph.node if node.op == "PartitionedCall"]
    inside = {
        node.device
        for function in graph.library.function
        for node in function.node_def
        if "Bincount" in node.op
    }
    [device] = inside  # "": that of the call
    return (device or call.device)[-5:]


def test_counts_stay_on_their_device_unless_ops_must_be_deterministic(request):
    assert device_of_counts() == "CPU:1"
    request.getfixturevalue("deterministic_ops")
    # There is no GPU here: TensorFlow is asked where it would count.
    assert device_of_counts() == "CPU:0"


def test_selections_of_any_size_have_one_graph():
    scores = {size: tf.random.stateless_normal([size], [0, size]) for size in (3, 5, 8)}

    @tf.function(autograph=False)
    def select():
        return [selection.top_k_mask(each, 2) for each in scores.values()]

    functions = select.get_concrete_function().graph.as_graph_def().library.function
    counting = [
        function.signature.name
        for function in functions
        if any("Bincount" in node.op for node in function.node_def)
    ]
    assert len(counting) == 1
    for mask, each in zip(select(), scores.values(), strict=True):
        np.testing.assert_array_equal(mask, expected_mask(each.numpy(), 2))


@pytest.mark.parametrize("mode", MODES)
def test_where_ops_must_be_deterministic_masks_are_the_same(mode, deterministic_ops):
    def select(scores, k):
        return selection.top_k_mask(scores, k)

    scores = np.random.RandomState(0).randint(0, 9, SHAPE).astype(np.float32)
    chosen = in_mode(mode, select)(tf.constant(scores), tf.constant(5))
    np.testing.assert_array_equal(chosen, expected_mask(scores, 5))
