"""What the networks share: checks of arguments, and layers with common options."""

import math
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
from tensorflow import keras

KERNEL_INITIALIZERS: dict[str, Callable] = {
    "glorot_uniform": keras.initializers.GlorotUniform,
    "glorot_normal": keras.initializers.GlorotNormal,
    "he_uniform": keras.initializers.HeUniform,
    "he_normal": keras.initializers.HeNormal,
    # Variance scaling with scale 1, fan-in and a truncated normal, TensorFlow 1's own.
    "lecun_normal": keras.initializers.LecunNormal,
}

# Of the ResNet, MobileNet and Wide ResNet of the RigL paper's code.
IMAGE_BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


class Stack:
    """Applies layers that share their options and draws each its own weights.

    Args:
      activation: Keras activation.
      weight_decay: float c >= 0; c * sum(w ** 2) of every kernel but depthwise ones is
        added to the loss.
      seed: int >= 0, names the initial weights.
      kernel_initializer: one of `KERNEL_INITIALIZERS`.
      batch_norm: arguments of every `BatchNormalization`; None for a network without.

    Raises:
      ValueError: if an argument is outside the ranges above.
    """

    def __init__(
        self,
        activation,
        weight_decay,
        seed,
        *,
        kernel_initializer,
        batch_norm=None,
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
        self._activation = activation
        self._weight_decay = weight_decay
        self._seed = int(seed)
        self._initializer = KERNEL_INITIALIZERS[kernel_initializer]
        self._batch_norm = batch_norm
        self._layers = 0

    def linear(self, x, layer_class, name, *sizes, **options):
        """Applies one layer with a kernel and no activation."""
        regularizer = keras.regularizers.l2(self._weight_decay)
        layer = layer_class(
            *sizes,
            kernel_initializer=self._next_initializer(),
            kernel_regularizer=regularizer if self._weight_decay else None,
            name=name,
            **options,
        )
        return layer(x)

    def convolution(self, x, name, filters, *, size, strides=1):
        """Applies a convolution without bias, with ceil(input / strides) pixels."""
        x, padding = _padded(x, name, size, strides=strides)
        options = {"strides": strides, "padding": padding, "use_bias": False}
        return self.linear(x, keras.layers.Conv2D, name, filters, size, **options)

    def depthwise(self, x, name, size, *, strides=1):
        """Applies a depthwise convolution, as `convolution` but not regularised."""
        x, padding = _padded(x, name, size, strides=strides)
        layer = keras.layers.DepthwiseConv2D(
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            depthwise_initializer=self._next_initializer(),
            name=name,
        )
        return layer(x)

    def normalized(self, x, name, gamma="ones"):
        """Applies batch norm whose scale starts at `gamma`, "ones" or "zeros"."""
        layer = keras.layers.BatchNormalization(
            gamma_initializer=gamma, name=f"{name}_bn", **self._batch_norm
        )
        return layer(x)

    def activated(self, x, name):
        """Applies the activation."""
        return keras.layers.Activation(self._activation, name=f"{name}_act")(x)

    def logits(self, x, num_classes):
        """Applies the last dense layer.

        Raises:
          ValueError: if `num_classes` is no int >= 2.
        """
        units = check_num_classes(num_classes)
        # Under mixed precision too: a loss of half precision logits is too coarse.
        return self.linear(x, keras.layers.Dense, "logits", units, dtype="float32")

    def _next_initializer(self):
        # Keras gives equal initial weights to layers of equal shape and seed.
        entropy = np.random.SeedSequence([self._seed, self._layers])
        self._layers += 1
        # Keras 2 takes 31 bits.
        return self._initializer(seed=int(entropy.generate_state(1)[0] >> 1))


def _padded(x, name, size, *, strides):
    """Pads by equally much at both ends; "same" would pad even sizes at one end only.

    Returns:
      The padded images, and the padding that is left to the layer.
    """
    if strides == 1:
        return x, "same"
    margin = ((size - 1) // 2, size // 2)
    if size > 1:
        x = keras.layers.ZeroPadding2D((margin, margin), name=f"{name}_pad")(x)
    return x, "valid"


def check_num_classes(num_classes):
    """Returns the number of classes as an int.

    Raises:
      ValueError: if it is no int >= 2.
    """
    if not isinstance(num_classes, Integral) or int(num_classes) < 2:
        raise ValueError(f"num_classes must be an int >= 2, got {num_classes!r}.")
    return int(num_classes)


def check_ints(argument, values, length=None):
    """Returns `values` as a tuple of positive ints, `length` of them if given.

    Raises:
      ValueError: for others, or another number of them.
    """
    values = tuple(values)
    if length is not None and len(values) != length:
        raise ValueError(
            f"{argument} must hold {length} ints, got {len(values)}: {values}."
        )
    if not all(isinstance(value, Integral) and int(value) > 0 for value in values):
        raise ValueError(f"{argument} must hold positive ints, got {values}.")
    return tuple(int(value) for value in values)


def check_image(network, input_shape, least=1):
    """Returns the shape of an image, at least `least` pixels high and wide.

    Raises:
      ValueError: for what is no such shape.
    """
    image = check_ints("input_shape", input_shape, length=3)
    if min(image[:2]) < least:
        raise ValueError(
            f"{network} needs images of at least {least}x{least} pixels, got "
            f"input_shape={image}: use larger images or 'mlp'."
        )
    return image


def width_scale(width_multiplier):
    """The function from a layer's channels to max(1, round(multiplier * channels)).

    Raises:
      ValueError: if the multiplier is no finite number > 0.
    """
    is_number = isinstance(width_multiplier, Real)
    if not is_number or not 0 < width_multiplier < math.inf:
        raise ValueError(
            f"width_multiplier must be a number > 0, got {width_multiplier!r}."
        )
    return lambda channels: max(1, round(width_multiplier * channels))
