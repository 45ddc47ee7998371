"""Kernels stored without zeros beside dense ones, and beside ones with masks.

Training steps by `fit`, and layers by themselves. One process has one number of
threads: its environment sets it.
"""

import dataclasses
import functools

import tensorflow as tf
from tensorflow import keras

import rigl_keras
from benchmarks.setups import SETUPS
from benchmarks.trainings import ALWAYS, NEVER, Contestant
from benchmarks.turns import by_clock, take_turns, timed
from rigl_keras import compat

PATTERN = "blocks(16, 1, 'inputs')"
LAST = ("logits/*",)  # of a perceptron's kernels, which stays dense
OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.001, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.0001),
}
# Of a masked model, which takes as long whatever its sparsity, and of RigL.
SPARSITY = 0.95


def sparsified(model, sparsity, storage, *, dense=()):
    """A sparse copy of a model.

    Args:
      model: whose kernels are to be sparse.
      sparsity: of each of them.
      storage: "masked" or "compressed".
      dense: glob patterns of the paths of kernels that stay dense.
    """
    return rigl_keras.sparsify(
        model,
        sparsity,
        distribution="uniform",
        initializer="layer_scaled",
        pattern={**dict.fromkeys(dense, "dense"), "*": PATTERN},
        storage=storage,
        seed=0,
        verbose=False,
    )


def measure_fit(
    optimizer,
    *,
    threads,
    jit_compile=False,
    sparsities=(0.9, 0.95, 0.98),
    rigl=True,
    setup="mlp-1024",
    steps=30,
    rounds=7,
):
    """Times training steps of a setup by `fit`.

    Args:
      optimizer: key of `OPTIMIZERS`.
      threads: how many the environment of the process sets.
      jit_compile: whether XLA compiles the training steps.
      sparsities: of compressed kernels.
      rigl: whether RigL takes part too.
      setup: key of `SETUPS`.
      steps: int, training steps of one turn.
      rounds: int >= 1, turns of each.

    Returns:
      A dict of the arguments, and of "wall", "cpu", "update" and "update_cpu", each a
      dict from contestants to lists of seconds a step, or of an update.
    """
    setup = dataclasses.replace(SETUPS[setup], steps=steps)
    makers = {**_trainings(sparsities), **(_rigl_trainings() if rigl else {})}
    contestants = {
        name: Contestant(
            setup,
            wrap,
            callbacks,
            jit_compile=jit_compile,
            optimizer=OPTIMIZERS[optimizer](),
        ).turn
        for name, (wrap, callbacks) in makers.items()
    }
    return {
        "optimizer": optimizer,
        "threads": threads,
        "jit_compile": jit_compile,
        "sparsities": list(sparsities),
        **by_clock(take_turns(contestants, rounds)),
    }


def _trainings(sparsities):
    """Of each contestant how to make its model, and its callbacks."""

    def wrap(sparsity, storage):
        return lambda model: sparsified(model, sparsity, storage, dense=LAST)

    return {
        "dense": (lambda model: model, []),
        "masked": (wrap(SPARSITY, "masked"), [rigl_keras.Static()]),
        **{
            compressed_name(sparsity): (
                wrap(sparsity, "compressed"),
                [rigl_keras.Static()],
            )
            for sparsity in sparsities
        },
    }


def _rigl_trainings():
    """Likewise, with an update in no step or after every one."""

    def compressed(model):
        return sparsified(model, SPARSITY, "compressed", dense=LAST)

    return {
        name: (compressed, [rigl_keras.RigL(update_freq=frequency, **ALWAYS)])
        for name, frequency in (("RigL", NEVER), ("RigL, always updating", 1))
    }


def compressed_name(sparsity):
    """What the contestant of a sparsity is called."""
    return f"compressed {sparsity:g}"


def measure_layers(
    widths,
    *,
    rows,
    threads,
    jit_compile=False,
    sparsities=(0.9, 0.95, 0.98),
    calls=20,
    rounds=11,
):
    """Times Dense layers: outputs, and the gradients of inputs and weights.

    Args:
      widths: list of the numbers of inputs and outputs, one after the other. Between
        two layers is a ReLU.
      rows: int, how many inputs.
      threads: how many the environment of the process sets.
      jit_compile: whether XLA compiles them.
      sparsities: of compressed kernels.
      calls: int, how often a turn computes them.
      rounds: int >= 1, turns of each.

    Returns:
      A dict of the arguments, and of "wall" and "cpu", each a dict from contestants to
      lists of seconds.
    """
    dense = _dense_layers(widths)
    models = {"dense": dense, "masked": sparsified(dense, SPARSITY, "masked")}
    for sparsity in sparsities:
        name = compressed_name(sparsity)
        models[name] = sparsified(dense, sparsity, "compressed")
    contestants = {}
    for name, model in models.items():
        call = _both_passes(model, rows=rows, jit_compile=jit_compile)
        call(1)  # traces and compiles
        contestants[name] = functools.partial(_mean_times, call, calls)
    return {
        "widths": list(widths),
        "rows": rows,
        "threads": threads,
        "jit_compile": jit_compile,
        "sparsities": list(sparsities),
        **by_clock(take_turns(contestants, rounds)),
    }


def _dense_layers(widths):
    *hidden, last = widths[1:]
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    return keras.Sequential(
        [keras.Input((widths[0],)), *layers, keras.layers.Dense(last)]
    )


def _both_passes(model, *, rows, jit_compile):
    """Forward and backward passes of a model, as a function of how many."""
    inputs = tf.random.stateless_normal([rows, model.input_shape[1]], [0, 1])
    upstream = tf.random.stateless_normal([rows, model.output_shape[1]], [0, 2])
    variables = [compat.raw(variable) for variable in model.trainable_variables]

    @functools.partial(tf.function, autograph=False, jit_compile=jit_compile)
    def passes(inputs, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = model(inputs)
        return tape.gradient(outputs, [inputs, *variables], upstream)

    def call(times):
        for _ in range(times):
            gradients = passes(inputs, upstream)
        gradients[-1].numpy()

    return call


def _mean_times(call, times):
    return {
        clock: seconds / times
        for clock, seconds in timed(lambda: call(times))().items()
    }
