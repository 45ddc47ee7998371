"""Mask updates of all kernels of ResNet-50, by the pattern of its masks."""

import functools

import tensorflow as tf

from benchmarks.turns import by_clock, take_turns, timed
from rigl_keras import networks
from rigl_keras.algorithms import KernelState, RigL
from rigl_keras.core.choosing import choose_patterns
from rigl_keras.core.initial_masks import first_mask
from rigl_keras.core.kernels import find_kernels
from rigl_keras.core.masked_kernel import surviving

SPARSITY = 0.9
DROP_FRACTION = 0.3
PATTERNS = (
    "unstructured",
    "blocks(4, 1)",
    "blocks(16, 1)",
    "blocks(16, 1, 'inputs')",
    "n_of_m(2, 4)",
    "constant_fan_in",
)


def measure_updates(
    *,
    network="resnet50",
    input_shape=(224, 224, 3),
    jit_compile=False,
    patterns=PATTERNS,
    rounds=5,
):
    """Times RigL's update of all kernels, masks and weights, for each pattern.

    A kernel that a pattern does not suit, the first convolution, has single weights.

    Args:
      network: key of `rigl_keras.networks.NETWORKS`.
      input_shape: of one example.
      jit_compile: whether XLA compiles the update.
      patterns: list of texts of patterns.
      rounds: int >= 1, how often each is timed.

    Returns:
      A dict with "weights", their number, and, for "wall" and "cpu" time, dicts from
      patterns to lists of seconds, round by round.
    """
    kernels = find_kernels(networks.build(network, input_shape, 10))
    # All patterns share the weights and gradients, which are large.
    tensors = [
        tuple(
            tf.random.stateless_normal(tuple(kernel.variable.shape), [index, seed])
            for seed in (1, 2)
        )
        for index, kernel in enumerate(kernels)
    ]
    calls = {
        pattern: timed(_update(kernels, tensors, pattern, jit_compile=jit_compile))
        for pattern in patterns
    }
    for call in calls.values():
        call()  # traces and compiles
    weights = sum(weights.shape.num_elements() for weights, _ in tensors)
    results = by_clock(take_turns(calls, rounds))
    return {"weights": weights, "jit_compile": jit_compile, **results}


def _update(kernels, tensors, pattern, *, jit_compile):
    """The update of all kernels in one graph, as a function without arguments."""
    choice = choose_patterns(kernels, [pattern, "unstructured"])
    masks = [
        tf.constant(_mask(kernel, choice.patterns[kernel.path], index))
        for index, kernel in enumerate(kernels)
    ]

    @functools.partial(tf.function, autograph=False, jit_compile=jit_compile)
    def update(masks, tensors):
        states = [
            KernelState(
                weights,
                mask,
                gradient,
                tf.zeros([2], tf.int64),
                pattern=choice.patterns[kernel.path],
                axes=(kernel.in_axes, kernel.out_axes),
            )
            for kernel, mask, (weights, gradient) in zip(
                kernels, masks, tensors, strict=True
            )
        ]
        new_masks = RigL().new_masks(states, tf.constant(DROP_FRACTION))
        return new_masks, [
            surviving(state.weights, state.mask, mask)
            for state, mask in zip(states, new_masks, strict=True)
        ]

    def call():
        new_masks, _ = update(masks, tensors)
        new_masks[-1].numpy()

    return call


def _mask(kernel, pattern, index):
    sparsity = pattern.own_sparsity or SPARSITY
    return first_mask(kernel, sparsity, pattern, seed=0, index=index)
