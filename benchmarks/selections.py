"""Finding the k largest scores, and whole mask updates: by radix and by sorting."""

import functools
from unittest import mock

import numpy as np
import tensorflow as tf

from benchmarks.turns import by_clock, take_turns, timed
from rigl_keras.algorithms import KernelState, RigL, base
from rigl_keras.core import grouped_selection
from rigl_keras.core.selection import top_k_mask

SPARSITY = 0.9
DROP_FRACTION = 0.3


def by_argsort(scores, k, where=None):
    """The mask of `top_k_mask`, by a stable sort: k may be a tensor."""
    flat = tf.reshape(scores, [-1])
    if where is not None:
        # Scores are magnitudes here, so that none is below 0.
        flat = tf.where(tf.reshape(where, [-1]), flat, tf.constant(-1, flat.dtype))
    order = tf.argsort(flat, direction="DESCENDING", stable=True)
    return _marked(order, tf.range(tf.size(flat)) < tf.cast(k, tf.int32), scores.shape)


def by_top_k(scores, k):
    """The same by `tf.math.top_k`: k is a Python number, known to the compiler."""
    chosen = tf.math.top_k(tf.reshape(scores, [-1]), k, sorted=False).indices
    size = scores.shape.num_elements()
    return _marked(chosen, tf.ones_like(chosen, tf.bool), [size])


def _marked(indices, values, shape):
    size = tf.TensorShape(shape).num_elements()
    mask = tf.scatter_nd(indices[:, tf.newaxis], tf.cast(values, tf.int32), [size])
    return tf.reshape(mask > 0, shape)


def measure(size, jit_compile=False, rounds=5):
    """Times the selection of a tenth of normal scores' magnitudes.

    Args:
      size: number of scores.
      jit_compile: whether XLA compiles the selection.
      rounds: int >= 1, how often each is timed.

    Returns:
      A dict with, for "wall" and "cpu" time, lists of seconds, "radix", "argsort" and
      "top_k".

    Raises:
      AssertionError: when the masks differ.
    """
    scores = tf.abs(tf.random.stateless_normal([size], [1, 2]))
    k = round(size * (1 - SPARSITY))
    compiled = functools.partial(
        tf.function, jit_compile=jit_compile, autograph=False, reduce_retracing=False
    )
    radix, argsort = compiled(top_k_mask), compiled(by_argsort)
    top_k = compiled(functools.partial(by_top_k, k=k))
    calls = {
        "radix": lambda: radix(scores, tf.constant(k)).numpy(),
        "argsort": lambda: argsort(scores, tf.constant(k)).numpy(),
        "top_k": lambda: top_k(scores).numpy(),
    }
    masks = {name: call() for name, call in calls.items()}
    for name, mask in masks.items():
        assert np.array_equal(mask, masks["radix"]), f"{name} chose others at {size}"
    results = take_turns({name: timed(call) for name, call in calls.items()}, rounds)
    return {"size": size, "jit_compile": jit_compile, **by_clock(results)}


def measure_updates(sizes, *, jit_compile=False, sorts_up_to=0, rounds=5):
    """Times RigL's choice of new masks, for kernels of several sizes.

    Args:
      sizes: list of numbers of weights.
      jit_compile: whether XLA compiles the update.
      sorts_up_to: the largest size for which sorting is timed too.
      rounds: int >= 1, how often each is timed.

    Returns:
      A dict with "sizes" and, for "wall" and "cpu" time, of "radix" and "sorting", a
      list of seconds, round by round, of each size.

    Raises:
      AssertionError: when the masks differ.
    """
    ways = ("radix", "sorting")
    times: dict[str, dict] = {
        clock: {way: [] for way in ways} for clock in ("wall", "cpu")
    }
    for size in sizes:
        state = _state(size)
        calls = {"radix": _update(state, top_k_mask, jit_compile)}
        if size <= sorts_up_to:
            calls["sorting"] = _update(state, by_argsort, jit_compile)
        masks = [call().numpy() for call in calls.values()]
        assert all(np.array_equal(mask, masks[0]) for mask in masks)
        contestants = {
            name: timed(lambda call=call: call().numpy())
            for name, call in calls.items()
        }
        for clock, seconds in by_clock(take_turns(contestants, rounds)).items():
            for way in seconds:
                times[clock][way].append(seconds[way])
    return {"sizes": sizes, "jit_compile": jit_compile, **times}


def _state(size):
    """A kernel of normal weights, a tenth of them active, and a normal gradient."""
    shape = [size // 1024, 1024]
    mask = tf.random.stateless_uniform(shape, [5, 6]) < 1 - SPARSITY
    weights = tf.random.stateless_normal(shape, [1, 2]) * tf.cast(mask, tf.float32)
    gradient = tf.random.stateless_normal(shape, [3, 4])
    return KernelState(weights, mask, gradient, tf.zeros([2], tf.int64))


def _update(state, selection, jit_compile):
    def update(weights, mask, gradient):
        # While it is traced.
        with (
            mock.patch.object(base, "top_k_mask", selection),
            mock.patch.object(grouped_selection, "top_k_mask", selection),
        ):
            here = KernelState(weights, mask, gradient, state.seed)
            return RigL().new_mask(here, tf.constant(DROP_FRACTION))

    update = tf.function(update, autograph=False, jit_compile=jit_compile)
    return functools.partial(update, state.weights, state.mask, state.gradient)
