"""When something is due in a training: counted in steps, waited for in executions.

Keras counts batches. With gradient accumulation several batches make one step of the
optimizer. With `steps_per_execution` several batches make one execution, the smallest
unit after which a callback is called.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rigl_keras.algorithms import schedules


class Countdown:
    """Counts executions until the optimizer's step count has to be read again.

    Reading it waits for the step to end, which keeps a GPU idle. So it is read when
    something may be due, and not after every step.
    """

    def __init__(self) -> None:
        self._executions = 0

    def start(self, executions: int) -> None:
        """Waits for so many executions, at least 0."""
        self._executions = executions

    def start_batches(self, batches: int, steps_per_execution: int) -> None:
        """Waits until so many batches have passed: whole executions."""
        self.start(-(-batches // steps_per_execution))

    @property
    def ends_now(self) -> bool:
        """True when the execution that now begins is the last to wait for."""
        return self.ends_within(1)

    def ends_within(self, executions: int) -> bool:
        """True when so many executions, with the one that now begins, are the last."""
        return self._executions <= executions

    def passed(self) -> bool:
        """Counts an execution; True when nothing is left to wait for."""
        self._executions -= 1
        return self._executions <= 0


class StepClock(NamedTuple):
    """Which step of a run it is, where every batch that `fit` counts is known.

    Attributes:
      start: int, the step at which this training starts.
      stop: int, the step at which it ends.
      batches_per_step: int >= 1.
    """

    start: int
    stop: int
    batches_per_step: int = 1

    def step(self, batch: int) -> int | None:
        """The step that ends with a batch of `fit`, or None where none does."""
        steps, rest = divmod(batch + 1, self.batches_per_step)
        return None if rest else self.start + steps

    def is_due(self, step: int | None, every: int) -> bool:
        """True at multiples of `every`, and at the end."""
        return step is not None and (step % every == 0 or step == self.stop)


class Updates(NamedTuple):
    """When masks are updated.

    Attributes:
      every: int >= 1, steps between two updates.
      last: int, the last step with an update; `schedules.NEVER` or `FOREVER`.
      batches_per_step: int >= 1, more than 1 with gradient accumulation.
    """

    every: int
    last: int
    batches_per_step: int

    def next_after(self, batches: int) -> int | None:
        """The first step with an update after so many batches; None for none."""
        return schedules.next_update(
            batches // self.batches_per_step, self.every, self.last
        )

    def check_alignment(
        self, batches: int, epochs: int, steps: int, *, steps_per_execution: int
    ) -> None:
        """Refuses a training in which an update is due inside an execution.

        Args:
          batches: int, how many batches the optimizer has seen.
          epochs: int, how many epochs are to come.
          steps: int, batches of an epoch.
          steps_per_execution: int, batches of an execution.

        Raises:
          ValueError: saying what to set.
        """
        count = self.batches_per_step
        misaligned = schedules.update_inside_execution(
            batches,
            epochs=epochs,
            steps_per_epoch=steps,
            steps_per_execution=steps_per_execution,
            update_freq=self.every * count,
            last_update_step=self.last if self.last <= 0 else self.last * count,
        )
        if misaligned is not None:
            raise ValueError(
                f"A mask update is due after {misaligned} batches, inside an execution "
                f"of {steps_per_execution} (steps_per_execution), in epochs of {steps}."
                f" Choose update_freq={self.every}, times gradient_accumulation_steps, "
                f"and the epoch's length as multiples of {steps_per_execution}, or "
                "another steps_per_execution."
            )


def first_and_last_update(
    params: Mapping[str, Any], epoch: int, batches: int, *, batches_per_step: int
) -> tuple[int, int]:
    """The steps between which masks are updated, where nobody has given the last one.

    Args:
      params: those that Keras gives its callbacks: "epochs" and, of one, "steps".
      epoch: int, the epoch that begins, from 0.
      batches: int, how many batches the optimizer has seen.
      batches_per_step: int >= 1.

    Returns:
      The step at which the training began, and the last one with an update: after 75 %
      of the training's steps.
    """
    per_epoch = params["steps"]
    done = min(batches, epoch * per_epoch)  # by this training, if it was resumed
    total = done + (params["epochs"] - epoch) * per_epoch
    first = (batches - done) // batches_per_step
    length = total // batches_per_step
    return first, first + schedules.default_last_update_step(length)


def check_length_is_known(
    params: Mapping[str, Any], steps_per_execution: int, needs_length: bool
) -> None:
    """Refuses a training of unknown length where updates are planned by the length.

    Args:
      params: those that Keras gives its callbacks; "steps" is None where it is unknown.
      steps_per_execution: int >= 1.
      needs_length: whether the last update is to be worked out.

    Raises:
      ValueError: saying what to give.
    """
    if params.get("steps") is not None:
        return
    if needs_length:
        raise ValueError(
            "last_update_step=None means 75 % of the training's steps, but this "
            "training's length is unknown. Pass steps_per_epoch to fit, total_steps to "
            "a custom loop, or a last_update_step (-1: updates never stop)."
        )
    if steps_per_execution > 1:
        raise ValueError(
            "With steps_per_execution > 1 a mask update can only come at an "
            "execution's end, and this training's epoch length is unknown. Pass "
            "steps_per_epoch to fit, or total_steps to a custom loop."
        )
