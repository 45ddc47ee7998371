"""What kernels stored without zeros take: bytes, a file, a layer too large if dense."""

import os
import resource
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf
from tensorflow import keras

import rigl_keras
from benchmarks.compressed import LAST, SPARSITY, compressed_name, sparsified
from benchmarks.footprint import PEAK_UNIT
from benchmarks.trainings import ALWAYS
from benchmarks.turns import timed
from rigl_keras import networks


def measure_memory(*, sparsities=(0.95, 0.99), hidden=(1024, 1024)):
    """The bytes of a perceptron's variables and file, trained one step by Adam.

    Args:
      sparsities: of the kernels of all layers but the last.
      hidden: the units of the layers before it.

    Returns:
      A dict from "variables" and "file" to dicts from contestants to bytes. Of the
      layers without the last one, which is dense in all, "sparse layers" tells the
      bytes of weights, places and slots.
    """
    measured = {"variables": {}, "sparse layers": {}, "file": {}}
    dense = networks.build("mlp", (28, 28, 1), 10, hidden_sizes=hidden)
    masked = sparsified(dense, SPARSITY, "masked", dense=LAST)
    models = {"dense": dense, f"masked {SPARSITY}": masked}
    for sparsity in sparsities:
        model = sparsified(dense, sparsity, "compressed", dense=LAST)
        models[compressed_name(sparsity)] = model
    for name, model in models.items():
        model.compile(
            keras.optimizers.Adam(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        callbacks = [] if name == "dense" else [rigl_keras.Static()]
        batch = np.zeros((8, 28, 28, 1), np.float32), np.arange(8)
        model.fit(*batch, verbose=0, callbacks=callbacks)
        measured["variables"][name] = _bytes(
            [*model.weights, *model.optimizer.variables]
        )
        measured["sparse layers"][name] = sum(map(_layer_bytes, model.layers[:-1]))
        measured["file"][name] = _file_bytes(model)
    return {"sparsities": list(sparsities), **measured}


def _bytes(variables):
    sizes = (tf.as_dtype(variable.dtype).size for variable in variables)
    counts = (int(np.prod(tuple(variable.shape))) for variable in variables)
    return sum(size * count for size, count in zip(sizes, counts, strict=True))


def _layer_bytes(layer):
    """Of a layer's variables, and of Adam's two slots for what is trained."""
    return _bytes(layer.weights) + 2 * _bytes(layer.trainable_weights)


def _file_bytes(model):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        return os.path.getsize(path)


def measure_large(*, width=65536, sparsity=0.999, batch_size=32, steps=6):
    """Trains a layer whose dense kernel is too large; in a fresh process.

    Adam trains it, and RigL updates it every 2 steps.

    Args:
      width: int, how many inputs and outputs.
      sparsity: of its kernel.
      batch_size: int.
      steps: int >= 4.

    Returns:
      A dict of the arguments; "weights" that exist, "dense_weights"; "peak", bytes of
      the process at most; median seconds of a "step" without an update, and of an
      "update" after the first one, which traces.
    """
    model = keras.Sequential(
        [
            keras.Input((width,)),
            rigl_keras.Compressed(keras.layers.Dense(width), sparsity, seed=0),
        ]
    )
    model.compile(keras.optimizers.Adam(), "mse", jit_compile=False)
    x = np.random.RandomState(0).randn(batch_size, width).astype(np.float32)
    rigl = rigl_keras.RigL(update_freq=2, **ALWAYS)
    watch = _Watch(rigl)
    model.fit(
        tf.data.Dataset.from_tensors((x, x)).repeat(steps),
        verbose=0,
        callbacks=[rigl, watch],
    )
    kernel = rigl_keras.sparse_kernels(model)[0]
    return {
        "width": width,
        "sparsity": sparsity,
        "batch_size": batch_size,
        "weights": kernel.active,
        "dense_weights": width * width,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT,
        "step": statistics.median(watch.plain_steps()),
        "update": statistics.median(watch.updates()[1:]),
    }


class _Watch(keras.callbacks.Callback):
    """Times steps, and what RigL does after each."""

    def __init__(self, rigl):
        super().__init__()
        after_steps = timed(rigl.after_steps)
        rigl.after_steps = lambda: self._after.append(after_steps()["wall"])
        self._began: list[float] = []
        self._after: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        """A step begins, and the one before has ended."""
        self._began.append(time.perf_counter())

    def on_train_end(self, logs=None):
        """The last one has ended."""
        self._began.append(time.perf_counter())

    def plain_steps(self):
        """Seconds of steps without an update, but for the first one."""
        return np.diff(self._began)[2::2].tolist()

    def updates(self):
        """Seconds of the updates, after every second step."""
        return self._after[1::2]
