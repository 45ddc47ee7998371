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
      use_batch_norm: whether what each hidden layer hands on is normalised, after
        activation and pooling, as
        in the paper's code.
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
    stack = Stack(
        activation,
        weight_decay,
        seed,
        kernel_initializer=kernel_initializer,
        batch_norm={},
    )

    inputs = x = keras.Input(image, name="image")
    for number, filters in enumerate(sizes[:2], start=1):
        x = stack.linear(x, keras.layers.Conv2D, f"conv{number}", filters, 5)
        x = stack.activated(x, f"conv{number}")
        x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(x)
        x = stack.normalized(x, f"conv{number}") if use_batch_norm else x
    return _dense_head(
        stack,
        "lenet5",
        inputs,
        x=x,
        hidden_sizes=sizes[2:],
        num_classes=num_classes,
        use_batch_norm=use_batch_norm,
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
      use_batch_norm: whether what each hidden layer hands on is normalised, after
        its activation, as
        in the paper's code.
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
    stack = Stack(
        activation,
        weight_decay,
        seed,
        kernel_initializer=kernel_initializer,
        batch_norm={},
    )
    sizes = check_ints("hidden_sizes", hidden_sizes)
    return _dense_head(
        stack,
        "mlp",
        inputs,
        x=inputs,
        hidden_sizes=sizes,
        num_classes=num_classes,
        use_batch_norm=use_batch_norm,
    )


def _dense_head(stack, name, inputs, *, x, hidden_sizes, num_classes, use_batch_norm):
    """Flattens, adds the dense layers and makes the model."""
    x = keras.layers.Flatten(name="flatten")(x)
    for number, units in enumerate(hidden_sizes, start=1):
        x = stack.linear(x, keras.layers.Dense, f"dense{number}", units)
        x = stack.activated(x, f"dense{number}")
        x = stack.normalized(x, f"dense{number}") if use_batch_norm else x
    return keras.Model(inputs, stack.logits(x, num_classes), name=name)
