"""Networks of `keras.applications`, trained sparsely from random or given weights."""

import math

import model_checks
import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL

pytestmark = pytest.mark.release

LAYERS = keras.layers
SHAPE, CLASSES = (32, 32, 3), 4
NETWORKS = [
    "MobileNetV2",
    pytest.param("EfficientNetB0", marks=pytest.mark.one_keras),
]


def network(name):
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=SHAPE, classes=CLASSES)


def kernels_of(model):
    """Sizes of the kernels of convolutions and dense layers, but depthwise ones."""
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, LAYERS.Conv2D | LAYERS.Dense)
        and not isinstance(layer, LAYERS.DepthwiseConv2D)
    ]
    return {f"{layer.name}/kernel": layer.kernel.numpy() for layer in layers}


def depthwise_kernels(model):
    return [
        layer.get_weights()[0]
        for layer in model.layers
        if isinstance(layer, LAYERS.DepthwiseConv2D)
    ]


def images():
    generator = np.random.RandomState(0)
    samples = 3 * model_checks.BATCH
    x = generator.uniform(0, 255, (samples, *SHAPE)).astype(np.float32)
    return x, generator.randint(0, CLASSES, samples)


def train(model, callback):
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    tiny.compiled(model, optimizer, loss="sparse_categorical_crossentropy")
    return model_checks.train(model, callback, *images())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_trained_sparsely(tmp_path, name):
    model = network(name)
    dense = kernels_of(model)
    sparse = rigl_keras.sparsify(model, 0.8, "erk", verbose=False)
    masks = rigl_keras.get_masks(sparse)

    # Small kernels stay dense, but at the expense of the others.
    size = sum(kernel.size for kernel in dense.values())
    of_masks = sum(mask.size for mask in masks.values())
    active = sum(int(mask.sum()) for mask in masks.values()) + size - of_masks
    assert set(masks) <= set(dense)
    assert abs(active - (size - math.floor(0.8 * size))) <= len(dense) / 2
    depthwise = depthwise_kernels(model)
    assert depthwise
    for left, right in zip(depthwise, depthwise_kernels(sparse), strict=True):
        np.testing.assert_array_equal(left, right)
    assert rigl_keras.summary(sparse, None).size == model.count_params()

    x = images()[0][:2]
    model_checks.mask_plain(model, masks)
    model_checks.assert_same_outputs(sparse, model, x)
    seen = train(sparse, tiny.forever(RigL))
    assert model_checks.changed(masks, *seen) == set(masks)
    check_summary(sparse)
    model_checks.check_stripping(sparse, x)
    model_checks.check_file(sparse, tmp_path, x)


def check_summary(model):
    """By what the kernels hold, which the training has left without other zeros."""
    rows = {row.path: row for row in rigl_keras.summary(model, None).rows}
    for path, mask in rigl_keras.get_masks(model).items():
        assert rows[path].masked
        assert rows[path].active == np.count_nonzero(mask)


def classifier():
    """A network without its top, frozen, and a new top, as one trains it on."""
    body = keras.applications.MobileNetV2(
        weights=None, input_shape=SHAPE, include_top=False, pooling="avg"
    )
    body.trainable = False
    top = LAYERS.Dense(CLASSES, activation="softmax", name="top")
    rescale = LAYERS.Rescaling(1 / 127.5, offset=-1)
    return keras.Sequential([keras.Input(SHAPE), rescale, body, top])


def test_the_largest_weights_of_a_dense_network_are_kept_and_fine_tuned():
    model = classifier()
    _, body, _ = model.layers
    dense = kernels_of(model)
    for path, kernel in kernels_of(body).items():
        dense[f"{body.name}/{path}"] = kernel
    sparse = rigl_keras.sparsify(model, 0.8, "uniform", method="magnitude", verbose=0)
    masks, weights = rigl_keras.get_masks(sparse), tiny.weights(sparse)
    assert set(masks) == set(dense)
    for path, kernel in dense.items():
        kept, magnitudes = masks[path], np.abs(kernel)
        assert kept.sum() == round(0.2 * kernel.size)
        assert magnitudes[kept].min() >= magnitudes[~kept].max()
        np.testing.assert_array_equal(weights[path], np.where(kept, kernel, 0))

    seen = train(sparse, tiny.forever(RigL))
    assert model_checks.changed(masks, *seen) == {"top/kernel"}
    assert changed_weights(weights, sparse) == {"top/kernel"}
    sparse.get_layer(body.name).trainable = True
    before = rigl_keras.get_masks(sparse)
    seen = train(sparse, rigl_keras.Static())
    assert not model_checks.changed(before, *seen)
    assert changed_weights(weights, sparse) == set(dense)


def changed_weights(before, model):
    after = tiny.weights(model)
    return {path for path, kernel in before.items() if (kernel != after[path]).any()}
