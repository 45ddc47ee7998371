"""Small versions of the networks for images, and what is read off them."""

import numpy as np
from tensorflow import keras

from rigl_keras import networks

IMAGENET = (224, 224, 3)
# Each so small that it is built and trained in no time, on images of an odd size.
SMALL = {
    "resnet50": {"width_multiplier": 0.05},
    "vgg16": {"width_multiplier": 0.1},
    "mobilenet_v1": {"width_multiplier": 0.1},
    "wide_resnet": {"depth": 10, "width": 1},
}
SIDE = 35


def small(name, shape=(SIDE, 32, 3), classes=4, **options):
    return networks.build(name, shape, classes, **{**SMALL[name], **options})


def is_kernel(layer):
    types = keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense
    return isinstance(layer, types)


def kernels(model):
    """First weights of all layers with a kernel, depthwise ones too."""
    return {
        layer.name: layer.get_weights()[0] for layer in model.layers if is_kernel(layer)
    }


def kernel_shapes(model):
    return {
        layer.name: tuple(layer.weights[0].shape)
        for layer in model.layers
        if is_kernel(layer)
    }


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# Sizes


def images(model):
    shape = (2, *model.inputs[0].shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)
