"""The small image classifiers of the MNIST experiments, as Keras models.

Both networks are described in arXiv 2010.03533, Section 4 and its appendix.
"""

from collections.abc import Callable, Sequence
from numbers import Integral

import numpy as np
from tensorflow import keras

# Two 5x5 valid convolutions, each halved by pooling, must leave at least one pixel.
LENET5_LEAST_SIZE = 16

KERNEL_INITIALIZERS = {
    "glorot_uniform": keras.initializers.GlorotUniform,
    "glorot_normal": keras.initializers.GlorotNormal,
    "he_uniform": keras.initializers.HeUniform,
    "he_normal": keras.initializers.HeNormal,
}


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
    image = _check_ints("input_shape", input_shape, length=3)
    if min(image[:2]) < LENET5_LEAST_SIZE:
        raise ValueError(
            f"lenet5 needs images of at least {LENET5_LEAST_SIZE}x{LENET5_LEAST_SIZE} "
            f"pixels, got input_shape={tuple(image)}: use larger images or 'mlp'."
        )
    sizes = _check_ints("hidden_sizes", hidden_sizes, length=4)
    stack = _Stack(use_batch_norm, activation, weight_decay, seed, kernel_initializer)

    inputs = x = keras.Input(image, name="image")
    for number, filters in enumerate(sizes[:2], start=1):
        x = stack.hidden(x, keras.layers.Conv2D, f"conv{number}", filters, 5)
        x = keras.layers.MaxPooling2D(2, name=f"pool{number}")(x)
    return stack.dense_head("lenet5", inputs, x, sizes[2:], num_classes)


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
    inputs = keras.Input(_check_ints("input_shape", input_shape), name="image")
    stack = _Stack(use_batch_norm, activation, weight_decay, seed, kernel_initializer)
    sizes = _check_ints("hidden_sizes", hidden_sizes)
    return stack.dense_head("mlp", inputs, inputs, sizes, num_classes)


NETWORKS: dict[str, Callable] = {"lenet5": lenet5, "mlp": mlp}


def build(name: str, input_shape: Sequence[int], num_classes: int, **kwargs):
    """Builds a network by its name.

    Args:
      name: a key of `NETWORKS`: "lenet5" or "mlp".
      input_shape: shape of one example, (height, width, channels) for an image.
      num_classes: int >= 2, the number of logits.
      **kwargs: the further arguments of that network's function.

    Returns:
      A `keras.Model` that ends in logits [n, num_classes].

    Raises:
      ValueError: if there is no such network, or it refuses an argument.
    """
    if name not in NETWORKS:
        names = ", ".join(repr(known) for known in NETWORKS)
        raise ValueError(f"Unknown network {name!r}: use one of {names}.")
    return NETWORKS[name](input_shape, num_classes, **kwargs)


class _Stack:
    """Applies layers that share their options and draws each its own weights."""

    def __init__(
        self, use_batch_norm, activation, weight_decay, seed, kernel_initializer
    ):
        if kernel_initializer not in KERNEL_INITIALIZERS:
            raise ValueError(
                "kernel_initializer must be one of "
                f"{sorted(KERNEL_INITIALIZERS)}, got {kernel_initializer!r}."
            )
        if weight_decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay!r}.")
        if not isinstance(seed, Integral) or int(seed) < 0:
            raise ValueError(f"seed must be an int >= 0, got {seed!r}.")
        self._use_batch_norm = use_batch_norm
        self._activation = activation
        self._weight_decay = weight_decay
        self._seed = int(seed)
        self._initializer = KERNEL_INITIALIZERS[kernel_initializer]
        self._layers = 0

    def linear(self, x, layer_class, name, *sizes, use_bias=True):
        """Applies one layer with a kernel and no activation."""
        # Keras gives equal initial weights to layers of equal shape and seed.
        entropy = np.random.SeedSequence([self._seed, self._layers])
        self._layers += 1
        layer = layer_class(
            *sizes,
            use_bias=use_bias,
            # Keras 2 takes 31 bits.
            kernel_initializer=self._initializer(
                seed=int(entropy.generate_state(1)[0] >> 1)
            ),
            kernel_regularizer=keras.regularizers.l2(self._weight_decay)
            if self._weight_decay
            else None,
            name=name,
        )
        return layer(x)

    def hidden(self, x, layer_class, name, *sizes):
        """Applies one layer, its batch norm if there is one, and its activation."""
        x = self.linear(x, layer_class, name, *sizes, use_bias=not self._use_batch_norm)
        if self._use_batch_norm:
            x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
        return keras.layers.Activation(self._activation, name=f"{name}_act")(x)

    def dense_head(self, model_name, inputs, x, hidden_sizes, num_classes):
        """Flattens, adds the dense layers and makes the model."""
        if not isinstance(num_classes, Integral) or int(num_classes) < 2:
            raise ValueError(f"num_classes must be an int >= 2, got {num_classes!r}.")
        x = keras.layers.Flatten(name="flatten")(x)
        for number, units in enumerate(hidden_sizes, start=1):
            x = self.hidden(x, keras.layers.Dense, f"dense{number}", units)
        logits = self.linear(x, keras.layers.Dense, "logits", int(num_classes))
        return keras.Model(inputs, logits, name=model_name)


def _check_ints(argument, values, length=None):
    """Returns `values` as a tuple of positive ints, `length` of them if given."""
    values = tuple(values)
    if length is not None and len(values) != length:
        raise ValueError(
            f"{argument} must hold {length} ints, got {len(values)}: {values}."
        )
    if not all(isinstance(value, Integral) and int(value) > 0 for value in values):
        raise ValueError(f"{argument} must hold positive ints, got {values}.")
    return tuple(int(value) for value in values)
