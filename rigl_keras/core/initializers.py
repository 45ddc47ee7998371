"""Initial weights that suit a sparse kernel.

A dense initialisation scales weights by the fan of the dense kernel. Behind a sparse
mask the signal then shrinks from layer to layer, and training may never start. These
functions scale by the connections that there are: unit by unit, or layer by layer.
"""

import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras.common.checks import call_problem, check_choice, is_number
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.core.kernels import masked

_FANS = ("fanin", "fanout", "fanavg")
_SHAPES = ("normal", "uniform")
# The standard deviation of a standard normal distribution between -2 and 2.
TRUNCATED_DEVIATION = 0.87962566103423978
METHODS = tuple(f"{fan}_{shape}" for fan in _FANS for shape in _SHAPES)


def unit_scaled_init(
    mask: Any,
    method: str = "fanavg_uniform",
    scale: float = 1.0,
    in_axes: int | tuple[int, ...] | None = None,
    out_axes: int | tuple[int, ...] | None = None,
    seed: Any = None,
) -> tf.Tensor:
    """Draws weights whose variance follows the fans of each unit under the mask.

    The variance of a connection from input unit j to output unit i is
    scale / max(1, fan). For "fanin" the fan is the number of active weights that enter
    i, for "fanout" of those that leave j, for "fanavg" the mean of the two. With a
    dense mask this is the initialisation of He (fan-in, scale 2) or Glorot (mean fan,
    scale 1). "normal" draws from a plain normal distribution, not a truncated one;
    "uniform" draws from [-limit, limit] with limit = sqrt(3 * variance).

    Args:
      mask: array of 0 and 1, or bool, of rank 2 or more: the active weights.
      method: one of `METHODS`.
      scale: positive number; 2 for layers followed by a ReLU (He).
      in_axes: int or tuple of ints, the axes that index the input units jointly; -2 by
        default. Fans sum over the axes that belong to neither, the taps of a
        convolution.
      out_axes: likewise for the output units; -1 by default.
      seed: an int; or a stateless seed, an integer tensor of shape [2]; or None for an
        int drawn from NumPy's global generator, which `keras.utils.set_random_seed`
        seeds.

    Returns:
      A float32 tensor of the mask's shape, 0 where the mask is.

    Raises:
      TypeError: if `scale`, an axis or `seed` has the wrong type.
      ValueError: if an argument is out of range, or no weight is active.

    Source: Evci et al., "Gradient Flow in Sparse Neural Networks and How Lottery
    Tickets Win" (2022), Section 3.1; He et al. (2015); Glorot and Bengio (2010).
    """
    mask = _checked_mask(mask)
    variance = _variance(mask, method, scale, in_axes=in_axes, out_axes=out_axes)
    return _draw(mask, variance, method, seed=_checked_seed(seed))


def layer_scaled_init(
    mask: Any,
    method: str = "fanavg_uniform",
    scale: float = 1.0,
    in_axes: int | tuple[int, ...] | None = None,
    out_axes: int | tuple[int, ...] | None = None,
    seed: Any = None,
) -> tf.Tensor:
    """Draws weights like a dense layer's, divided by sqrt(density of the layer).

    The variance is scale / fan, the fan being that of the dense kernel, divided by the
    fraction of active weights: equal for all units, right for them on average. "normal"
    draws from a normal distribution that is truncated at two of its deviations, as
    Keras's variance scaling does; so did the paper's code.

    Args:
      mask: array of 0 and 1, or bool, of rank 2 or more: the active weights.
      method: one of `METHODS`; see `unit_scaled_init`.
      scale: positive number; 2 for layers followed by a ReLU (He).
      in_axes: int or tuple of ints, the axes that index the input units jointly; -2 by
        default. Fans sum over the axes that belong to neither, the taps of a
        convolution.
      out_axes: likewise for the output units; -1 by default.
      seed: an int; or a stateless seed, an integer tensor of shape [2]; or None for an
        int drawn from NumPy's global generator, which `keras.utils.set_random_seed`
        seeds.

    Returns:
      A float32 tensor of the mask's shape, 0 where the mask is.

    Raises:
      TypeError: if `scale`, an axis or `seed` has the wrong type.
      ValueError: if an argument is out of range, or no weight is active.

    Source: Liu et al., "Rethinking the Value of Network Pruning" (2019); compared with
    `unit_scaled_init` in Evci et al. (2022).
    """
    mask = _checked_mask(mask)
    dense = np.broadcast_to(np.True_, mask.shape)
    variance = _variance(dense, method, scale, in_axes=in_axes, out_axes=out_axes)
    variance = variance / mask.mean()
    seed = _checked_seed(seed)
    return _draw(mask, variance, method, seed=seed, truncated=True)


# By the names that `sparsify` and `Sparse` take.
BY_NAME: dict[str, Callable[..., tf.Tensor]] = {
    # He's variance 2/fan-in, as the paper's text says, for each neuron's own fan-in ...
    "unit_scaled": unit_scaled_init,
    # ... or for the layer's mean fan-in, as Liu et al. do.
    "layer_scaled": layer_scaled_init,
}


def check_initializer(initializer: Any) -> None:
    """Refuses what is neither None, a known name nor a function of a mask.

    Raises:
      ValueError: naming the choices.
    """
    if initializer is None or (isinstance(initializer, str) and initializer in BY_NAME):
        return
    advice = _advice(initializer)
    if advice:
        raise ValueError(
            f"Expected `initializer` to be one of {list(BY_NAME)}, None or a function "
            f"(mask, in_axes, out_axes, seed) -> values, got {initializer!r}. {advice}"
        )


def _advice(initializer: Any) -> str:
    """What to do in place of an initializer that is none here; "" for a function."""
    if _is_of_keras(initializer):
        return (
            "Keras's initializers know nothing of the mask: write 'layer_scaled' for "
            "He's in each layer, or 'unit_scaled' for each unit; or leave it out, "
            "which keeps the values that the layers have drawn."
        )
    if not callable(initializer):
        return "Write one of the names, or leave it out to keep the layers' values."
    problem = call_problem(initializer, "mask", in_axes=(0,), out_axes=(1,), seed=0)
    if problem is None:
        return ""
    return f"It is called with a mask and in_axes=, out_axes=, seed=, but {problem}."


def _is_of_keras(initializer: Any) -> bool:
    """True for an initializer of either Keras: an object, a class or a name."""
    if isinstance(initializer, str):
        try:
            return keras.initializers.get(initializer) is not None
        except (ValueError, TypeError):
            return False
    cls = initializer if isinstance(initializer, type) else type(initializer)
    bases = [base for base in cls.__mro__ if base.__name__ == "Initializer"]
    return any(base.__module__.startswith(("keras", "tf_keras")) for base in bases)


def initial_values(
    initializer: Any, mask: Any, kernel: Any, *, seed: tf.Tensor, dtype: Any
) -> tf.Tensor:
    """Draws a kernel's initial weights for a mask.

    Args:
      initializer: a name in `BY_NAME`, or a function `(mask, in_axes=..., out_axes=...,
        seed=...) -> values`.
      mask: bool array of the kernel's shape.
      kernel: has `in_axes` and `out_axes`.
      seed: stateless seed, int64 of shape [2].
      dtype: the kernel's dtype.

    Returns:
      A tensor of the kernel's shape, 0 off the mask.
    """
    options = {"in_axes": kernel.in_axes, "out_axes": kernel.out_axes, "seed": seed}
    if isinstance(initializer, str):
        draw, he = BY_NAME[initializer], {"method": "fanin_normal", "scale": 2.0}
        values = draw(mask, **he, **options)
    else:
        values = initializer(mask, **options)
    return masked(tf.cast(values, dtype), mask)


def _variance(
    mask: np.ndarray, method: str, scale: Any, *, in_axes: Any, out_axes: Any
) -> np.ndarray:
    """Returns every connection's variance, in a shape that broadcasts to the mask's."""
    check_choice("the method", method, METHODS)
    if not is_number(scale):
        raise TypeError(f"The scale must be a number, got {scale!r}.")
    scale = float(scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"The scale must be positive and finite, got {scale}.")
    in_axes = _checked_axes("in_axes", -2 if in_axes is None else in_axes, mask.ndim)
    out_axes = _checked_axes(
        "out_axes", -1 if out_axes is None else out_axes, mask.ndim
    )
    if set(in_axes) & set(out_axes):
        raise ValueError(
            f"An axis belongs to the inputs or to the outputs, got {in_axes} and "
            f"{out_axes} of {mask.ndim}; give both in_axes and out_axes."
        )
    fan_in = _sum_except(out_axes, mask)
    fan_out = _sum_except(in_axes, mask)
    fan = {
        "fanin": fan_in,
        "fanout": fan_out,
        "fanavg": (fan_in + fan_out) / 2,
    }[method.split("_")[0]]
    return scale / np.maximum(1, fan)


def _sum_except(axes: tuple[int, ...], mask: np.ndarray) -> np.ndarray:
    others = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    return mask.sum(axis=others, keepdims=True, dtype=np.int64)


def _draw(
    mask: np.ndarray,
    variance: np.ndarray,
    method: str,
    *,
    seed: tf.Tensor,
    truncated: bool = False,
) -> tf.Tensor:
    """Draws weights of the given variance on the mask, 0 off it."""
    if method.endswith("normal") and truncated:
        weights = tf.random.stateless_truncated_normal(mask.shape, seed, alg=ALGORITHM)
        spread = np.sqrt(variance) / TRUNCATED_DEVIATION
    elif method.endswith("normal"):
        weights = tf.random.stateless_normal(mask.shape, seed, alg=ALGORITHM)
        spread = np.sqrt(variance)
    else:
        weights = tf.random.stateless_uniform(
            mask.shape, seed, minval=-1, maxval=1, dtype=tf.float32, alg=ALGORITHM
        )
        spread = np.sqrt(3 * variance)
    weights *= tf.constant(spread, tf.float32)
    return tf.where(mask, weights, 0.0)


def _checked_mask(mask: Any) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim < 2:
        raise ValueError(
            f"A kernel's mask has rank 2 or more, got shape {mask.shape}; biases are "
            "not sparse."
        )
    active = mask != 0
    if mask.dtype != bool and not np.array_equal(active, mask):
        raise ValueError("A mask holds only 0 and 1, got other values; compare first.")
    if not active.any():
        raise ValueError(
            f"The mask of shape {mask.shape} has no active weight, so there is nothing "
            "to initialise."
        )
    return active


def _checked_axes(name: str, axes: Any, rank: int) -> tuple[int, ...]:
    """Returns the axes as non-negative ints."""
    try:
        axes = tuple(map(operator.index, axes if isinstance(axes, tuple) else (axes,)))
    except TypeError:
        raise TypeError(
            f"{name} must be an int or a tuple of ints, got {axes!r}."
        ) from None
    if any(not -rank <= axis < rank for axis in axes):
        raise ValueError(
            f"{name} must be axes of a mask of rank {rank}, in [{-rank}, {rank - 1}], "
            f"got {axes}."
        )
    positive = tuple(axis % rank for axis in axes)
    if len(set(positive)) < len(positive):
        raise ValueError(f"{name} must be distinct axes, got {axes}.")
    return positive


def _checked_seed(seed: Any) -> tf.Tensor:
    if seed is None:
        seed = int(np.random.randint(2**31))
    if isinstance(seed, numbers.Integral):
        return stateless_seed("init", int(seed))
    seed = tf.convert_to_tensor(seed)
    if seed.dtype not in (tf.int32, tf.int64):
        raise TypeError(
            "The seed must be an int, None or an int32 or int64 tensor of shape [2], "
            f"got {seed.dtype.name}."
        )
    if seed.shape != [2]:
        raise ValueError(f"A stateless seed has shape [2], got {seed.shape}.")
    return seed
