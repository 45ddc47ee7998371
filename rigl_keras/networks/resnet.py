"""ResNet-50 v1.5."""

from collections.abc import Sequence

from tensorflow import keras

from rigl_keras.networks.stack import IMAGE_BATCH_NORM, Stack, check_image, width_scale

# Filters of the 3x3 convolutions, blocks, and strides of the first block.
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
_EXPANSION = 4


def resnet50(
    input_shape: Sequence[int],
    num_classes: int,
    width_multiplier: float = 1.0,
    small_inputs: bool = False,
    zero_init_residual: bool = False,
    activation: str = "relu",
    weight_decay: float = 0.0,
    seed: int = 0,
    kernel_initializer: str = "lecun_normal",
):
    """Builds ResNet-50 v1.5, which strides in the 3x3 convolutions of its blocks.

    Its kernels are those of `conv1`, `stage<s>_block<b>_conv<1, 2, 3>`,
    `stage<s>_block1_projection` and `logits`; with 1000 classes they hold 25,502,912
    weights. Convolutions have no bias and are followed by batch norm of momentum 0.9
    and epsilon 1e-5; a strided one pads its input by equally much at both ends.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2016); strides,
    padding and batch norm as in the code of Evci et al., "Rigging the Lottery" (2020).

    Args:
      input_shape: (height, width, channels) of an image.
      num_classes: int >= 2, the number of logits.
      width_multiplier: float > 0, factor of all channels, rounded, at least 1.
      small_inputs: whether the first convolution is 3x3 with stride 1 and no pooling
        follows, for images of about 32x32, in place of 7x7 with stride 2 and pooling.
      zero_init_residual: whether the last batch norm of each block starts with scale 0,
        so that the block starts as the identity; with scale 1 otherwise.
      activation: Keras activation.
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
    image = check_image("resnet50", input_shape)
    scaled = width_scale(width_multiplier)
    stack = Stack(
        activation,
        weight_decay,
        seed,
        kernel_initializer=kernel_initializer,
        batch_norm=IMAGE_BATCH_NORM,
    )
    last_gamma = "zeros" if zero_init_residual else "ones"

    inputs = keras.Input(image, name="image")
    x = _stem(stack, inputs, scaled(_STAGES[0][0]), small_inputs=small_inputs)
    for stage, (filters, blocks, strides) in enumerate(_STAGES, start=1):
        sizes = scaled(filters), scaled(_EXPANSION * filters)
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            shortcut = x
            if block == 1:
                projected = f"{name}_projection"
                shortcut = stack.convolution(
                    x, projected, sizes[1], size=1, strides=strides
                )
                shortcut = stack.normalized(shortcut, projected)
            x = _branch(
                stack, x, name, sizes=sizes, strides=strides, last_gamma=last_gamma
            )
            x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
            x = stack.activated(x, name)
            strides = 1
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, stack.logits(x, num_classes), name="resnet50")


def _stem(stack, x, filters, *, small_inputs):
    size, strides = (3, 1) if small_inputs else (7, 2)
    x = stack.convolution(x, "conv1", filters, size=size, strides=strides)
    x = stack.activated(stack.normalized(x, "conv1"), "conv1")
    if small_inputs:
        return x
    return keras.layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)


def _branch(stack, x, name, *, sizes, strides, last_gamma):
    """The three convolutions of a bottleneck block."""
    inner, outer = sizes
    layers = ((inner, 1, 1), (inner, 3, strides), (outer, 1, 1))
    for number, (filters, size, stride) in enumerate(layers, start=1):
        conv = f"{name}_conv{number}"
        x = stack.convolution(x, conv, filters, size=size, strides=stride)
        if number < len(layers):
            x = stack.activated(stack.normalized(x, conv), conv)
    return stack.normalized(x, conv, last_gamma)
