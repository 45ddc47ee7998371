import copy
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf
import tiny
from custom_layers import Blocks, BuiltBlocks, TwoOutputs
from tensorflow import keras

import rigl_keras
from rigl_keras import Sparse

LAYERS = keras.layers


def built(layer, *shape):
    layer(keras.Input(shape))
    return layer


def call_both(sparse, plain, x):
    """Outputs of a sparse layer and of a plain one with the same weights."""
    sparse(x), plain(x)
    plain.set_weights(sparse.layer.get_weights())
    return np.asarray(sparse(x)), np.asarray(plain(x))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: LAYERS.Dense(5, activation="tanh"), (7,)),
        (lambda: LAYERS.Conv1D(5, 2), (6, 7)),
        (lambda: LAYERS.Conv2D(5, 3, padding="same"), (6, 6, 7)),
        (lambda: LAYERS.Conv3D(5, 2), (4, 4, 4, 3)),
        (lambda: LAYERS.EinsumDense("abc,cde->abde", (None, 4, 5)), (3, 7)),
        (lambda: LAYERS.Conv2DTranspose(5, 3), (6, 6, 7)),
        (lambda: LAYERS.SeparableConv2D(5, 3), (6, 6, 7)),
        (lambda: LAYERS.TimeDistributed(LAYERS.Dense(5)), (3, 7)),
        (lambda: LAYERS.LSTM(4), (3, 7)),
        (lambda: LAYERS.GRU(4, return_sequences=True), (3, 7)),
        (lambda: LAYERS.SimpleRNN(4), (3, 7)),
        (lambda: LAYERS.Bidirectional(LAYERS.LSTM(4)), (3, 7)),
    ],
)
def test_a_wrapped_layer_computes_with_its_masked_kernels(make, shape):
    sparse = Sparse(make(), 0.6, seed=1)
    x = np.random.RandomState(0).randn(2, *shape).astype(np.float32)
    sparse(x)
    found = rigl_keras.sparse_kernels(sparse)
    assert found
    for each in found:
        kernel, mask = each.kernel.numpy(), each.mask.numpy()
        assert mask.shape == kernel.shape and mask.dtype == bool
        assert mask.sum() == max(1, round(0.4 * mask.size))
        assert (kernel[~mask] == 0).all() and (kernel[mask] != 0).any()
    output, expected = call_both(sparse, make(), x)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_multi_head_attention_has_a_mask_for_each_projection():
    sparse = Sparse(LAYERS.MultiHeadAttention(2, 3, name="attention"), 0.5, seed=0)
    x = np.random.RandomState(0).randn(2, 5, 4).astype(np.float32)
    output = sparse(x, x)
    masks = rigl_keras.get_masks(sparse)
    assert sorted(masks) == [
        f"attention/{name}/kernel"
        for name in ("attention_output", "key", "query", "value")
    ]
    assert {m.sum() / m.size for m in masks.values()} == {0.5}
    assert tuple(output.shape) == (2, 5, 4)


def test_masks_are_stored_at_one_byte_a_weight():
    (each,) = rigl_keras.sparse_kernels(built(Sparse(LAYERS.Dense(5)), 7))
    assert tiny.raw(each.mask).dtype == tf.bool
    assert not each.mask.trainable


def test_random_masks_depend_on_the_seed_alone():
    def mask(seed, noise):
        keras.utils.set_random_seed(noise)
        return built(Sparse(LAYERS.Dense(20), 0.5, seed=seed), 20).mask_0.numpy()

    np.testing.assert_array_equal(mask(1, 1), mask(1, 2))
    assert (mask(1, 1) != mask(2, 1)).any()


def test_without_a_seed_keras_random_seed_decides():
    def mask(noise):
        keras.utils.set_random_seed(noise)
        return built(Sparse(LAYERS.Dense(20), 0.5), 20).mask_0.numpy()

    np.testing.assert_array_equal(mask(1), mask(1))
    assert (mask(1) != mask(2)).any()


def test_kernels_of_one_layer_get_different_masks():
    layer = LAYERS.MultiHeadAttention(2, 3)
    masks = Sparse(layer, 0.5, seed=0)
    tensor = keras.Input((5, 6))
    masks(tensor, tensor)
    arrays = [m.ravel().tobytes() for m in rigl_keras.get_masks(masks).values()]
    assert len(set(arrays)) == len(arrays)


def test_sparsity_of_each_kernel_by_path():
    sparse = Sparse(LAYERS.SimpleRNN(4), {"simple_rnn_cell/kernel": 0.5}, seed=0)
    sparse(keras.Input((3, 7)))
    (each,) = rigl_keras.sparse_kernels(sparse)
    assert each.mask.numpy().sum() == 14


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, float("nan")])
def test_sparsity_out_of_range_is_refused(sparsity):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Sparse(LAYERS.Dense(2), sparsity)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Sparse(LAYERS.Dense(2), {"kernel": sparsity})


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(TypeError, match="a layer or model for Sparse"):
        Sparse("dense")
    with pytest.raises(ValueError, match="Sparse layer already"):
        Sparse(Sparse(LAYERS.Dense(2)))
    with pytest.raises(ValueError, match="Sparse layer already"):
        Sparse(keras.Sequential([Sparse(LAYERS.Dense(2))]))
    with pytest.raises(ValueError, match="nothing to make sparse"):
        built(Sparse(LAYERS.BatchNormalization()), 4)
    with pytest.raises(ValueError, match=r"have: \['kernels'\]"):
        built(Sparse(LAYERS.Dense(2), {"kernels": 0.5}), 4)
    with pytest.raises(ValueError, match="initializer"):
        Sparse(LAYERS.Dense(2), initializer="he")


def test_a_layer_wrapped_twice_is_refused():
    dense = LAYERS.Dense(4)
    built(Sparse(dense), 4)
    with pytest.raises(ValueError, match="already sparse"):
        built(Sparse(dense), 4)


@pytest.mark.parametrize("name", ["unit_scaled", "layer_scaled"])
def test_named_initializers_draw_with_hes_variance(name):
    layer = built(Sparse(LAYERS.Dense(400), 0.9, name, seed=0), 300)
    kernel, mask = layer.layer.kernel.numpy(), layer.mask_0.numpy()
    assert (kernel[~mask] == 0).all() and (kernel[mask] != 0).all()
    fan_in = mask.sum(0)
    if name == "layer_scaled":
        fan_in = np.full_like(fan_in, 30)
    scaled = (kernel * np.sqrt(fan_in / 2))[mask]
    assert abs(scaled.mean()) < 0.05
    assert scaled.var() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("policy", ["float16", "float64", "mixed_float16"])
def test_initializers_draw_in_the_kernels_precision(policy):
    layer = built(Sparse(LAYERS.Dense(4, dtype=policy), 0.5, "unit_scaled", seed=0), 6)
    single = built(Sparse(LAYERS.Dense(4), 0.5, "unit_scaled", seed=0), 6)
    np.testing.assert_allclose(
        layer.layer.kernel.numpy(), single.layer.kernel.numpy(), rtol=1e-3
    )


def test_a_function_as_initializer():
    def constant(mask, in_axes, out_axes, seed):
        assert (in_axes, out_axes, tuple(seed.shape)) == ((0,), (1,), (2,))
        return np.full(mask.shape, 0.25, np.float32)

    layer = built(Sparse(LAYERS.Dense(4), 0.5, constant, seed=0), 6)
    expected = np.where(layer.mask_0.numpy(), 0.25, 0)
    np.testing.assert_array_equal(layer.layer.kernel.numpy(), expected)


def test_the_users_own_constraint_is_kept():
    constraint = keras.constraints.MaxNorm(0.5)
    layer = built(Sparse(LAYERS.Dense(4, kernel_constraint=constraint), 0.5), 6)
    values = tiny.integers((6, 4), low=1, high=3)
    constrained = np.asarray(layer.layer.kernel.constraint(tf.constant(values)))
    mask = layer.mask_0.numpy()
    assert (constrained[~mask] == 0).all()
    expected = values * 0.5 / np.sqrt((values**2).sum(0))
    np.testing.assert_allclose(constrained[mask], expected[mask], rtol=1e-5)


def test_constraint_zeroes_what_is_not_finite_too():
    layer = built(Sparse(LAYERS.Dense(4), 0.5), 6)
    result = np.asarray(layer.layer.kernel.constraint(np.full((6, 4), np.nan, "f")))
    np.testing.assert_array_equal(np.isnan(result), layer.mask_0.numpy())


@pytest.mark.parametrize("blocks", [Blocks, BuiltBlocks, TwoOutputs])
@pytest.mark.parametrize("eager", [True, False])
def test_a_custom_layer_with_or_without_its_own_build(blocks, eager):
    sparse = Sparse(blocks(name="b"), 0.5, seed=0)
    x = np.ones((2, 4), np.float32)
    if eager:
        sparse(x)
    else:
        keras.Model(tensor := keras.Input((4,)), sparse(tensor))
    masks = rigl_keras.get_masks(sparse)
    assert {p: int(m.sum()) for p, m in masks.items()} == {
        "b/first/kernel": 10,
        "b/second/kernel": 8,
    }
    tiny.assert_zero_off_masks(sparse)


def test_a_subclassed_model_wraps_its_own_layers_and_trains():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = Sparse(LAYERS.Dense(8, activation="relu", name="h"), 0.5)
            self.out = Sparse(LAYERS.Dense(3, name="o"), 0.5)

        def call(self, inputs):
            return self.out(self.hidden(inputs))

    model = tiny.compiled(Net())
    x, y = tiny.data()
    model(x)
    before = rigl_keras.get_masks(model)
    assert len(before) == 2
    model.fit(
        x,
        y,
        verbose=0,
        callbacks=[rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1)],
    )
    after = rigl_keras.get_masks(model)
    tiny.assert_zero_off_masks(model)
    for path, mask in before.items():
        assert mask.sum() == after[path].sum() and (mask != after[path]).any()


def test_sparse_kernels_gives_path_kernel_mask_and_axes():
    model = tiny.sparse_mlp()
    found = rigl_keras.sparse_kernels(model)
    assert [each.path for each in found] == ["hidden/kernel", "out/kernel"]
    assert [tuple(each.kernel.shape) for each in found] == [(6, 8), (8, 3)]
    assert found[0].in_axes == (0,) and found[0].out_axes == (1,)
    assert rigl_keras.sparse_kernels(tiny.mlp()) == []


def test_set_masks_sets_the_mask_and_zeroes_weights():
    model = tiny.sparse_mlp()
    mask = np.zeros((8, 3), bool)
    mask[2] = True
    kept = rigl_keras.get_masks(model)["hidden/kernel"]
    rigl_keras.set_masks(model, {"out/kernel": mask.astype(int)})
    masks = rigl_keras.get_masks(model)
    np.testing.assert_array_equal(masks["out/kernel"], mask)
    np.testing.assert_array_equal(masks["hidden/kernel"], kept)
    tiny.assert_zero_off_masks(model)


@pytest.mark.parametrize(
    ("path", "mask", "message"),
    [
        ("nowhere", np.ones((8, 3)), r"kernels \['hidden/kernel', 'out/kernel'\]"),
        ("out/kernel", np.ones((3, 8)), r"shape \(8, 3\).*\(3, 8\)"),
        ("out/kernel", np.full((8, 3), 0.5), "zeros and ones"),
        ("out/kernel", np.full((8, 3), np.nan), "zeros and ones"),
        ("out/kernel", np.zeros((8, 3)), "no weight"),
    ],
)
def test_set_masks_refuses_and_changes_nothing(path, mask, message):
    model = tiny.sparse_mlp()
    before = rigl_keras.get_masks(model)
    with pytest.raises(ValueError, match=message):
        rigl_keras.set_masks(model, {"hidden/kernel": np.ones((6, 8)), path: mask})
    tiny.assert_same_masks(rigl_keras.get_masks(model), before)


def test_setting_what_get_masks_gave_changes_nothing():
    model = tiny.sparse_mlp()
    masks, kernels = rigl_keras.get_masks(model), tiny.weights(model)
    rigl_keras.set_masks(model, masks)
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    tiny.assert_same_masks(tiny.weights(model), kernels)


def test_config_round_trip():
    layer = Sparse(LAYERS.Dense(4), {"kernel": 0.25}, "unit_scaled", seed=3)
    copy = Sparse.from_config(layer.get_config())
    assert dict(copy.sparsity) == {"kernel": 0.25}
    assert (copy.initializer, copy.seed, copy.layer.units) == ("unit_scaled", 3, 4)
    assert copy.name == layer.name
    assert re.fullmatch(r"sparse_dense(_\d+)?", copy.name)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions_compute_as_the_plain_layer_does(policy):
    plain = LAYERS.Dense(4, dtype=policy)
    sparse = Sparse(LAYERS.Dense(4, dtype=policy), 0.5, seed=0)
    x = np.random.RandomState(0).randn(3, 6).astype(np.float32)
    output, expected = call_both(sparse, plain, x)
    assert output.dtype == expected.dtype
    np.testing.assert_array_equal(output, expected)


def test_timestep_masks_pass_through_a_sparse_layer():
    tokens = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    inputs = keras.Input((4,), dtype="int32")
    embedded = LAYERS.Embedding(5, 6, mask_zero=True)(inputs)
    hidden = Sparse(LAYERS.Dense(6), 0.5)(embedded)
    model = keras.Model(inputs, Sparse(LAYERS.LSTM(4), 0.5)(hidden))
    # What stands after the end of a sequence does not count.
    np.testing.assert_allclose(
        model(tokens)[1], model(np.array([[3, 0, 0, 0]]))[0], rtol=1e-6
    )
    short = keras.Input((1,), dtype="int32")
    layers = model.layers
    rnn = layers[-1](layers[-2](layers[-3](short)))
    alone = keras.Model(short, rnn)(np.array([[3]]))
    np.testing.assert_allclose(model(tokens)[1], alone[0], rtol=1e-6)


def test_activity_regularizer_of_the_wrapped_layer_counts_once():
    layer = LAYERS.Dense(4, activity_regularizer=keras.regularizers.L2(1.0))
    sparse = Sparse(layer, 0.5)
    x = np.ones((1, 6), np.float32)
    output = np.asarray(sparse(x))
    assert float(sum(sparse.losses)) == pytest.approx((output**2).sum(), rel=1e-5)


# Copies by Python


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("sparsity", [0.5, {"kernel": 0.5}])
@pytest.mark.parametrize("make_copy", [copy.deepcopy, pickled])
def test_a_copied_layer_has_masks_of_its_own(make_copy, sparsity):
    layer, x = Sparse(LAYERS.Dense(4), sparsity, seed=1), tiny.integers((2, 6))
    assert make_copy(layer)(x).shape == (2, 4)
    expected, masks = np.asarray(layer(x)), rigl_keras.get_masks(layer)
    copied = make_copy(layer)
    np.testing.assert_array_equal(copied(x), expected)
    tiny.assert_same_masks(rigl_keras.get_masks(copied), masks)
    others = {path: ~mask for path, mask in masks.items()}
    rigl_keras.set_masks(copied, others)
    kernel = copied.layer.kernel
    kernel.assign(kernel.constraint(tf.ones(kernel.shape)))
    np.testing.assert_array_equal(kernel.numpy(), next(iter(others.values())))
    tiny.assert_same_masks(rigl_keras.get_masks(layer), masks)
    np.testing.assert_array_equal(layer(x), expected)


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, pickled])
def test_a_copied_model_keeps_its_masks_and_trains_by_itself(make_copy):
    model = tiny.sparse_mlp()
    tiny.fit(model, rigl_keras.Static())
    masks, x = rigl_keras.get_masks(model), tiny.data()[0]
    copied = make_copy(model)
    np.testing.assert_array_equal(copied(x), model(x))
    tiny.assert_same_masks(rigl_keras.get_masks(copied), masks)
    tiny.fit(copied, tiny.forever(rigl_keras.RigL))
    tiny.assert_zero_off_masks(copied)
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)


def test_a_clone_is_as_sparse():
    model = tiny.sparse_mlp()
    clone = tiny.compiled(keras.models.clone_model(model))
    assert tiny.counts(clone) == tiny.counts(model)
    tiny.fit(clone, tiny.forever(rigl_keras.RigL))
    tiny.assert_zero_off_masks(clone)
    assert tiny.counts(clone) == tiny.counts(model)
