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
