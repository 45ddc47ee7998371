"""Stateless random seeds: every draw is named by what it is for."""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

# One generator on every device, so that a seed means the same numbers everywhere.
ALGORITHM = "philox"
_PHILOX = tf.random.Algorithm.PHILOX.value
_NUMBERS_A_COUNT = 4
# TensorFlow's own, by which it makes keys of seeds.
_SCRAMBLING_KEY = 0x02461E293EC8F720


def stateless_seed(
    purpose: str, seed: int, index: int = 0, *, step: int | tf.Tensor = 0
) -> tf.Tensor:
    """Seed of one draw, for TensorFlow's stateless random operations.

    Draws are named, not counted: the same name gives the same numbers in any process,
    on any replica and in any order, and two purposes never share a draw.

    Args:
      purpose: what is drawn, such as "mask" or "grow".
      seed: int, the experiment's seed for that kind of draw.
      index: int, which kernel it is drawn for.
      step: int or integer tensor, the training step it is drawn at.

    Returns:
      An int64 tensor of shape [2], for `tf.random.stateless_*(seed=...,
      alg=ALGORITHM)`.

    Raises:
      ValueError: when `seed` is no number.
    """
    name = f"{purpose}/{_checked(seed)}/{int(index)}".encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    key = int.from_bytes(digest, "little", signed=True)
    return tf.stack([tf.constant(key, tf.int64), tf.cast(step, tf.int64)])


def random_integers(
    shape: Sequence[int], seed: tf.Tensor, first: int | tf.Tensor = 0
) -> tf.Tensor:
    """Random integers, also a part of those of a larger tensor.

    Args:
      shape: static shape of what is drawn.
      seed: stateless seed, int64 of shape [2].
      first: how many numbers of the larger tensor, flat, come before these.

    Returns:
      An int32 tensor, uniform over all its values; bitwise equal with and without XLA.
    """
    full = tf.raw_ops.StatelessRandomUniformFullIntV2
    return _part(functools.partial(full, dtype=tf.int32), shape, seed, first=first)


def random_normal(
    shape: Sequence[int], seed: tf.Tensor, first: int | tf.Tensor = 0
) -> tf.Tensor:
    """Standard normal numbers, also a part of those of a larger tensor.

    Args and returns are those of `random_integers`, but for the type, float32, and
    that XLA's normal numbers are others.
    """
    normal = tf.raw_ops.StatelessRandomNormalV2
    return _part(functools.partial(normal, dtype=tf.float32), shape, seed, first=first)


def _part(
    draw: Callable[..., tf.Tensor],
    shape: Sequence[int],
    seed: tf.Tensor,
    *,
    first: int | tf.Tensor,
) -> tf.Tensor:
    """Numbers from the place `first` on in the stream of a seed.

    Philox makes numbers of 32 bits in fours, of which it counts: as TensorFlow 2.21
    does on the CPU and XLA.
    """
    size = math.prod(shape)
    first = tf.cast(first, tf.int64)
    lead = first % _NUMBERS_A_COUNT
    key, counter = _key_and_counter(seed)
    low = counter[0] + tf.cast(first // _NUMBERS_A_COUNT, tf.uint64)
    numbers = draw(
        shape=[size + _NUMBERS_A_COUNT - 1],
        key=key,
        counter=tf.stack([low, counter[1]]),
        alg=_PHILOX,
    )
    return tf.reshape(tf.slice(numbers, [lead], [size]), shape)


def _key_and_counter(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What TensorFlow's stateless operations make of a seed for Philox.

    `StatelessRandomGetKeyCounter` makes something else of it under XLA.
    """
    mixed = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[4],
        key=tf.constant([_SCRAMBLING_KEY], tf.uint64),
        counter=tf.cast(seed, tf.uint64),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    key, high = tf.unstack(tf.bitcast(tf.reshape(mixed, [2, 2]), tf.uint64))
    return tf.reshape(key, [1]), tf.stack([tf.zeros_like(high), high])


def _checked(seed: int) -> int:
    try:
        return int(seed)
    except (TypeError, ValueError):
        raise ValueError(f"Expected the seed to be an int, got {seed!r}.") from None
