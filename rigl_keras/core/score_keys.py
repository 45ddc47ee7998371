"""Scores as integers of the same order, by which the highest are found exactly."""

import tensorflow as tf

# Scores to select from, and how many bits each needs. Unsigned integers are left out:
# no score is one.
BITS = {
    tf.bfloat16: 16,
    tf.float16: 16,
    tf.float32: 32,
    tf.float64: 64,
    tf.int8: 8,
    tf.int16: 16,
    tf.int32: 32,
    tf.int64: 64,
}
_INTEGER = {16: tf.int16, 32: tf.int32, 64: tf.int64}
# Bit pattern of +inf; every pattern above it is a NaN.
_INFINITY = {
    tf.bfloat16: 0x7F80,
    tf.float16: 0x7C00,
    tf.float32: 0x7F800000,
    tf.float64: 0x7FF0000000000000,
}
# TensorFlow sums int64 on a GPU where the tensor lies, but copies int32 to the host.
COUNT = tf.int64


def lowest(bits: int) -> int:
    """The lowest signed integer of so many bits."""
    return -(2 ** (bits - 1))


def key_dtype(bits: int) -> tf.DType:
    """The integers that keys of so many bits are kept in."""
    return tf.int64 if bits == 64 else tf.int32


def ordered_keys(scores: tf.Tensor, bits: int) -> tf.Tensor:
    """Signed integers of `bits` bits that order like the scores, NaN lowest.

    Only integer operations touch the bit patterns, because floating-point ones may take
    subnormal numbers for zero. A pattern is a sign and a magnitude; as a two's
    complement integer it orders like the number, and -0.0 and +0.0 coincide.

    Args:
      scores: tensor of a dtype in `BITS`.
      bits: of that dtype.

    Returns:
      A tensor of their shape, of `key_dtype(bits)`.
    """
    dtype = key_dtype(bits)
    if scores.dtype.is_integer:
        return tf.cast(scores, dtype)
    pattern = tf.cast(tf.bitcast(scores, _INTEGER[bits]), dtype)
    magnitude = tf.bitwise.bitwise_and(pattern, tf.constant(-lowest(bits) - 1, dtype))
    keys = tf.where(pattern < 0, -magnitude, magnitude)
    is_nan = magnitude > tf.constant(_INFINITY[scores.dtype], dtype)
    # -inf is the lowest other key and lies well above this one.
    return tf.where(is_nan, tf.constant(lowest(bits), dtype), keys)
