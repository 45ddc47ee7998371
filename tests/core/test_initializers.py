import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from hypothesis import strategies as st
from tensorflow import keras

from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core import initializers

INITS = (initializers.unit_scaled_init, initializers.layer_scaled_init)
# Shapes with the axes of their input and output units: dense, convolution, transposed
# convolution, and the projections into and out of attention heads.
LAYOUTS = (
    ((5, 4), -2, -1),
    ((3, 2, 3, 4), -2, -1),
    ((2, 3, 4, 3), -1, -2),
    ((5, 2, 3), 0, (1, 2)),
    ((2, 3, 5), (0, 1), -1),
    ((2, 3, 2, 3), (0, -1), (2,)),
)


def reference_variance(mask, fan, scale, in_axes, out_axes):
    """The definition, weight by weight."""
    in_axes, out_axes = (
        [axis % mask.ndim for axis in (axes if isinstance(axes, tuple) else (axes,))]
        for axes in (in_axes, out_axes)
    )
    indices = list(np.ndindex(mask.shape))
    variance = np.zeros(mask.shape)
    for one in indices:
        entering = leaving = 0
        for other in indices:
            if mask[other]:
                entering += all(one[axis] == other[axis] for axis in out_axes)
                leaving += all(one[axis] == other[axis] for axis in in_axes)
        count = {
            "fanin": entering,
            "fanout": leaving,
            "fanavg": (entering + leaving) / 2,
        }[fan]
        variance[one] = scale / max(1, count)
    return variance


def implied_variance(init, mask, method, scale, in_axes, out_axes, seed):
    """The variance behind a draw: its square over that of the same standard draw."""
    seed = stateless_seed("init", seed)
    weights = init(mask, method, scale, in_axes, out_axes, seed).numpy()
    if method.endswith("normal") and init is initializers.layer_scaled_init:
        standard = tf.random.stateless_truncated_normal(mask.shape, seed, alg="philox")
        standard /= scipy.stats.truncnorm.std(-2, 2)
    elif method.endswith("normal"):
        standard = tf.random.stateless_normal(mask.shape, seed, alg="philox")
    else:
        standard = tf.random.stateless_uniform(
            mask.shape, seed, -math.sqrt(3), math.sqrt(3), alg="philox"
        )
    assert np.all(weights[mask == 0] == 0)
    active = mask != 0
    return np.square(weights[active] / standard.numpy()[active])


@pytest.mark.parametrize("method", initializers.METHODS)
@pytest.mark.parametrize(("shape", "in_axes", "out_axes"), LAYOUTS)
def test_unit_scaled_variance(shape, in_axes, out_axes, method):
    rng = np.random.default_rng(3)
    for density in (0.1, 0.5, 1.0):
        mask = rng.random(shape) < density
        mask.flat[0] = True
        implied = implied_variance(
            initializers.unit_scaled_init, mask, method, 1.7, in_axes, out_axes, seed=5
        )
        fan = method.split("_")[0]
        expected = reference_variance(mask, fan, 1.7, in_axes, out_axes)
        np.testing.assert_allclose(implied, expected[mask], rtol=2e-4)


@pytest.mark.parametrize("method", initializers.METHODS)
@pytest.mark.parametrize(("shape", "in_axes", "out_axes"), LAYOUTS)
def test_layer_scaled_variance(shape, in_axes, out_axes, method):
    mask = np.random.default_rng(4).random(shape) < 0.4
    implied = implied_variance(
        initializers.layer_scaled_init, mask, method, 1.7, in_axes, out_axes, seed=5
    )
    fan = method.split("_")[0]
    dense = reference_variance(np.ones(shape), fan, 1.7, in_axes, out_axes)
    density = np.count_nonzero(mask) / mask.size
    np.testing.assert_allclose(implied, (dense / density)[mask], rtol=2e-4)


def test_fans_by_hand():
    # Input units 0, 1, 2 have 2, 1, 0 active weights; output units 0, 1 have 2, 1.
    mask = np.array([[1, 1], [1, 0], [0, 0]])
    expected = {"fanin": [2, 1, 2], "fanout": [2, 2, 1], "fanavg": [2, 1.5, 1.5]}
    for fan, fans in expected.items():
        implied = implied_variance(
            initializers.unit_scaled_init, mask, f"{fan}_uniform", 1.0, None, None, 0
        )
        np.testing.assert_allclose(implied, 1 / np.array(fans), rtol=1e-4)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(
    ("method", "scale", "variance"),
    [
        ("fanin_normal", 2.0, 2 / (9 * 64)),  # He
        ("fanavg_uniform", 1.0, 2 / (9 * (64 + 128))),  # Glorot
        ("fanout_normal", 1.0, 1 / (9 * 128)),
    ],
)
def test_a_dense_mask_gives_the_dense_init(init, method, scale, variance):
    weights = init(np.ones((3, 3, 64, 128)), method, scale, seed=1).numpy()
    # The sample variance of n draws has a relative deviation of at most sqrt(2 / n).
    tolerance = 5 * math.sqrt(2 / weights.size)
    assert np.var(weights) == pytest.approx(variance, rel=tolerance)
    assert abs(weights.mean()) < 5 * math.sqrt(variance / weights.size)


@pytest.mark.parametrize("init", INITS)
def test_the_shape_of_the_distributions(init):
    mask = np.ones((200, 200))
    uniform = init(mask, "fanin_uniform", seed=2).numpy() * math.sqrt(200 / 3)
    counts, _ = np.histogram(uniform, bins=10, range=(-1, 1))
    assert counts.sum() == mask.size
    assert np.abs(counts - mask.size / 10).max() < 5 * math.sqrt(mask.size * 0.09)


def test_unit_scaled_normal_is_not_truncated():
    mask = np.ones((200, 200))
    weights = initializers.unit_scaled_init(mask, "fanin_normal", seed=2).numpy()
    normal = weights * math.sqrt(200)
    # Not truncated: about 108 of 40,000 lie beyond 3 deviations, 2 beyond 4.
    assert np.count_nonzero(np.abs(normal) > 3) == pytest.approx(108, abs=52)
    assert np.mean(normal**4) == pytest.approx(3, abs=5 * math.sqrt(96 / mask.size))


def test_layer_scaled_normal_is_truncated_as_keras_truncates():
    mask = np.random.RandomState(0).uniform(size=(200, 200)) < 0.5
    weights = initializers.layer_scaled_init(mask, "fanin_normal", 2.0, seed=2).numpy()
    deviation = math.sqrt(2 / 200 / mask.mean())
    # The deviation of a standard normal between -2 and 2, from scipy's truncnorm.
    limit = 2 / scipy.stats.truncnorm.std(-2, 2)
    assert np.abs(weights).max() == pytest.approx(limit * deviation, rel=1e-3)
    keras_limit = np.abs(
        keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal", seed=1)(
            (200, 200)
        )
    ).max()
    assert keras_limit == pytest.approx(limit * math.sqrt(2 / 200), rel=1e-3)


def test_unit_scaled_outputs_keep_their_variance_under_uneven_fans():
    rng = np.random.default_rng(6)
    # Output unit i has 4 to 400 inputs; by He's argument each output has variance 2.
    mask = rng.random((400, 300)) < np.linspace(0.01, 1, 300)
    weights = initializers.unit_scaled_init(mask, "fanin_normal", 2.0, seed=0).numpy()
    inputs = rng.normal(size=(500, 400))
    for part in np.array_split(inputs @ weights, 3, axis=1):
        assert part.var() == pytest.approx(2, rel=0.15)
    # The layer-scaled one is right on average only.
    weights = initializers.layer_scaled_init(mask, "fanin_normal", 2.0, seed=0).numpy()
    few, middle, many = np.array_split(inputs @ weights, 3, axis=1)
    assert few.var() < 1 < middle.var() < 3 < many.var()


masks = hnp.arrays(
    st.sampled_from([np.dtype(bool), np.dtype("uint8"), np.dtype("float32")]),
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.integers(0, 1),
).filter(np.any)


@pytest.mark.parametrize("init", INITS)
@hypothesis.given(
    mask=masks, method=st.sampled_from(initializers.METHODS), seed=st.integers(0, 2**40)
)
def test_support_and_determinism(init, mask, method, seed):
    weights = init(mask, method, seed=seed)
    assert weights.dtype == tf.float32
    assert weights.shape == mask.shape
    # A draw of exactly 0 has a chance of about 1e-7 a weight, and is no error.
    assert np.all(weights.numpy()[mask == 0] == 0)
    assert np.count_nonzero(weights) >= np.count_nonzero(mask) - 1
    again = init(tf.constant(mask), method, seed=seed)
    np.testing.assert_array_equal(weights, again)
    stateless = init(mask.tolist(), method, seed=stateless_seed("init", seed))
    np.testing.assert_array_equal(weights, stateless)


@pytest.mark.parametrize("init", INITS)
def test_seeds(init):
    mask = np.ones((4, 4))
    draws = [
        init(mask, seed=seed).numpy()
        for seed in (0, 1, tf.constant([0, 1]), tf.constant([0, 2], tf.int64))
    ]
    tf.keras.utils.set_random_seed(7)
    draws += [init(mask).numpy(), init(mask).numpy()]
    assert len({draw.tobytes() for draw in draws}) == len(draws)
    tf.keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(init(mask), draws[-2])
    np.testing.assert_array_equal(init(mask), draws[-1])


def test_methods():
    assert set(initializers.METHODS) == {
        "fanin_normal",
        "fanin_uniform",
        "fanout_normal",
        "fanout_uniform",
        "fanavg_normal",
        "fanavg_uniform",
    }
    mask = np.eye(3)
    by_default = initializers.unit_scaled_init(mask, seed=0)
    spelt_out = initializers.unit_scaled_init(
        mask, "fanavg_uniform", 1.0, in_axes=0, out_axes=1, seed=0
    )
    np.testing.assert_array_equal(by_default, spelt_out)


@pytest.mark.parametrize("init", INITS)
class TestErrors:
    def test_method(self, init):
        with pytest.raises(ValueError, match=r"'fanout_uniform'.*got 'he_normal'"):
            init(np.ones((2, 2)), "he_normal")

    @pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf])
    def test_scale_out_of_range(self, init, scale):
        with pytest.raises(ValueError, match="scale must be positive"):
            init(np.ones((2, 2)), scale=scale)

    @pytest.mark.parametrize("scale", ["2", None, True])
    def test_scale_of_the_wrong_type(self, init, scale):
        with pytest.raises(TypeError, match="scale must be a number"):
            init(np.ones((2, 2)), scale=scale)

    @pytest.mark.parametrize("mask", [[[1, 2]], [[1, -1]], [[1, 0.5]], [[1, math.nan]]])
    def test_mask_values(self, init, mask):
        with pytest.raises(ValueError, match="only 0 and 1"):
            init(mask)

    @pytest.mark.parametrize("mask", [1, [1, 0]])
    def test_mask_rank(self, init, mask):
        with pytest.raises(ValueError, match="rank 2 or more"):
            init(mask)

    @pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
    def test_empty_mask(self, init, shape):
        with pytest.raises(ValueError, match="no active weight"):
            init(np.zeros(shape))

    @pytest.mark.parametrize(
        ("in_axes", "out_axes", "message"),
        [
            (3, None, "in_axes must be axes"),
            (None, -4, "out_axes must be axes"),
            ((0, -3), 1, "in_axes must be distinct"),
            (0, (1, 1), "out_axes must be distinct"),
            (-1, None, "give both"),
            ((0, 1), (1, 2), "give both"),
        ],
    )
    def test_axes(self, init, in_axes, out_axes, message):
        with pytest.raises(ValueError, match=message):
            init(np.ones((2, 3, 4)), in_axes=in_axes, out_axes=out_axes)

    @pytest.mark.parametrize("axes", [0.0, "0", (0, 1.0), [0.0]])
    def test_axes_of_the_wrong_type(self, init, axes):
        with pytest.raises(TypeError, match="in_axes must be an int or a tuple"):
            init(np.ones((2, 3, 4)), in_axes=axes)

    def test_seed(self, init):
        with pytest.raises(TypeError, match="float32"):
            init(np.ones((2, 2)), seed=tf.constant([1.0, 2.0]))
        with pytest.raises(ValueError, match=r"shape \[2\]"):
            init(np.ones((2, 2)), seed=tf.constant([1, 2, 3]))
