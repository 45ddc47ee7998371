"""What `Compressed` layers are beside their product: options, copies, refusals."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import Compressed
from rigl_keras.layers.products import problem_of

LAYERS = keras.layers
PATTERN = "blocks(2, 1, 'inputs')"


def compressed(layer=None, sparsity=0.5, **options):
    layer = LAYERS.Dense(6) if layer is None else layer
    return Compressed(layer, sparsity, **{"seed": 1, "pattern": PATTERN, **options})


def pair(make, shape=(5, 4), **options):
    """A compressed layer with small weights, and the dense one with the same."""
    layers = compressed(make(), **options), make()
    for layer in layers:
        layer.build(shape)
    layers[0].values.assign(tiny.integers(layers[0].values.shape, 3) / 2)
    layers[1].kernel.assign(layers[0].compressed_kernel.kernel)
    return layers


@pytest.mark.parametrize("options", [{}, {"use_bias": False}])
def test_its_weights(options):
    layer, _ = pair(lambda: LAYERS.Dense(6, **options))
    names = [path.rpartition("/")[2] for path in ("kernel", "bias", "indices")]
    if not options.get("use_bias", True):
        names.remove("bias")
    found = [v.name.rpartition("/")[2].partition(":")[0] for v in layer.weights]
    assert sorted(found) == sorted(names)
    assert layer.values.shape == (2, 3, 2) and layer.indices.shape == (2, 3)
    assert len(layer.trainable_variables) == len(names) - 1
    assert tiny.raw(layer.indices).dtype == tf.int32


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_regularizer": keras.regularizers.L1(0.5)},
        {"kernel_regularizer": "l2", "bias_regularizer": "l1"},
        {"kernel_regularizer": keras.regularizers.L1L2(0.5, 0.25)},
        {"activity_regularizer": "l2"},
    ],
)
def test_regularisers_add_what_they_add_to_the_dense_layer(options):
    layer, plain = pair(lambda: LAYERS.Dense(6, **options))
    for each in (layer, plain):
        each.bias.assign(tiny.integers((6,), 7))
    models = [keras.Sequential([keras.Input((4,)), each]) for each in (layer, plain)]
    x = tf.constant(tiny.integers((5, 4)))
    losses = []
    for model in models:
        model(x)
        losses.append([float(loss) for loss in model.losses])
    assert losses[0] == losses[1] != []


def test_non_neg_holds_after_each_step():
    layer, plain = pair(
        lambda: LAYERS.Dense(6, kernel_constraint="non_neg", bias_constraint="non_neg")
    )
    x, y = tiny.integers((8, 4), 1), tiny.integers((8, 6), 2)
    mask = layer.compressed_kernel.mask.numpy()
    for each in (layer, plain):
        model = keras.Sequential([keras.Input((4,)), each])
        tiny.compiled(model, keras.optimizers.SGD(0.25))
        model.fit(x, y, batch_size=8, verbose=0)
    kernels = layer.compressed_kernel.kernel.numpy(), plain.kernel.numpy() * mask
    np.testing.assert_allclose(*kernels, atol=1e-5)
    assert kernels[0].min() == 0 < kernels[0].max()
    np.testing.assert_allclose(layer.bias.numpy(), plain.bias.numpy(), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    layer, plain = pair(lambda: LAYERS.Dense(6, dtype=policy))
    x = tiny.integers((5, 4))
    assert layer(x).dtype == plain(x).dtype
    assert tiny.raw(layer.values).dtype == tiny.raw(plain.kernel).dtype
    # Small integers and halves: exact in 16 bits.
    np.testing.assert_array_equal(
        tf.cast(layer(x), tf.float64), tf.cast(plain(x), tf.float64)
    )


def test_inputs_of_another_type():
    layer, plain = pair(lambda: LAYERS.Dense(6))
    x = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(layer(x), plain(x.astype("float32")))


def test_timestep_masks_pass_through():
    assert compressed().supports_masking
    embedding = LAYERS.Embedding(5, 4, mask_zero=True)
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    outputs = []
    layer, plain = pair(lambda: LAYERS.Dense(6), (2, 3, 4))
    for each in (layer, plain):
        model = keras.Sequential([embedding, each, LAYERS.GlobalAveragePooling1D()])
        outputs.append(model.predict(tokens, verbose=0))
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_frozen_it_is_not_trained():
    layer = compressed(LAYERS.Dense(6, trainable=False))
    layer.build((None, 4))
    assert not layer.trainable and not layer.trainable_variables
    layer.trainable = True
    assert len(layer.trainable_variables) == 2


def test_a_shared_layer_adds_up_the_gradients_of_its_calls():
    layer, plain = pair(lambda: LAYERS.Dense(4))
    x = tiny.integers((5, 4))
    gradients = []
    for each in (layer, plain):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(each(each(x)) ** 2)
        gradients.append(tape.gradient(loss, tiny.raw(each.trainable_variables[0])))
    indices = layer.indices.numpy()[..., np.newaxis]
    dense = gradients[1].numpy().reshape(2, 2, 4).swapaxes(1, 2)
    wanted = np.take_along_axis(dense, indices, 1)
    np.testing.assert_allclose(gradients[0], wanted, rtol=1e-5)


@keras.utils.register_keras_serializable("test_compressed")
class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.hidden = compressed(LAYERS.Dense(6, activation="relu", name="hidden"))
        self.out = compressed(LAYERS.Dense(4, name="out"))

    def call(self, inputs):
        return self.out(self.hidden(inputs))


@pytest.mark.parametrize(
    "make",
    [
        Subclassed,
        lambda: keras.Sequential(
            [compressed(LAYERS.Dense(6, name="hidden")), compressed(LAYERS.Dense(4))]
        ),
    ],
)
def test_models_whose_layers_are_built_by_the_first_batch_train(make):
    model = make()
    model.compile("adam", "mse")
    x, y = tiny.data(32, 4, 4)
    masks = []
    for _ in range(2):
        model.fit(x, y, verbose=0, callbacks=[tiny.forever()] if masks else [])
        masks.append(rigl_keras.get_masks(model))
    assert len(masks[0]) == 2
    for path, mask in masks[0].items():
        assert mask.mean() == 0.5
        assert (mask != masks[1][path]).any()


# Copies and configs


def pickled(model):
    return pickle.loads(pickle.dumps(model))


COPIES = pytest.mark.parametrize("make_copy", [copy.deepcopy, pickled])


@COPIES
def test_a_copied_layer_has_weights_of_its_own(make_copy):
    layer, plain = pair(lambda: LAYERS.Dense(6))
    x = tiny.integers((5, 4))
    copied = make_copy(layer)
    np.testing.assert_array_equal(copied(x), plain(x))
    copied.values.assign(tf.zeros_like(tiny.raw(copied.values)))
    np.testing.assert_array_equal(layer(x), plain(x))
    assert copied._tap is not layer._tap
    assert copied.compressed_kernel.variable is copied.values


@COPIES
def test_a_copied_model_trains_by_itself(make_copy):
    model = keras.Sequential(
        [keras.Input((4,)), compressed(), compressed(LAYERS.Dense(3))]
    )
    tiny.compiled(model)
    x, y = tiny.data(32, 4, 3)
    rigl = tiny.forever(rigl_keras.RigL)
    model.fit(x, y, verbose=0, callbacks=[rigl])
    copied = make_copy(model)
    before = [w.copy() for w in model.get_weights()]
    for left, right in zip(copied.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)
    copied.fit(x, y, verbose=0, callbacks=[tiny.forever(rigl_keras.RigL)])
    for left, right in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)
    assert any(
        (left != right).any()
        for left, right in zip(copied.get_weights(), before, strict=True)
    )


def test_config_round_trip():
    layer = compressed(
        LAYERS.Dense(6, activation="relu", activity_regularizer="l2"),
        0.75,
        initializer="unit_scaled",
        name="other",
    )
    layer.trainable = False
    again = Compressed.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    for each in (layer, again):
        each.build((None, 4))
    assert again.name == "other" and not again.trainable
    for left, right in zip(layer.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_clone_model_makes_the_same_layers():
    model = keras.Sequential([keras.Input((4,)), compressed()])
    clone = keras.models.clone_model(model)
    assert isinstance(clone.layers[0], Compressed)
    # Its seed is the layer's.
    tiny.assert_same_masks(rigl_keras.get_masks(clone), rigl_keras.get_masks(model))


def test_what_it_looks_like():
    layer = compressed(LAYERS.Dense(6, name="d"))
    assert "Dense 'd', sparsity=0.5" in repr(layer) and "built=False" in repr(layer)
    assert layer.compressed_kernel is None
    layer.build((None, 4))
    assert layer.path_name == "d"
    text = repr(layer.compressed_kernel)
    assert "path='d/kernel'" in text and "sparsity=0.5" in text


def test_groups_too_small_for_the_sparsity_keep_one_block():
    layer = compressed(sparsity=0.99)
    layer.build((None, 4))
    assert layer.indices.shape == (2, 1)


# Refusals


class OwnDense(LAYERS.Dense):
    pass


class OwnInitializer(keras.initializers.HeNormal):
    def __call__(self, shape, dtype=None, **kwargs):
        return tf.eye(*shape)


class OwnL2(keras.regularizers.L2):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LAYERS.Conv2D(6, 3), "its convolution has taps, (3, 3)"),
        (lambda: LAYERS.Conv1D(6, 1, groups=2), "has 2 groups of channels"),
        (
            lambda: LAYERS.Conv2D(6, 1, data_format="channels_first"),
            "its channels come first",
        ),
        (lambda: OwnDense(6), "it belongs to OwnDense, which is none of Keras's"),
        (lambda: LAYERS.LSTM(4), "it belongs to LSTM"),
        (lambda: LAYERS.Conv2DTranspose(6, 1), "it belongs to Conv2DTranspose"),
        (
            lambda: LAYERS.Dense(6, kernel_constraint="max_norm"),
            "its constraint MaxNorm may need the whole kernel",
        ),
        (
            lambda: LAYERS.Dense(6, kernel_regularizer=OwnL2(0.5)),
            "its regulariser OwnL2 may need the whole kernel",
        ),
        (
            lambda: LAYERS.EinsumDense("ab,ab->a", ()),
            "its equation 'ab,ab->a' is no matrix product",
        ),
        (
            lambda: LAYERS.EinsumDense("abc,bcd->abd", (None, 6)),
            "is no matrix product",
        ),
        (lambda: LAYERS.EinsumDense("ab,bc->cb", 6), "is no matrix product"),
        (lambda: LAYERS.EinsumDense("abc,cd->ad", 6), "is no matrix product"),
        (lambda: LAYERS.EinsumDense("ab,bc->ca", 6), "is no matrix product"),
        (
            lambda: LAYERS.Dense(6, kernel_initializer=OwnInitializer()),
            "The initializer OwnInitializer may need the whole kernel",
        ),
        (
            lambda: LAYERS.Dense(6, kernel_initializer="orthogonal"),
            "may need the whole kernel, and there is none. Give `initializer`",
        ),
    ],
)
def test_layers_that_cannot_be_compressed(make, message):
    with pytest.raises(ValueError, match="kernel") as caught:
        Compressed(make(), 0.5)
    assert message in str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.skipif(not tiny.IS_KERAS_3, reason="Keras 2 has neither")
def test_adapted_and_quantised_layers_are_refused():
    adapted, quantised = LAYERS.Dense(6), LAYERS.Dense(6)
    for layer in (adapted, quantised):
        layer.build((None, 4))
    adapted.enable_lora(2)
    quantised.quantize("int8")
    for layer in (adapted, quantised):
        assert problem_of(layer) == "its layer is quantised or adapted by LoRA"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pattern": "blocks(2)"}, ValueError, "Other patterns can be masked"),
        ({"pattern": "blocks(2, 2, 'inputs')"}, ValueError, 'got "blocks(2, 2'),
        ({"pattern": "n_of_m(2, 4)"}, ValueError, "got 'n_of_m(2, 4)'"),
        ({"pattern": "bloks(2)"}, ValueError, "bloks"),
        ({"pattern": 16}, TypeError, ""),
        ({"sparsity": 1.0}, ValueError, "sparsity"),
        ({"sparsity": -0.5}, ValueError, "sparsity"),
        ({"initializer": "he"}, ValueError, "Expected `initializer` of a Compressed"),
        ({"initializer": "glorot_uniform"}, ValueError, "None or one of"),
        ({"initializer": len}, ValueError, "For a function of the mask"),
    ],
)
def test_arguments_out_of_range(options, error, message):
    with pytest.raises(error) as caught:
        compressed(**options)
    assert message in str(caught.value)


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match="a layer"):
        Compressed(6, 0.5)


def test_a_kernel_that_the_pattern_does_not_suit():
    layer = compressed(LAYERS.Dense(6, name="d"), pattern="blocks(3, 1, 'inputs')")
    with pytest.raises(ValueError, match=r"does not suit the kernel of layer 'd'.*\(4"):
        layer.build((None, 4))
