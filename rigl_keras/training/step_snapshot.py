"""Takes single training steps back."""

from typing import Any

import tensorflow as tf

from rigl_keras import compat


class StepSnapshot:
    """The weights and the optimizer's state before a step, so as to take it back.

    Args:
      model: the model that is trained.
      optimizer: its optimizer, perhaps in wrappers; built before `take` is called.
    """

    def __init__(self, model: Any, optimizer: Any) -> None:
        self._model = model
        self._optimizer = optimizer
        self._values: list[tuple[tf.Variable, tf.Tensor]] = []

    def take(self) -> None:
        """Notes all that a step moves."""
        self._values = [
            (variable, tf.identity(variable))
            for variable in map(compat.raw, self._moved_by_a_step())
        ]

    def restore(self) -> None:
        """Puts back what `take` noted, once; without it nothing changes.

        Call it under the model's strategy.
        """
        for variable, value in self._values:
            variable.assign(value)
        self._values = []

    def _moved_by_a_step(self) -> list[Any]:
        # The batches of the step stay counted. The accumulators hold its gradients when
        # `take` is called just before the last batch, and must stay 0 after the step.
        kept = [
            compat.batch_counter(self._optimizer),
            *compat.gradient_accumulators(self._optimizer),
        ]
        kept_ids = {id(variable) for variable in kept}
        state = compat.innermost_optimizer(self._optimizer).variables
        moved = [variable for variable in state if id(variable) not in kept_ids]
        return [*self._model.trainable_variables, *moved]
