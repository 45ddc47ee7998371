"""Files: for inference, on small devices, and from other versions of this package."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL, Sparse
from rigl_keras.layers.sparse import CONFIG_VERSION

FILES = Path(__file__).resolve().parents[1] / "support" / "files"
LAYERS = keras.layers


def image_net():
    layers = [
        keras.Input((8, 8, 1)),
        LAYERS.Conv2D(8, 3, activation="relu", name="conv"),
        LAYERS.BatchNormalization(name="norm"),
        LAYERS.Flatten(name="flat"),
        LAYERS.Dense(3, name="out"),
    ]
    return keras.Sequential(layers)


def trained():
    model = tiny.compiled(tiny.sparsify(image_net(), 0.75))
    x, y = tiny.integers((32, 8, 8, 1)), tiny.integers((32, 3), 1)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[tiny.forever(RigL, 2)])
    return model, x


def test_a_saved_model_computes_without_keras(tmp_path):
    model, x = trained()
    model.export(os.path.join(tmp_path, "served"))
    served = tf.saved_model.load(os.path.join(tmp_path, "served"))
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-5, atol=1e-5)


def test_a_stripped_model_becomes_a_litert_file():
    model, x = trained()
    plain = rigl_keras.strip(model)
    content = tf.lite.TFLiteConverter.from_keras_model(plain).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (given,), (result,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    outputs = []
    for image in x:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"])[0])
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_zeros_make_a_compressed_litert_file_small():
    """What TensorFlow's guides measure: the file as it is sent, compressed."""
    import gzip

    def size(model):
        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        return len(gzip.compress(content))

    layers = [keras.Input((64,)), LAYERS.Dense(256, name="a"), LAYERS.Dense(64)]
    dense = keras.Sequential(layers)
    sparse = rigl_keras.strip(tiny.sparsify(dense, 0.9))
    assert size(sparse) < 0.3 * size(dense)


# Other versions


def test_a_config_tells_its_version_and_is_read_without_it():
    layer = Sparse(LAYERS.Dense(4), 0.5, seed=3)
    config = layer.get_config()
    assert config.pop("version") == CONFIG_VERSION
    old = Sparse.from_config(config)
    assert (old.sparsity, old.seed, old.layer.units) == (0.5, 3, 4)


def test_a_config_of_a_version_to_come_is_refused():
    config = Sparse(LAYERS.Dense(4), 0.5).get_config()
    config["version"] = CONFIG_VERSION + 1
    with pytest.raises(ValueError, match="newer rigl_keras"):
        Sparse.from_config(config)


@pytest.mark.parametrize("version", range(CONFIG_VERSION + 1))
def test_files_of_all_versions_are_loaded_and_train_on(version):
    """Made by `image_net`, 75 % sparse, when the version was current; never anew.

    From version 2 on the second kernel is sparse in blocks of 4 inputs.
    """
    name = "keras3" if tiny.IS_KERAS_3 else "keras2"
    model = keras.models.load_model(FILES / f"sparse_v{version}_{name}.keras")
    masks = rigl_keras.get_masks(model)
    assert {path: mask.sum() for path, mask in masks.items()} == {
        "conv/kernel": 18,
        "out/kernel": 216,
    }
    patterns = [str(kernel.pattern) for kernel in rigl_keras.sparse_kernels(model)]
    second = "unstructured" if version < 2 else "blocks(4, 1)"
    assert patterns == ["unstructured", second]
    tiny.assert_zero_off_masks(model)
    assert all(kernel.any() for kernel in tiny.weights(model).values())
    assert int(model.optimizer.iterations.numpy()) == 4
    x, y = tiny.integers((16, 8, 8, 1)), tiny.integers((16, 3), 1)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[tiny.forever(RigL)])
    tiny.assert_zero_off_masks(model)
