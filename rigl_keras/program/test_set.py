"""The evaluation of a run on its test set."""

import itertools
from collections.abc import Iterable
from typing import Any

import tensorflow as tf


class Streamed:
    """A test set that is read anew for each evaluation.

    Args:
      model: the model to evaluate, compiled.
      batches: data set for `evaluate`.
      steps: int, how many batches it has.
    """

    def __init__(self, model: Any, batches: Iterable, steps: int) -> None:
        self._model = model
        self._batches = batches
        self._steps = steps

    def evaluate(self) -> dict[str, float]:
        """The model's metrics by name, each a mean over all records."""
        return self._model.evaluate(
            self._batches, steps=self._steps, verbose=0, return_dict=True
        )


class InMemory:
    """A test set whose batches stay on the device.

    Args:
      model: the model to evaluate, compiled, on one device.
      batches: iterable of tuples (images, labels), as the model takes them.
      steps: int, how many batches there are.
    """

    def __init__(self, model: Any, batches: Iterable[tuple], steps: int) -> None:
        self._model = model
        self._batches = list(itertools.islice(batches, steps))
        # What `evaluate` would call for each batch, too, but without its iterator.
        self._compiled = tf.function(
            model.test_step, jit_compile=bool(getattr(model, "jit_compile", False))
        )

    def evaluate(self) -> dict[str, float]:
        """The model's metrics by name, each a mean over all records."""
        self._model.reset_metrics()
        for batch in self._batches:
            metrics = self._compiled(batch)
        return {name: float(value) for name, value in metrics.items()}
