"""Which weights can have a mask, and masks that would not make a layer sparse."""

import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL, Sparse, Static
from rigl_keras.core.masks import (
    MaskConstraint,
    apply_masks,
    masks_by_weight,
    trainable_kernels,
)

LAYERS = keras.layers


def words():
    layers = [
        keras.Input((5,), dtype="int32"),
        LAYERS.Embedding(12, 8, name="words"),
        LAYERS.GlobalAveragePooling1D(),
        LAYERS.Dense(3, name="out"),
    ]
    return keras.Sequential(layers)


def depthwise():
    layers = [
        keras.Input((6, 6, 4)),
        LAYERS.SeparableConv2D(8, 3, name="separable"),
        LAYERS.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
        LAYERS.GlobalAveragePooling2D(),
        LAYERS.Dense(3, name="out"),
    ]
    return keras.Sequential(layers)


class Gate(LAYERS.Layer):
    """A layer whose kernel has a name of its own, and a bias of rank 2."""

    def build(self, shape):
        options = {"shape": (shape[-1], shape[-1])}
        self.w = self.add_weight(name="w", **options)
        self.wide_bias = self.add_weight(name="wide_bias", **options)

    def call(self, inputs):
        return inputs @ (self.w + self.wide_bias)


def gated():
    layers = [keras.Input((6,)), Gate(name="gate"), LAYERS.Dense(3, name="out")]
    return keras.Sequential(layers)


ON_REQUEST = [
    (words, "words/embeddings", "out/kernel"),
    (depthwise, "separable/depthwise_kernel", "separable/pointwise_kernel"),
    (depthwise, "depthwise/*", "separable/pointwise_kernel"),
    (gated, "gate/w", "out/kernel"),
]


@pytest.mark.parametrize(("make", "pattern", "kernel"), ON_REQUEST)
def test_other_weights_are_sparse_on_request(tmp_path, make, pattern, kernel):
    alone = set(rigl_keras.get_masks(tiny.sparsify(make())))
    assert alone == {kernel, "out/kernel"}
    model = tiny.compiled(
        tiny.sparsify(make(), include=pattern), keras.optimizers.Adam(0.01)
    )
    before, counts = rigl_keras.get_masks(model), tiny.counts(model)
    (path,) = set(before) - alone
    assert before[path].mean() == 0.5
    x, y = tiny.batch(model, 16), tiny.integers((16, 3))
    changes = tiny.UpdateSteps()
    check = tiny.EveryStep(tiny.assert_zero_off_masks)
    callbacks = [tiny.forever(RigL, kernels=path), check, changes]
    model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks)
    assert changes.steps and tiny.counts(model) == counts
    file = str(tmp_path / "model.keras")
    model.save(file)
    if make is not gated:  # which is not registered
        loaded = keras.models.load_model(file)
        tiny.assert_same_masks(
            rigl_keras.get_masks(loaded), rigl_keras.get_masks(model)
        )
    np.testing.assert_allclose(
        rigl_keras.strip(model).predict(x, verbose=0),
        model.predict(x, verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )


def test_include_changes_the_masks_of_no_kernel():
    plain = rigl_keras.get_masks(tiny.sparsify(depthwise(), seed=4))
    more = rigl_keras.get_masks(tiny.sparsify(depthwise(), seed=4, include="*/depth*"))
    for path, mask in plain.items():
        np.testing.assert_array_equal(mask, more[path], path)


def test_mappings_name_other_weights_too():
    sparsities = {"words/embeddings": 0.75}
    model = rigl_keras.sparsify(words(), distribution=sparsities, verbose=False)
    masks = rigl_keras.get_masks(model)
    assert {path: 1 - mask.mean() for path, mask in masks.items()} == sparsities
    again = rigl_keras.sparsify(words(), masks=masks, verbose=False)
    tiny.assert_same_masks(rigl_keras.get_masks(again), masks)
    layer = Sparse(LAYERS.Embedding(12, 8), {"embeddings": 0.75})
    layer(np.zeros((1, 2), np.int32))
    (mask,) = rigl_keras.get_masks(layer).values()
    assert 1 - mask.mean() == 0.75


def test_initialisers_leave_embeddings_and_scale_depthwise_kernels_by_their_taps():
    model = words()
    table = model.get_layer("words").embeddings.numpy()
    options = {"include": "words/*", "initializer": "unit_scaled"}
    sparse = tiny.sparsify(model, **options)
    mask = rigl_keras.get_masks(sparse)["words/embeddings"]
    np.testing.assert_array_equal(
        tiny.weights(sparse)["words/embeddings"], np.where(mask, table, 0)
    )
    shape = (3, 3, 400, 2)
    mask = np.zeros(shape, bool)
    mask[0], mask[:, :, :200] = True, True  # 9 taps, or 3
    weights = rigl_keras.init_utils.unit_scaled_init(
        mask, "fanin_normal", scale=2.0, in_axes=(), out_axes=(2, 3), seed=0
    ).numpy()
    for channels, taps in ((slice(0, 200), 9), (slice(200, 400), 3)):
        drawn = weights[:, :, channels][mask[:, :, channels]]
        assert drawn.std() == pytest.approx(np.sqrt(2 / taps), rel=0.08)


@pytest.mark.parametrize(
    ("make", "pattern"),
    [(gated, "gate/wide_bias"), (gated, "*/bias"), (words, "no*"), (words, [])],
)
def test_biases_and_what_is_not_there_cannot_be_included(make, pattern):
    if not pattern:
        tiny.sparsify(make(), include=pattern)
        return
    with pytest.raises(ValueError, match="`include`"):
        tiny.sparsify(make(), include=pattern)


# Masks that lost their kernel


def test_a_kernel_whose_constraint_was_replaced_is_refused():
    model = tiny.sparse_mlp()
    kernel = rigl_keras.sparse_kernels(model)[0].kernel
    if tiny.IS_KERAS_3:
        kernel.constraint = None
    else:
        kernel._constraint = None
    for use in (
        rigl_keras.get_masks,
        rigl_keras.summary,
        rigl_keras.strip,
        masks_by_weight,
    ):
        with pytest.raises(ValueError, match=r"mask_0.*lost"):
            use(model)
    with pytest.raises(ValueError, match=r"mask_0.*lost"):
        tiny.fit(model, Static())


KERAS_3_ALONE = pytest.mark.skipif(
    not tiny.IS_KERAS_3, reason="only Keras 3 has LoRA and quantisation"
)


@KERAS_3_ALONE
def test_lora_on_a_sparse_kernel_is_refused():
    model = tiny.sparse_mlp()
    model.layers[0].layer.enable_lora(2)
    with pytest.raises(ValueError, match=r"hidden/kernel.*LoRA"):
        tiny.fit(tiny.compiled(model), tiny.forever(RigL))
    plain = tiny.mlp()
    plain.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"hidden/kernel.*LoRA"):
        tiny.sparsify(plain)


@KERAS_3_ALONE
def test_lora_beside_sparse_kernels():
    plain = tiny.mlp()
    plain.layers[0].enable_lora(2)
    model = rigl_keras.sparsify(
        plain, 0.5, "uniform", overrides={"hidden/*": 0}, verbose=False
    )
    tiny.fit(tiny.compiled(model), tiny.forever(RigL))
    tiny.assert_zero_off_masks(model)


@pytest.mark.slow
@KERAS_3_ALONE
def test_quantised_kernels_are_refused():
    model = tiny.sparse_mlp()
    model.layers[0].layer.quantize("int8")
    with pytest.raises(ValueError, match=r"lost|quantised"):
        rigl_keras.get_masks(model)
    plain = tiny.mlp()
    plain.quantize("int8")
    with pytest.raises(ValueError, match="quantised"):
        tiny.sparsify(plain)


@KERAS_3_ALONE
def test_a_stripped_model_is_quantised_and_keeps_its_zeros():
    sparse = tiny.sparse_mlp()
    x, _ = tiny.data()
    plain = rigl_keras.strip(sparse)
    plain.quantize("int8")
    (kernel,) = [w for w in plain.layers[0].weights if len(w.shape) == 2]
    assert not kernel.numpy()[~rigl_keras.get_masks(sparse)["hidden/kernel"]].any()
    expected = sparse.predict(x, verbose=0)
    error = np.abs(plain.predict(x, verbose=0) - expected).max()
    assert error < 0.05 * np.abs(expected).max()


def test_the_constraint_masks_after_the_users_own():
    constraint = MaskConstraint(np.array([[True, False]]), lambda w: w + 1)
    np.testing.assert_array_equal(constraint(np.array([[1.0, 1.0]])), [[2.0, 0.0]])


def test_frozen_kernels_are_counted_and_not_trainable():
    plain = tiny.mlp()
    plain.layers[0].trainable = False
    model = tiny.sparsify(plain)
    hidden, out = rigl_keras.sparse_kernels(model)
    assert trainable_kernels(model) == {1: out}
    assert masks_by_weight(model) == {
        id(hidden.kernel): hidden.mask,
        id(out.kernel): out.mask,
    }


def test_masks_are_applied_to_weights_that_were_assigned():
    model = tiny.sparse_mlp()
    for kernel in rigl_keras.sparse_kernels(model):
        kernel.kernel.assign(np.where(kernel.mask.numpy(), 3.0, np.nan))
    masks = rigl_keras.get_masks(model)
    apply_masks(model)
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    for path, weights in tiny.weights(model).items():
        np.testing.assert_array_equal(weights, 3.0 * masks[path])


# Weights shared between places


class Tied(LAYERS.Layer):
    """Encodes, and decodes by the transposed kernel of the same layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.encode = LAYERS.Dense(4, name="encode")

    def call(self, inputs):
        code = self.encode(inputs)
        return (
            code @ keras.ops.transpose(self.encode.kernel)
            if tiny.IS_KERAS_3
            else (code @ keras.backend.transpose(self.encode.kernel))
        )


def test_a_kernel_used_in_two_places_has_one_mask():
    model = keras.Sequential([keras.Input((6,)), Tied(name="tied")])
    model = tiny.compiled(tiny.sparsify(model))
    assert set(rigl_keras.get_masks(model)) == {"tied/encode/kernel"}
    x = tiny.integers((16, 6))
    check = tiny.EveryStep(tiny.assert_zero_off_masks)
    model.fit(x, x, verbose=0, callbacks=[tiny.forever(RigL), check])


def test_weights_that_copies_would_no_longer_share_are_refused():
    model = keras.Sequential(
        [keras.Input((4,)), LAYERS.Dense(4, name="a"), LAYERS.Dense(4, name="b")]
    )
    first, second = model.layers
    if tiny.IS_KERAS_3:
        second._tracker.unlock()
        second._untrack_variable(second._kernel)
        second._kernel = first._kernel
    else:
        second._trainable_weights[0] = first.kernel
    with pytest.raises(ValueError, match=r"[Ss]hare"):
        tiny.sparsify(model)
