import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

import rigl_keras
from rigl_keras.analysis import signal_propagation as module
from rigl_keras.analysis.signal_propagation import signal_propagation, uneven_masks
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.plots import signals

LAYERS = keras.layers


def unit_variance_per_fan_in(mask, in_axes, out_axes, seed):
    return rigl_keras.init_utils.unit_scaled_init(
        mask, "fanin_normal", 1.0, in_axes, out_axes, seed
    )


def linear_mlp(depth=4, width=128):
    """Its dense weights keep the variance of a signal: variance 1 / fan-in."""

    def build(seed):
        layers = [
            LAYERS.Dense(
                width,
                kernel_initializer=keras.initializers.VarianceScaling(
                    1.0, "fan_in", "untruncated_normal", seed=seed % 1000 + index
                ),
                name=f"d{index}",
            )
            for index in range(depth)
        ]
        return keras.Sequential([keras.Input((width,)), *layers])

    return build


def conv_net(seed=0):
    """With an activation in a layer, one after a layer, a bias and a shared layer."""
    del seed
    inputs = keras.Input((8, 8, 2))
    x = LAYERS.Conv2D(3, 3, activation="relu", bias_initializer="ones", name="c")(
        inputs
    )
    x = LAYERS.Flatten()(x)
    x = LAYERS.Dense(4, name="d")(x)
    x = LAYERS.Activation("tanh")(x)
    shared = LAYERS.Dense(4, name="shared")
    return keras.Model(inputs, LAYERS.Dense(3, name="logits")(shared(shared(x))))


def masks_of(pattern):
    """Random masks of a pattern."""

    def draw(model, sparsity, seed):
        options = {"distribution": "uniform", "seed": seed, "pattern": pattern}
        return rigl_keras.get_masks(tiny.sparsify(model, sparsity, **options))

    return draw


@pytest.mark.parametrize(
    "masks",
    [None, uneven_masks, masks_of("blocks(4, 2)"), masks_of("constant_fan_in")],
)
def test_linear_network_follows_the_closed_form(masks):
    # A layer multiplies the variance by (variance of a weight) * fan-in: by 1 when
    # scaled to the fan-in there is, by the density when scaled to the dense fan-in.
    depth, sparsities = 4, [0.0, 0.5, 0.75]
    found = signal_propagation(
        linear_mlp(depth),
        sparsities,
        {"dense": None, "unit": unit_variance_per_fan_in, "he": "unit_scaled"},
        num_networks=2,
        num_inputs=200,
        masks=masks,
    )
    density = 1 - np.array(sparsities)
    dense, unit, he = found.output_std.mean(-1)
    # Uneven: units that many connections enter are no likelier to pass signals on.
    np.testing.assert_allclose(dense, density ** (depth / 2), rtol=0.15)
    np.testing.assert_allclose(unit, 1, rtol=0.15)
    np.testing.assert_allclose(he, 2 ** (depth / 2), rtol=0.15)
    layers = found.layer_std.mean(2)[1]
    np.testing.assert_allclose(layers, 1, rtol=0.15)
    assert found.layers == ("d0", "d1", "d2", "d3")
    assert found.neuron_std == pytest.approx(found.layer_std.mean(-1))


def test_stds_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(module, "_BATCH_SIZE", 7)
    sparse, inputs = [], []

    def initializer(mask, in_axes, out_axes, seed):
        sparse.append(unit_variance_per_fan_in(mask, in_axes, out_axes, seed).numpy())
        return sparse[-1]

    draw = module._random_inputs
    monkeypatch.setattr(
        module, "_random_inputs", lambda *a: inputs.append(draw(*a)) or inputs[-1]
    )
    found = signal_propagation(
        conv_net, [0.25], {"x": initializer}, num_networks=1, num_inputs=20
    )
    conv, dense, shared, logits = sparse
    x = inputs[0].numpy().astype(float)
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    c = np.maximum(np.einsum("nhwipq,pqio->nhwo", patches, conv) + 1, 0)
    d = c.reshape(20, -1) @ dense
    s1 = np.tanh(d) @ shared
    s2 = s1 @ shared
    y = s2 @ logits
    expected = [
        c.reshape(-1, 3).std(0).mean(),
        d.std(0).mean(),
        np.concatenate([s1, s2]).std(0).mean(),
        y.std(0).mean(),
    ]
    assert found.layers == ("c", "d", "shared", "logits")
    np.testing.assert_array_equal(found.units, [3, 4, 4, 3])
    np.testing.assert_array_equal(found.is_dense, [False, True, True, True])
    np.testing.assert_allclose(found.layer_std[0, 0, 0], expected, rtol=1e-5)
    assert found.output_std[0, 0, 0] == pytest.approx(y.std(), rel=1e-5)
    per_neuron = np.average(expected[1:], weights=[4, 4, 3])
    assert found.neuron_std[0, 0, 0] == pytest.approx(per_neuron, rel=1e-5)
    assert abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1


def test_networks_masks_and_draws_follow_the_seed_alone():
    seeds, models = [], []

    def build(seed):
        seeds.append(seed)
        model = tiny.mlp()
        tiny.set_integer_weights(model)
        models.append(model)
        return model

    options = {"num_networks": 2, "num_inputs": 10}
    first = signal_propagation(build, [0.5], seed=1, **options)
    tf.random.set_seed(9)
    np.random.seed(9)
    again = signal_propagation(build, [0.9, 0.5], seed=1, **options)
    other = signal_propagation(build, [0.5], seed=2, **options)
    assert seeds[:2] == seeds[2:4]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**31 for seed in seeds)
    np.testing.assert_array_equal(first.layer_std[:, 0], again.layer_std[:, 1])
    np.testing.assert_array_equal(first.output_std[:, 0], again.output_std[:, 1])
    # The same weights and sparsity: only masks and inputs differ.
    stds = [*first.output_std[0, 0], *other.output_std[0, 0]]
    assert len(set(stds)) == 4
    for model in models:
        assert rigl_keras.sparse_kernels(model) == []


def test_a_dead_network_has_a_std_of_exactly_zero():
    def zeros(mask, in_axes, out_axes, seed):
        return tf.zeros(mask.shape)

    def build(seed):
        return tiny.mlp(bias_initializer=keras.initializers.Constant(0.3))

    found = signal_propagation(build, [0.5], {"zeros": zeros}, 1, 10)
    np.testing.assert_array_equal(found.layer_std, np.zeros((1, 1, 1, 2)))
    # All units have the same value: that is no signal either.
    np.testing.assert_allclose(found.output_std, 0, atol=1e-7)


def test_any_graph_model_is_measured():
    # Two inputs in a dict, dropout, batch norm, a nested model, a recurrent layer.
    inner = keras.Sequential(
        [keras.Input((4,)), LAYERS.Dense(5, name="deep"), LAYERS.BatchNormalization()],
        name="inner",
    )
    a, b = keras.Input((4,), name="a"), keras.Input((3, 2), name="b")
    x = LAYERS.Dropout(0.9)(inner(a))
    x = LAYERS.Concatenate()([x, LAYERS.GRU(3, name="gru")(b)])
    model = keras.Model({"a": a, "b": b}, LAYERS.Dense(2, name="logits")(x))
    runs = [
        signal_propagation(lambda seed: model, [0.5], {"x": None}, 1, 30)
        for _ in range(2)
    ]
    assert runs[0].layers == ("inner/deep", "gru", "logits")
    np.testing.assert_array_equal(runs[0].layer_std, runs[1].layer_std)
    assert (runs[0].layer_std > 0).all()


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (None, {"sparsities": [1.0]}, r"\[0, 1\)"),
        (None, {"sparsities": [-0.1]}, r"\[0, 1\)"),
        (None, {"sparsities": []}, "at least one"),
        (None, {"initializers": {}}, "at least one"),
        (None, {"initializers": {"x": "he"}}, "initializer"),
        (None, {"num_networks": 0}, "num_networks"),
        (None, {"num_inputs": 1}, "num_inputs"),
        (None, {"seed": -1}, "seed"),
        (lambda: two_outputs(), {}, "one output"),
        (lambda: of_shape((None, 4)), {}, "known shape"),
        (lambda: of_shape((4,), "int32"), {}, "floating-point"),
    ],
)
def test_refusals(build, options, message):
    build = build or tiny.mlp
    with pytest.raises(ValueError, match=message):
        signal_propagation(lambda seed: build(), **{"sparsities": [0.5], **options})


def two_outputs():
    inputs = keras.Input((4,))
    outputs = [LAYERS.Dense(2, name="p")(inputs), LAYERS.Dense(2, name="q")(inputs)]
    return keras.Model(inputs, outputs)


def of_shape(shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    x = LAYERS.Lambda(lambda x: tf.cast(x, tf.float32))(inputs)
    return keras.Model(inputs, LAYERS.Dense(2)(x))


def test_neuron_std_needs_dense_layers():
    model = keras.Sequential([keras.Input((6, 2)), LAYERS.Conv1D(2, 3)])
    found = signal_propagation(lambda seed: model, [0.5], {"x": None}, 1, 5)
    with pytest.raises(ValueError, match="Dense"):
        found.neuron_std  # noqa: B018


def kernels_model():
    """A dense, a convolution's, a transposed one's and a rank-3 dense kernel."""
    inputs = keras.Input((6, 3))
    x = LAYERS.Conv1D(8, 3, name="conv")(inputs)
    x = LAYERS.Conv1DTranspose(10, 2, name="transposed")(x)
    x = LAYERS.EinsumDense("abc,cde->abde", (None, 2, 5), name="einsum")(x)
    return keras.Model(inputs, LAYERS.Dense(7, name="dense")(x))


OUT_AXES = {
    "conv/kernel": (2,),
    "transposed/kernel": (1,),
    "einsum/kernel": (1, 2),
    "dense/kernel": (1,),
}


def fan_in(mask, out_axes):
    others = tuple(axis for axis in range(mask.ndim) if axis not in out_axes)
    return mask.sum(axis=others).ravel()


@given(st.floats(0, 0.999), st.floats(0, 0.999), st.integers(-(2**31), 2**31))
@settings(max_examples=10)
def test_uneven_masks_are_exact_nested_and_leave_no_unit_out(first, second, seed):
    model = kernels_model()
    low, high = sorted([first, second])
    larger, smaller = (uneven_masks(model, each, seed) for each in (low, high))
    assert list(larger) == list(OUT_AXES)
    for path, mask in smaller.items():
        assert mask.dtype == bool
        assert mask.sum() == max(1, round((1 - high) * mask.size))
        assert not (mask & ~larger[path]).any()
        fans = fan_in(mask, OUT_AXES[path])
        assert (fans > 0).sum() == min(mask.sum(), fans.size)
    tiny.assert_same_masks(smaller, uneven_masks(model, high, seed))


@pytest.mark.parametrize("seed", range(3))
def test_fans_in_are_uneven_and_the_best_served_unit_is_random(seed):
    shapes = {"a": (200, 100), "b": (100, 60)}
    model = keras.Sequential(
        [keras.Input((200,)), LAYERS.Dense(100, name="a"), LAYERS.Dense(60, name="b")]
    )
    uneven = uneven_masks(model, 0.9, seed)
    even = rigl_keras.get_masks(tiny.sparsify(model, 0.9, seed=seed))
    for name, (inputs, units) in shapes.items():
        mask = uneven[f"{name}/kernel"]
        fans, even_fans = mask.sum(0), even[f"{name}/kernel"].sum(0)
        assert fans.mean() == pytest.approx(0.1 * inputs)
        assert fans.var() > 5 * even_fans.var()
        # Unevenness is between output units only: inputs are as for any random mask.
        assert mask.sum(1).var() < 2 * units * 0.1
    others = uneven_masks(model, 0.9, seed + 1)
    best = [
        int(masks[path].sum(0).argmax())
        for masks in (uneven, others)
        for path in ("a/kernel", "b/kernel")
    ]
    assert len(set(best)) > 1


def test_sampling_weights_are_a_geometric_progression_from_1_to_100():
    # So few connections of so many that none is in the way of another.
    units, inputs, share = 5, 40_000, 0.01
    mask = module._uneven_mask((inputs, units), (1,), 1 - share, seed=3, index=0)
    expected = np.geomspace(1, 100, units)
    expected *= share * inputs * units / expected.sum()
    np.testing.assert_allclose(np.sort(mask.sum(0)), expected, rtol=0.25, atol=10)


def test_uneven_masks_refuse_what_has_no_kernels():
    with pytest.raises(ValueError, match="no kernel"):
        uneven_masks(keras.Sequential([keras.Input((2,)), LAYERS.ReLU()]), 0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        uneven_masks(tiny.mlp(), 1.0)
    with pytest.raises(TypeError, match="Keras"):
        uneven_masks("model", 0.5)


def test_inputs_of_several_tensors_are_independent():
    a, b = keras.Input((50,)), keras.Input((50,))
    model = keras.Model([a, b], LAYERS.Dense(2)(LAYERS.Add()([a, b])))
    first, second = (each.numpy() for each in module._random_inputs(model, 20, 5))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    expected = tf.random.stateless_normal(
        (20, 50), stateless_seed("signal", 5, 1), alg=ALGORITHM
    )
    np.testing.assert_array_equal(second, expected)


def test_figure(tmp_path, monkeypatch):
    found = signal_propagation(lambda s: tiny.mlp(), [0.0, 0.9], None, 2, 10)
    dead = found._replace(output_std=0 * found.output_std)
    drawn = []
    curve = signals._curve

    def record(axis, density, std, *, label, index):
        drawn.append((label, std))
        curve(axis, density, std, label=label, index=index)

    monkeypatch.setattr(signals, "_curve", record)
    path = tmp_path / "figure.png"
    signals.signal_propagation({"even": found, "dead": dead}, path)
    assert path.stat().st_size > 1000
    labels, stds = zip(*drawn, strict=True)
    assert labels == ("dense", "layer-scaled", "unit-scaled") * 4
    np.testing.assert_array_equal(stds[:3], found.output_std)
    np.testing.assert_array_equal(stds[6:9], found.neuron_std)


def test_figure_of_dead_networks_is_drawn(tmp_path):
    found = signal_propagation(lambda s: tiny.mlp(), [0.5], {"x": None}, 2, 10)
    dead = found._replace(
        output_std=0 * found.output_std, layer_std=0 * found.layer_std
    )
    signals.signal_propagation({"dead": dead}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()
