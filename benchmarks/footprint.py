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
from rigl_keras.core.kernels import find_kernels

SPARSITY = 0.9
_ALWAYS = {"schedule": "constant", "last_update_step": -1}
METHODS = {
    "dense": None,
    "static": lambda: rigl_keras.Static(),
    "SET": lambda: rigl_keras.SET(update_freq=10, **_ALWAYS),
    "RigL": lambda: rigl_keras.RigL(update_freq=10, **_ALWAYS),
}
# How often a training is looked at while it goes on.
_LOOKS = 3


def measure_memory(method, *, width=2048, batch_size=128, steps=60):
    """Trains an MLP of two hidden layers and looks at the memory; in a fresh process.

    Args:
      method: key of `METHODS`; masks are updated every 10 steps.
      width: int, units of a hidden layer.
      batch_size: int.
      steps: int >= 3.

    Returns:
      A dict of the number of "weights" in kernels; "variables", bytes of all variables
      that exist while it trains; "peak", bytes of the process at most; "growth", bytes
      that are allocated after the last third of the steps and were not before it, or
      None where the C library does not tell; "growth_steps", how many steps those are.
    """
    model = networks.build("mlp", (28, 28, 1), 10, hidden_sizes=(width, width))
    weights = sum(math.prod(kernel.variable.shape) for kernel in find_kernels(model))
    callbacks = []
    if METHODS[method] is not None:
        model = rigl_keras.sparsify(model, SPARSITY, distribution="uniform", seed=0)
        callbacks = [METHODS[method]()]
        gc.collect()  # The dense model, of which Keras holds cycles.
    model.compile(
        keras.optimizers.SGD(0.001, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    part = steps // _LOOKS
    watch = _Memory(part)
    x = np.random.RandomState(0).rand(batch_size, 28, 28, 1).astype(np.float32)
    batch = x, np.arange(batch_size) % 10
    data = tf.data.Dataset.from_tensors(batch).repeat()
    model.fit(
        data,
        steps_per_epoch=part * _LOOKS + 1,
        verbose=0,
        callbacks=[*callbacks, watch],
    )
    before, after = watch.allocated[-2:]
    return {
        "method": method,
        "weights": weights,
        "variables": watch.variables,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT,
        "growth": None if after is None else after - before,
        "growth_steps": part,
    }


PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


class _Memory(keras.callbacks.Callback):
    """Looks at the memory every so many steps."""

    def __init__(self, every):
        super().__init__()
        self._every = every
        self.variables = 0
        self.allocated = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch and batch % self._every == 0:
            self.variables = _bytes_of_variables()
            self.allocated.append(_allocated())


def _bytes_of_variables():
    gc.collect()
    sizes = {
        id(item): item.shape.num_elements() * item.dtype.size
        for item in gc.get_objects()
        if isinstance(item, tf.Variable)
    }
    return sum(sizes.values())


class _Allocations(ctypes.Structure):
    """What `mallinfo2` of the GNU C library returns."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks")),
        *((name, ctypes.c_size_t) for name in ("hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def _allocated():
    """Bytes that are allocated now; what the process holds moves by whole arenas.

    By the GNU C library, from version 2.33 on; None without it. It sees small objects
    of Python where the environment has PYTHONMALLOC=malloc.
    """
    gc.collect()
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return None
    mallinfo.restype = _Allocations
    allocations = mallinfo()
    return allocations.uordblks + allocations.hblkhd


# The first line is what every user of the package has imported anyway.
_IMPORT = """
import tensorflow; tensorflow.keras.layers
import sys, time
before, wall, cpu = set(sys.modules), time.perf_counter(), time.process_time()
import rigl_keras
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(wall, cpu, *sorted(names))
"""


def measure_import(rounds=6):
    """Times `import rigl_keras` after TensorFlow and Keras, in fresh processes.

    Args:
      rounds: int >= 1, how many processes.

    Returns:
      A dict of lists of seconds of "import", for "wall" and "cpu" time, and the
      top-level "modules" that it imports.
    """
    times: dict[str, list] = {"wall": [], "cpu": []}
    modules = []
    for _ in range(rounds):
        output = subprocess.run(
            [sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True
        ).stdout
        wall, cpu, *modules = output.split()
        times["wall"].append(float(wall))
        times["cpu"].append(float(cpu))
    by_clock = {key: {"import": seconds} for key, seconds in times.items()}
    return {**by_clock, "modules": modules}
