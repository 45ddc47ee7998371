"""What the package costs beside time: memory, and what its import imports."""

import ctypes
import gc
import math
import resource
import subprocess
import sys

import numpy as np
import tensorflow as tf
from tensorflow import keras

import rigl_keras
from rigl_keras import networks
from rigl_keras.kernels import find_kernels

WIDTH, BATCH_SIZE, SPARSITY = 2048, 128, 0.9
_ALWAYS = {"schedule": "constant", "last_update_step": -1}
METHODS = {
    "dense": None,
    "static": lambda: rigl_keras.Static(),
    "SET": lambda: rigl_keras.SET(update_freq=10, **_ALWAYS),
    "RigL": lambda: rigl_keras.RigL(update_freq=10, **_ALWAYS),
}


def measure_memory(method, steps=600):
    """Trains an MLP of 784-2048-2048-10 and looks at the memory; in a fresh process.

    Args:
      method: key of `METHODS`; masks are updated every 10 steps.
      steps: int, how many steps to look at growth over.

    Returns:
      A dict of the number of "weights" in kernels; "variables", bytes of all variables
      that exist while it trains; "peak", bytes of the process at most; "growth", bytes
      that are allocated after the second half of the steps and were not before it.
    """
    model = networks.build("mlp", (28, 28, 1), 10, hidden_sizes=(WIDTH, WIDTH))
    weights = sum(math.prod(each.variable.shape) for each in find_kernels(model))
    callbacks = []
    if METHODS[method] is not None:
        model = rigl_keras.sparsify(model, SPARSITY, seed=0)
        callbacks = [METHODS[method]()]
        gc.collect()  # The dense model, of which Keras holds cycles.
    model.compile(
        keras.optimizers.SGD(0.001, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    watch = _Memory(steps // 2, steps - 1)
    x = np.random.RandomState(0).rand(BATCH_SIZE, 28, 28, 1).astype(np.float32)
    batch = x, np.arange(BATCH_SIZE) % 10
    data = tf.data.Dataset.from_tensors(batch).repeat()
    model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[*callbacks, watch])
    return {
        "method": method,
        "weights": weights,
        "variables": watch.variables,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "growth": watch.at_end - watch.at_half,
        "growth_steps": steps - 1 - steps // 2,
    }


class _Memory(keras.callbacks.Callback):
    """Looks at the memory before two steps."""

    def __init__(self, half, end):
        super().__init__()
        self._half, self._end = half, end
        self.variables = self.at_half = self.at_end = 0

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self._half:
            self.variables = _bytes_of_variables()
            self.at_half = _allocated()
        elif batch == self._end:
            self.at_end = _allocated()


def _bytes_of_variables():
    gc.collect()
    found = {
        id(each): each.shape.num_elements() * each.dtype.size
        for each in gc.get_objects()
        if isinstance(each, tf.Variable)
    }
    return sum(found.values())


class _Allocations(ctypes.Structure):
    """What `mallinfo2` of the GNU C library returns."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")),
        *((name, ctypes.c_size_t) for name in ("hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def _allocated():
    """Bytes that are allocated now; what the process holds moves by whole arenas.

    By the GNU C library, from version 2.33 on. It sees small objects of Python where
    the environment has PYTHONMALLOC=malloc.
    """
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Allocations
    found = mallinfo()
    return found.uordblks + found.hblkhd


# The first line is what every user of the package has imported anyway.
_IMPORT = """
import tensorflow; tensorflow.keras.layers
import sys, time
before, began = set(sys.modules), time.perf_counter()
import rigl_keras
seconds = time.perf_counter() - began
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(seconds, *sorted(names))
"""


def measure_import(rounds=6):
    """Times `import rigl_keras` after TensorFlow and Keras, in fresh processes.

    Args:
      rounds: int >= 1, how many processes.

    Returns:
      A dict of a list of "seconds" and the top-level "modules" that it imports.
    """
    times, modules = [], []
    for _ in range(rounds):
        output = subprocess.run(
            [sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True
        ).stdout
        seconds, *modules = output.split()
        times.append(float(seconds))
    return {"seconds": times, "modules": modules}
