"""Wide residual networks for small images."""

from collections.abc import Sequence

from tensorflow import keras

from rigl_keras.networks.stack import IMAGE_BATCH_NORM, Stack, check_image, check_ints

_STEM_FILTERS = 16
# Filters of width 1, and strides of the first block.
_STAGES = ((16, 1), (32, 2), (64, 2))


def wide_resnet(
    input_shape: Sequence[int],
    num_classes: int,
    depth: int = 22,
    width: int = 2,
    activation: str = "relu",
    weight_decay: float = 0.0,
    seed: int = 0,
    kernel_initializer: str = "he_normal",
):
    """Builds a wide residual network, WRN-`depth`-`width`, for images of about 32x32.

    Batch norm (momentum 0.9, epsilon 1e-5) and activation stand before each
    convolution, which has no bias. Its kernels are those of `conv1`,
    `stage<s>_block<b>_conv<1, 2>`, `stage<s>_block1_projection` where the number of
    channels changes, and `logits`.

    Source: Zagoruyko & Komodakis, "Wide Residual Networks" (2016), Table 1.

    Args:
      input_shape: (height, width, channels) of an image.
      num_classes: int >= 2, the number of logits.
      depth: int 6n + 4 for an n >= 1: the number of convolutions for n blocks in each
        of three stages.
      width: int >= 1, factor of the filters 16, 32 and 64 of the stages.
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
    image = check_image("wide_resnet", input_shape)
    blocks = _blocks_per_stage(depth)
    (width,) = check_ints("width", (width,))
    stack = Stack(
        activation,
        weight_decay,
        seed,
        kernel_initializer=kernel_initializer,
        batch_norm=IMAGE_BATCH_NORM,
    )

    inputs = keras.Input(image, name="image")
    x = stack.convolution(inputs, "conv1", _STEM_FILTERS, size=3)
    for stage, (filters, strides) in enumerate(_STAGES, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            x = _block(
                stack,
                x,
                name,
                filters=filters * width,
                strides=strides if block == 1 else 1,
            )
    x = stack.activated(stack.normalized(x, "last"), "last")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, stack.logits(x, num_classes), name="wide_resnet")


def _blocks_per_stage(depth):
    (depth,) = check_ints("depth", (depth,))
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(
            "depth must be 6n + 4 for an int n >= 1, such as 16, 22 or 28, got "
            f"{depth}."
        )
    return blocks


def _block(stack, x, name, *, filters, strides):
    first, second = f"{name}_conv1", f"{name}_conv2"
    shortcut = x
    x = stack.activated(stack.normalized(x, first), first)
    if shortcut.shape[-1] != filters:
        shortcut = stack.convolution(
            x, f"{name}_projection", filters, size=1, strides=strides
        )
    x = stack.convolution(x, first, filters, size=3, strides=strides)
    x = stack.activated(stack.normalized(x, second), second)
    x = stack.convolution(x, second, filters, size=3)
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])
