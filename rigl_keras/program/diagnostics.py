"""What the paper's code logs: gradient flow, momentum, distance to the start."""

import os

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.analysis.distances import cosine_distance, l2_distance
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.program import files
from rigl_keras.program.checkpoints import SavedModel, named_variables
from rigl_keras.training.observers import MaskUpdateObserver

MASK_UPDATES_FILE = "mask_updates.jsonl"


class Norms:
    """Measures a model's gradient flow, once where nothing has changed since.

    Args:
      meter: `FlowMeter` of the model.
    """

    def __init__(self, meter):
        self._meter = meter
        self._place = None
        self._measured = None

    def measure(self, place):
        """What is known of the step count `place`, or else measured now."""
        return self._measured if place == self._place else self.measure_again(place)

    def measure_again(self, place):
        """Measures now, when masks have changed at the step count `place`."""
        self._place, self._measured = place, self._meter.measure()
        return self._measured


class Diagnostics:
    """Measures a network in training, by the names of the paper's TensorBoard tags.

    Args:
      watch: `AtOnce` or `Beside` of the network's training.
      norms: `Norms` of the watched model.
      start: path of the checkpoint to measure distances from; where there is none,
        no distances are measured.

    Attributes:
      watch: as given.
    """

    def __init__(self, watch, norms, start):
        self.watch = watch
        self._model = watch.model
        self._norms = norms
        there = os.path.exists(f"{start}.index")
        self._start = SavedModel(start).values if there else {}

    def measure(self, place):
        """Measures now.

        Args:
          place: int, how many batches the optimizer has seen.

        Returns:
          Two dicts of floats: what belongs into the run's records, and all by tag.
        """
        flow = self._norms.measure(place)
        tags = {f"gradnorm/{path}": norm for path, norm in flow.norms.items()}
        tags[".allparams/gradnorm"] = flow.norm
        tags |= self._momentum() | self._distances()
        record = {"gradient_norm": flow.norm, "gradient_flow": flow.flow}
        return record, tags

    def _momentum(self):
        optimizer = compat.innermost_optimizer(self._model.optimizer)
        momentums = getattr(optimizer, "momentums", None)
        # SGD without momentum keeps zeros in Keras 2 and nothing in Keras 3.
        if not momentums or not getattr(optimizer, "momentum", 0):
            return {}
        flat = _flat(compat.raw(momentum).numpy() for momentum in momentums)
        return {".allparams/norm_momentum": float(np.linalg.norm(flat))}

    def _distances(self):
        trainable = {id(compat.raw(v)) for v in self._model.trainable_variables}
        now = {
            path: variable.numpy()
            for path, variable in named_variables(self._model).items()
            if id(variable) in trainable and path in self._start
        }
        # The weights that exist are elsewhere after an update.
        for kernel in sparse_kernels(self._model):
            if kernel.is_compressed and kernel.path in now:
                now[kernel.path] = kernel.weights().numpy()
        if not now:
            return {}
        start = {path: self._start[path] for path in now}
        parts = {path: ({path: start[path]}, {path: now[path]}) for path in now}
        tags = {}
        for path, (then, here) in parts.items():
            tags[f"dist_init_l2/{path}"] = l2_distance(then, here)
            tags[f"dist_init_cosine/{path}"] = cosine_distance(then, here)
        tags[".allparams/dist_init_l2"] = l2_distance(start, now)
        tags[".allparams/dist_init_cosine"] = cosine_distance(start, now)
        return tags


def place_of(model):
    """How many batches a model's optimizer has seen, as an int."""
    return int(compat.raw(compat.batch_counter(model.optimizer)).numpy())


def _flat(arrays):
    return np.concatenate([array.ravel() for array in arrays])


class MaskUpdateRecorder(MaskUpdateObserver):
    """Records how each mask update changes the gradient norm, and may save around it.

    Before an update at step t it saves the checkpoint `ckpt--<t-1>`, after it
    `ckpt--<t>`. The norms go to `mask_updates.jsonl`, their change to TensorBoard.

    Args:
      logdir: path of the run's folder.
      checkpoints: `Checkpoints` of the watched model, or None: nothing is saved.
      norms: `Norms` of the watched model.
      watch: `AtOnce` or `Beside`.
      writer: the run's writer of TensorBoard events.
    """

    def __init__(self, logdir, checkpoints, norms, *, watch, writer):
        super().__init__()
        self._logdir = logdir
        self._checkpoints = checkpoints
        self._norms = norms
        self._watch = watch
        self._writer = writer
        self._before = 0.0

    def on_mask_update_begin(self, step):
        """Saves and measures before an update."""
        place = place_of(self.model)
        # The update itself is what the training waits for.
        self._watch.do(lambda: self._begin(step, place), held=True)

    def on_mask_update_end(self, step):
        """Saves and measures after an update, and records both."""
        place = place_of(self.model)
        self._watch.do(lambda: self._end(step, place))

    def _begin(self, step, place):
        self._save(step - 1)
        self._before = self._norms.measure(place).norm

    def _end(self, step, place):
        self._save(step)
        after = self._norms.measure_again(place).norm
        change = after - self._before
        record = {"step": step, "before": self._before, "after": after}
        path = os.path.join(self._logdir, MASK_UPDATES_FILE)
        files.append_jsonl(path, {**record, "change": change})
        with self._writer.as_default(step=step):
            # The tag is spelt as in the paper's code.
            tf.summary.scalar(".allparams/gradnorm_mask_update_improvment", change)

    def _save(self, step):
        if self._checkpoints is not None:
            self._checkpoints.save_around_update(step)
