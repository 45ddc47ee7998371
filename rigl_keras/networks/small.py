"""The small image classifiers of the MNIST experiments, as Keras models.

Both networks are described in arXiv 2010.03533, Section 4 and its appendix.
"""

from collections.abc import Sequence

from tensorflow import keras

from rigl_keras.networks.stack import Stack, check_image, check_ints

# Two 5x5 valid convolutions, each halved by pooling, must leave at least one pixel.
LENET5_LEAST_SIZE = 16


def lenet5(
    input_shape: Sequence[int],
    num_classes: int,
    hidden_sizes: Sequence[int] = (6, 16, 120, 84),
    use_batch_norm: bool = False,
    activation: str = "relu",
    weight_decay: float = 0.0,
    seed: int = 0,
    kernel_initializer: str = "glorot_uniform",
):
    """Builds LeNet5: two convolutions with max-pooling, then three dense layers.

    Its kernels are those of `conv1`, `conv2`, `dense1`, `dense2` and `logits`; on
    28x28x1 images with 10 classes they hold 44,190 weights.

    Source: LeCun et al., "Gradient-based learning applied to document recognition"
    (1998), in the form of arXiv 2010.03533, Section 4.1.

    Args:
      input_shape: (height, width, channels) of an image, at least 16x16.
      num_classes: int >= 2, the number of logits.
      hidden_sizes: 4 positive ints, the filters of the two 5x5 convolutions and the
        units of the two hidden dense layers.
      use_batch_norm: whether each hidden layer is normalised before its activation;
        it then has no bias.
      activation: Keras activation after each hidden layer.
      weight_decay: float c >= 0; c * sum(w ** 2) of every kernel is added to the loss.
      seed: int >= 0 that names the initial weights: one seed gives the same weights in
        any process.
      kernel_initializer: Keras's name of the initialiser of dense kernels, one of
        `KERNEL_INITIALIZERS`.

    Returns:
      A functional `keras.Model` from images [n, height, width, channels] to logits
      [n, num_classes].

    Raises:
      ValueError: if an argument is outside the ranges above.
    """
    image = check_image("lenet5", input_shape, LENET5_LEAST_SIZE)
    sizes = check_ints("hidden_sizes", hidden_sizes, length=4)
    batch_norm: dict | None = {} if use_batch_norm else None
    stack = Stack(
        activation,
        weight_decay,
        seed,
        kernel_initializer=kernel_initializer,
        batch_norm=batch_norm,
    )

    inputs = x = keras.Input(image, name="image")
    for number, filters in enumerate(sizes[:2], start=1):
        x = stack.hidden(x, keras.layers.Conv2D, f"conv{number}", filters, 5)
        x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(x)
    return _dense_head(
        stack, "lenet5", inputs, x=x, hidden_sizes=sizes[2:], num_classes=num_classes
    )


def mlp(
    input_shape: Sequence[int],
    num_classes: int,
    hidden_sizes: Sequence[int] = (300, 100),
    use_batch_norm: bool = False,
    activation: str = "relu",
    weight_decay: float = 0.0,
    seed: int = 0,
    kernel_initializer: str = "glorot_uniform",
):
    """Builds a multi-layer perceptron on the flattened input.

    Its kernels are those of `dense1`, `dense2`, ... and `logits`.

    Source: LeNet-300-100 of LeCun et al. (1998), as in the MLP experiments of the
    appendix of arXiv 2010.03533.

    Args:
      input_shape: shape of one example, any number of positive ints.
      num_classes: int >= 2, the number of logits.
      hidden_sizes: positive ints, the units of each hidden layer.
      use_batch_norm: whether each hidden layer is normalised before its activation;
        it then has no bias.
      activation: Keras activation after each hidden layer.
      weight_decay: float c >= 0; c * sum(w ** 2) of every kernel is added to the loss.
      seed: int >= 0 that names the initial weights: one seed gives the same weights in
        any process.
      kernel_initializer: Keras's name of the initialiser of dense kernels, one of
        `KERNEL_INITIALIZERS`.

    Returns:
      A functional `keras.Model` from examples [n, *input_shape] to logits
      [n, num_classes].

    Raises:
      ValueError: if an argument is outside the ranges above.
    """
    inputs = keras.Input(check_ints("input_shape", input_shape), name="image")
    batch_norm: dict | None = {} if use_batch_norm else None
    stack = Stack(
        activation,
        weight_decay,
        seed,
        kernel_initializer=kernel_initializer,
        batch_norm=batch_norm,
    )
    sizes = check_ints("hidden_sizes", hidden_sizes)
    return _dense_head(
        stack, "mlp", inputs, x=inputs, hidden_sizes=sizes, num_classes=num_classes
    )


def _dense_head(stack, name, inputs, *, x, hidden_sizes, num_classes):
    """Flattens, adds the dense layers and makes the model."""
    x = keras.layers.Flatten(name="flatten")(x)
    for number, units in enumerate(hidden_sizes, start=1):
        x = stack.hidden(x, keras.layers.Dense, f"dense{number}", units)
    return keras.Model(inputs, stack.logits(x, num_classes), name=name)
