"""Kinds of models: custom layers and blocks, attention, no input, a strategy."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import Sparse
from rigl_keras.core import kernels

LAYERS = keras.layers


class Residual(LAYERS.Layer):
    """A custom layer that holds others, and builds them when it is called."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = LAYERS.Dense(units, name="inner")

    def call(self, inputs):
        return inputs + self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class BuiltResidual(Residual):
    def build(self, input_shape):
        self.inner.build(input_shape)
        self.built = True


@pytest.mark.parametrize("custom", [Residual, BuiltResidual])
def test_custom_layers_that_hold_dense_layers(custom):
    model = keras.Sequential(
        [keras.Input((6,)), custom(6, name="block"), LAYERS.Dense(3, name="out")]
    )
    sparse = tiny.compiled(tiny.sparsify(model))
    assert tiny.counts(sparse) == {"block/inner/kernel": 18, "out/kernel": 9}
    before = rigl_keras.get_masks(sparse)
    tiny.fit(sparse, rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1))
    tiny.assert_zero_off_masks(sparse)
    after = rigl_keras.get_masks(sparse)
    assert all((before[path] != after[path]).any() for path in before)
    plain = rigl_keras.strip(sparse)
    x, _ = tiny.data()
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), sparse.predict(x, verbose=0), rtol=1e-6
    )


class Block(LAYERS.Layer):
    """Weights of equal shapes, so that a mix-up would not be noticed by Keras."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = LAYERS.Dense(units, name="first")
        self.norm = LAYERS.BatchNormalization(name="norm")
        self.last = LAYERS.Dense(units, name="last")

    def call(self, inputs, training=None):
        return self.last(self.norm(self.first(inputs), training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential_block(units, name):
    layers = [
        keras.Input((units,)),
        LAYERS.Dense(units, name="first"),
        LAYERS.BatchNormalization(name="norm"),
        LAYERS.Dense(units, name="last"),
    ]
    return keras.Sequential(layers, name=name)


def randomise(model):
    for index, weight in enumerate(model.weights):
        if weight.dtype not in ("bool", tf.bool):
            values = np.random.RandomState(index).rand(*weight.shape)
            weight.assign(values.astype(np.float32) + 0.5)
    rigl_keras.set_masks(model, rigl_keras.get_masks(model))


@pytest.mark.parametrize("block", [Block, sequential_block])
def test_every_weight_of_a_block_goes_where_it_belongs(block):
    model = keras.Sequential([keras.Input((4,)), block(4, name="block")])
    randomise(model)
    sparse = tiny.sparsify(model)
    masks = rigl_keras.get_masks(sparse)
    for kernel in kernels.find_kernels(model):
        kernel.variable.assign(kernel.variable.numpy() * masks[kernel.path])
    x = tiny.integers((3, 4))
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(sparse.predict(x, verbose=0), expected, rtol=1e-5)
    plain = rigl_keras.strip(sparse)
    np.testing.assert_allclose(plain.predict(x, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("block", [Block, sequential_block])
def test_stripping_a_wrapped_block_with_normalisation(block):
    wrapped = Sparse(block(4, name="block"), 0.5, seed=0)
    model = keras.Sequential([keras.Input((4,)), wrapped, LAYERS.Dense(2, name="out")])
    randomise(model)
    x = tiny.integers((3, 4))
    plain = rigl_keras.strip(model)
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )


def test_an_adapted_normalisation_is_kept():
    norm = LAYERS.Normalization()
    norm.adapt(tiny.integers((20, 6), low=3, high=9))
    model = keras.Sequential([keras.Input((6,)), norm, LAYERS.Dense(3, name="d")])
    sparse = tiny.sparsify(model)
    model.layers[-1].kernel.assign(tiny.weights(sparse)["d/kernel"])
    x, _ = tiny.data()
    expected = model.predict(x, verbose=0)
    for copy in (sparse, rigl_keras.strip(sparse)):
        np.testing.assert_allclose(copy.predict(x, verbose=0), expected, rtol=1e-5)


def attention_net():
    inputs = keras.Input((5, 6))
    x = LAYERS.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = LAYERS.LayerNormalization()(x + inputs)
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))


def test_attention():
    model = attention_net()
    sparse = tiny.sparsify(model, 0.5)
    assert set(tiny.counts(sparse)) == {
        *(f"attention/{n}/kernel" for n in ("query", "key", "value")),
        "attention/attention_output/kernel",
        "out/kernel",
    }
    x = tiny.batch(model)
    np.testing.assert_allclose(
        rigl_keras.strip(sparse)(x), sparse(x), rtol=1e-5, atol=1e-6
    )


class AutoEncoder(keras.Model):
    """A model of two models, with a training step of its own."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def call(self, inputs):
        return self.decoder(self.encoder(inputs))

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data, training=True) - data))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        return {"error": loss}


def test_a_model_with_its_own_train_step_is_sparsified_in_parts():
    layers = [keras.Input((3,)), LAYERS.Dense(6, name="back")]
    parts = [tiny.mlp(), keras.Sequential(layers)]
    model = AutoEncoder(*(tiny.sparsify(part) for part in parts))
    model.compile(keras.optimizers.SGD(2.0**-6, momentum=0.5))
    x, _ = tiny.data()
    model(x)
    before = rigl_keras.get_masks(model)
    assert len(before) == 3
    rigl = rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1)
    model.fit(x, batch_size=8, verbose=0, callbacks=[rigl])
    tiny.assert_zero_off_masks(model)
    for path, mask in rigl_keras.get_masks(model).items():
        assert mask.sum() == before[path].sum() and (mask != before[path]).any()
    with pytest.raises(ValueError, match=r"AutoEncoder .* strip each part"):
        rigl_keras.strip(model)
    plain = AutoEncoder(*map(rigl_keras.strip, (model.encoder, model.decoder)))
    np.testing.assert_allclose(plain(x), model(x), rtol=1e-6)


def test_weights_of_layers_that_a_model_wraps_are_copied_as_strip_says():
    class Net(keras.Model):
        def __init__(self, wrap):
            super().__init__()
            self.out = wrap(LAYERS.Dense(3, name="out"))

        def call(self, inputs):
            return self.out(inputs)

    model, plain = Net(lambda layer: Sparse(layer, 0.5)), Net(lambda layer: layer)
    x, _ = tiny.data()
    expected = model(x)
    with pytest.raises(ValueError, match=r"set_weights\(sparse\.layer\.get_weights"):
        rigl_keras.strip(model)
    plain(x)
    plain.out.set_weights(model.out.layer.get_weights())
    np.testing.assert_array_equal(plain(x), expected)


def test_a_sequential_without_an_input_built_by_build():
    model = keras.Sequential([LAYERS.Dense(4, name="a"), LAYERS.Dense(2, name="b")])
    model.build((None, 6))
    sparse = tiny.sparsify(model)
    assert tiny.counts(sparse) == {"a/kernel": 12, "b/kernel": 4}
    x = tiny.integers((3, 6))
    np.testing.assert_allclose(rigl_keras.strip(sparse)(x), sparse(x), rtol=1e-6)


def test_a_sequential_without_an_input_built_by_a_call():
    model = keras.Sequential([LAYERS.Dense(4, name="a"), LAYERS.Dense(2, name="b")])
    model(tiny.integers((3, 6)))
    assert tiny.counts(tiny.sparsify(model)) == {"a/kernel": 12, "b/kernel": 4}


def test_under_a_strategys_scope():
    strategy = tiny.two_replicas()
    with strategy.scope():
        model = tiny.mlp()
        sparse = tiny.sparsify(model)
    alone = tiny.sparsify(tiny.mlp())
    tiny.assert_same_masks(rigl_keras.get_masks(sparse), rigl_keras.get_masks(alone))
    tiny.assert_zero_off_masks(sparse)


# Names, precision and freezing


@keras.utils.register_keras_serializable("test_convert_models")
class Frozen(keras.Model):
    """A subclassed model, whose config says nothing of its layers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.hidden = LAYERS.Dense(8, name="hidden", dtype="mixed_bfloat16")
        self.rest = LAYERS.Dense(3, name="rest", dtype="float32")

    def call(self, inputs):
        return self.rest(self.hidden(inputs))

    def get_config(self):
        return super().get_config()


def frozen_subclassed():
    model = Frozen(name="frozen")
    model(tiny.integers((2, 6)))
    model.hidden.trainable = False
    return model


def wholly_frozen_subclassed():
    model = frozen_subclassed()
    model.trainable = False
    model.rest.trainable = True
    return model


def partly_frozen_functional():
    def dense(name, dtype="float32"):
        return LAYERS.Dense(8, name=name, dtype=dtype)

    inner = [keras.Input((8,)), dense("a", "float64"), LAYERS.BatchNormalization()]
    fixed = [keras.Input((8,)), dense("b"), dense("c")]
    inner = keras.Sequential(inner, name="inner")
    fixed = keras.Sequential(fixed, name="fixed")
    inputs = keras.Input((6,))
    x = dense("frozen", "mixed_bfloat16")(inputs)
    model = keras.Model(inputs, dense("out")(fixed(inner(x))), name="net")
    model.get_layer("frozen").trainable = False
    inner.layers[-1].trainable = False
    fixed.trainable = False
    return model


def described(model):
    """Name, freezing and precision of all layers that are no wrappers."""
    return [
        (layer.name, layer.trainable, layer.dtype, layer.compute_dtype)
        for layer, _ in kernels.walk(model)
        if not isinstance(layer, Sparse | rigl_keras.SparseModel)
    ]


@pytest.mark.parametrize(
    "make", [frozen_subclassed, wholly_frozen_subclassed, partly_frozen_functional]
)
def test_copies_keep_names_precision_and_what_is_frozen(make):
    model = make()
    sparse = tiny.sparsify(model)
    assert described(sparse) == described(model)
    assert sparse.trainable == model.trainable
    shapes = [tuple(weight.shape) for weight in model.trainable_weights]
    assert [tuple(weight.shape) for weight in sparse.trainable_weights] == shapes
    plain = rigl_keras.strip(sparse)
    assert described(plain) == described(model)
    assert (plain.name, plain.trainable) == (model.name, model.trainable)


def test_strip_keeps_what_was_frozen_or_not_in_the_sparse_model():
    sparse = tiny.sparsify(partly_frozen_functional())
    sparse.get_layer("sparse_frozen").trainable = True
    sparse.get_layer("sparse_out").trainable = False
    plain = rigl_keras.strip(sparse)
    assert plain.get_layer("frozen").trainable
    assert not plain.get_layer("out").trainable
    assert described(plain) == described(sparse)
