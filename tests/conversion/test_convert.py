import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

import rigl_keras
from rigl_keras import Sparse
from rigl_keras.core import distributions, kernels

LAYERS = keras.layers


def image_net():
    """Convolutions, normalisation, a depthwise layer, a nested and a shared model."""
    inputs = keras.Input((6, 6, 2))
    x = LAYERS.Conv2D(5, 3, padding="same", name="conv")(inputs)
    x = LAYERS.BatchNormalization(name="norm")(x)
    x = LAYERS.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = x + LAYERS.SeparableConv2D(5, 1, name="separable")(x)
    x = LAYERS.Flatten()(x)
    head = keras.Sequential(
        [keras.Input((180,)), LAYERS.Dense(7, name="inner"), LAYERS.ReLU()], name="head"
    )
    shared = LAYERS.Dense(7, name="shared")
    x = shared(shared(head(x)))
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x), name="net")


IMAGE_PATHS = [
    "conv/kernel",
    "separable/pointwise_kernel",
    "head/inner/kernel",
    "shared/kernel",
    "out/kernel",
]


def two_in_two_out():
    left, right = keras.Input((4,), name="left"), keras.Input((5,), name="right")
    both = LAYERS.Concatenate(name="both")(
        [LAYERS.Dense(6, name="a")(left), LAYERS.Dense(6, name="b")(right)]
    )
    first, second = LAYERS.Dense(2, name="c")(both), LAYERS.Dense(3, name="d")(both)
    return keras.Model([left, right], [first, second])


def volumes():
    return keras.Sequential(
        [
            keras.Input((4, 4, 4, 2)),
            LAYERS.Conv3D(3, 2, name="c3"),
            LAYERS.Reshape((9, 9)),
            LAYERS.Conv1D(4, 3, name="c1"),
            LAYERS.EinsumDense("abc,cde->abde", (None, 2, 3), name="einsum"),
        ]
    )


def tokens():
    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            LAYERS.Embedding(11, 6, name="embedding"),
            LAYERS.LSTM(5, name="lstm", return_sequences=True),
            LAYERS.Bidirectional(LAYERS.GRU(4), name="both"),
            LAYERS.Dense(2, name="out"),
        ]
    )


def outputs(model, x):
    result = model.predict(x, verbose=0)
    return result if isinstance(result, list) else [result]


@pytest.mark.parametrize("make", [image_net, two_in_two_out, volumes, tokens, tiny.mlp])
def test_a_sparse_copy_computes_with_the_masked_weights(make):
    model = make()
    x = tiny.batch(model)
    sparse = tiny.sparsify(model, 0.6)
    assert len(tiny.counts(sparse)) >= 2
    tiny.assert_zero_off_masks(sparse)
    assert type(sparse) is type(model) and sparse.name == model.name
    # The same computation, but with the masks put on the plain model's own kernels.
    for kernel in kernels.find_kernels(model):
        mask = rigl_keras.get_masks(sparse)[kernel.path]
        assert mask.sum() == max(1, round(0.4 * mask.size))
        kernel.variable.assign(kernel.variable.numpy() * mask)
    for output, expected in zip(outputs(sparse, x), outputs(model, x), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def layer_names(model):
    # Keras 3 gives inputs that the user did not name another name in a copy.
    return [
        layer.name for layer in model.layers if not isinstance(layer, LAYERS.InputLayer)
    ]


@pytest.mark.parametrize("make", [image_net, two_in_two_out, volumes, tokens, tiny.mlp])
def test_strip_gives_a_plain_model_with_the_same_outputs(make):
    model = make()
    names = layer_names(model)
    sparse = tiny.sparsify(model, 0.6)
    x = tiny.batch(sparse)
    plain = rigl_keras.strip(sparse)
    for output, expected in zip(outputs(plain, x), outputs(sparse, x), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-7)
    assert rigl_keras.sparse_kernels(plain) == []
    assert "rigl_keras" not in plain.to_json()
    assert layer_names(plain) == names


def test_paths_of_the_kernels_and_what_stays_dense(capsys):
    sparse = rigl_keras.sparsify(image_net(), 0.5, "uniform")
    assert [k.path for k in rigl_keras.sparse_kernels(sparse)] == IMAGE_PATHS
    printed = capsys.readouterr().out
    assert "5 sparse kernels" in printed
    assert "depthwise/" in printed and "separable/depthwise_kernel" in printed
    assert "conv/kernel" not in printed and "bias" not in printed


def test_recurrent_kernels_have_the_same_paths_in_both_kerases():
    paths = [k.path for k in rigl_keras.sparse_kernels(tiny.sparsify(tokens()))]
    assert paths == [
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
        "both/forward_gru/gru_cell/kernel",
        "both/forward_gru/gru_cell/recurrent_kernel",
        "both/backward_gru/gru_cell/kernel",
        "both/backward_gru/gru_cell/recurrent_kernel",
        "out/kernel",
    ]


def test_the_original_is_left_alone():
    model = tiny.mlp()
    before = [w.numpy() for w in model.weights]
    tiny.sparsify(model, 0.9, initializer="unit_scaled")
    assert rigl_keras.sparse_kernels(model) == []
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_trained_state_is_kept_batch_norm_included():
    model = image_net()
    for index, weight in enumerate(model.weights):
        weight.assign(np.random.RandomState(index).rand(*weight.shape))
    sparse = tiny.sparsify(model, 0.5)
    norm = sparse.get_layer("norm")
    for weight, expected in zip(
        norm.weights, model.get_layer("norm").weights, strict=True
    ):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_magnitude_keeps_the_largest_weights():
    model = tiny.mlp()
    tiny.set_integer_weights(model)
    values = {f"{layer.name}/kernel": layer.kernel.numpy() for layer in model.layers}
    masks = rigl_keras.get_masks(tiny.sparsify(model, 0.7, method="magnitude"))
    for path, mask in masks.items():
        count = max(1, round((1 - 0.7) * mask.size))
        scores = np.abs(values[path]).ravel()
        expected = tiny.largest(scores, count, range(mask.size))
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(expected))


@settings(max_examples=8)
@given(
    st.floats(0.1, 0.999), st.sampled_from(["uniform", "er", "erk"]), st.integers(0, 9)
)
def test_counts_are_those_of_the_distribution(sparsity, name, seed):
    model = tiny.mlp()
    shapes = {"hidden/kernel": (6, 8), "out/kernel": (8, 3)}
    planned = distributions.from_name(name)(shapes, sparsity)
    sparse = tiny.sparsify(model, sparsity, distribution=name, seed=seed)
    expected = {
        path: max(1, round((1 - planned[path]) * np.prod(shapes[path])))
        for path in shapes
        if planned[path] > 0
    }
    assert tiny.counts(sparse) == expected


def test_distribution_as_a_mapping_leaves_the_others_dense():
    sparse = tiny.sparsify(tiny.mlp(), distribution={"out/kernel": 0.75})
    assert tiny.counts(sparse) == {"out/kernel": 6}


def test_overrides_first_match_wins_and_0_means_dense():
    sparse = tiny.sparsify(image_net(), 0.5, overrides={"con*": 0, "*/inner/*": 0.9})
    counts = tiny.counts(sparse)
    assert list(counts) == IMAGE_PATHS[1:]
    assert counts["head/inner/kernel"] == 126
    first = tiny.sparsify(tiny.mlp(), overrides={"out/*": 0.75, "*": 0.25})
    assert tiny.counts(first) == {"hidden/kernel": 36, "out/kernel": 6}


def test_sparsity_0_masks_everything_with_ones():
    assert tiny.counts(tiny.sparsify(tiny.mlp(), 0)) == {
        "hidden/kernel": 48,
        "out/kernel": 24,
    }


def test_at_least_one_weight_stays():
    assert set(tiny.counts(tiny.sparsify(tiny.mlp(), 0.9999)).values()) == {1}


def test_masks_follow_the_mask_seed_and_weights_the_init_seed():
    def made(seed, init_seed):
        keras.utils.set_random_seed(seed + 10)
        sparse = tiny.sparsify(
            tiny.mlp(), initializer="unit_scaled", seed=seed, init_seed=init_seed
        )
        return rigl_keras.get_masks(sparse), tiny.weights(sparse)

    masks, weights = made(1, 5)
    same_masks, other_weights = made(1, 6)
    tiny.assert_same_masks(masks, same_masks)
    other_masks, _ = made(2, 5)
    tiny.assert_same_masks(weights, made(1, 5)[1])
    for path, mask in masks.items():
        assert (weights[path] != other_weights[path])[mask].all()
        assert (mask != other_masks[path]).any()


def test_unit_scaled_has_hes_variance_for_each_neuron():
    model = keras.Sequential([keras.Input((300,)), LAYERS.Dense(400, name="d")])
    sparse = tiny.sparsify(model, 0.95, initializer="unit_scaled")
    mask = rigl_keras.get_masks(sparse)["d/kernel"]
    kernel = tiny.weights(sparse)["d/kernel"]
    assert (kernel[mask] != 0).all() and (kernel[~mask] == 0).all()
    standard = (kernel / np.sqrt(2 / np.maximum(mask.sum(0), 1)))[mask]
    assert standard.std() == pytest.approx(1, abs=0.05)
    assert np.abs(standard).max() > 3  # normal, neither uniform nor truncated


def test_frozen_layers_are_masked_but_not_updated():
    model = tiny.mlp()
    tiny.set_integer_weights(model)
    model.get_layer("hidden").trainable = False
    sparse = tiny.compiled(tiny.sparsify(model))
    assert len(sparse.trainable_weights) == 2
    before, weights = rigl_keras.get_masks(sparse), tiny.weights(sparse)
    tiny.fit(sparse, rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1))
    after = rigl_keras.get_masks(sparse)
    np.testing.assert_array_equal(after["hidden/kernel"], before["hidden/kernel"])
    np.testing.assert_array_equal(
        tiny.weights(sparse)["hidden/kernel"], weights["hidden/kernel"]
    )
    assert (after["out/kernel"] != before["out/kernel"]).any()


def subclassed():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.d = LAYERS.Dense(2)

        def call(self, x):
            return self.d(x)

    model = Net()
    model(np.ones((1, 3), np.float32))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.Sequential([LAYERS.Dense(2)]), "no weights yet"),
        (
            lambda: keras.Sequential([keras.Input((3,)), LAYERS.BatchNormalization()]),
            "nothing to make sparse",
        ),
        (subclassed, "cannot be copied"),
        (lambda: tiny.sparsify(tiny.mlp()), "sparse layers already"),
        (lambda: keras.Sequential([keras.Input((3,)), Sparse(LAYERS.Dense(2))]), "al"),
    ],
)
def test_models_that_cannot_be_made_sparse_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        rigl_keras.sparsify(make())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, r"\[0, 1\)"),
        ({"sparsity": -0.1}, ValueError, r"\[0, 1\)"),
        ({"sparsity": "0.9"}, TypeError, r"\[0, 1\)"),
        ({"distribution": "even"}, ValueError, "even"),
        ({"distribution": {"no/kernel": 0.5}}, ValueError, "no/kernel"),
        ({"distribution": {"out/kernel": 1.5}}, ValueError, "out/kernel"),
        ({"distribution": {}}, ValueError, "nothing to make sparse"),
        ({"overrides": {"conv*": 0.5}}, ValueError, r"conv\*"),
        ({"overrides": {"*": 0}}, ValueError, "nothing to make sparse"),
        ({"overrides": {"out*": 2}}, ValueError, r"out\*"),
        ({"initializer": "he"}, ValueError, "he"),
        ({"method": "best"}, ValueError, "best"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        rigl_keras.sparsify(tiny.mlp(), verbose=False, **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model"):
        rigl_keras.sparsify("model")
    with pytest.raises(TypeError, match="model"):
        rigl_keras.strip(None)
    with pytest.raises(ValueError, match="nothing to strip"):
        rigl_keras.strip(tiny.mlp())


def test_two_kernels_of_one_path_are_refused_by_name():
    inner = [
        keras.Sequential([keras.Input((3,)), LAYERS.Dense(3, name="d")], name="same")
        for _ in range(2)
    ]
    inputs = keras.Input((3,))
    try:
        model = keras.Model(inputs, inner[1](inner[0](inputs)))
    except ValueError:
        pytest.skip("Keras refuses layers of one name itself")
    with pytest.raises(ValueError, match="same path"):
        rigl_keras.sparsify(model)


@pytest.mark.slow
def test_a_stripped_model_loads_without_this_package(tmp_path):
    sparse = tiny.sparsify(image_net(), 0.8)
    plain = rigl_keras.strip(sparse)
    x = tiny.batch(sparse)
    path = os.path.join(tmp_path, "plain.keras")
    plain.save(path)
    np.save(os.path.join(tmp_path, "x.npy"), x)
    np.save(os.path.join(tmp_path, "y.npy"), sparse.predict(x, verbose=0))
    program = f"""
        import sys
        import numpy as np
        from tensorflow import keras
        sys.modules["rigl_keras"] = None
        model = keras.models.load_model({path!r})
        x, y = (np.load({str(tmp_path)!r} + f"/{{n}}.npy") for n in "xy")
        np.testing.assert_allclose(model.predict(x, verbose=0), y, rtol=1e-5, atol=1e-6)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_a_sparse_model_loads_from_its_file_and_sparsified_again(tmp_path):
    sparse = tiny.sparsify(image_net(), 0.8, initializer="unit_scaled")
    path = os.path.join(tmp_path, "sparse.keras")
    sparse.save(path)
    loaded = keras.models.load_model(path)
    x = tiny.batch(sparse)
    np.testing.assert_array_equal(loaded(x), sparse(x))
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), rigl_keras.get_masks(sparse))
    again = tiny.sparsify(rigl_keras.strip(loaded), 0.8, method="magnitude")
    tiny.assert_same_masks(rigl_keras.get_masks(again), rigl_keras.get_masks(sparse))
    np.testing.assert_allclose(again(x), sparse(x), rtol=1e-5, atol=1e-6)


def test_a_sparse_copy_made_outside_of_the_strategys_scope_belongs_to_it():
    strategy = tiny.two_replicas()
    with strategy.scope():
        model = tiny.mlp()
    sparse = tiny.sparsify(model)
    assert sparse.distribute_strategy is strategy
    for variable in sparse.weights:
        assert len(tiny.raw(variable).values) == 2
    # A plain copy is for one worker to save, and variables of a scope are made by all.
    assert rigl_keras.strip(sparse).distribute_strategy is not strategy
