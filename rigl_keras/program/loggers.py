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
from rigl_keras.program.diagnostics import place_of

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


class Tests(NamedTuple):
    """When a run evaluates, and on what.

    Attributes:
      test_set: what evaluates the watched model, such as `Streamed`.
      every: int >= 1, steps between two evaluations, each of which makes a record too;
        or None: one with every record.
    """

    test_set: Any
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
      tests: `Tests`.
      diagnostics: `Diagnostics`, whose `watch` measures and writes.
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
        tests,
        diagnostics,
        thresholds=None,
        prints=False,
    ):
        super().__init__()
        self._diagnostics = diagnostics
        self._thresholds = thresholds
        self._logdir = logdir
        self._clock = clock
        self._watch = diagnostics.watch
        self._test_set = tests.test_set
        self._log_freq = log_freq
        self._test_freq = tests.every or log_freq
        self._prints = prints
        self._began = 0.0
        self._writer = writer
        self.last_record = None

    def on_train_begin(self, logs=None):
        """Records step 0 and starts the clock."""
        if self._clock.start == 0:
            place = place_of(self.model)
            self._watch.do(lambda: self._record_start(place))
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Writes a record when one is due."""
        step = self._clock.step(batch)
        logs_now = self._clock.is_due(step, self._log_freq)
        tests_now = self._clock.is_due(step, self._test_freq)
        if logs_now or tests_now:
            self._note(step, logs or {}, tests_now)

    def _record_start(self, place):
        measured, tags = self._diagnostics.measure(place)
        self._append({"step": 0, **measured})
        self._write_events(0, measured, tags)

    def _note(self, step, logs, tests):
        """Takes from the training what only it knows, and has a record made."""
        record = {name: float(value) for name, value in logs.items()}
        thresholds = {} if self._thresholds is None else self._thresholds()
        seconds = time.perf_counter() - self._began
        place = place_of(self.model)
        self._watch.do(
            lambda: self._record(
                step, record, thresholds, tests=tests, seconds=seconds, place=place
            )
        )
        # Training metrics start anew.
        self.model.reset_metrics()

    def _record(self, step, record, thresholds, *, tests, seconds, place):
        model = self._watch.model
        if tests:
            record |= self._evaluate()
        record["regularization"] = float(tf.add_n(model.losses or [0.0]))
        record["learning_rate"] = float(compat.learning_rate(model.optimizer, step))
        measured, tags = self._diagnostics.measure(place)
        record |= measured
        tags |= {f"threshold/{path}": value for path, value in thresholds.items()}
        self._write_events(step, record, tags)
        self._append({"step": step, **record})
        self.last_record = record
        if self._prints:
            self._print(step, record, seconds)

    def _append(self, record):
        files.append_jsonl(os.path.join(self._logdir, METRICS_FILE), record)

    def _evaluate(self):
        metrics = self._test_set.evaluate()
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
            for kernel in sparse_kernels(self._watch.model):
                mask = kernel.mask.numpy()
                tf.summary.scalar(f"sparsity/{kernel.path}", 1 - mask.mean())
                picture = mask.reshape(1, -1, mask.shape[-1], 1)
                tf.summary.image(f"mask/{kernel.path}", picture.astype(np.float32))
        self._writer.flush()

    def _print(self, step, record, seconds):
        start, stop, _ = self._clock
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
      checkpoints: `Checkpoints` of the watched model.
      watch: `AtOnce` or `Beside`, which saves.
      clock: `StepClock`.
      save_freq: int >= 1.
    """

    def __init__(self, checkpoints, watch, clock, *, save_freq):
        super().__init__()
        self._watch = watch
        self._checkpoints = checkpoints
        self._clock = clock
        self._save_freq = save_freq

    def on_train_batch_end(self, batch, logs=None):
        """Saves when it is due."""
        step = self._clock.step(batch)
        if self._clock.is_due(step, self._save_freq):
            self._watch.do(lambda: self._checkpoints.save(step))


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
