"""Between models with masks and models whose kernels are stored without zeros."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import Compressed, Sparse
from rigl_keras.analysis.hessian import hessian

LAYERS = keras.layers
PATTERN = "blocks(2, 1, 'inputs')"


def mlp(**options):
    layers = [LAYERS.Dense(8, "relu", name="hidden"), LAYERS.Dense(4, name="out")]
    return keras.Sequential([keras.Input((6,)), *layers], **options)


def functional():
    first, second = keras.Input((6,)), keras.Input((4,))
    hidden = LAYERS.Dense(8, "tanh", name="hidden")(first)
    both = LAYERS.Concatenate()([hidden, second])
    return keras.Model([first, second], LAYERS.Dense(4, name="out")(both))


def shared():
    inputs = keras.Input((6,))
    layer = LAYERS.Dense(6, name="shared")
    return keras.Model(inputs, LAYERS.Dense(4, name="out")(layer(layer(inputs))))


def nested():
    inner = keras.Sequential([keras.Input((6,)), LAYERS.Dense(8, name="a")], name="in")
    inputs = keras.Input((6,))
    return keras.Model(inputs, LAYERS.Dense(4, name="out")(inner(inputs)))


def transformer():
    inputs = keras.Input((3, 8))
    attended = LAYERS.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = LAYERS.LayerNormalization(name="norm")(LAYERS.Add()([inputs, attended]))
    x = LAYERS.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", name="up")(x)
    return keras.Model(inputs, LAYERS.Dense(8, name="down")(x))


def convolutional():
    layers = [
        LAYERS.Conv2D(4, 3, name="taps"),
        LAYERS.BatchNormalization(name="bn"),
        LAYERS.Conv2D(6, 1, strides=2, name="pointwise"),
        LAYERS.Flatten(),
        LAYERS.Dense(4, name="out"),
    ]
    return keras.Sequential([keras.Input((5, 5, 2)), *layers])


# The model, and the layers whose kernels keep their masks.
MODELS = {
    "sequential": (mlp, []),
    "functional": (functional, []),
    "shared": (shared, []),
    "nested": (nested, []),
    "transformer": (transformer, ["attention"]),
    "convolutional": (convolutional, ["taps"]),
}
EACH_MODEL = pytest.mark.parametrize(
    ("make", "masked"), MODELS.values(), ids=MODELS.keys()
)


def sparse(make=mlp, **options):
    model = make()
    tiny.set_integer_weights(model)
    return tiny.sparsify(model, 0.5, pattern=PATTERN, **options)


def assert_same(left, right):
    """The same paths, masks, kernels and predictions."""
    tiny.assert_same_masks(rigl_keras.get_masks(left), rigl_keras.get_masks(right))
    tiny.assert_same_masks(tiny.weights(left), tiny.weights(right))
    x = tiny.batch(left)
    np.testing.assert_allclose(
        left.predict(x, verbose=0), right.predict(x, verbose=0), rtol=1e-4, atol=1e-4
    )
    assert type(left) is type(right)


def is_compressed(model):
    return {k.path: k.is_compressed for k in rigl_keras.sparse_kernels(model)}


@EACH_MODEL
def test_there_and_back(make, masked, capsys):
    model = sparse(make)
    small = rigl_keras.compress(model)
    printed = capsys.readouterr().out
    assert_same(model, small)
    for path, is_small in is_compressed(small).items():
        assert is_small == (path.partition("/")[0] not in masked)
        assert (f"{path} (" in printed) == (not is_small)
    count = sum(is_compressed(small).values())
    assert printed.startswith(f"compress: {count} kernel")
    assert printed.endswith("left with masks: none.\n") == (not masked)
    back = rigl_keras.decompress(small)
    assert not any(is_compressed(back).values())
    assert_same(back, model)
    for left, right in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    plain, wanted = rigl_keras.strip(small), rigl_keras.strip(model)
    for left, right in zip(plain.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not rigl_keras.sparse_kernels(plain)


@EACH_MODEL
def test_compressed_models_train_as_masked_ones(make, masked):
    models = sparse(make), sparse(make, storage="compressed")
    x = tiny.batch(models[0], 8)
    y = tiny.integers(models[0].predict(x, verbose=0).shape, 4)
    for model in models:
        tiny.compiled(model, keras.optimizers.SGD(2.0**-12, momentum=0.5))
        model.fit(x, y, epochs=3, shuffle=False, verbose=0, callbacks=[tiny.forever()])
    tiny.assert_same_masks(*map(rigl_keras.get_masks, models))
    left, right = map(tiny.weights, models)
    for path, weights in left.items():
        np.testing.assert_allclose(weights, right[path], 1e-3, 1e-4, err_msg=path)


def test_to_compress_or_decompress_twice_changes_nothing():
    model = sparse(convolutional)
    small = rigl_keras.compress(model, verbose=False)
    with pytest.raises(ValueError, match="no sparse kernel that can be stored"):
        rigl_keras.compress(small)
    back = rigl_keras.decompress(small)
    with pytest.raises(ValueError, match="has no Compressed layer"):
        rigl_keras.decompress(back)
    assert_same(rigl_keras.compress(back, verbose=False), small)


def test_frozen_layers_stay_frozen():
    model = mlp()
    model.layers[0].trainable = False
    small = tiny.sparsify(model, 0.5, pattern=PATTERN, storage="compressed")
    back = rigl_keras.decompress(small)
    for each in (small, back, rigl_keras.strip(small)):
        assert [layer.trainable for layer in each.layers] == [False, True]


def test_storage_of_sparsify(capsys):
    model = tiny.sparsify(
        convolutional(), 0.5, pattern=PATTERN, storage="compressed", verbose=True
    )
    assert "left with masks: taps/kernel (its convolution" in capsys.readouterr().out
    kinds = [type(layer) for layer in model.layers if hasattr(layer, "layer")]
    assert kinds == [Sparse, Compressed, Compressed]
    for storage in ("dense", None, 1):
        with pytest.raises(ValueError, match="`storage`"):
            tiny.sparsify(mlp(), 0.5, storage=storage)


def test_sparsify_initializers_draw_for_the_mask():
    options = {"initializer": "unit_scaled", "init_seed": 3}
    assert_same(sparse(**options), sparse(storage="compressed", **options))


def test_a_model_without_such_a_kernel_is_refused():
    with pytest.raises(ValueError, match="hidden/kernel: its pattern is unstructured"):
        tiny.sparsify(mlp(), 0.5, storage="compressed")
    with pytest.raises(ValueError, match="It has no sparse kernel at all"):
        rigl_keras.compress(mlp())
    with pytest.raises(ValueError, match="has no Compressed layer"):
        rigl_keras.decompress(mlp())
    with pytest.raises(TypeError, match="Compress the whole model"):
        rigl_keras.compress(LAYERS.Dense(3))
    with pytest.raises(ValueError, match="has sparse layers already"):
        rigl_keras.sparsify(sparse(storage="compressed"))


# Masks


def test_set_masks_keeps_the_values_of_what_stays():
    model = sparse(storage="compressed")
    masks, before = rigl_keras.get_masks(model), tiny.weights(model)
    new = np.roll(masks["hidden/kernel"], 1, axis=1)
    rigl_keras.set_masks(model, {"hidden/kernel": new})
    both = masks["hidden/kernel"] & new
    wanted = np.where(both, before["hidden/kernel"], 0)
    np.testing.assert_array_equal(tiny.weights(model)["hidden/kernel"], wanted)
    np.testing.assert_array_equal(rigl_keras.get_masks(model)["hidden/kernel"], new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: np.ones_like(mask), "with room for exactly 24 weights"),
        (lambda mask: np.roll(mask, 1, axis=0), "pattern"),
        (lambda mask: mask[:4], "shape"),
    ],
)
def test_set_masks_refuses_what_has_no_room(change, message):
    model = sparse(storage="compressed")
    masks = rigl_keras.get_masks(model)
    with pytest.raises(ValueError, match=message):
        rigl_keras.set_masks(model, {"hidden/kernel": change(masks["hidden/kernel"])})
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)


# What trains and measures


class OwnMask(rigl_keras.algorithms.MaskUpdater):
    name = "own_mask"

    def new_mask(self, state, drop_fraction):
        return state.mask


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rigl_keras.Pruning(rigl_keras.schedules.constant_sparsity(0.6, 0)),
            "it removes weights",
        ),
        (lambda: tiny.forever(rigl_keras.SNFS), "average of gradients would be dense"),
        (
            lambda: rigl_keras.MaskUpdates(OwnMask(), 1, schedule="constant"),
            "its own `new_mask` makes dense masks",
        ),
    ],
)
def test_algorithms_that_need_masks_are_refused(make, message):
    model = tiny.compiled(sparse(storage="compressed"))
    x, y = tiny.data(8, 6, 4)
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(x, y, verbose=0, callbacks=[make()])
    assert "rigl_keras.decompress(model)" in str(caught.value)


def test_prune_once_is_refused():
    model = tiny.compiled(sparse(storage="compressed"))
    with pytest.raises(ValueError, match="stored without their zeros: it removes"):
        rigl_keras.prune_once(model, "magnitude", 0.6, ranking="layer")


def both():
    return [tiny.compiled(sparse(storage=name)) for name in ("masked", "compressed")]


def test_gradient_flow_is_that_of_the_masked_model():
    x, y = tiny.data(8, 6, 4)
    measured = [rigl_keras.FlowMeter(model, (x, y)).measure() for model in both()]
    for left, right in zip(*measured, strict=True):
        if isinstance(left, dict):
            assert left.keys() == right.keys()
            left, right = list(left.values()), list(right.values())
        np.testing.assert_allclose(left, right, rtol=1e-4)


def test_the_hessian_is_that_of_the_masked_model():
    x, y = tiny.data(8, 6, 4)
    found = []
    for model in both():
        for kernel in rigl_keras.sparse_kernels(model):
            mask = kernel.mask.numpy()
            kernel.assign(mask, tf.constant(mask * tiny.integers(mask.shape, 5) / 4))
        matrix = hessian(model, (x, y))
        found.append(np.sort(np.linalg.eigvalsh(matrix)))
    # In another order of the weights.
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["L1", "L2"])
def test_masks_change_as_masked_ones_do_also_with_regularisers(regularizer):
    make = getattr(keras.regularizers, regularizer)
    model = tiny.mlp(kernel_regularizer=make(2.0))
    tiny.set_integer_weights(model, 4.0)
    options = {"pattern": "blocks(2, 1, 'inputs')", "verbose": False}
    options["distribution"] = {"hidden/kernel": 0.5, "out/kernel": 1 / 3}
    masks = []
    for storage in ("masked", "compressed"):
        sparse = rigl_keras.sparsify(model, storage=storage, **options)
        tiny.compiled(sparse, keras.optimizers.SGD(2.0**-6))
        tiny.fit(sparse, tiny.forever(rigl_keras.RigL, 2))
        masks.append(rigl_keras.get_masks(sparse))
    tiny.assert_same_masks(*masks)
