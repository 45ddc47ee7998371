"""Callbacks that look at a model just before and just after its masks change."""

import weakref
from typing import Any

from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.shown import ShowsArguments

# Which observers take part in a model's training now, in the order of its callbacks.
# They hold the model: to hold them would keep it in memory after a training broke off.
_observers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class MaskUpdateObserver(ShowsArguments, keras.callbacks.Callback):
    """A callback that is called around every mask update of its model's training.

    It goes into the list of callbacks of `fit`, beside the one that updates the masks.
    Subclasses that override `on_train_begin` or `on_train_end` call the overridden one
    too.

    In both methods of an update, `step` is the training step that it belongs to,
    counted from 1: an update of `RigL` and its like comes after that step, and pruning
    before it.
    """

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: all but the model."""
        return compat.without_model(self)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Begins to take part."""
        # Keras gives all callbacks of a training the same `params`. An observer with
        # others was left behind by a training that broke off.
        others = self._others()
        same_training = [other for other in others if other.params is self.params]
        _note(self.model, [*same_training, self])

    def on_train_end(self, logs: dict | None = None) -> None:
        """Takes part no longer."""
        _note(self.model, self._others())

    def _others(self) -> "list[MaskUpdateObserver]":
        return [other for other in observers(self.model) if other is not self]

    def on_mask_update_begin(self, step: int) -> None:
        """Called before an update."""

    def on_mask_update_end(self, step: int) -> None:
        """Called after an update.

        Not called when weights or gradients did not allow the update that has begun.
        """


def observers(model: Any) -> list[MaskUpdateObserver]:
    """The `MaskUpdateObserver`s that take part in a model's training now."""
    taking_part = [reference() for reference in _observers.get(model, [])]
    return [observer for observer in taking_part if observer is not None]


def _note(model: Any, taking_part: list[MaskUpdateObserver]) -> None:
    _observers[model] = [weakref.ref(observer) for observer in taking_part]
