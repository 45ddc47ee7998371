"""The callback that keeps a model sparse while `fit` trains it; algorithms derive."""

import warnings
import weakref
from typing import Any

import tensorflow as tf
from tensorflow import keras

from rigl_keras.attachment import Attachment
from rigl_keras.observers import observers

# Which callback trains a model's masks right now.
_in_charge: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class SparseTraining(keras.callbacks.Callback):
    """What all algorithms share: a model that stays sparse while `fit` trains it.

    Gradients of masked weights are masked before the optimizer sees them, so momentum,
    Adam's moments and clipping by norm are those of a sparse model. Adds "sparsity",
    the share of zeros among the masked kernels' weights, to the training logs.

    Attributes:
      state: a `tf.Module` to put into a `tf.train.Checkpoint` beside model and
        optimizer, from which a broken-off training goes on.

    Raises:
      ValueError: at the start of training, when the model has no sparse kernel, or its
        optimizer keeps state that cannot follow a mask.
    """

    def __init__(self):
        super().__init__()
        self.state = tf.Module(name="sparse_training")
        self._attachment: Any = None
        self._train_function: Any = None
        self._handle = self._run  # one object, to recognise it
        self._is_left_behind = False
        self._logs: dict[str, float] = {}

    def prepare(self, model):
        """Creates the optimizer's slots and all of `state`, ahead of `fit`.

        Only needed where a checkpoint is restored before `fit` and must find them.

        Args:
          model: a compiled model with sparse kernels.

        Raises:
          ValueError: when the model cannot be trained sparsely.
        """
        if self._attachment is None or not self._attachment.fits(model):
            self._attachment = self._make_attachment(model)
            self._train_function = None
        self._prepare_state(model)

    def on_train_begin(self, logs=None):
        """Attaches to the model and its optimizer."""
        self._refuse_or_end_other()
        self.prepare(self.model)
        self._attachment.attach()
        _in_charge[self.model] = self
        self._logs = {"sparsity": self._attachment.sparsity()}
        self._wrap_train_function()

    def on_train_end(self, logs=None):
        """Leaves the model as it was, but for weights, masks and optimizer state."""
        if _in_charge.get(self.model) is self:
            del _in_charge[self.model]
            vars(self.model).pop("make_train_function", None)
            self._attachment.detach()

    def _make_attachment(self, model):
        return Attachment(model)

    def _prepare_state(self, model):
        pass

    def _refuse_or_end_other(self):
        other = _in_charge.get(self.model)
        if other is None:
            return
        if other is not self and other.params is self.params:
            raise ValueError(
                f"Two callbacks, {type(other).__name__} and {type(self).__name__}, "
                "would train the same sparse kernels. Use one of them."
            )
        other.on_train_end()  # A training that broke off left it behind.

    def _wrap_train_function(self):
        """Puts `_run` in the place of the model's train function.

        So an update happens before any callback sees the step's end, wherever this one
        stands in the list: a checkpoint at an update's step holds the updated masks.
        """
        model = self.model
        # `compile` and trainings without this callback put another one there; what was
        # traced then does not mask gradients.
        if self._train_function is None or model.train_function is not self._handle:
            model.make_train_function(force=True)
            self._train_function = model.train_function
        model.train_function = self._handle
        self._is_left_behind = False
        # Past Keras, which tracks attributes.
        object.__setattr__(model, "make_train_function", self._make_train_function)

    def _make_train_function(self, *args, **kwargs):
        """Keras asks for the train function when a training begins: a later one."""
        self._is_left_behind = True
        model = self.model
        return type(model).make_train_function(model, *args, **kwargs)

    def _run(self, iterator):
        if _in_charge.get(self.model) is not self or self._is_left_behind:
            return self._run_without(iterator)
        self._before_steps()
        logs = self._train_function(iterator)
        self._after_steps()
        return {**logs, **self._logs} if isinstance(logs, dict) else logs

    def _run_without(self, iterator):
        """Runs the steps of a training that this callback is no part of."""
        if _in_charge.get(self.model) is self:
            warnings.warn(
                f"{type(self).__name__}: its training broke off and another has begun "
                "without it, so it no longer takes part.",
                stacklevel=2,
            )
            self.on_train_end()
        self.model.make_train_function(force=True)
        return self.model.train_function(iterator)

    def _before_steps(self):
        pass

    def _after_steps(self):
        pass

    def _change_masks(self, step, amount):
        """Updates all masks, and tells those who watch.

        Args:
          step: int, the training step that the update belongs to.
          amount: float, what the algorithm updates by.

        Returns:
          True when it was done; where weights or gradients do not allow it, a warning
          says why.
        """
        # One that a training left behind when it broke off has other `params`.
        watching = [
            each for each in observers(self.model) if each.params is self.params
        ]
        for observer in watching:
            observer.on_mask_update_begin(step)
        problem = self._attachment.update(step, amount)
        if problem is not None:
            warnings.warn(
                f"{type(self).__name__}: no mask update at step {step}: {problem}.",
                stacklevel=2,
            )
            return False
        for observer in watching:
            observer.on_mask_update_end(step)
        self._logs["sparsity"] = self._attachment.sparsity()
        return True
