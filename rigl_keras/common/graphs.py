"""Functions that TensorFlow compiles, one for each object that owns it."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def own_function(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles a function of one object, and has TensorFlow count its traces alone.

    TensorFlow warns of retracing where functions of the same code are traced often. The
    methods of many objects, and the inner functions of many calls, are of the same
    code: each is traced once, as it should be, and all together look like one that is
    traced again and again. A partial function has no code, and counts for itself.

    Args:
      function: a method of the object, or an inner function.
      **options: of `tf.function`.

    Returns:
      A `tf.function`.
    """
    return tf.function(functools.partial(function), **options)
