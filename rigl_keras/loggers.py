"""Keras callbacks that record a run: metrics, TensorBoard events, checkpoints."""

import os
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat, results
from rigl_keras.layers import sparse_kernels

METRICS_FILE = "metrics.jsonl"
# Keras's names and the paper's TF2 code's TensorBoard tags.
_TAGS = {
    "cross_entropy": "train_batch_loss",
    "accuracy": "train_batch_accuracy",
    "test_cross_entropy": "test_loss",
    "test_accuracy": "test_acc",
    "regularization": "train_batch_reg_loss",
    "learning_rate": "lr",
    "drop_fraction": "drop_fraction",
}


class RunLogger(keras.callbacks.Callback):
    """Evaluates and writes metrics every `log_freq` steps.

    Training metrics are means over the steps since the last record. They go to
    `metrics.jsonl`, to TensorBoard events and, where the output is no terminal, to a
    printed line.

    Args:
      logdir: path of the run's folder.
      test_data: `tf.data.Dataset` to evaluate on.
      start_step: int, the step at which this training starts.
      total_steps: int, the step at which it ends.
      log_freq: int >= 1.

    Attributes:
      last_record: the last record, a dict, or None.
    """

    def __init__(self, logdir, test_data, start_step, total_steps, log_freq):
        super().__init__()
        self._logdir = logdir
        self._test_data = test_data
        self._start_step = start_step
        self._total_steps = total_steps
        self._log_freq = log_freq
        self._began = 0.0
        self._writer: Any = None
        self.last_record = None

    def on_train_begin(self, logs=None):
        """Opens the event file."""
        self._writer = tf.summary.create_file_writer(self._logdir)
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Writes a record when one is due."""
        step = self._start_step + batch + 1
        if step % self._log_freq == 0 or step == self._total_steps:
            self._record(step, logs or {})

    def on_train_end(self, logs=None):
        """Closes the event file."""
        self._writer.close()

    def _record(self, step, logs):
        record = {name: float(value) for name, value in logs.items()}
        record |= self._evaluate()
        record["regularization"] = float(tf.add_n(self.model.losses or [0.0]))
        rate = compat.learning_rate(self.model.optimizer, step)
        record["learning_rate"] = float(rate)
        self._write_events(step, record)
        path = os.path.join(self._logdir, METRICS_FILE)
        results.append_jsonl(path, {"step": step, **record})
        self.last_record = record
        if not sys.stdout.isatty():
            self._print(step, record)

    def _evaluate(self):
        """Test metrics. Training metrics start anew: Keras keeps both in one place."""
        metrics = self.model.evaluate(self._test_data, verbose=0, return_dict=True)
        self.model.reset_metrics()
        wanted = ("cross_entropy", "accuracy")
        return {f"test_{name}": float(metrics[name]) for name in wanted}

    def _write_events(self, step, record):
        with self._writer.as_default(step=step):
            for name, value in record.items():
                if name in _TAGS:
                    tf.summary.scalar(_TAGS[name], value)
            for kernel in sparse_kernels(self.model):
                mask = kernel.mask.numpy()
                tf.summary.scalar(f"sparsity/{kernel.path}", 1 - mask.mean())
                picture = mask.reshape(1, -1, mask.shape[-1], 1)
                tf.summary.image(f"mask/{kernel.path}", picture.astype(np.float32))
        self._writer.flush()

    def _print(self, step, record):
        done = step - self._start_step
        seconds = time.perf_counter() - self._began
        left = seconds / done * (self._total_steps - step)
        parts = [
            f"step {step:>{len(str(self._total_steps))}}/{self._total_steps}",
            f"loss {record['loss']:.4f}",
            f"accuracy {record['accuracy']:.2%}",
            f"test accuracy {record['test_accuracy']:.2%}",
        ]
        if "sparsity" in record:
            parts.append(f"sparsity {record['sparsity']:.2%}")
        print("  ".join([*parts, f"{left:.0f} s left"]), flush=True)


class CheckpointSaver(keras.callbacks.Callback):
    """Saves a checkpoint every `save_freq` steps and at the end.

    Args:
      checkpoints: `Checkpoints`.
      start_step: int, the step at which this training starts.
      total_steps: int, the step at which it ends.
      save_freq: int >= 1.
    """

    def __init__(self, checkpoints, start_step, total_steps, save_freq):
        super().__init__()
        self._checkpoints = checkpoints
        self._start_step = start_step
        self._total_steps = total_steps
        self._save_freq = save_freq

    def on_train_batch_end(self, batch, logs=None):
        """Saves when it is due."""
        step = self._start_step + batch + 1
        if step % self._save_freq == 0 or step == self._total_steps:
            self._checkpoints.save(step)
