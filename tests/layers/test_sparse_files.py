"""What files keep of sparse layers."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from custom_layers import BuiltBlocks
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


def with_other_masks(model):
    """Gives a model masks and weights that no draw of its own could have."""
    rigl_keras.set_masks(
        model, {path: 1 - m for path, m in rigl_keras.get_masks(model).items()}
    )
    for each in rigl_keras.sparse_kernels(model):
        each.kernel.assign(tiny.integers(each.kernel.shape) * each.mask.numpy())
    return model


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "saved_model"])
def test_a_saved_model_keeps_masks_weights_and_outputs(tmp_path, file):
    if file == "saved_model" and tiny.IS_KERAS_3:
        pytest.skip("Keras 3 loads no SavedModel as a model")
    # Keras 3 cannot load the name of a loss from HDF5.
    loss = keras.losses.MeanSquaredError()
    model = tiny.sparse_mlp(loss=loss)
    tiny.fit(model, rigl_keras.Static())
    with_other_masks(model)
    masks = rigl_keras.get_masks(model)
    x, _ = tiny.data()
    expected = model.predict(x, verbose=0)
    path = os.path.join(tmp_path, file)
    model.save(path)
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(path)
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), masks)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    if tiny.IS_KERAS_3 and file == "model.h5":
        # Its optimizer, built on no variables, would train no model.
        tiny.compiled(loaded)
    tiny.fit(loaded, rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1))
    tiny.assert_zero_off_masks(loaded)
    assert (rigl_keras.get_masks(loaded)["out/kernel"] != masks["out/kernel"]).any()


def test_weights_files_keep_masks(tmp_path):
    model = with_other_masks(tiny.sparse_mlp())
    path = os.path.join(tmp_path, "model.weights.h5")
    model.save_weights(path)
    other = tiny.sparse_mlp(seed=7)
    other.load_weights(path)
    tiny.assert_same_masks(rigl_keras.get_masks(other), rigl_keras.get_masks(model))
    tiny.assert_same_masks(tiny.weights(other), tiny.weights(model))


def test_a_tensorflow_checkpoint_keeps_masks(tmp_path):
    model = with_other_masks(tiny.sparse_mlp())
    saved = tf.train.Checkpoint(model=model).save(os.path.join(tmp_path, "ckpt"))
    other = tiny.sparse_mlp(seed=7)
    tf.train.Checkpoint(model=other).restore(saved).assert_existing_objects_matched()
    tiny.assert_same_masks(rigl_keras.get_masks(other), rigl_keras.get_masks(model))
    tiny.assert_same_masks(tiny.weights(other), tiny.weights(model))


def test_masks_of_a_layer_with_many_kernels_are_all_in_a_checkpoint(tmp_path):
    def make(seed):
        return keras.Sequential(
            [keras.Input((4,)), Sparse(BuiltBlocks(name="b"), 0.5, seed=seed)]
        )

    model, other = make(1), make(2)
    saved = tf.train.Checkpoint(model=model).save(os.path.join(tmp_path, "ckpt"))
    tf.train.Checkpoint(model=other).restore(saved)
    tiny.assert_same_masks(rigl_keras.get_masks(other), rigl_keras.get_masks(model))


# Weights off the masks


def with_weights_off_masks(model):
    """As a file holds them that was made or changed without this package."""
    for each in rigl_keras.sparse_kernels(with_other_masks(model)):
        each.kernel.assign(np.full(each.kernel.shape, 2, np.float32))
    return model


def assert_masked(model, masks):
    """The masks are those of the file, and so are the weights on them."""
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    for path, kernel in tiny.weights(model).items():
        np.testing.assert_array_equal(kernel, 2.0 * masks[path], err_msg=path)


def nested_mlp():
    inner = keras.Sequential([keras.Input((6,)), LAYERS.Dense(8, name="a")], name="b")
    outer = [keras.Input((6,)), inner, LAYERS.Dense(3, name="out")]
    return tiny.sparsify(keras.Sequential(outer))


@keras.utils.register_keras_serializable("test_sparse_files")
class BothWays(keras.Model):
    """Holds a layer under names before and after that of the wrapper around it."""

    def __init__(self, **options):
        super().__init__(**options)
        layer = LAYERS.Dense(4, name="d")
        self.a, self.sparse, self.z = layer, Sparse(layer, 0.5), layer

    def call(self, inputs):
        return self.sparse(inputs)


def both_ways():
    model = BothWays()
    model(tiny.integers((2, 6)))
    return model


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "saved_model"])
def test_a_loaded_model_is_masked(tmp_path, file):
    if file == "saved_model" and tiny.IS_KERAS_3:
        pytest.skip("Keras 3 loads no SavedModel as a model")
    model = tiny.sparse_mlp(loss=keras.losses.MeanSquaredError())
    with_weights_off_masks(model).save(tmp_path / file)
    masks = rigl_keras.get_masks(model)
    assert_masked(keras.models.load_model(tmp_path / file), masks)


@pytest.mark.parametrize("file", ["model.weights.h5", "weights.h5", "weights"])
def test_loaded_weights_are_masked(tmp_path, file):
    if file != "model.weights.h5" and tiny.IS_KERAS_3:
        pytest.skip("Keras 3 saves weights to no other file")
    model = with_weights_off_masks(tiny.sparse_mlp())
    model.save_weights(tmp_path / file)
    other = tiny.sparse_mlp(seed=7)
    other.load_weights(tmp_path / file)
    assert_masked(other, rigl_keras.get_masks(model))


@pytest.mark.parametrize("make", [nested_mlp, both_ways])
def test_models_are_masked_whatever_keras_loads_first(tmp_path, make):
    model, other = with_weights_off_masks(make()), make()
    model.save_weights(tmp_path / "first.weights.h5")
    masks = rigl_keras.get_masks(model)
    with_weights_off_masks(model).save_weights(tmp_path / "second.weights.h5")
    other.load_weights(tmp_path / "first.weights.h5")
    assert_masked(other, masks)
    # Nothing that is on the masks of this file goes by those of the last.
    other.load_weights(tmp_path / "second.weights.h5")
    assert_masked(other, rigl_keras.get_masks(model))


def test_weights_that_are_set_are_masked():
    model, other = with_weights_off_masks(tiny.sparse_mlp()), tiny.sparse_mlp(seed=7)
    masks = rigl_keras.get_masks(model)
    if tiny.IS_KERAS_3:
        for layer, source in zip(other.layers, model.layers, strict=True):
            layer.set_weights(source.get_weights())
    else:
        other.set_weights(model.get_weights())
    assert_masked(other, masks)
    rigl_keras.set_masks(model, masks)
    assert_masked(model, masks)


def test_weights_that_are_set_in_a_sparse_model_are_masked():
    def make(seed):
        net = BuiltBlocks(name="b")
        model = keras.Sequential([keras.Input((4,)), net])
        sparse = rigl_keras.SparseModel(Sparse(model, 0.5, seed=seed))
        sparse(tiny.integers((2, 4)))
        return sparse

    model, other = with_weights_off_masks(make(1)), make(2)
    other.set_weights(model.get_weights())
    assert_masked(other, rigl_keras.get_masks(model))


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model.weights.h5"])
def test_a_file_with_a_mask_without_a_connection_is_refused(tmp_path, file):
    model = tiny.sparse_mlp(loss=keras.losses.MeanSquaredError())
    each = rigl_keras.sparse_kernels(model)[1]
    each.mask.assign(np.zeros(each.mask.shape, bool))
    load = keras.models.load_model
    if "weights" in file:
        model.save_weights(tmp_path / file)
        load = tiny.sparse_mlp().load_weights
    else:
        model.save(tmp_path / file)
    with pytest.raises(ValueError, match=r"set for 'out/kernel'.* earlier file"):
        load(tmp_path / file)


def test_a_mask_without_a_connection_is_not_set():
    layer = built(Sparse(LAYERS.Dense(4, name="d"), 0.5), 6)
    weights = [np.zeros(weight.shape) for weight in layer.get_weights()]
    with pytest.raises(ValueError, match="for 'd/kernel'"):
        layer.set_weights(weights)
