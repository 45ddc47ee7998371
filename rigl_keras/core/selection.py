"""Exact masks of the k largest scores, by radix selection instead of sorting.

Floating-point numbers order like their bit patterns, so the k-th largest score is found
digit by digit from the top: each round counts how often each value of a digit of eleven
bits occurs among the scores that share the digits found so far. Scores of 32 bits are
counted three times, in shapes that no value changes. A sort takes several times as
long, and `tf.math.top_k` needs k before compilation: docs/performance.md compares them.

On a GPU, compile the caller with `jit_compile=True`: TensorFlow's own int32 comparisons
run on the host.
"""

import contextlib
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from rigl_keras import compat
from rigl_keras.common.seeding import ALGORITHM
from rigl_keras.core.score_keys import BITS, COUNT, key_dtype, lowest, ordered_keys

_UNSIGNED = {tf.int32: tf.uint32, tf.int64: tf.uint64}
# Bits of a digit: 2048 counts stay in a core's cache, and 32 bits have three digits.
_DIGIT_BITS = 11


def top_k_mask(scores: Any, k: Any, where: Any = None) -> tf.Tensor:
    """Marks exactly k entries with the largest scores.

    The result is exact and the same, bit for bit, eagerly, in a `tf.function` and under
    XLA, on any device. Of equal scores the one with the lowest flat (row-major) index
    comes first; -0.0 equals +0.0; NaN ranks below every number, -inf included.
    Subnormal numbers keep their order even where arithmetic flushes them to zero.

    Args:
      scores: tensor of any static shape, with n < 2**31 entries, of a floating or
        signed integer type.
      k: number of entries to mark: a Python int in [0, n], or a scalar integer tensor,
        which is clipped to [0, n].
      where: optional bool tensor of the shape of `scores`. Entries where it is False
        rank, in index order whatever their scores, below all entries where it is True,
        NaN included: they are marked only when k exceeds the number of the latter.

    Returns:
      A bool tensor of the shape of `scores`.

    Raises:
      TypeError: if `scores`, `k` or `where` has the wrong type.
      ValueError: if a shape is unknown or does not fit, or a Python int k lies outside
        [0, n].
    """
    scores = tf.convert_to_tensor(scores)
    if scores.dtype not in BITS:
        raise TypeError(
            "Scores must be floating-point numbers or signed integers, got "
            f"{scores.dtype.name}; cast them first."
        )
    size = scores.shape.num_elements()
    if size is None:
        raise ValueError(
            f"Scores need a static shape, got {scores.shape}; set it with "
            "`tf.ensure_shape`."
        )
    k = _checked_count(k, size)
    bits = BITS[scores.dtype]
    keys = tf.reshape(ordered_keys(scores, bits), [-1])
    if where is not None:
        where = tf.reshape(_checked_where(where, scores.shape), [-1])
        # The lowest integer is a score like any other: the ties tell the two apart.
        keys = tf.where(where, keys, tf.constant(lowest(bits), keys.dtype))

    inputs = [keys, k] if where is None else [keys, k, where]
    choose = _chooser(bits, len(inputs) == 3, compat.needs_deterministic_ops())
    return tf.reshape(choose(*inputs), scores.shape)


def random_mask(shape: Sequence[int], k: Any, seed: tf.Tensor) -> tf.Tensor:
    """Marks exactly k entries, chosen uniformly at random.

    Args:
      shape: static shape of the mask, with n < 2**31 entries.
      k: number of entries to mark: a Python int in [0, n], or a scalar integer tensor,
        which is clipped to [0, n].
      seed: integer tensor of shape [2], as made by `seeding.stateless_seed`. The mask
        depends on it alone.

    Returns:
      A bool tensor of the given shape.

    Raises:
      TypeError: if `k` is not an integer.
      ValueError: if a Python int k lies outside [0, n].
    """
    scores = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.int32, alg=ALGORITHM
    )
    return top_k_mask(scores, k)


def _checked_count(k: Any, size: int) -> tf.Tensor:
    """Returns k as a scalar tensor in [0, size]."""
    if tf.is_tensor(k):
        if not k.dtype.is_integer:
            raise TypeError(f"k must be an integer, got a tensor of {k.dtype.name}.")
        if k.shape.rank not in (0, None):
            raise ValueError(f"k must be a scalar, got a tensor of shape {k.shape}.")
        return tf.clip_by_value(tf.cast(k, COUNT), 0, size)
    if isinstance(k, bool):
        raise TypeError(f"k must be an integer, got {k!r}.")
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an integer, got {k!r}; round it first.") from None
    if not 0 <= k <= size:
        raise ValueError(f"k must lie in [0, {size}], the number of scores, got {k}.")
    return tf.constant(k, COUNT)


def _checked_where(where: Any, shape: tf.TensorShape) -> tf.Tensor:
    where = tf.convert_to_tensor(where)
    if where.dtype != tf.bool:
        raise TypeError(
            f"`where` must be a bool tensor, got {where.dtype.name}; compare or cast "
            "it first."
        )
    if where.shape != shape:
        raise ValueError(
            f"`where` must have the shape of the scores, {shape}, got {where.shape}."
        )
    return where


@functools.cache
def _chooser(bits: int, has_where: bool, on_host: bool) -> Callable[..., tf.Tensor]:
    """The selection from flat keys, as one graph for any number of them.

    An update selects twice in every kernel. With a copy of the graph for each, made
    here or by inlining, the first update takes several times as long, being traced and
    optimized: docs/performance.md.
    """
    signature = [tf.TensorSpec([None], key_dtype(bits)), tf.TensorSpec([], COUNT)]
    if has_where:
        signature.append(tf.TensorSpec([None], tf.bool))

    @tf.function(
        input_signature=signature,
        autograph=False,
        experimental_attributes={"_noinline": True},  # known to TensorFlow 2.21
    )
    def choose(
        keys: tf.Tensor, k: tf.Tensor, where: tf.Tensor | None = None
    ) -> tf.Tensor:
        threshold, tie_count, missing = _kth_largest(keys, k, bits, on_host=on_host)
        # Telling ties apart costs as much as all the rest, and mostly there are none.
        return tf.cond(
            tie_count == missing,
            lambda: keys >= threshold,
            lambda: (keys > threshold) | _first_ties(keys == threshold, missing, where),
        )

    return choose


def _kth_largest(
    keys: tf.Tensor, k: tf.Tensor, bits: int, *, on_host: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the k-th largest key: for k = 0 the largest integer of `bits` bits.

    Returns:
      The key; how many keys equal it; and how many of those are among the k largest.
    """
    unsigned = _UNSIGNED[keys.dtype]
    least = tf.bitcast(tf.constant(lowest(bits), keys.dtype), unsigned)
    # The distance from the lowest integer orders as the key does. Differences wrap
    # around: what lies below the smallest comes out above all others.
    distances = tf.bitcast(keys, unsigned) - least
    smallest = tf.zeros([], unsigned)  # of the distances with the digits found
    tie_count, bits_left = None, bits
    while bits_left:
        width = min(_DIGIT_BITS, bits_left)
        bits_left -= width
        counts = _digit_counts(distances - smallest, width, bits_left, on_host=on_host)
        from_digit_on = tf.cumsum(counts, reverse=True)
        digit = tf.math.count_nonzero(from_digit_on >= k, dtype=COUNT) - 1
        # Not by `counts[digit]`, which XLA of TensorFlow 2.21 never finishes compiling.
        tie_count = tf.gather(counts, digit)
        k -= tf.gather(from_digit_on, digit) - tie_count
        smallest += tf.cast(digit, unsigned) * tf.constant(2**bits_left, unsigned)
    return tf.bitcast(smallest + least, keys.dtype), tie_count, k


def _digit_counts(
    values: tf.Tensor, width: int, shift: int, *, on_host: bool
) -> tf.Tensor:
    """How often each digit, the bits from `shift` on, occurs in values of such digits.

    Args:
      values: unsigned integers; those of 2**(shift + width) and more do not count.
      width: bits of a digit.
      shift: bits below it.
      on_host: whether they are counted on the CPU.

    Returns:
      Counts, of shape [2**width].
    """
    size = 2**width
    digits = tf.bitwise.right_shift(values, tf.constant(shift, values.dtype))
    if 8 * values.dtype.size - shift > 31:
        # Some would come out negative as int32. Digits of `size` and more do not count.
        digits = tf.minimum(digits, tf.constant(size, values.dtype))
    # Sums of integers are the same in any order, but where only deterministic
    # operations are allowed TensorFlow refuses this one on a GPU.
    with tf.device("CPU:0") if on_host else contextlib.nullcontext():
        # `tf.math.bincount` is this operation after some that XLA refuses.
        counts = tf.raw_ops.DenseBincount(
            input=tf.cast(digits, tf.int32),
            size=size,
            weights=tf.zeros([0], tf.int32),
        )
    return tf.cast(counts, COUNT)


def _first_ties(ties: tf.Tensor, k: tf.Tensor, where: tf.Tensor | None) -> tf.Tensor:
    """The first k ties; those that `where` leaves out come after all others."""
    if where is None:
        return _first(ties, k)
    inside, outside = ties & where, ties & ~where
    return _first(inside, k) | _first(outside, k - _count(inside))


def _count(condition: tf.Tensor) -> tf.Tensor:
    # Integers, because a float32 sum stops counting at 2**24.
    return tf.reduce_sum(tf.cast(condition, COUNT))


def _first(condition: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    """The k entries of lowest index among those where `condition` holds."""
    earlier = tf.cumsum(tf.cast(condition, COUNT), exclusive=True)
    return condition & (earlier < k)
