"""MobileNet v1."""

from collections.abc import Sequence

from tensorflow import keras

from rigl_keras.networks.stack import IMAGE_BATCH_NORM, Stack, check_image, width_scale

_STEM_FILTERS = 32
# Filters of the 1x1 convolution and strides of the depthwise one, block by block.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def mobilenet_v1(
    input_shape: Sequence[int],
    num_classes: int,
    width_multiplier: float = 1.0,
    small_inputs: bool = False,
    activation: str = "relu",
    weight_decay: float = 0.0,
    seed: int = 0,
    kernel_initializer: str = "lecun_normal",
):
    """Builds MobileNet v1: 13 blocks of a depthwise 3x3 and a 1x1 convolution.

    Its kernels are those of `conv1`, `block<b>_pointwise` and `logits`; with 1000
    classes they hold 4,164,448 weights, and the depthwise kernels of
    `block<b>_depthwise`, which stay dense, 44,640. Convolutions have no bias and are
    followed by batch norm of momentum 0.9 and epsilon 1e-5; a strided one pads its
    input by equally much at both ends.

    Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for
    Mobile Vision Applications" (2017); padding and batch norm as in the code of Evci et
    al., "Rigging the Lottery" (2020).

    Args:
      input_shape: (height, width, channels) of an image.
      num_classes: int >= 2, the number of logits.
      width_multiplier: float > 0, factor of all channels, rounded, at least 1.
      small_inputs: whether the first convolution has stride 1, for images of about
        32x32, in place of 2.
      activation: Keras activation after each batch norm.
      weight_decay: float c >= 0; c * sum(w ** 2) of every kernel that is not depthwise
        is added to the loss.
      seed: int >= 0 that names the initial weights: one seed gives the same weights in
        any process.
      kernel_initializer: Keras's name of the initialiser of all kernels, one of
        `KERNEL_INITIALIZERS`; it takes 9 * channels for the fan-in of a depthwise one.

    Returns:
      A functional `keras.Model` from images [n, height, width, channels] to float32
      logits [n, num_classes].

    Raises:
      ValueError: if an argument is outside the ranges above.
    """
    image = check_image("mobilenet_v1", input_shape)
    scaled = width_scale(width_multiplier)
    stack = Stack(
        activation,
        weight_decay,
        seed,
        kernel_initializer=kernel_initializer,
        batch_norm=IMAGE_BATCH_NORM,
    )

    inputs = keras.Input(image, name="image")
    strides = 1 if small_inputs else 2
    x = stack.convolution(
        inputs, "conv1", scaled(_STEM_FILTERS), size=3, strides=strides
    )
    x = stack.activated(stack.normalized(x, "conv1"), "conv1")
    for block, (filters, strides) in enumerate(_BLOCKS, start=1):
        name = f"block{block}_depthwise"
        x = stack.depthwise(x, name, 3, strides=strides)
        x = stack.activated(stack.normalized(x, name), name)
        name = f"block{block}_pointwise"
        x = stack.convolution(x, name, scaled(filters), size=1)
        x = stack.activated(stack.normalized(x, name), name)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, stack.logits(x, num_classes), name="mobilenet_v1")
