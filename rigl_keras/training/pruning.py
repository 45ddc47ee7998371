"""The callback that prunes while `fit` trains."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.algorithms import Magnitude, MaskUpdater, named, schedules
from rigl_keras.algorithms.base import check_global_ranking
from rigl_keras.common.checks import call_problem, did_you_mean, is_number
from rigl_keras.common.graphs import own_function
from rigl_keras.core.choosing import check_own_sparsity
from rigl_keras.training import outlook
from rigl_keras.training.attachment import Attachment
from rigl_keras.training.base import SparseTraining
from rigl_keras.training.clock import Countdown
from rigl_keras.training.outlook import Span
from rigl_keras.training.session import Session

# The schedule is asked for so many steps at a time: once a step would cost too much.
_BLOCK = 1024


class Pruning(SparseTraining):
    """Gradual magnitude pruning: removes the smallest weights as a schedule says.

    A step that the schedule marks begins with the pruning, as in TensorFlow Model
    Optimization's `prune_low_magnitude`, whose masks these are: of n weights
    round(n * (1 - sparsity)) remain. Unlike there, ties go to the lower index, so that
    the count is exact, and a pruned weight stays pruned. Start from
    `sparsify(model, sparsity=0)`. Adds "sparsity" to the training logs.

    Args:
      schedule: function from a step, an int64 tensor counted from 1, to (whether to
        prune, the sparsity in [0, 1)): TFMOT's `PolynomialDecay` or `ConstantSparsity`,
        which `rigl_keras.schedules` has under either Keras, or one of your own.
        Where several steps make one execution, pruning comes before the execution.
        Where `fit` does not know how many steps it makes, as with a generator, one that
        is due right after the last step is made too.
      ranking: "layer" prunes every kernel to that sparsity; "global" ranks the weights
        of all kernels together, and leaves each kernel one at least.
      kernels: None for all sparse kernels; or a glob pattern, or several, on the paths
        of those that this callback prunes. Others belong to other callbacks of the same
        training or keep their masks.

    Attributes:
      state: a `tf.Module` to put into a `tf.train.Checkpoint` beside model and
        optimizer, from which a broken-off training goes on.

    Raises:
      ValueError: for a schedule that is none, or another ranking; and at the start of
        training, when the model has no sparse kernel or its optimizer keeps state that
        cannot follow a mask, or when a kernel's pattern sets another sparsity than that
        of the schedule or does not go with the ranking "global".

    Source: Zhu & Gupta 2018, "To prune, or not to prune", section 3.
    """

    def __init__(
        self,
        schedule: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
        ranking: str = "layer",
        kernels: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(kernels)
        self._pruner = Magnitude(ranking)
        self._ranking = ranking
        self.schedule = _checked_schedule(schedule)
        self._evaluate = self._compiled_schedule()
        self._first = 0  # the step that `_is_due` begins with
        self._is_due = np.zeros(0, bool)
        self._sparsity = np.zeros(0, np.float32)
        self._countdown = Countdown()
        self._batches_left = math.inf  # in this epoch
        self._pruned_to: float | None = None

    def _begin(self, session: Session) -> None:
        super()._begin(session)
        self._pruned_to = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: not the graph, which nothing can copy."""
        return {**super().__getstate__(), "_evaluate": self._compiled_schedule()}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Looks at the optimizer's step count anew: other callbacks may restore it."""
        super().on_epoch_begin(epoch, logs)
        self._warn_of_outlook(epoch)
        self._countdown.start(0)
        steps = self.params.get("steps")
        self._batches_left = math.inf if steps is None else steps

    def thresholds(self) -> dict[str, float]:
        """The smallest magnitudes that the last pruning kept.

        Returns:
          A dict from the kernels' paths to floats, 0 before the first pruning; empty
          before the first training.
        """
        if self.attachment is None:
            return {}
        values = self.state.thresholds.numpy()
        return dict(zip(self.attachment.paths, map(float, values), strict=True))

    def _make_attachment(self, model: Any, optimizer: Any) -> Attachment:
        attachment = Attachment(
            model, optimizer, self._pruner, paths=self._chosen_paths(model)
        )
        if self._pruner.is_global:
            check_global_ranking(attachment.kernels)
        goal = self._goal()
        if goal is not None:
            _check_own_sparsities(attachment, goal)
        return attachment

    def _prepare_state(self, model: Any) -> None:
        zeros = np.zeros(len(self.attachment.paths), np.float32)
        before = getattr(self.state, "thresholds", None)
        # Another model, or another choice of what is frozen, has other kernels.
        if before is None or before.shape != zeros.shape:
            with compat.strategy_of(model).scope():
                self.state.thresholds = tf.Variable(zeros)

    def before_steps(self) -> None:
        """Prunes where a step that now begins is due."""
        # The last execution of an epoch may have fewer batches.
        count = int(min(self._steps_per_execution, self._batches_left))
        self._batches_left -= count
        # Reading the optimizer's step count waits for the step before to end.
        if not self._countdown.passed():
            return
        batches, accumulated = self.attachment.batches(), self.attachment.accumulated
        # The steps that have begun before these batches, and after them.
        begun = -(-batches // accumulated)
        soon_begun = -(-(batches + count) // accumulated)
        is_due, sparsity = self._schedule_from(begun + 1)
        now = np.flatnonzero(is_due[: soon_begun - begun])
        if now.size:
            self._prune(begun + 1 + int(now[-1]), float(sparsity[now[-1]]))
        later = np.flatnonzero(is_due[soon_begun - begun :])
        known = len(is_due) - (soon_begun - begun)
        next_due = soon_begun + (int(later[0]) if later.size else known)
        missing = next_due * accumulated - (batches + count)
        # The execution that brings the step comes after so many whole ones.
        self._countdown.start(missing // self._steps_per_execution + 1)

    def _outlook(self, span: Span) -> str | None:
        """See `SparseTraining`."""
        return self._shortfall(span, self._highest_sparsity(span))

    def _hindsight(self, span: Span) -> str | None:
        """See `SparseTraining`."""
        return self._shortfall(span, self._pruned_to)

    def _goal(self) -> float | None:
        """The sparsity in the end; None where the schedule does not say it."""
        goal = None
        for name in ("final_sparsity", "target_sparsity"):  # of TFMOT's schedules
            goal = getattr(self.schedule, name, goal)
        return goal

    def _shortfall(self, span: Span, reached: float | None) -> str | None:
        return outlook.of_pruning(
            self.attachment.counts(),
            span,
            reached=reached,
            goal=self._goal(),
            ranking=self._ranking,
        )

    def _highest_sparsity(self, span: Span) -> float | None:
        """The highest that the schedule asks for in some steps; None for none.

        What it says of them is kept, for the training.
        """
        length = self._block
        blocks = [self._ask(step) for step in range(span.first, span.last + 1, length)]
        if not blocks:
            return None
        is_due, sparsity = map(np.concatenate, zip(*blocks, strict=True))
        self._first, self._is_due, self._sparsity = span.first, is_due, sparsity
        due = np.flatnonzero(is_due[: span.last - span.first + 1])
        for index in due[~_is_share(sparsity[due])]:
            _check_sparsity(sparsity[index], span.first + int(index))
        if not due.size:
            return None
        highest = float(sparsity[due].max())
        _check_own_sparsities(self.attachment, highest, is_final=False)
        return highest

    def _prune(self, step: int, sparsity: float) -> None:
        _check_sparsity(sparsity, step)
        _check_own_sparsities(self.attachment, sparsity, is_final=False)
        self._pruned_to = max(sparsity, self._pruned_to or 0.0)
        if self._change_masks(step, sparsity):
            self.state.thresholds.assign(self.attachment.smallest_magnitudes())

    def _schedule_from(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """What the schedule says of this step and of the next ones, as two arrays."""
        skipped = step - self._first
        left = len(self._is_due) - skipped
        if skipped < 0 or left < self._steps_per_execution:
            self._first, skipped = step, 0
            self._is_due, self._sparsity = self._ask(step)
        return self._is_due[skipped:], self._sparsity[skipped:]

    @property
    def _block(self) -> int:
        return max(_BLOCK, self._steps_per_execution)

    def _ask(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """What the schedule says of a block of steps from this one on."""
        is_due, sparsity = self._evaluate(
            tf.range(step, step + self._block, dtype=tf.int64)
        )
        return is_due.numpy(), sparsity.numpy()

    def _compiled_schedule(self) -> Any:
        return own_function(self._evaluate_block)

    def _evaluate_block(self, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def evaluate(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            is_due, sparsity = self.schedule(step)
            return tf.cast(is_due, tf.bool), tf.cast(sparsity, tf.float32)

        return tf.map_fn(evaluate, steps, fn_output_signature=(tf.bool, tf.float32))


def _is_share(sparsity: Any) -> Any:
    """Whether a number, or each of an array, lies in [0, 1); NaN does not."""
    return (sparsity >= 0) & (sparsity < 1)


def _check_own_sparsities(
    attachment: Attachment, sparsity: float, *, is_final: bool = True
) -> None:
    """Refuses a sparsity that kernels' patterns do not have, or go beyond."""
    for kernel in attachment.kernels:
        own = kernel.pattern.own_sparsity
        if own is not None and (is_final or sparsity > own):
            name = "the final sparsity" if is_final else "at most the sparsity"
            check_own_sparsity(kernel.path, kernel.pattern, sparsity, name=name)


def _check_sparsity(sparsity: float, step: int) -> None:
    if not _is_share(sparsity):
        question = did_you_mean(sparsity)
        raise ValueError(
            f"Expected the schedule's sparsity to lie in [0, 1), got {sparsity} at "
            f"step {step}{f': {question}' if question else '.'}"
        )


def _checked_schedule(schedule: Any) -> Callable:
    expected = (
        "Expected `schedule` to be a function from a step to (whether to prune, the "
        "sparsity), such as rigl_keras.schedules.polynomial_decay(0.0, 0.9, begin_step,"
        " end_step)"
    )
    if not callable(schedule):
        raise ValueError(f"{expected}, but got {schedule!r}.{_advice(schedule)}")
    problem = call_problem(schedule, 1)
    if problem is not None:
        name = schedules.name_of(schedule)
        raise ValueError(
            f"{expected}, but {name} is none, since {problem}. If it makes schedules, "
            f"call it: Pruning({name}(...))."
        )
    # In a graph, as training will ask it.
    answer = own_function(lambda step: schedule(step))(tf.constant(1, tf.int64))
    if not _is_answer(answer):
        raise ValueError(f"{expected}, but for step 1 it returns {answer!r}.")
    return schedule


def _advice(schedule: Any) -> str:
    """What to write for something that is no pruning schedule, as a sentence."""
    if isinstance(schedule, str) and schedule in named(MaskUpdater):
        return (
            " That is an algorithm that prunes by no schedule: "
            f"rigl_keras.MaskUpdates({schedule!r})."
        )
    if is_number(schedule) and 0 < schedule < 1:
        return (
            f" To prune to {schedule} at a step: rigl_keras.schedules."
            f"constant_sparsity({schedule}, step)."
        )
    return ""


def _is_answer(answer: Any) -> bool:
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    if not is_pair or not all(map(tf.is_tensor, answer)):
        return False
    is_due, sparsity = answer
    is_number = sparsity.dtype.is_floating or sparsity.dtype.is_integer
    is_scalar = is_due.shape.rank == sparsity.shape.rank == 0
    return is_due.dtype == tf.bool and is_number and is_scalar
