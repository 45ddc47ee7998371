"""The callback that keeps a model sparse while it is trained; algorithms derive."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_int
from rigl_keras.common.shown import ShowsArguments
from rigl_keras.core.kernels import check_patterns, matching
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.training.attachment import Attachment
from rigl_keras.training.observers import observers
from rigl_keras.training.outlook import Span
from rigl_keras.training.session import FitSession, Session, session_of
from rigl_keras.training.tfmot import adopt


class SparseTraining(ShowsArguments, keras.callbacks.Callback):
    """What all algorithms share: a model that stays sparse while it is trained.

    Gradients of masked weights are masked before the optimizer sees them, so momentum,
    Adam's moments and clipping by norm are those of a sparse model. Adds "sparsity",
    the share of zeros among the masked kernels' weights, to the training logs. Several
    such callbacks may take part in one training, each with kernels of its own; kernels
    that none of them takes care of keep their masks.

    Args:
      kernels: None for all sparse kernels; or a glob pattern, or several, on the paths
        of those that this callback trains.

    Attributes:
      state: a `tf.Module` to put into a `tf.train.Checkpoint` beside model and
        optimizer, from which a broken-off training goes on.

    Raises:
      ValueError: at the start of training, when the model has no sparse kernel, none
        that `kernels` matches, or one that another callback trains; or when its
        optimizer keeps state that cannot follow a mask.
    """

    def __init__(self, kernels: str | Sequence[str] | None = None) -> None:
        super().__init__()
        if kernels is not None:
            check_patterns(kernels, "kernels")
        self.kernels = kernels
        self.state = tf.Module(name="sparse_training")
        self.attachment: Any = None
        self._session: Any = None
        self._steps_per_execution = 1
        self._first_batch = 0
        self._is_beginning = False
        self._goes_on = False  # with a training that was broken off
        self._batches_prepared: int | None = None
        self._has_warned = False

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: arguments and `state`, but no training."""
        return {**compat.without_model(self), "attachment": None, "_session": None}

    @property
    def method(self) -> str:
        """What results and warnings call this training, such as "RigL"."""
        return type(self).__name__

    @property
    def logs(self) -> dict[str, float]:
        """What this training logs, such as "sparsity", as a dict of floats."""
        return {} if self._session is None else dict(self._session.logs)

    def prepare(self, model: Any, optimizer: Any = None) -> None:
        """Creates the optimizer's slots and all of `state`, ahead of the training.

        Only needed where a checkpoint is restored before and must find them.

        Args:
          model: a model with sparse kernels.
          optimizer: the one that trains it; None for the one it is compiled with.

        Raises:
          ValueError: when the model cannot be trained sparsely.
        """
        adopt(model)
        if optimizer is None:
            optimizer = getattr(model, "optimizer", None)
        if self.attachment is None or not self.attachment.fits(model, optimizer):
            self.attachment = self._make_attachment(model, optimizer)
        self._prepare_state(model)
        self._batches_prepared = self.attachment.batches()

    @contextlib.contextmanager
    def attached(
        self,
        model: Any,
        optimizer: Any = None,
        total_steps: int | None = None,
        steps_per_run: int = 1,
    ) -> Iterator["SparseTraining"]:
        """Trains in a custom loop, with the updates that `fit` would make.

        Make or trace the training step inside the context, and have `run` call it:

            with rigl.attached(model, optimizer, total_steps=1000):
                for x, y in data:
                    loss = rigl.run(train_step, x, y)

        Several callbacks, each with kernels of its own, are attached by several
        contexts, one inside the other; `run` of any of them serves all.

        Args:
          model: a built model with sparse kernels, which need not be compiled; or a
            layer that holds some.
          optimizer: the one that the step applies gradients by; None for the one the
            model is compiled with.
          total_steps: int >= 1, how many batches the loop will make, of which the last
            update and the cosine schedule are worked out; None where
            `last_update_step` is given, or not needed.
          steps_per_run: int >= 1, how many batches one call of the step trains on.

        Yields:
          This callback.

        Raises:
          ValueError: when the model cannot be trained sparsely, or the loop's length is
            needed and not given.
        """
        compat.check_layer(model, "a model")
        if total_steps is not None:
            check_int("total_steps", total_steps, minimum=1)
        if optimizer is None:
            optimizer = getattr(model, "optimizer", None)
        self.set_model(model)
        self.set_params({"epochs": 1, "steps": total_steps})
        self._steps_per_execution = check_int("steps_per_run", steps_per_run, 1)
        session = session_of(model)
        if isinstance(session, FitSession):
            session.end()  # A training that broke off left it behind.
            session = None
        if session is None or session.optimizer is not optimizer:
            session = Session(model, optimizer)
        self._begin(session)
        try:
            self.on_epoch_begin(0)
            yield self
        except BaseException:
            session.end()
            raise
        self.on_train_end()

    def run(self, train_step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a training step of a custom loop, and updates masks where that is due.

        Args:
          train_step: function that makes the step or steps.
          *args: of the function.
          **kwargs: of the function.

        Returns:
          What the function returns.

        Raises:
          ValueError: outside of `attached`; or when the step's gradients did not go
            through the optimizer while it was attached.
        """
        if self._session is None or not self._session.holds(self):
            raise ValueError(
                f"Expected `run` inside of a context: with {type(self).__name__}(...)"
                ".attached(model, optimizer, total_steps) as callback."
            )
        return self._session.run(train_step, *args, **kwargs)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Attaches to the model and its optimizer."""
        active = session_of(self.model)
        if active is not None and getattr(active, "params", None) is not self.params:
            active.end()  # A training that broke off left it behind.
            active = None
        compat.check_fit(self.model)
        self._steps_per_execution = compat.steps_per_execution(self.model)
        self._begin(active or self._own_session())

    def on_train_end(self, logs: dict | None = None) -> None:
        """Leaves the model as it was, but for weights, masks and optimizer state."""
        if self._session is None or not self._session.holds(self):
            return
        span = self._span(self._first_batch, self.attachment.batches())
        is_empty = span.last < span.first
        self._session.leave(self)
        if not (is_empty or self._goes_on or self._has_warned):
            self._warn(self._hindsight(span))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Looks whether this training goes on with one that was broken off."""
        if self._is_beginning and epoch > 0:
            self._goes_on = True
            self._warn_of_lost_state(epoch)

    def _warn_of_lost_state(self, epoch: int) -> None:
        """A resumed training whose callback is new knows less than before."""

    def _warn_of_outlook(self, epoch: int) -> None:
        """Warns, as a training begins, where it will not do what it is there for."""
        is_beginning, self._is_beginning = self._is_beginning, False
        steps = self.params.get("steps")
        # What goes on was planned when it began.
        if not is_beginning or self._goes_on or steps is None:
            return
        batches = self.attachment.batches()
        left = (self.params["epochs"] - epoch) * steps
        self._warn(self._outlook(self._span(batches, batches + left)))

    def _span(self, first_batch: int, last_batch: int) -> Span:
        """The steps between two counts of batches."""
        accumulated = self.attachment.accumulated
        return Span(first_batch // accumulated + 1, last_batch // accumulated)

    def _outlook(self, span: Span) -> str | None:
        """What this training will not do in its steps, as a text for the user."""
        return None

    def _hindsight(self, span: Span) -> str | None:
        """What this training has not done in its steps, as a text for the user."""
        return None

    def _warn(self, text: str | None) -> None:
        if text is not None:
            self._has_warned = True
            warnings.warn(f"{self.method}: {text}.", stacklevel=3)

    def _own_session(self) -> FitSession:
        """A session for `fit`; the last one, if it fits, has the traced function."""
        own = self._session
        is_mine = isinstance(own, FitSession) and own.model is self.model
        if not is_mine or own.optimizer is not self.model.optimizer:
            own = FitSession(self.model)
        own.params = self.params
        return own

    def _begin(self, session: Session) -> None:
        before = self._batches_prepared
        self.prepare(session.model, session.optimizer)
        self._first_batch = self.attachment.batches()
        # A checkpoint was restored after `prepare`.
        self._goes_on = before not in (None, self._first_batch)
        self._batches_prepared = None
        self._is_beginning, self._has_warned = True, False
        session.join(self)
        self._session = session
        session.logs["sparsity"] = self.attachment.sparsity()

    def _make_attachment(self, model: Any, optimizer: Any) -> Attachment:
        return Attachment(model, optimizer, paths=self._chosen_paths(model))

    def _chosen_paths(self, model: Any) -> set[str] | None:
        """The paths that `kernels` matches; None for all."""
        paths = [kernel.path for kernel in sparse_kernels(model)]
        if self.kernels is None or not paths:
            return None
        return matching(paths, self.kernels, "kernels")

    def _prepare_state(self, model: Any) -> None:
        """Creates what `state` holds; called by `prepare`."""

    def check_pace(self, batches: int) -> None:
        """Called by the session after the first call of the training step.

        Args:
          batches: int, how often that call applied gradients.

        Raises:
          ValueError: when it was more often than updates are planned by.
        """
        if batches > self._steps_per_execution:
            raise ValueError(
                "Expected a call of the training step to apply gradients "
                f"{self._steps_per_execution} times at most, but the first one applied "
                f"them {batches} times, so that {self.method} would update "
                "masks too late. Apply them once for each batch; or train in a loop of "
                f"your own, inside attached(..., steps_per_run={batches})."
            )

    def before_steps(self) -> None:
        """Called by the session before the step, or the steps of an execution."""

    def after_steps(self) -> None:
        """Called by the session after them."""

    def _change_masks(self, step: int, fraction: float) -> bool:
        """Updates all masks, and tells those who watch.

        Args:
          step: int, the training step that the update belongs to.
          fraction: float in [0, 1], the drop fraction or, of a pruner, the sparsity.

        Returns:
          True when it was done; where weights or gradients do not allow it, a warning
          says why.
        """
        # One that a training left behind when it broke off has other `params`.
        watching = [
            observer
            for observer in observers(self.model)
            if observer.params is self.params
        ]
        for observer in watching:
            observer.on_mask_update_begin(step)
        problem = self.attachment.update(step, fraction)
        if problem is not None:
            self._warn(f"no mask update at step {step}: {problem}")
            return False
        for observer in watching:
            observer.on_mask_update_end(step)
        self._session.logs["sparsity"] = self.attachment.sparsity()
        return True


class Static(SparseTraining):
    """Trains a sparse model whose masks stay as they are.

    Arguments, attributes, logs and errors are those of `SparseTraining`.

    Source: Evci et al. 2022, "Scratch".
    """

    def check_pace(self, batches: int) -> None:
        """Any pace will do, since no mask is to change."""
