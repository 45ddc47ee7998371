"""Keras callbacks that record a run: metrics, TensorBoard events, checkpoints."""

import json
import os
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.program import files

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


class TestSet(NamedTuple):
    """What a run evaluates on.

    Attributes:
      batches: data set for `evaluate`.
      steps: int, how many batches it has.
      every: int >= 1, steps between two evaluations, or None: one with every record.
    """

    batches: Any
    steps: int
    every: int | None = None


class RunLogger(keras.callbacks.Callback):
    """Evaluates and writes metrics every `log_freq` steps.

    Of step 0 it records what needs no training: the gradient's norm. Training metrics
    are means over the steps since the last record. They go to `metrics.jsonl`, to
    TensorBoard events and, if wanted, to a printed line.

    Args:
      logdir: path of the run's folder.
      writer: the run's writer of TensorBoard events.
      clock: `StepClock`.
      log_freq: int >= 1.
      test_set: `TestSet`; an evaluation makes a record too.
      diagnostics: `Diagnostics`.
      thresholds: function that returns a dict from the kernels' paths to the smallest
        magnitudes that pruning kept, or None.
      prints: whether each record is printed.

    Attributes:
      last_record: the last record, a dict, or None.
    """

    def __init__(
        self,
        logdir,
        writer,
        clock,
        *,
        log_freq,
        test_set,
        diagnostics,
        thresholds=None,
        prints=False,
    ):
        super().__init__()
        self._diagnostics = diagnostics
        self._thresholds = thresholds
        self._logdir = logdir
        self._clock = clock
        self._test_set = test_set
        self._log_freq = log_freq
        self._prints = prints
        self._began = 0.0
        self._writer = writer
        self.last_record = None

    def on_train_begin(self, logs=None):
        """Records step 0 and starts the clock."""
        if self._clock.start == 0:
            measured, tags = self._diagnostics.measure()
            self._append({"step": 0, **measured})
            self._write_events(0, measured, tags)
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Writes a record when one is due."""
        step = self._clock.step(batch)
        logs_now = self._clock.is_due(step, self._log_freq)
        tests_now = self._clock.is_due(step, self._test_set.every or self._log_freq)
        if logs_now or tests_now:
            self._record(step, logs or {}, tests_now)

    def _record(self, step, logs, tests):
        record = {name: float(value) for name, value in logs.items()}
        if tests:
            record |= self._evaluate()
        # Training metrics start anew: Keras keeps those of both in one place.
        self.model.reset_metrics()
        record["regularization"] = float(tf.add_n(self.model.losses or [0.0]))
        rate = compat.learning_rate(self.model.optimizer, step)
        record["learning_rate"] = float(rate)
        measured, tags = self._diagnostics.measure()
        record |= measured
        if self._thresholds is not None:
            named = self._thresholds().items()
            tags |= {f"threshold/{path}": value for path, value in named}
        self._write_events(step, record, tags)
        self._append({"step": step, **record})
        self.last_record = record
        if self._prints:
            self._print(step, record)

    def _append(self, record):
        files.append_jsonl(os.path.join(self._logdir, METRICS_FILE), record)

    def _evaluate(self):
        metrics = self.model.evaluate(
            self._test_set.batches,
            steps=self._test_set.steps,
            verbose=0,
            return_dict=True,
        )
        return {
            f"test_{name}": float(value)
            for name, value in metrics.items()
            if name != "loss"
        }

    def _write_events(self, step, record, tags):
        tags = {
            **{_TAGS[name]: value for name, value in record.items() if name in _TAGS},
            **tags,
        }
        with self._writer.as_default(step=step):
            for tag, value in tags.items():
                tf.summary.scalar(tag, value)
            for kernel in sparse_kernels(self.model):
                mask = kernel.mask.numpy()
                tf.summary.scalar(f"sparsity/{kernel.path}", 1 - mask.mean())
                picture = mask.reshape(1, -1, mask.shape[-1], 1)
                tf.summary.image(f"mask/{kernel.path}", picture.astype(np.float32))
        self._writer.flush()

    def _print(self, step, record):
        start, stop, _ = self._clock
        seconds = time.perf_counter() - self._began
        left = seconds / (step - start) * (stop - step)
        parts = [
            f"step {step:>{len(str(stop))}}/{stop}",
            f"loss {record['loss']:.4f}",
            f"accuracy {record['accuracy']:.2%}",
        ]
        if "test_accuracy" in record:
            parts.append(f"test accuracy {record['test_accuracy']:.2%}")
        if "sparsity" in record:
            parts.append(f"sparsity {record['sparsity']:.2%}")
        print("  ".join([*parts, f"{left:.0f} s left"]), flush=True)


class CheckpointSaver(keras.callbacks.Callback):
    """Saves a checkpoint every `save_freq` steps and at the end.

    Args:
      checkpoints: `Checkpoints`.
      clock: `StepClock`.
      save_freq: int >= 1.
    """

    def __init__(self, checkpoints, clock, save_freq):
        super().__init__()
        self._checkpoints = checkpoints
        self._clock = clock
        self._save_freq = save_freq

    def on_train_batch_end(self, batch, logs=None):
        """Saves when it is due."""
        step = self._clock.step(batch)
        if self._clock.is_due(step, self._save_freq):
            self._checkpoints.save(step)


def record_meta_losses(logdir, writer, losses):
    """Writes MetaInit's losses to `meta_loss.jsonl` and to TensorBoard events."""
    path = os.path.join(logdir, "meta_loss.jsonl")
    lines = [
        {"step": step, "meta_loss": float(loss)} for step, loss in enumerate(losses)
    ]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    with writer.as_default():
        for line in lines:
            tf.summary.scalar("meta_loss", line["meta_loss"], step=line["step"])
