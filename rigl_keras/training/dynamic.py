"""Keras callbacks that train sparsely with masks that evolve."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.algorithms import MaskUpdater, schedules
from rigl_keras.algorithms.registry import make_updater
from rigl_keras.common.checks import check_int
from rigl_keras.training import outlook
from rigl_keras.training.attachment import Attachment
from rigl_keras.training.base import SparseTraining
from rigl_keras.training.batches import check_batch
from rigl_keras.training.clock import (
    Countdown,
    Updates,
    check_length_is_known,
    first_and_last_update,
)
from rigl_keras.training.outlook import Span
from rigl_keras.training.session import Session

_UNRESOLVED = -2  # `state.last_update_step` before the training's length is known


class MaskUpdates(SparseTraining):
    """Replaces connections while a model trains, by any algorithm.

    Between two training steps, every `update_freq` optimizer steps, each kernel loses
    the floor(active * fraction) connections that the algorithm scores lowest and gains
    as many new ones, which start at 0. Adds "sparsity" and "drop_fraction" (of the last
    update) to the training logs.

    Args:
      algorithm: a `rigl_keras.mask_updaters.MaskUpdater`, a subclass of it, or the name
        of a registered one, such as "rigl".
      update_freq: int >= 1, steps between two updates.
      drop_fraction: float in [0, 1], the share of active weights replaced, at most.
      schedule: how the fraction changes: "cosine" falls to 0 at `last_update_step`;
        "constant" stays; "lr" follows the learning rate, relative to the highest so
        far; or a function from the step to a fraction, instead of `drop_fraction`.
      last_update_step: int, the last step at which masks may be updated; -1 never to
        stop, 0 never to update. None: 75 % of the training's steps, resolved at the
        first `fit` and kept in `state`.
      grow_data: for algorithms that grow by the gradient. None takes that of the
        training batch of the step before the update, at no extra pass. Or a batch
        `(x, y)` or `(x, y, sample_weight)`, on which the gradient is evaluated after
        that step, in training mode, without changing batch-norm averages. It is the
        gradient of the loss times the number of examples, regularisers included, as in
        the paper's TF2 code: the ranking is that of the mean.
      seed: int >= 0, for the random draws.
      drop_noise: float >= 0, standard deviation of the normal noise added to the scores
        by which weights are dropped. An algorithm that is given as an object brings its
        own.
      skip_weight_step: whether an update takes the place of its step's weight update,
        as in the RigL paper: weights and optimizer state are those before that step.
      kernels: None for all sparse kernels; or a glob pattern, or several, on the paths
        of those that this callback trains. Others belong to other callbacks of the same
        training or keep their masks.

    Attributes:
      algorithm: the `MaskUpdater`.
      state: a `tf.Module` to put into a `tf.train.Checkpoint` beside model and
        optimizer, from which a broken-off training goes on.

    Raises:
      ValueError: for an argument out of range; and at the start of training, when the
        model has no sparse kernel, its optimizer keeps state that cannot follow a mask,
        or the training's length is unknown and needed.

    Example:
      model.fit(x, y, callbacks=[rigl_keras.MaskUpdates("rigl", update_freq=50)])

    Source: Evci et al. 2020 (RigL), Algorithm 1.
    """

    def __init__(
        self,
        algorithm: MaskUpdater | type[MaskUpdater] | str,
        update_freq: int = 100,
        drop_fraction: float = 0.3,
        *,
        schedule: str | Callable[[int], float] = "cosine",
        last_update_step: int | None = None,
        grow_data: Any = None,
        seed: int = 0,
        drop_noise: float = 0.0,
        skip_weight_step: bool = False,
        kernels: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(kernels)
        self.algorithm = make_updater(algorithm, drop_noise)
        self.update_freq = check_int("update_freq", update_freq, minimum=1)
        self.drop_fraction = schedules.check_fraction(drop_fraction)
        self.schedule = schedules.check_schedule(schedule, last_update_step)
        if last_update_step is not None:
            check_int("last_update_step", last_update_step, schedules.FOREVER)
        self.last_update_step = last_update_step
        if grow_data is not None:
            _check_grow_data(self.algorithm, grow_data)
        self.grow_data = grow_data
        self.seed = check_int("seed", seed, minimum=0)
        self.skip_weight_step = bool(skip_weight_step)
        self._known_missing: set[str] = set()
        self._next_update: int | None = None
        self._countdown = Countdown()
        self._updates_made = 0
        self._is_keeping = False

    def _begin(self, session: Session) -> None:
        self._check_length_is_known()
        super()._begin(session)
        session.logs[self._log_name] = float(self.state.drop_fraction.numpy())
        self._updates_made = 0
        if self.attachment.sparsity() == 0:
            warnings.warn(
                f"{self.method}: the masks exclude no weight, so the model "
                "trains densely. Give it sparse ones first, with sparsify(sparsity=...)"
                ", prune_once or set_masks.",
                stacklevel=2,
            )

    @property
    def method(self) -> str:
        """The algorithm's name, or that of a callback of one's own."""
        is_own = type(self) is not MaskUpdates
        return type(self if is_own else self.algorithm).__name__

    @property
    def _log_name(self) -> str:
        """What the drop fraction is logged as: apart for callbacks beside others."""
        if self.kernels is None:
            return "drop_fraction"
        patterns = [self.kernels] if isinstance(self.kernels, str) else self.kernels
        return f"drop_fraction/{','.join(patterns)}"

    def _prepare_state(self, model: Any) -> None:
        state, hook = self.state, self.attachment.hook
        with compat.strategy_of(model).scope():
            if not hasattr(state, "last_update_step"):
                last = self.last_update_step
                last = _UNRESOLVED if last is None else last
                state.last_update_step = tf.Variable(last, dtype=tf.int64)
                state.first_step = tf.Variable(0, dtype=tf.int64)
                state.drop_fraction = tf.Variable(0.0)
            highest = hook.highest_learning_rate
            before = getattr(state, "highest_learning_rate", None)
            if highest is not None and highest is not before:
                if before is not None:
                    highest.assign(before.read_value())
                state.highest_learning_rate = highest
        if hook.gradient_averages:
            self._prepare_averages(hook.gradient_averages)

    def _prepare_averages(self, averages: dict[str, Any]) -> None:
        """Goes on with the moving averages of an earlier training of the model."""
        before = getattr(self.state, "gradient_averages", {})
        for path, average in averages.items():
            # The model was compiled anew, or loaded from a file; another one may have
            # kernels of other shapes.
            known = before.get(path, average)
            if known is not average and known.shape == average.shape:
                average.assign(known.read_value())
        self.state.gradient_averages = averages

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Plans from the optimizer's step count, which other callbacks may restore."""
        super().on_epoch_begin(epoch, logs)
        batches = self.attachment.batches()
        if self._last_update_step() == _UNRESOLVED:
            first, last = first_and_last_update(
                self.params,
                epoch,
                batches,
                batches_per_step=self.attachment.accumulated,
            )
            self.state.first_step.assign(first)
            self.state.last_update_step.assign(last)
        if self._steps_per_execution > 1:
            self._updates().check_alignment(
                batches,
                epochs=self.params["epochs"] - epoch,
                steps=self.params["steps"],
                steps_per_execution=self._steps_per_execution,
            )
        self._warn_of_outlook(epoch)
        self._plan(batches)

    def _outlook(self, span: Span) -> str | None:
        """See `SparseTraining`; called once the last update is known."""
        if self._last_update_step() == schedules.NEVER:
            return None
        highest = 1.0 if callable(self.schedule) else self.drop_fraction
        return outlook.of_drop_fraction(
            self.attachment.counts(), highest
        ) or outlook.of_updates(
            self._updates(),
            span,
            fraction_at=self._drop_fraction_at if self.schedule == "cosine" else None,
            drop_fraction=self.drop_fraction,
        )

    def _hindsight(self, span: Span) -> str | None:
        """See `SparseTraining`."""
        if self._updates_made or self._last_update_step() == schedules.NEVER:
            return None
        return (
            f"no mask was updated in this training, {span}, since updates come every "
            f"{self.update_freq} steps. Set update_freq to less, or train longer"
        )

    def _make_attachment(self, model: Any, optimizer: Any) -> Attachment:
        return Attachment(
            model,
            optimizer,
            self.algorithm,
            paths=self._chosen_paths(model),
            grow_data=self.grow_data,
            follow_learning_rate=self.schedule == "lr",
            seed=self.seed,
        )

    def _check_length_is_known(self) -> None:
        needs_length = self.last_update_step is None
        check_length_is_known(
            self.params,
            self._steps_per_execution,
            needs_length and self._last_update_step() == _UNRESOLVED,
        )
        if self.skip_weight_step and self._steps_per_execution > 1:
            raise ValueError(
                "skip_weight_step=True takes single training steps back, which "
                f"steps_per_execution={self._steps_per_execution} does not allow. "
                "Compile the model with steps_per_execution=1."
            )

    def _warn_of_lost_state(self, epoch: int) -> None:
        hook = self.attachment.hook
        known = dict(hook.gradient_averages)
        if hook.highest_learning_rate is not None:
            known["highest learning rate"] = hook.highest_learning_rate
        if known and not any(np.any(variable.numpy()) for variable in known.values()):
            warnings.warn(
                f"{self.method}: training goes on in epoch {epoch + 1} without "
                f"what the callback knew before: {sorted(known)}. To keep it, call "
                "`prepare(model)` and put the callback's `state` into a "
                "tf.train.Checkpoint beside model and optimizer.",
                stacklevel=2,
            )

    def _last_update_step(self) -> int:
        if not hasattr(self.state, "last_update_step"):
            return _UNRESOLVED
        return int(self.state.last_update_step.numpy())

    def _updates(self) -> Updates:
        return Updates(
            self.update_freq, self._last_update_step(), self.attachment.accumulated
        )

    def _plan(self, batches: int) -> None:
        """Finds the next update, and how many executions it is away at least."""
        updates = self._updates()
        due = updates.next_after(batches)
        self._next_update = due
        if due is not None:
            missing = due * updates.batches_per_step - batches
            self._countdown.start_batches(missing, self._steps_per_execution)
        self.attachment.expect_update(due)

    def before_steps(self) -> None:
        """Notes the weights where an update takes the place of the step."""
        is_due = self._next_update is not None and self._countdown.ends_now
        if is_due and self.skip_weight_step:
            self.attachment.remember_weights()
        self._is_keeping = self._keeps_gradients_soon()
        if self._is_keeping:
            self.attachment.in_step(True)

    def _keeps_gradients_soon(self) -> bool:
        """Whether this execution may have a batch of the step before an update.

        At others nothing is said to the attachment, which takes a tenth of a
        millisecond.
        """
        batches = self.attachment.accumulated
        return self._next_update is not None and self._countdown.ends_within(batches)

    def after_steps(self) -> None:
        """Updates the masks where that is due."""
        if self._is_keeping:
            self.attachment.in_step(False)
        if self._next_update is None or not self._countdown.passed():
            return
        batches = self.attachment.batches()
        step = batches // self.attachment.accumulated
        # Loss scaling may have skipped steps.
        if step >= self._next_update:
            self.attachment.take_step_back()
            self._update_masks(step)
        self._plan(batches)

    def _update_masks(self, step: int) -> None:
        fraction = self._drop_fraction_at(step)
        if self._change_masks(step, fraction):
            self._updates_made += 1
            self._warn_of_missing_gradients()
            # An array, because TensorFlow keeps every Python number that it has seen.
            self.state.drop_fraction.assign(np.array(fraction, np.float32))
            self._session.logs[self._log_name] = fraction

    def _warn_of_missing_gradients(self) -> None:
        missing = set(self.attachment.kernels_without_gradient)
        if missing - self._known_missing:
            warnings.warn(
                f"{self.method}: the loss does not depend on "
                f"{sorted(missing)}; their masks are not updated.",
                stacklevel=2,
            )
        self._known_missing |= missing

    def _drop_fraction_at(self, step: int) -> float:
        if callable(self.schedule):
            return schedules.check_fraction(
                self.schedule(step), f"the schedule's drop fraction at step {step}"
            )
        if self.schedule == "constant":
            return self.drop_fraction
        if self.schedule == "cosine":
            return schedules.cosine(
                self.drop_fraction,
                step,
                self._last_update_step(),
                int(self.state.first_step.numpy()),
            )
        optimizer = self.attachment.optimizer
        rate = float(compat.learning_rate(optimizer, np.array(step)).numpy())
        highest = float(self.state.highest_learning_rate.numpy())
        return schedules.relative(self.drop_fraction, rate, highest)


def _check_grow_data(algorithm: MaskUpdater, grow_data: Any) -> None:
    if not algorithm.needs_gradient or algorithm.gradient_decay:
        reason = "averages the gradients of all steps"
        if not algorithm.needs_gradient:
            reason = "does not grow by a gradient"
        raise ValueError(
            f"Expected no grow_data, since {type(algorithm).__name__} {reason}. Leave "
            "it out."
        )
    check_batch("grow_data", grow_data)
