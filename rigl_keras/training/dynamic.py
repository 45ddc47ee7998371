"""Keras callbacks that train sparsely with masks that stay or that evolve."""

import warnings

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.algorithms import base, schedules
from rigl_keras.common.checks import check_int
from rigl_keras.training.attachment import Attachment
from rigl_keras.training.base import SparseTraining
from rigl_keras.training.batch_gradients import check_batch

_UNRESOLVED = -2  # `state.last_update_step` before the training's length is known


class Static(SparseTraining):
    """Trains a sparse model whose masks stay as they are.

    Arguments, attributes, logs and errors are those of `SparseTraining`.

    Source: Evci et al. 2022, "Scratch".
    """

    def check_pace(self, batches):
        """Any pace will do, since no mask is to change."""


class _Dynamic(SparseTraining):
    """Updates the masks every `update_freq` steps, by the rule of `updater`."""

    updater: type[base.MaskUpdater]

    def __init__(
        self,
        update_freq=100,
        drop_fraction=0.3,
        schedule="cosine",
        last_update_step=None,
        seed=0,
        drop_noise=0.0,
        skip_weight_step=False,
        kernels=None,
    ):
        super().__init__(kernels)
        self._algorithm = self.updater(drop_noise)
        self.update_freq = check_int("update_freq", update_freq, minimum=1)
        self.drop_fraction = schedules.check_fraction(drop_fraction)
        self.schedule = schedules.check_schedule(schedule, last_update_step)
        if last_update_step is not None:
            check_int("last_update_step", last_update_step, schedules.FOREVER)
        self.last_update_step = last_update_step
        self.grow_data = None
        self.seed = check_int("seed", seed, minimum=0)
        self.skip_weight_step = bool(skip_weight_step)
        self._known_missing: set[str] = set()
        self._next_update = None
        self._executions_to_next = 0
        self._is_beginning = False

    def _begin(self, session):
        self._check_length_is_known()
        super()._begin(session)
        session.logs[self._log_name] = float(self.state.drop_fraction.numpy())
        self._is_beginning = True
        if self.attachment.sparsity() == 0:
            warnings.warn(
                f"{type(self).__name__}: the masks exclude no weight, so the model "
                "trains densely. Give it sparse ones first, with sparsify(sparsity=...)"
                ", prune_once or set_masks.",
                stacklevel=2,
            )

    @property
    def _log_name(self):
        """What the drop fraction is logged as: apart for callbacks beside others."""
        if self.kernels is None:
            return "drop_fraction"
        patterns = [self.kernels] if isinstance(self.kernels, str) else self.kernels
        return f"drop_fraction/{','.join(patterns)}"

    def _prepare_state(self, model):
        state = self.state
        with compat.strategy_of(model).scope():
            if not hasattr(state, "last_update_step"):
                last = self.last_update_step
                last = _UNRESOLVED if last is None else last
                state.last_update_step = tf.Variable(last, dtype=tf.int64)
                state.first_step = tf.Variable(0, dtype=tf.int64)
                state.drop_fraction = tf.Variable(0.0)
            highest = self.attachment.hook.highest_learning_rate
            before = getattr(state, "highest_learning_rate", None)
            if highest is not None and highest is not before:
                if before is not None:
                    highest.assign(before.read_value())
                state.highest_learning_rate = highest

    def on_epoch_begin(self, epoch, logs=None):
        """Plans from the optimizer's step count, which other callbacks may restore."""
        batches = self.attachment.batches()
        if self._is_beginning and epoch > 0:
            self._warn_of_lost_state(epoch)
        self._is_beginning = False
        if self._last_update_step() == _UNRESOLVED:
            per_epoch, accumulated = self.params["steps"], self.attachment.accumulated
            done = min(batches, epoch * per_epoch)  # by this training, if resumed
            total = done + (self.params["epochs"] - epoch) * per_epoch
            first = (batches - done) // accumulated
            self.state.first_step.assign(first)
            self.state.last_update_step.assign(
                first + schedules.default_last_update_step(total // accumulated)
            )
        self._check_alignment(batches, epoch)
        self._plan(batches)

    def _make_attachment(self, model, optimizer):
        return Attachment(
            model,
            optimizer,
            self._algorithm,
            paths=self._chosen_paths(model),
            grow_data=self.grow_data,
            follow_learning_rate=self.schedule == "lr",
            seed=self.seed,
        )

    def _check_length_is_known(self):
        unknown = self.params.get("steps") is None
        resolved = self._last_update_step() != _UNRESOLVED
        if unknown and self.last_update_step is None and not resolved:
            raise ValueError(
                "last_update_step=None means 75 % of the training's steps, but this "
                "training's length is unknown. Pass steps_per_epoch to fit, "
                "total_steps to a custom loop, or a last_update_step (-1: updates "
                "never stop)."
            )
        if self.skip_weight_step and self._steps_per_execution > 1:
            raise ValueError(
                "skip_weight_step=True takes single training steps back, which "
                f"steps_per_execution={self._steps_per_execution} does not allow. "
                "Compile the model with steps_per_execution=1."
            )
        if unknown and self._steps_per_execution > 1:
            raise ValueError(
                "With steps_per_execution > 1 a mask update can only come at an "
                "execution's end, and this training's epoch length is unknown. Pass "
                "steps_per_epoch to fit, or total_steps to a custom loop."
            )

    def _warn_of_lost_state(self, epoch):
        """A resumed training whose callback is new knows less than before."""
        hook = self.attachment.hook
        known = dict(hook.gradient_averages)
        if hook.highest_learning_rate is not None:
            known["highest learning rate"] = hook.highest_learning_rate
        if known and not any(np.any(each.numpy()) for each in known.values()):
            warnings.warn(
                f"{type(self).__name__}: training goes on in epoch {epoch + 1} without "
                f"what the callback knew before: {sorted(known)}. To keep it, call "
                "`prepare(model)` and put the callback's `state` into a "
                "tf.train.Checkpoint beside model and optimizer.",
                stacklevel=2,
            )

    def _last_update_step(self):
        if not hasattr(self.state, "last_update_step"):
            return _UNRESOLVED
        return int(self.state.last_update_step.numpy())

    def _check_alignment(self, batches, epoch):
        size, per_epoch = self._steps_per_execution, self.params["steps"]
        if size == 1:
            return
        accumulated, last = self.attachment.accumulated, self._last_update_step()
        misaligned = schedules.update_inside_execution(
            batches,
            epochs=self.params["epochs"] - epoch,
            steps_per_epoch=per_epoch,
            steps_per_execution=size,
            update_freq=self.update_freq * accumulated,
            last_update_step=last if last <= 0 else last * accumulated,
        )
        if misaligned is not None:
            raise ValueError(
                f"A mask update is due after {misaligned} batches, inside an execution "
                f"of {size} (steps_per_execution), in epochs of {per_epoch}. Choose "
                f"update_freq={self.update_freq}, times gradient_accumulation_steps, "
                f"and the epoch's length as multiples of {size}, or another "
                "steps_per_execution."
            )

    def _plan(self, batches):
        """Finds the next update and how many executions it is away at least.

        Reading the optimizer's step count waits for the step to end, so it is read when
        an update may be due and not at every step.
        """
        last, accumulated = self._last_update_step(), self.attachment.accumulated
        due = schedules.next_update(batches // accumulated, self.update_freq, last)
        self._next_update = due
        if due is not None:
            missing = due * accumulated - batches
            self._executions_to_next = -(-missing // self._steps_per_execution)
        self.attachment.expect_update(due)

    def before_steps(self):
        """Notes the weights where an update takes the place of the step."""
        is_due = self._next_update is not None and self._executions_to_next <= 1
        if is_due and self.skip_weight_step:
            self.attachment.remember_weights()

    def after_steps(self):
        """Updates the masks where that is due."""
        if self._next_update is None:
            return
        self._executions_to_next -= 1
        if self._executions_to_next > 0:
            return
        batches = self.attachment.batches()
        step = batches // self.attachment.accumulated
        # Loss scaling may have skipped steps.
        if step >= self._next_update:
            self.attachment.take_step_back()
            self._update_masks(step)
        self._plan(batches)

    def _update_masks(self, step):
        fraction = self._drop_fraction_at(step)
        if self._change_masks(step, fraction):
            self._warn_of_missing_gradients()
            # An array, because TensorFlow keeps every Python number that it has seen.
            self.state.drop_fraction.assign(np.array(fraction, np.float32))
            self._session.logs[self._log_name] = fraction

    def _warn_of_missing_gradients(self):
        missing = set(self.attachment.kernels_without_gradient)
        if missing - self._known_missing:
            warnings.warn(
                f"{type(self).__name__}: the loss does not depend on "
                f"{sorted(missing)}; their masks are not updated.",
                stacklevel=2,
            )
        self._known_missing |= missing

    def _drop_fraction_at(self, step):
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


class SET(_Dynamic):
    """Sparse evolutionary training: drops small weights, grows at random.

    Between two training steps, every `update_freq` optimizer steps, each kernel loses
    its floor(active * fraction) smallest weights and gains as many new ones, which
    start at 0. Adds "sparsity" and "drop_fraction" (of the last update) to the training
    logs.

    Args:
      update_freq: int >= 1, steps between two updates.
      drop_fraction: float in [0, 1], the share of active weights replaced, at most.
      schedule: how the fraction changes: "cosine" falls to 0 at `last_update_step`;
        "constant" stays; "lr" follows the learning rate, relative to the highest so
        far; or a function from the step to a fraction, instead of `drop_fraction`.
      last_update_step: int, the last step at which masks may be updated; -1 never to
        stop, 0 never to update. None: 75 % of the training's steps, resolved at the
        first `fit` and kept in `state`.
      seed: int >= 0, for the random draws.
      drop_noise: float >= 0, standard deviation of the normal noise added to the
        magnitudes by which weights are dropped.
      skip_weight_step: whether an update takes the place of its step's weight update,
        as in the RigL paper: weights and optimizer state are those before that step.
      kernels: None for all sparse kernels; or a glob pattern, or several, on the paths
        of those that this callback trains. Others belong to other callbacks of the same
        training or keep their masks.

    Attributes:
      state: a `tf.Module` to put into a `tf.train.Checkpoint` beside model and
        optimizer, from which a broken-off training goes on.

    Raises:
      ValueError: for an argument out of range; and at the start of training, when the
        model has no sparse kernel, its optimizer keeps state that cannot follow a mask,
        or the training's length is unknown and needed.

    Source: Mocanu et al. 2018; Evci et al. 2022, section 4.
    """

    updater = base.SET


class RigL(_Dynamic):
    """RigL: drops small weights, grows where the loss gradient is largest.

    As `SET`, but new connections are those whose dense gradient has the largest
    magnitude.

    Args:
      update_freq: see `SET`.
      drop_fraction: see `SET`.
      schedule: see `SET`.
      last_update_step: see `SET`.
      grow_data: None grows by the gradient of the training batch of the step before the
        update, at no extra pass. Or a batch `(x, y)` or `(x, y, sample_weight)`, on
        which the gradient is evaluated after that step, in training mode, without
        changing batch-norm averages.
      seed: see `SET`; RigL itself draws nothing but noise.
      drop_noise: see `SET`.
      skip_weight_step: see `SET`.
      kernels: see `SET`.

    Attributes:
      state: see `SET`.

    Raises:
      ValueError: see `SET`.

    Source: Evci et al. 2020, section 3 and Algorithm 1.
    """

    updater: type[base.MaskUpdater] = base.RigL

    def __init__(
        self,
        update_freq=100,
        drop_fraction=0.3,
        schedule="cosine",
        last_update_step=None,
        grow_data=None,
        seed=0,
        drop_noise=0.0,
        skip_weight_step=False,
        kernels=None,
    ):
        super().__init__(
            update_freq,
            drop_fraction,
            schedule,
            last_update_step,
            seed,
            drop_noise,
            skip_weight_step,
            kernels,
        )
        if grow_data is not None:
            check_batch("grow_data", grow_data)
        self.grow_data = grow_data


class RigLInverted(RigL):
    """RigL that grows where the gradient is *smallest*: a control, not a method.

    Arguments, attributes and errors are those of `RigL`.

    Source: Evci et al. 2022, section 4 and Figure 3.
    """

    updater = base.RigLInverted


class SNFS(_Dynamic):
    """Sparse networks from scratch: grows where the gradient's average is largest.

    As `SET`, but new connections are those whose dense gradient, averaged over the
    training steps with a share of 0.9 for the past, has the largest magnitude. The
    average costs 4 bytes a weight and one pass over the weights in every step. How many
    connections a layer has stays the same: the redistribution of the original method is
    left out.

    Arguments, attributes and errors are those of `SET`.

    Source: Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch", section 3.
    """

    updater = base.SNFS

    def _prepare_state(self, model):
        super()._prepare_state(model)
        averages = self.attachment.hook.gradient_averages
        before = getattr(self.state, "gradient_averages", {})
        for path, average in averages.items():
            # The model was compiled anew, or loaded from a file; another one may have
            # kernels of other shapes.
            known = before.get(path, average)
            if known is not average and known.shape == average.shape:
                average.assign(known.read_value())
        self.state.gradient_averages = averages
