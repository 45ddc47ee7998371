"""Stateless random seeds: every draw is named by what it is for."""

import hashlib

import tensorflow as tf

# One generator on every device, so that a seed means the same numbers everywhere.
ALGORITHM = "philox"


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


def _checked(seed: int) -> int:
    try:
        return int(seed)
    except (TypeError, ValueError):
        raise ValueError(f"Expected the seed to be an int, got {seed!r}.") from None
