"""Drop fractions and sparsities over the training, and when a mask update is due."""

import math
import os
from collections.abc import Mapping
from typing import Any

from rigl_keras.common.checks import (
    call_problem,
    check_int,
    check_positive,
    did_you_mean,
)
from rigl_keras.core.distributions import check_sparsity

NAMES = ("cosine", "constant", "lr")
FOREVER = -1  # as `last_update_step`: no last update
NEVER = 0  # as `last_update_step`: no update at all


def cosine(
    drop_fraction: float, step: int, last_update_step: int, first_step: int = 0
) -> float:
    """Half a cosine from `drop_fraction` at the first step to 0 at the last update.

    Args:
      drop_fraction: the fraction at the first step, in [0, 1].
      step: int; below `first_step` the fraction is the first.
      last_update_step: int > first_step, the step at which the fraction reaches 0.
      first_step: int, the step at which the training began.

    Returns:
      drop_fraction / 2 * (1 + cos(pi * t)), where t goes from 0 to 1 between the two.

    Source: Evci et al. 2020 (RigL), section 3, "Update schedule"; Dettmers &
    Zettlemoyer 2019.
    """
    # A new optimizer counts from 0 again, below the first step of an earlier training.
    progress = max(step - first_step, 0) / max(last_update_step - first_step, 1)
    return drop_fraction / 2 * (1 + math.cos(math.pi * min(progress, 1.0)))


def relative(drop_fraction: float, rate: float, highest_rate: float) -> float:
    """The drop fraction that follows the learning rate.

    Args:
      drop_fraction: the fraction at the highest learning rate, in [0, 1].
      rate: float, the learning rate now.
      highest_rate: float, the highest learning rate so far.

    Returns:
      drop_fraction * rate / highest_rate, never above `drop_fraction`.

    Source: the paper's TF2 code, with lr(0) for the highest rate.
    """
    highest_rate = max(rate, highest_rate)
    return drop_fraction * rate / highest_rate if highest_rate > 0 else 0.0


def is_due(step: int, update_freq: int, last_update_step: int) -> bool:
    """True when the masks are updated after a step.

    Args:
      step: int, how many steps the optimizer has made.
      update_freq: int > 0, steps between two updates.
      last_update_step: int, the last step with an update; `NEVER` or `FOREVER`.
    """
    if step <= 0 or last_update_step == NEVER:
        return False
    in_time = last_update_step == FOREVER or step <= last_update_step
    return in_time and step % update_freq == 0


def next_update(step: int, update_freq: int, last_update_step: int) -> int | None:
    """The first step after `step` with an update, or None when there is none."""
    following = (step // update_freq + 1) * update_freq
    return following if is_due(following, update_freq, last_update_step) else None


def update_inside_execution(
    step: int,
    epochs: int,
    steps_per_epoch: int,
    steps_per_execution: int,
    update_freq: int,
    last_update_step: int,
) -> int | None:
    """The first update that is due between the ends of two executions of steps.

    Executions have `steps_per_execution` steps, but the last one of an epoch may have
    fewer.

    Args:
      step: int, the step at which an epoch begins.
      epochs: int, how many epochs follow from there.
      steps_per_epoch: int > 0.
      steps_per_execution: int > 0.
      update_freq: int > 0, steps between two updates.
      last_update_step: int, the last step with an update; `NEVER` or `FOREVER`.

    Returns:
      The step of that update, or None when all are at ends.
    """
    end = step + epochs * steps_per_epoch
    due = next_update(step, update_freq, last_update_step)
    while due is not None and due <= end:
        if (due - step) % steps_per_epoch % steps_per_execution:
            return due
        due = next_update(due, update_freq, last_update_step)
    return None


def default_last_update_step(total_steps: int) -> int:
    """The last update of a training of known length: 75 % of its steps.

    Source: Evci et al. 2020 (RigL), section 4: updates end at 25,000 of 32,000 steps.
    """
    return int(0.75 * total_steps)


def check_fraction(fraction: Any, what: str = "drop_fraction") -> float:
    """Returns a fraction as a float.

    Raises:
      ValueError: when it is no number in [0, 1].
    """
    try:
        value = float(fraction)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(fraction, bool) or not 0 <= value <= 1:
        question = did_you_mean(value)
        raise ValueError(
            f"Expected {what} to be a number in [0, 1], but got {fraction!r}"
            f"{f': {question}' if question else '.'}"
        )
    return value


def check_schedule(schedule: Any, last_update_step: int | None) -> Any:
    """Returns a schedule of drop fractions as it came.

    Raises:
      ValueError: when it is neither a name in `NAMES` nor a function of a step, or
        needs a last update and has none.
    """
    expected = (
        f"Expected `schedule` to be one of {NAMES} or a function from the step to a "
        "fraction"
    )
    if callable(schedule):
        problem = call_problem(schedule, 1)
        if problem is not None:
            raise ValueError(f"{expected}, but {name_of(schedule)} is none: {problem}.")
        if hasattr(schedule, "final_sparsity") or hasattr(schedule, "target_sparsity"):
            raise ValueError(
                f"{expected}, but got a schedule of pruning, "
                f"{type(schedule).__name__}. Give it to rigl_keras.Pruning."
            )
    elif not (isinstance(schedule, str) and schedule in NAMES):
        raise ValueError(f"{expected}, but got {schedule!r}.")
    if schedule == "cosine" and last_update_step == FOREVER:
        raise ValueError(
            "The cosine schedule falls to 0 at last_update_step, and -1 means that "
            "there is none. Give the step, or use schedule='constant' or 'lr'."
        )
    return schedule


def polynomial_decay(
    initial_sparsity: float,
    final_sparsity: float,
    begin_step: int,
    end_step: int,
    power: float = 3,
    frequency: int = 100,
) -> Any:
    """TensorFlow Model Optimization's `PolynomialDecay`, for pruning.

    Args:
      initial_sparsity: share of zeros at `begin_step`, in [0, 1).
      final_sparsity: share of zeros from `end_step` on, in [0, 1).
      begin_step: int >= 0, the first step with pruning.
      end_step: int > begin_step, the last step with pruning.
      power: exponent > 0 of the polynomial; 3 is gradual magnitude pruning.
      frequency: int >= 1, steps between two prunings.

    Returns:
      A function from a step, an int64 tensor, to (whether to prune, the sparsity).

    Raises:
      ValueError: for an argument out of range.

    Source: Zhu & Gupta 2018, "To prune, or not to prune", section 3.
    """
    check_pruning(
        {"initial_sparsity": initial_sparsity, "final_sparsity": final_sparsity},
        begin_step,
        end_step,
        frequency=frequency,
    )
    check_positive("power", power)
    if begin_step == end_step:
        raise ValueError(
            "Expected end_step > begin_step, over which the sparsity grows, but both "
            f"are {begin_step!r}. To prune once, use constant_sparsity("
            f"{final_sparsity!r}, {begin_step!r}, {end_step!r})."
        )
    return _pruning_schedules().PolynomialDecay(
        initial_sparsity, final_sparsity, begin_step, end_step, power, frequency
    )


def constant_sparsity(
    target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100
) -> Any:
    """TensorFlow Model Optimization's `ConstantSparsity`, for pruning.

    Args:
      target_sparsity: share of zeros, in [0, 1).
      begin_step: int >= 0, the first step with pruning.
      end_step: int >= begin_step, the last step with pruning, or -1 for no last one.
      frequency: int >= 1, steps between two prunings.

    Returns:
      A function from a step, an int64 tensor, to (whether to prune, the sparsity).

    Raises:
      ValueError: for an argument out of range.
    """
    check_pruning(
        {"target_sparsity": target_sparsity},
        begin_step,
        None if end_step == FOREVER else end_step,
        frequency=frequency,
    )
    return _pruning_schedules().ConstantSparsity(
        target_sparsity, begin_step, end_step, frequency
    )


def check_pruning(
    sparsities: Mapping[str, Any],
    begin_step: Any,
    end_step: Any,
    *,
    frequency: Any,
    prefix: str = "",
) -> None:
    """Refuses arguments of a pruning schedule that are out of range.

    Args:
      sparsities: dict from the names of arguments to shares of zeros.
      begin_step: the first step with pruning.
      end_step: the last step with pruning; None for no last one.
      frequency: steps between two prunings.
      prefix: what the user knows the arguments by, such as "pruning." in gin files.

    Raises:
      TypeError: for a sparsity that is no number.
      ValueError: for an argument out of range.
    """
    for name, sparsity in sparsities.items():
        check_sparsity(sparsity, f"{prefix}{name}")
    check_int(f"{prefix}begin_step", begin_step, minimum=0)
    check_int(f"{prefix}frequency", frequency, minimum=1)
    if end_step is None:
        return
    check_int(f"{prefix}end_step", end_step, minimum=0)
    if end_step < begin_step:
        raise ValueError(
            f"Expected {prefix}end_step, the last step with pruning, to come after "
            f"{prefix}begin_step, the first one, but got {prefix}end_step={end_step} "
            f"and {prefix}begin_step={begin_step}."
        )


def name_of(function: Any) -> str:
    """What a function or class is called, or the repr of an object."""
    return getattr(function, "__name__", None) or repr(function)


def _pruning_schedules() -> Any:
    """TFMOT's schedules, which need nothing of Keras.

    Its import switches Keras 2 on for all that comes after, processes started from here
    included.
    """
    switch = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(switch)
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        os.environ.pop(switch, None)
        if before is not None:
            os.environ[switch] = before
    return tfmot.sparsity.keras
