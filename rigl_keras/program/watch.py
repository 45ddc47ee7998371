"""Work on a network in training, beside the training or at once.

Tests, gradient norms and checkpoints at the paper's frequencies take a good part of a
small network's training. A second core does them meanwhile, on a copy of the network.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from rigl_keras import compat
from rigl_keras.program.checkpoints import named_variables

# Tasks that may wait. Each holds the weights of its moment.
_WAITING = 8


class AtOnce:
    """Calls tasks at once, on the model itself.

    Args:
      model: the model that is trained, compiled, its optimizer built.
      state: a trackable object with the state of its training, or None.

    Attributes:
      model: what tasks look at.
      state: likewise.
    """

    def __init__(self, model: Any, state: tf.Module | None) -> None:
        self.model = model
        self.state = state

    def do(self, task: Callable[[], Any], *, held: bool = False) -> None:
        """Calls a task, which finds in `model` and `state` what they are now.

        Args:
          task: function without arguments.
          held: whether what comes next in the training is not to be slowed down.
        """
        task()

    def end(self) -> None:
        """Waits until all tasks are done."""


class Beside:
    """Calls tasks in the order in which they came, in a thread of its own.

    A task finds in `model` and `state`, copies, what was there when it came.

    Args:
      model: the model that is trained, compiled, its optimizer built.
      state: a trackable object with the state of its training, or None.
      copies: such a model and such a state, with variables of their own.

    Attributes:
      model: what tasks look at.
      state: likewise.
    """

    def __init__(
        self,
        model: Any,
        state: tf.Module | None,
        copies: tuple[Any, tf.Module | None],
    ) -> None:
        self._originals = (model, state)
        self.model, self.state = copies
        self._pairs: list[tuple[tf.Variable, tf.Variable]] = []
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._waiting: collections.deque = collections.deque()
        self._held: list[Callable[[], None]] = []

    def do(self, task: Callable[[], Any], *, held: bool = False) -> None:
        """Has a task called soon.

        Args:
          task: function without arguments.
          held: whether it is to be called when the next task is given only.

        Raises:
          Exception: what an earlier task has raised.
        """
        self._collect(_WAITING)
        if not self._pairs:
            # Not before: a callback may make its state when the training begins.
            self._pairs = _pairs(self._originals, (self.model, self.state))
        # Training writes new buffers as long as these are held.
        values = [tf.identity(original) for original, _ in self._pairs]
        self._held.append(functools.partial(self._run, task, values))
        if not held:
            self._submit()

    def end(self) -> None:
        """Waits until all tasks are done.

        Raises:
          Exception: what one of them has raised.
        """
        try:
            self._submit()
            self._collect(0)
        finally:
            self._thread.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        self._waiting.extend(map(self._thread.submit, self._held))
        self._held = []

    def _run(self, task: Callable[[], Any], values: list[tf.Tensor]) -> None:
        with compat.strategy_of(self.model).scope():
            for (_, copy), value in zip(self._pairs, values, strict=True):
                copy.assign(value)
            task()

    def _collect(self, count: int) -> None:
        """Waits until at most so many tasks wait; raises what one has raised."""
        while self._waiting and (len(self._waiting) > count or self._waiting[0].done()):
            self._waiting.popleft().result()


def _pairs(
    originals: tuple[Any, Any], copies: tuple[Any, Any]
) -> list[tuple[tf.Variable, tf.Variable]]:
    """Every variable of a training and its copy."""
    return list(zip(_variables(*originals), _variables(*copies), strict=True))


def _variables(model: Any, state: tf.Module | None) -> list[tf.Variable]:
    of_keras = [*model.optimizer.variables, *compat.random_states(model)]
    return [
        *named_variables(model).values(),
        *map(compat.raw, of_keras),
        *([] if state is None else state.variables),
    ]
