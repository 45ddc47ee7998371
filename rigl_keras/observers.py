"""Callbacks that look at a model just before and just after its masks change."""

import weakref

from tensorflow import keras

# Which observers take part in a model's training now, in the order of its callbacks.
_observers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class MaskUpdateObserver(keras.callbacks.Callback):
    """A callback that is called around every mask update of its model's training.

    It goes into the list of callbacks of `fit`, beside the one that updates the masks.
    Subclasses that override a method below call the overridden one too.
    """

    def on_train_begin(self, logs=None):
        """Begins to take part."""
        others = [each for each in _observers.get(self.model, []) if each is not self]
        _observers[self.model] = [*others, self]

    def on_train_end(self, logs=None):
        """Takes part no longer."""
        others = [each for each in _observers.get(self.model, []) if each is not self]
        _observers[self.model] = others

    def on_mask_update_begin(self, step):
        """Called before an update; `step` is the optimizer's iteration count."""

    def on_mask_update_end(self, step):
        """Called after an update; `step` is the optimizer's iteration count."""


def observers(model):
    """The `MaskUpdateObserver`s that take part in a model's training now."""
    return _observers.get(model, [])
