"""Where the time of a run of the command line goes."""

import os
import tempfile
import threading
import time

from absl import flags

from rigl_keras import train
from rigl_keras.program.checkpoints import Checkpoints
from rigl_keras.program.run import Run
from rigl_keras.program.test_set import InMemory, Streamed
from rigl_keras.training.attachment import Attachment
from rigl_keras.training.gradient_flow import FlowMeter
from rigl_keras.training.session import Session

# Of the environment: when this process was started, by `time.time()`.
STARTED = "BENCHMARK_STARTED"

# What is timed, each without what it calls of the others.
STEPS, IMPORTS, START = "training steps", "imports", "start"
_PARTS = {
    STEPS: [(Session, "run")],
    IMPORTS: [],  # before anything here can be watched
    START: [(Run, "__init__"), (Run, "begin")],
    "tests": [(InMemory, "evaluate"), (Streamed, "evaluate")],
    "mask updates": [(Attachment, "update")],
    "gradient norms": [(FlowMeter, "measure")],
    "checkpoints": [(Checkpoints, "save"), (Checkpoints, "save_around_update")],
}


class _Stopwatch:
    """Adds up the seconds within functions, each without the timed ones in it.

    Attributes:
      seconds: dict from the parts to seconds of the thread that trains.
      beside: dict from the parts to seconds of other threads, meanwhile.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(_PARTS, 0.0)
        self.beside = dict.fromkeys(_PARTS, 0.0)
        self._inner = [0.0]
        self._has_trained = False

    def watch(self, part, cls, name):
        """Replaces a method by one that is timed."""
        function = getattr(cls, name)

        def timed(*args, **kwargs):
            began = time.perf_counter()
            if threading.current_thread() is not threading.main_thread():
                try:
                    return function(*args, **kwargs)
                finally:
                    self.beside[part] += time.perf_counter() - began
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - began
                self._add(part, whole - self._inner.pop())
                self._inner[-1] += whole

        setattr(cls, name, timed)

    def _add(self, part, seconds):
        # The first step is traced, which is no training yet.
        is_first = part == STEPS and not self._has_trained
        self.seconds[START if is_first else part] += seconds
        self._has_trained |= is_first


def measure(config, *, steps, log_freq, save_freq):
    """Trains by `rigl_keras.train`, in a fresh process.

    Args:
      config: gin file, below gin/, of a method that keeps masks.
      steps: int, the length of the run.
      log_freq: int, steps between two tests and records.
      save_freq: int, steps between two checkpoints.

    Returns:
      A dict with the settings, "total" seconds of the process, from its start on, the
      seconds of its "parts", and those that a second thread spent "beside" them.
    """
    started = float(os.environ[STARTED])
    watch = _Stopwatch()
    watch.seconds[IMPORTS] = time.time() - started
    for part, methods in _PARTS.items():
        for cls, name in methods:
            watch.watch(part, cls, name)
    bindings = {"total_steps": steps, "log_freq": log_freq, "save_freq": save_freq}
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "train",
            f"--logdir={os.path.join(folder, 'run')}",
            f"--gin_config={config}",
            *(f"--gin_bindings=training.{k}={v}" for k, v in bindings.items()),
        ]
        flags.FLAGS(arguments)
        if train.main(arguments[:1]):
            raise RuntimeError(f"{' '.join(arguments)} failed; see above.")
        total = time.time() - started
    return {
        "config": config,
        **bindings,
        "total": total,
        "parts": watch.seconds,
        "beside": watch.beside,
    }
