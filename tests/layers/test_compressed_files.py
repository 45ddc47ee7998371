"""What files keep of `Compressed` layers, and which they refuse."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import Compressed

LAYERS = keras.layers


def compressed(units, name, seed=0):
    options = {"seed": seed, "pattern": "blocks(2, 1, 'inputs')"}
    return Compressed(LAYERS.Dense(units, name=name), 0.5, **options)


def make(seed=0):
    layers = [compressed(8, "hidden", seed), compressed(4, "out", seed)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    # Keras 3 cannot load the name of a loss from HDF5.
    return tiny.compiled(model, loss=keras.losses.MeanSquaredError())


def fit(model, callback):
    x, y = tiny.data(32, 6, 4)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback])


def trained():
    """A model whose masks and weights no draw of its own could have."""
    model = make()
    fit(model, tiny.forever())
    return model


def arrays(model):
    return [
        array
        for layer in model.layers
        for array in (layer.values, layer.indices, layer.bias)
    ]


def assert_same(left, right):
    for a, b in zip(arrays(left), arrays(right), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "saved_model"])
def test_a_saved_model_is_loaded_and_trains_on(tmp_path, file):
    if file == "saved_model" and tiny.IS_KERAS_3:
        pytest.skip("Keras 3 loads no SavedModel as a model")
    model = trained()
    x, _ = tiny.data()
    path = os.path.join(tmp_path, file)
    model.save(path)
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded.layers[0], Compressed)
    assert_same(loaded, model)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    if tiny.IS_KERAS_3 and file == "model.h5":
        # Its optimizer, built on no variables, would train no model.
        tiny.compiled(loaded)
    fit(loaded, tiny.forever(seed=1))
    before, after = rigl_keras.get_masks(model), rigl_keras.get_masks(loaded)
    assert any((mask != after[path]).any() for path, mask in before.items())
    assert tiny.counts(loaded) == tiny.counts(model)


@pytest.mark.parametrize("file", ["model.weights.h5", "model.ckpt"])
def test_weights_files(tmp_path, file):
    if file == "model.ckpt" and tiny.IS_KERAS_3:
        pytest.skip("Keras 3 writes weights to HDF5 only")
    model, other = trained(), make(7)
    path = os.path.join(tmp_path, file)
    model.save_weights(path)
    other.load_weights(path)
    assert_same(other, model)


def test_a_tensorflow_checkpoint(tmp_path):
    model, other = trained(), make(7)
    saved = tf.train.Checkpoint(model=model).save(os.path.join(tmp_path, "ckpt"))
    tf.train.Checkpoint(model=other).restore(saved).assert_existing_objects_matched()
    assert_same(other, model)


def test_an_exported_model_predicts_without_this_package(tmp_path):
    model = trained()
    path = os.path.join(tmp_path, "exported")
    x, _ = tiny.data()
    model.export(path)
    served = tf.saved_model.load(path)
    np.testing.assert_allclose(
        served.serve(tf.constant(x)), model.predict(x, verbose=0), rtol=1e-6
    )


def test_lists_of_weights():
    model, other = trained(), make(7)
    other.set_weights(model.get_weights())
    assert_same(other, model)
    with pytest.raises(ValueError, match="shape"):
        other.layers[0].set_weights([np.zeros((1, 1, 1))] * 3)


def test_a_config_of_a_newer_version_is_refused():
    config = {**compressed(8, "hidden").get_config(), "version": 1}
    with pytest.raises(ValueError, match=r"'compressed_hidden' was saved by a newer"):
        Compressed.from_config(config)


# Indices that are none


BROKEN = {
    "not ascending": lambda indices: indices[:, ::-1],
    "twice": lambda indices: np.zeros_like(indices),
    "negative": lambda indices: indices - 8,
    "too large": lambda indices: indices + 8,
}
EACH_BROKEN = pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)


def broken(model, change):
    indices = model.layers[0].indices
    indices.assign(change(indices.numpy()))
    return model


def assert_refused(function, *args):
    with pytest.raises(ValueError, match="are no blocks") as caught:
        function(*args)
    # Keras 3 puts lines of its own around it.
    (line,) = [line for line in str(caught.value).splitlines() if "blocks" in line]
    assert "'hidden/kernel'" in line and "[0, 7]. Load an earlier" in line


@EACH_BROKEN
def test_set_weights_refuses_indices_that_are_none(change):
    model = make()
    layer = model.layers[0]
    weights = [
        change(w) if w.dtype == np.int32 else w
        for w in map(np.array, layer.get_weights())
    ]
    assert_refused(layer.set_weights, weights)


@EACH_BROKEN
@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_files_with_indices_that_are_none(tmp_path, change, file):
    path = os.path.join(tmp_path, file)
    model = broken(make(), change)
    if file == "model.keras":
        model.save(path)
        assert_refused(keras.models.load_model, path)
    else:
        model.save_weights(path)
        assert_refused(make().load_weights, path)


@EACH_BROKEN
def test_a_checkpoint_with_indices_that_are_none_is_not_trained_on(tmp_path, change):
    saved = tf.train.Checkpoint(model=broken(make(), change)).save(
        os.path.join(tmp_path, "ckpt")
    )
    model = make()
    tf.train.Checkpoint(model=model).restore(saved)
    assert_refused(fit, model, rigl_keras.Static())
