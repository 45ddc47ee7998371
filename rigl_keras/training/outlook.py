"""Says where a training will not do, or has not done, what its algorithm is there for.

A schedule that does not fit a training changes no mask, and the training looks well.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rigl_keras.training.clock import Updates


class Span(NamedTuple):
    """The steps of a training.

    Attributes:
      first: int, counted from 1 over the optimizer's life.
      last: int.
    """

    first: int
    last: int

    def __str__(self) -> str:
        """Such as "steps 1 to 80"."""
        return f"steps {self.first} to {self.last}"


class KernelCount(NamedTuple):
    """How many units of a kernel's pattern are active; single weights without one.

    Attributes:
      active: int.
      size: int, of how many.
      groups: int, in how many groups, each of which is pruned to the same number.
      elements: int, how many weights a unit has.
    """

    active: int
    size: int
    groups: int = 1
    elements: int = 1


def of_updates(
    updates: Updates,
    span: Span,
    *,
    fraction_at: Callable[[int], float] | None,
    drop_fraction: float,
) -> str | None:
    """What is wrong with a plan of mask updates.

    Args:
      updates: when masks are updated.
      span: the training's steps.
      fraction_at: function from a step to the drop fraction, where it is known before.
      drop_fraction: the highest fraction.

    Returns:
      A text, or None where at least half of what one update replaces at the highest
      fraction is replaced in all, or updates are not wanted.
    """
    if updates.last == 0:
        return None
    if 0 < updates.last < span.first:
        return (
            f"no mask update is due in this training, {span}: the last one was due at "
            f"step {updates.last}. A callback keeps the last step of its first "
            "training, so use a new one for a new training, or set last_update_step"
        )
    last = span.last if updates.last < 0 else min(updates.last, span.last)
    steps = range(
        (span.first + updates.every - 1) // updates.every * updates.every,
        last + 1,
        updates.every,
    )
    advice = (
        f"Set update_freq to {max(1, (last - span.first + 1) // 10)} or so, "
        "last_update_step, or train longer"
    )
    if not steps:
        until = "" if updates.last < 0 else f" until step {updates.last}"
        return (
            f"no mask update is due in this training, {span}: they come every "
            f"{updates.every} steps{until}. {advice}"
        )
    if fraction_at is None:
        return None
    replaced = sum(map(fraction_at, steps))
    if replaced >= drop_fraction / 2:
        return None
    return (
        f"the mask updates of this training, {len(steps)} in {span}, will replace only "
        f"{replaced:.1%} of the weights, since the drop fraction falls to 0 at step "
        f"{updates.last}. {advice}"
    )


def of_drop_fraction(counts: Sequence[KernelCount], drop_fraction: float) -> str | None:
    """What is wrong where no kernel has enough weights to replace one.

    Args:
      counts: of the kernels whose masks are updated.
      drop_fraction: float, the highest fraction.
    """
    most = max((count.active for count in counts), default=0)
    if drop_fraction == 0 or math.floor(most * drop_fraction) > 0:
        return None
    if not counts:
        return "all of its kernels are frozen, so no mask will change"
    are_weights = all(count.elements == 1 for count in counts)
    units = "weights" if are_weights else "units of its pattern"
    return (
        f"no mask will change: no kernel has more than {most} active {units}, and the "
        f"drop fraction is {drop_fraction:g} at most. Set drop_fraction to more than "
        f"{1 / max(most, 1):.2g}"
    )


def of_pruning(
    counts: Sequence[KernelCount],
    span: Span,
    *,
    reached: float | None,
    goal: float | None,
    ranking: str,
) -> str | None:
    """What is wrong where a training does not reach the sparsity of its schedule.

    Args:
      counts: of the kernels that are pruned, now.
      span: the training's steps.
      reached: the highest sparsity that the schedule asks for in them; None where it
        marks none of them.
      goal: the one that it asks for in the end; None where that is not known.
      ranking: "layer" or "global".

    Returns:
      A text, or None where the kernels have that sparsity then.
    """
    if not counts:
        return "all of its kernels are frozen, so no mask changes"
    goal = reached if goal is None else goal
    sparsity = sparsity_of(counts)
    if goal is not None:
        excess = _excess(counts, goal, ranking)
        if max(excess) < -0.5:
            return (
                f"the masks, {sparsity:.2%} sparse, are sparser already than the "
                f"schedule's {goal:.2%}, so nothing is pruned"
            )
        if max(excess) <= 0.5:
            return None
    advice = "Set begin_step, end_step and frequency of its schedule, or train longer"
    if reached is None:
        return (
            f"the schedule marks no step of this training, {span}, so the masks stay "
            f"as they are, {sparsity:.2%} sparse. {advice}"
        )
    # A tenth more weights than asked for, since few schedules end on their last step.
    if goal is not None and 1 - reached > 1.1 * (1 - goal):
        return (
            f"the schedule gets to {reached:.2%} in this training, {span}, on its way "
            f"to {goal:.2%}. {advice}"
        )
    return None


def sparsity_of(counts: Sequence[KernelCount]) -> float:
    """Share of zeros among the weights of kernels, in [0, 1).

    Args:
      counts: theirs.
    """
    active = sum(count.active * count.elements for count in counts)
    return 1 - active / sum(count.size * count.elements for count in counts)


def _excess(
    counts: Sequence[KernelCount], sparsity: float, ranking: str
) -> list[float]:
    """How many units more a group has than a sparsity leaves, to half a unit.

    Returns:
      A list with an entry for each kernel or, of the ranking "global", for all.
    """
    if ranking == "global":
        counts = [
            KernelCount(
                sum(count.active for count in counts),
                sum(count.size for count in counts),
            )
        ]
    # One unit of each group stays.
    return [
        (count.active - max(count.size * (1 - sparsity), count.groups)) / count.groups
        for count in counts
    ]
