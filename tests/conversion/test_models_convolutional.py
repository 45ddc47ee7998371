"""Convolutions of every kind, trained sparsely; depthwise kernels stay dense."""

import model_checks
import pytest
import tiny
from tensorflow import keras

LAYERS = keras.layers
SIGNAL, IMAGE, VOLUME = (8, 4), (6, 6, 4), (4, 4, 4, 2)

# The layer, the shape of what it is given, and those of its kernels that have a mask.
CONVOLUTIONS = {
    "Conv1D": (lambda: LAYERS.Conv1D(5, 3, name="conv"), SIGNAL, ["kernel"]),
    "Conv1D, causal, dilated": (
        lambda: LAYERS.Conv1D(
            5, 3, padding="causal", dilation_rate=2, use_bias=False, name="conv"
        ),
        SIGNAL,
        ["kernel"],
    ),
    "Conv2D": (
        lambda: LAYERS.Conv2D(5, (3, 2), strides=2, name="conv"),
        IMAGE,
        ["kernel"],
    ),
    "Conv2D, 1x1": (lambda: LAYERS.Conv2D(5, 1, name="conv"), IMAGE, ["kernel"]),
    "Conv2D, grouped": (
        lambda: LAYERS.Conv2D(6, 3, groups=2, name="conv"),
        IMAGE,
        ["kernel"],
    ),
    "Conv3D": (lambda: LAYERS.Conv3D(5, 2, name="conv"), VOLUME, ["kernel"]),
    "Conv1DTranspose": (
        lambda: LAYERS.Conv1DTranspose(5, 3, strides=2, name="conv"),
        SIGNAL,
        ["kernel"],
    ),
    "Conv2DTranspose": (
        lambda: LAYERS.Conv2DTranspose(5, 3, strides=2, name="conv"),
        IMAGE,
        ["kernel"],
    ),
    "Conv3DTranspose": (
        lambda: LAYERS.Conv3DTranspose(5, 2, name="conv"),
        VOLUME,
        ["kernel"],
    ),
    "SeparableConv1D": (
        lambda: LAYERS.SeparableConv1D(5, 3, depth_multiplier=2, name="conv"),
        SIGNAL,
        ["pointwise_kernel"],
    ),
    "SeparableConv2D": (
        lambda: LAYERS.SeparableConv2D(5, 3, name="conv"),
        IMAGE,
        ["pointwise_kernel"],
    ),
    "DepthwiseConv1D": (lambda: LAYERS.DepthwiseConv1D(3, name="conv"), SIGNAL, []),
    "DepthwiseConv2D": (
        lambda: LAYERS.DepthwiseConv2D(3, depth_multiplier=2, name="conv"),
        IMAGE,
        [],
    ),
    "TimeDistributed": (
        lambda: LAYERS.TimeDistributed(LAYERS.Conv1D(5, 3, name="conv"), name="each"),
        IMAGE,
        ["kernel"],
    ),
}


def model_of(layer, shape):
    """The layer, normalised and pooled, and a dense head."""
    pool = {2: LAYERS.GlobalAveragePooling1D, 3: LAYERS.GlobalAveragePooling2D}
    pool = pool.get(len(shape), LAYERS.GlobalAveragePooling3D)
    layers = [
        keras.Input(shape),
        layer,
        LAYERS.BatchNormalization(),
        LAYERS.ReLU(),
        pool(),
        LAYERS.Dense(3, name="out"),
    ]
    return keras.Sequential(layers)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_trained_sparsely(tmp_path, name):
    make, shape, kernels = CONVOLUTIONS[name]
    layer = make()
    prefix = "conv" if layer.name == "conv" else f"{layer.name}/conv"
    paths = {f"{prefix}/{kernel}" for kernel in kernels} | {"out/kernel"}
    model_checks.check_model(model_of(layer, shape), tmp_path, paths)


def test_a_convolution_of_channels_first_is_sparsified_and_stripped(tmp_path):
    # Nothing is computed: on CPUs TensorFlow has no such convolution.
    layer = LAYERS.Conv2D(5, 3, data_format="channels_first", name="conv")
    model = keras.Sequential([keras.Input((4, 6, 6)), layer])
    sparse = tiny.sparsify(model)
    assert tiny.counts(sparse) == {"conv/kernel": 90}
