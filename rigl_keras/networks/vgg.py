"""VGG-16 without hidden dense layers."""

from collections.abc import Sequence

from tensorflow import keras

from rigl_keras.networks.stack import (
    Stack,
    check_image,
    check_num_classes,
    width_scale,
)

# Filters and number of 3x3 convolutions; max-pooling stands between the groups.
_GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_LEAST_SIZE = 2 ** (len(_GROUPS) - 1)


def vgg16(
    input_shape: Sequence[int],
    num_classes: int,
    width_multiplier: float = 1.0,
    activation: str = "relu",
    weight_decay: float = 0.0,
    seed: int = 0,
    kernel_initializer: str = "he_normal",
):
    """Builds VGG-16 with global average pooling and a 1x1 convolution as classifier.

    Its kernels are those of `conv<group>_<number>` and `logits`; with 1000 classes they
    hold 15,222,464 weights, which are all parameters: there is no bias and no batch
    norm. Images of 32x32 are large enough as they are.

    Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale
    Image Recognition" (2015); four poolings and the classifier as in the code of Evci
    et al., "Rigging the Lottery" (2020).

    Args:
      input_shape: (height, width, channels) of an image, at least 16x16.
      num_classes: int >= 2, the number of logits.
      width_multiplier: float > 0, factor of all channels, rounded, at least 1.
      activation: Keras activation after each 3x3 convolution.
      weight_decay: float c >= 0; c * sum(w ** 2) of every kernel is added to the loss.
      seed: int >= 0 that names the initial weights: one seed gives the same weights in
        any process.
      kernel_initializer: Keras's name of the initialiser of dense kernels, one of
        `KERNEL_INITIALIZERS`.

    Returns:
      A functional `keras.Model` from images [n, height, width, channels] to float32
      logits [n, num_classes].

    Raises:
      ValueError: if an argument is outside the ranges above.
    """
    image = check_image("vgg16", input_shape, _LEAST_SIZE)
    classes = check_num_classes(num_classes)
    scaled = width_scale(width_multiplier)
    stack = Stack(activation, weight_decay, seed, kernel_initializer=kernel_initializer)

    inputs = x = keras.Input(image, name="image")
    for group, (filters, convolutions) in enumerate(_GROUPS, start=1):
        if group > 1:
            x = keras.layers.MaxPooling2D(2, name=f"pool{group - 1}")(x)
        for number in range(1, convolutions + 1):
            name = f"conv{group}_{number}"
            x = stack.activated(
                stack.convolution(x, name, scaled(filters), size=3), name
            )
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    options = {"use_bias": False, "dtype": "float32"}
    x = stack.linear(x, keras.layers.Conv2D, "logits", classes, 1, **options)
    logits = keras.layers.Flatten(dtype="float32", name="flatten")(x)
    return keras.Model(inputs, logits, name="vgg16")
