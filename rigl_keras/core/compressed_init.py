"""Initial weights of a kernel that is stored without its zeros."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras.common.seeding import ALGORITHM
from rigl_keras.core.initializers import BY_NAME, TRUNCATED_DEVIATION

# Those that draw every weight alike, whatever the shape.
_ELEMENTWISE = (
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.Zeros,
    keras.initializers.Ones,
    keras.initializers.Constant,
)


def check_compressed_initializer(initializer: Any, layers_own: Any) -> None:
    """Refuses an initializer that needs the whole kernel.

    Args:
      initializer: None, or what the caller asks for.
      layers_own: the wrapped layer's `kernel_initializer`.

    Raises:
      ValueError: saying what can be given.
    """
    if isinstance(initializer, str) and initializer in BY_NAME:
        return
    if initializer is not None:
        raise ValueError(
            f"Expected `initializer` of a Compressed layer to be None or one of "
            f"{list(BY_NAME)}, got {initializer!r}. For a function of the mask, "
            "sparsify a model with it, storage='compressed'."
        )
    if not suits_compressed(layers_own):
        raise ValueError(
            f"The initializer {type(layers_own).__name__} may need the whole kernel, "
            f"and there is none. Give `initializer`, one of {list(BY_NAME)}."
        )


def suits_compressed(layers_own: Any) -> bool:
    """True for an initializer of Keras that draws without the whole kernel.

    Args:
      layers_own: a layer's `kernel_initializer`.
    """
    known = (keras.initializers.VarianceScaling, *_ELEMENTWISE)
    # A subclass may draw in a way of its own.
    return type(layers_own).__call__ in [kind.__call__ for kind in known]


def with_axes(layers_own: Any, in_axes: Sequence[int], out_axes: Sequence[int]) -> Any:
    """The initializer that an EinsumDense layer makes of its own when it is built.

    Args:
      layers_own: the layer's `kernel_initializer`.
      in_axes: axes of its kernel that count inputs.
      out_axes: those that count outputs.

    Returns:
      One whose fans are by these axes, where this Keras knows of axes.
    """
    if getattr(layers_own, "input_axes", ()) is None:
        layers_own = copy.copy(layers_own)
        layers_own.input_axes = tuple(in_axes)
        layers_own.output_axes = tuple(out_axes)
    return layers_own


def compressed_values(
    initializer: str | None,
    layers_own: Any,
    indices: np.ndarray,
    *,
    shape: Sequence[int],
    sizes: tuple[int, int, int],
    seed: tf.Tensor,
) -> tf.Tensor:
    """Draws the weights that exist.

    Args:
      initializer: as `check_compressed_initializer` takes it. "unit_scaled" and
        "layer_scaled" have the variances that `sparsify` gives masked kernels; None
        has those of the wrapped layer's own initializer.
      layers_own: the wrapped layer's `kernel_initializer`.
      indices: int array [groups, blocks of a group], the outputs of the blocks.
      shape: the dense shape, whose fans Keras's initializers scale by.
      sizes: (inputs of a block, all inputs, all outputs).
      seed: stateless seed, int64 of shape [2].

    Returns:
      A float32 tensor [groups, blocks of a group, inputs of a block].

    Source: He et al. (2015); Evci et al. (2022), section 3.1.
    """
    block, inputs, outputs = sizes
    drawn = [*indices.shape, block]
    if initializer == "unit_scaled":
        fans = block * np.bincount(indices.ravel(), minlength=outputs)
        deviations = np.sqrt(2.0 / np.maximum(1, fans))[indices]
        values = tf.random.stateless_normal(drawn, seed, alg=ALGORITHM)
        return values * tf.constant(deviations[..., np.newaxis], tf.float32)
    if initializer == "layer_scaled":
        density = indices.shape[1] / outputs
        return _truncated_normal(drawn, seed, variance=2.0 / inputs / density)
    if not isinstance(layers_own, keras.initializers.VarianceScaling):
        return tf.cast(layers_own(drawn, dtype="float32"), tf.float32)
    variance = layers_own.scale / _fan(layers_own, shape)
    if layers_own.distribution == "uniform":
        limit = math.sqrt(3.0 * variance)
        return tf.random.stateless_uniform(drawn, seed, -limit, limit, alg=ALGORITHM)
    if layers_own.distribution == "untruncated_normal":
        normal = tf.random.stateless_normal(drawn, seed, alg=ALGORITHM)
        return math.sqrt(variance) * normal
    return _truncated_normal(drawn, seed, variance=variance)


def _truncated_normal(
    shape: Sequence[int], seed: tf.Tensor, *, variance: float
) -> tf.Tensor:
    values = tf.random.stateless_truncated_normal(shape, seed, alg=ALGORITHM)
    return math.sqrt(variance) / TRUNCATED_DEVIATION * values


def _fan(initializer: Any, shape: Sequence[int]) -> float:
    """The fan that Keras scales by: axes before the last two count as taps."""
    if getattr(initializer, "input_axes", None) is not None:
        fan_in = math.prod(shape[axis] for axis in initializer.input_axes)
        fan_out = math.prod(shape[axis] for axis in initializer.output_axes)
    else:
        taps = math.prod(shape[:-2])
        fan_in, fan_out = taps * shape[-2], taps * shape[-1]
    fans = {"fan_in": fan_in, "fan_out": fan_out}
    return max(1.0, fans.get(initializer.mode, (fan_in + fan_out) / 2))
