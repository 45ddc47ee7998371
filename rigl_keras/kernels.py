"""Kernels: which weights they are, where, how their axes connect; applying a mask."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat

# Their kernels have one weight per channel and tap: there is no fan-in to make sparse.
_DEPTHWISE_LAYERS = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED_LAYERS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


class Kernel(NamedTuple):
    """A kernel found in a layer.

    Attributes:
      path: names of the layers on the way to it and its own, such as "conv1/kernel".
      variable: the kernel's variable.
      in_axes: axes that count input units, as non-negative ints.
      out_axes: axes that count output units; the others are taps of a convolution.
    """

    path: str
    variable: Any
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]

    @property
    def connection_shape(self):
        """Shape with one axis of inputs and one of outputs: (*taps, n_in, n_out)."""
        shape = tuple(self.variable.shape)
        taps = [
            size
            for axis, size in enumerate(shape)
            if axis not in self.in_axes + self.out_axes
        ]
        n_in = int(np.prod([shape[axis] for axis in self.in_axes]))
        n_out = int(np.prod([shape[axis] for axis in self.out_axes]))
        return (*taps, n_in, n_out)


def is_kernel(layer, variable):
    """True for a weight that connects input units to output units.

    That is a weight whose name ends in "kernel", of rank 2 or more, except depthwise
    kernels. Biases, normalisation and embeddings have other names.
    """
    name = compat.variable_name(variable)
    return (
        name.endswith("kernel")
        and len(variable.shape) >= 2
        and name != "depthwise_kernel"
        and not isinstance(layer, _DEPTHWISE_LAYERS)
    )


def find_kernels(layer, path=""):
    """All kernels of a layer or model and of what is below it, each once.

    Args:
      layer: a built layer or model.
      path: path of the layer, to which the kernels' paths are appended.

    Returns:
      A list of `Kernel`, in the order of the layers.
    """
    found = {}
    for owner, owner_path in walk(layer, path):
        for variable in own_weights(owner):
            if is_kernel(owner, variable) and id(variable) not in found:
                name = compat.variable_name(variable)
                found[id(variable)] = Kernel(
                    join(owner_path, name), variable, *kernel_axes(owner, variable)
                )
    return list(found.values())


def walk(layer, path=""):
    """Yields `(layer, path)` for a layer and everything below it, depth first."""
    yield layer, path
    for child in compat.sublayers(layer):
        # A wrapper may leave itself out of the paths of what it wraps.
        yield from walk(child, join(path, getattr(child, "path_name", child.name)))


def join(*names):
    """Joins the parts of a path, leaving out empty ones."""
    return "/".join(name for name in names if name)


def own_weights(layer):
    """The weights of a layer that belong to none of its sublayers."""
    below = {
        id(weight) for child in compat.sublayers(layer) for weight in child.weights
    }
    return [weight for weight in layer.weights if id(weight) not in below]


def kernel_axes(layer, variable):
    """The axes of a kernel that count input units and those that count output units.

    Returns:
      Two tuples of non-negative ints. Most layers store `(*taps, n_in, n_out)`;
      transposed convolutions store `(*taps, n_out, n_in)`, and EinsumDense says it in
      its equation.
    """
    rank = len(variable.shape)
    if isinstance(layer, _TRANSPOSED_LAYERS):
        return (rank - 1,), (rank - 2,)
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_axes(layer.equation)
    return (rank - 2,), (rank - 1,)


def _einsum_axes(equation):
    """An axis of the kernel that is summed away counts inputs, another one outputs."""
    operands, output = equation.replace(" ", "").split("->")
    letters = operands.split(",")[1].replace("...", "")
    in_axes = tuple(i for i, letter in enumerate(letters) if letter not in output)
    out_axes = tuple(i for i, letter in enumerate(letters) if letter in output)
    return in_axes, out_axes


def masked(values, mask):
    """`values` where `mask` is True and exactly 0 elsewhere, whatever stood there."""
    values = tf.convert_to_tensor(values)
    return tf.where(tf.convert_to_tensor(mask), values, tf.zeros_like(values))
