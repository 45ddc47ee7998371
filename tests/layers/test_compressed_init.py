"""How a `Compressed` layer starts: where its weights are, and their values."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import rigl_keras
from rigl_keras import Compressed, Sparse

pytestmark = pytest.mark.one_keras
LAYERS = keras.layers
INITIALIZERS = keras.initializers


def built(layer, shape):
    layer.build(shape)
    return layer


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: LAYERS.Dense(10), (None, 12)),
        (lambda: LAYERS.EinsumDense("abc,cde->abde", (None, 2, 5)), (None, 3, 12)),
        (lambda: LAYERS.EinsumDense("abcd,cde->abe", (None, 10)), (None, 3, 3, 4)),
        (lambda: LAYERS.EinsumDense("abcd,dce->abe", (None, 10)), (None, 3, 3, 4)),
        (lambda: LAYERS.Conv2D(10, 1), (None, 3, 3, 12)),
    ],
)
@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("size", [1, 4])
def test_weights_are_where_a_masked_layer_with_the_seed_has_them(
    make, shape, seed, size
):
    options = {"seed": seed, "pattern": f"blocks({size}, 1, 'inputs')"}
    layer = built(Compressed(make(), 0.7, **options), shape)
    masked = Sparse(make(), 0.7, **options)
    masked(keras.Input(shape[1:]))
    (wanted,) = rigl_keras.get_masks(masked).values()
    np.testing.assert_array_equal(layer.compressed_kernel.mask, wanted)
    assert layer.indices.shape == (12 // size, 3)
    assert (np.diff(layer.indices.numpy(), axis=1) > 0).all()


@pytest.mark.parametrize(
    ("sparsity", "count"), [(0, 10), (0.04, 10), (0.5, 5), (0.74, 3), (0.96, 1)]
)
def test_each_group_has_its_share_of_blocks(sparsity, count):
    options = {"pattern": "blocks(2, 1, 'inputs')", "seed": 0}
    layer = built(Compressed(LAYERS.Dense(10), sparsity, **options), (None, 8))
    assert layer.indices.shape == (4, count)
    assert layer.values.shape == (4, count, 2)
    mask = layer.compressed_kernel.mask.numpy()
    assert mask.sum(axis=1).tolist() == [count] * 8


def test_the_seed_decides_all():
    def weights(seed):
        layer = Compressed(LAYERS.Dense(16), 0.5, seed=seed)
        return built(layer, (None, 32)).get_weights()

    first, again, other = weights(1), weights(1), weights(2)
    for left, right, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(left, right)
        assert (left != different).any() or not left.any()  # Biases are 0.


def test_without_a_seed_keras_random_seed_decides():
    seeds = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        seeds.append(Compressed(LAYERS.Dense(6)).seed)
    assert seeds[0] == seeds[1] != Compressed(LAYERS.Dense(6)).seed


# The variance of a dense kernel [64, 256], and how far its values go, by deviations.
# A normal distribution that ends at 2 of its deviations ends at 2 / 0.8796 of what it
# has then.
TRUNCATED, UNIFORM, ENDLESS = 2 / 0.87962566, math.sqrt(3), math.inf


@pytest.mark.parametrize(
    ("name", "variance", "limit"),
    [
        ("glorot_uniform", 2 / (64 + 256), UNIFORM),
        ("glorot_normal", 2 / (64 + 256), TRUNCATED),
        ("he_uniform", 2 / 64, UNIFORM),
        ("he_normal", 2 / 64, TRUNCATED),
        ("lecun_uniform", 1 / 64, UNIFORM),
        ("lecun_normal", 1 / 64, TRUNCATED),
        (INITIALIZERS.VarianceScaling(3.0, "fan_out", "uniform"), 3 / 256, UNIFORM),
        (
            INITIALIZERS.VarianceScaling(1.0, "fan_in", "untruncated_normal"),
            1 / 64,
            ENDLESS,
        ),
        (INITIALIZERS.RandomNormal(stddev=0.25), 0.0625, ENDLESS),
        (INITIALIZERS.RandomUniform(-0.5, 0.5), 1 / 12, UNIFORM),
    ],
)
def test_none_draws_as_the_layer_does_for_the_dense_kernel(name, variance, limit):
    layer = Compressed(LAYERS.Dense(256, kernel_initializer=name), 0.5, seed=0)
    values = built(layer, (None, 64)).values.numpy()
    assert values.size == 64 * 128
    deviation = math.sqrt(variance)
    assert abs(values.mean()) < 0.05 * deviation
    np.testing.assert_allclose(values.std(), deviation, rtol=0.03)
    largest = np.abs(values).max()
    if limit is ENDLESS:
        assert largest > 3 * deviation
    else:
        assert 0.97 * limit * deviation < largest <= 1.0001 * limit * deviation


@pytest.mark.parametrize("name", ["glorot_uniform", "he_normal"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda **o: LAYERS.Conv2D(64, 1, **o), (None, 3, 3, 64)),
        (lambda **o: LAYERS.EinsumDense("abc,cde->abde", (2, 8, 16), **o), (2, 2, 64)),
        (lambda **o: LAYERS.EinsumDense("abcd,cde->abe", (2, 64), **o), (2, 2, 4, 16)),
    ],
)
def test_the_fans_are_those_that_keras_takes(make, shape, name):
    layer = built(Compressed(make(kernel_initializer=name), 0.5, seed=0), shape)
    dense = built(make(kernel_initializer=name), shape).kernel.numpy()
    values = layer.values.numpy()
    np.testing.assert_allclose(values.std(), dense.std(), rtol=0.06)


@pytest.mark.parametrize(
    ("name", "value"), [("zeros", 0), ("ones", 1), (INITIALIZERS.Constant(0.5), 0.5)]
)
def test_constants(name, value):
    layer = Compressed(LAYERS.Dense(6, kernel_initializer=name), 0.5)
    assert (built(layer, (None, 16)).values.numpy() == value).all()


def test_layer_scaled_has_hes_variance_for_the_mean_fan_in():
    layer = Compressed(LAYERS.Dense(128), 0.75, "layer_scaled", seed=0)
    values = built(layer, (None, 256)).values.numpy()
    np.testing.assert_allclose(values.std(), math.sqrt(2 / (0.25 * 256)), rtol=0.03)
    assert np.abs(values).max() <= TRUNCATED * math.sqrt(2 / (0.25 * 256))


def test_unit_scaled_has_hes_variance_for_the_fan_in_of_each_output():
    options = {"seed": 0, "pattern": "blocks(2, 1, 'inputs')"}
    layer = Compressed(LAYERS.Dense(8), 0.75, "unit_scaled", **options)
    kernel = built(layer, (None, 2048)).compressed_kernel
    mask, weights = kernel.mask.numpy(), kernel.weights().numpy()
    fans = mask.sum(axis=0)
    assert len(set(fans)) > 1
    for column, fan in enumerate(fans):
        values = weights[mask[:, column], column]
        np.testing.assert_allclose(values.std(), math.sqrt(2 / fan), rtol=0.15)
    scaled = weights * np.sqrt(fans / 2)
    np.testing.assert_allclose(scaled[mask].std(), 1, rtol=0.03)


def test_a_named_initializer_stands_for_one_that_needs_the_whole_kernel():
    dense = LAYERS.Dense(6, kernel_initializer="orthogonal")
    assert built(Compressed(dense, 0.5, "layer_scaled"), (None, 16)).built


def test_built_while_a_graph_is_traced():
    layer = Compressed(LAYERS.Dense(6), 0.5, seed=0)
    tf.function(lambda x: layer(x))(tf.zeros([2, 16]))
    eager = built(Compressed(LAYERS.Dense(6), 0.5, seed=0), (None, 16))
    for left, right in zip(layer.get_weights(), eager.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("policy", ["float64", "float16", "mixed_float16"])
def test_initializers_draw_in_the_kernels_precision(policy):
    layer = Compressed(LAYERS.Dense(6, dtype=policy), 0.5, "unit_scaled", seed=0)
    plain = Compressed(LAYERS.Dense(6), 0.5, "unit_scaled", seed=0)
    for each in (layer, plain):
        each.build((None, 16))
    np.testing.assert_allclose(layer.values.numpy(), plain.values.numpy(), rtol=1e-3)
