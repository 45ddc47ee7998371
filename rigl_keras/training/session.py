"""A training of one model: the callbacks that keep it sparse, around its steps."""

import enum
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from rigl_keras import compat
from rigl_keras.core.masks import trainable_kernels
from rigl_keras.training.attachment import Attachment

# The training that each model is in, right now. It holds the model, and is held by its
# callbacks and, in `fit`, by the model: to hold it here would keep a model in memory
# whose training broke off.
_sessions: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def session_of(model: Any) -> "Session | None":
    """The `Session` in which a model is trained right now, or None."""
    reference = _sessions.get(model)
    return None if reference is None else reference()


class Member(Protocol):
    """What a session calls of a callback that takes part.

    Attributes:
      attachment: the `Attachment` of the kernels that the callback trains.
    """

    attachment: Any

    @property
    def method(self) -> str:
        """What errors call it, such as "RigL"."""

    def before_steps(self) -> None:
        """Called before the training step, or the steps of an execution."""

    def check_pace(self, batches: int) -> None:
        """Called after the first call of the training step only.

        Args:
          batches: int, how often that call applied gradients.
        """

    def after_steps(self) -> None:
        """Called after the training step, or the steps of an execution."""


class _State(enum.Enum):
    """How far a training is."""

    JOINING = "callbacks take their places; the other kernels are not attached yet"
    RUNNING = "steps are made, and all sparse kernels are attached"
    LEFT_BEHIND = "fit broke off, and a later one has begun"


class Session:
    """Calls the members' `before_steps` and `after_steps` around each training step.

    Members are callbacks, each with the `Attachment` of its own kernels. Kernels that
    no member takes care of keep their masks: an attachment without an algorithm, the
    rest, takes care of them.

    Args:
      model: the model that is trained.
      optimizer: its optimizer.

    Attributes:
      logs: dict from names to floats that all members share.
    """

    def __init__(self, model: Any, optimizer: Any) -> None:
        self.model = model
        self.optimizer = optimizer
        self.logs: dict[str, float] = {}
        self._state = _State.JOINING
        self._members: list[Member] = []
        self._rest: Attachment | None = None
        self._unseen: list[Attachment] = []  # whose hooks have met no gradient yet
        self._first_batch = 0

    def join(self, member: Member) -> None:
        """Takes a callback in, and attaches it.

        Raises:
          ValueError: when another one trains some of its kernels.
        """
        for other in self._members:
            _check_kernels_differ(other, member)
        self._state = _State.JOINING
        self._members.append(member)
        member.attachment.attach()
        _sessions[self.model] = weakref.ref(self)

    def leave(self, member: Member) -> None:
        """Detaches a callback; the last one leaves the model as it was."""
        if member not in self._members:
            return
        self._members.remove(member)
        member.attachment.detach()
        if not self._members:
            self._end()

    def end(self) -> None:
        """Has the members leave that a training which broke off left behind."""
        self._unseen = []
        for member in list(self._members):
            self.leave(member)

    def holds(self, member: Member) -> bool:
        """True while the callback takes part."""
        return member in self._members and session_of(self.model) is self

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function that makes training steps, and updates masks where due.

        Returns:
          What the function returns.

        Raises:
          ValueError: when gradients went past the optimizer's `apply`, unmasked; or
            when the first call applied gradients more often than members count on.
        """
        is_first = self._state is _State.JOINING
        if is_first:
            self._begin_running()
        for member in self._members:
            member.before_steps()
        result = function(*args, **kwargs)
        if self._unseen:
            self._check_gradients_were_seen()
        if is_first:
            self._check_pace()
        for member in self._members:
            member.after_steps()
        return result

    def _begin_running(self) -> None:
        """All members are there: attaches the rest, and looks out for gradients."""
        self._attach_rest()
        attachments = self._attachments()
        self._unseen = _without_gradients(attachments)
        self._first_batch = attachments[0].batches()
        self._state = _State.RUNNING

    def _attach_rest(self) -> None:
        """Attaches the kernels that no member takes care of."""
        taken = {path for member in self._members for path in member.attachment.paths}
        kernels = trainable_kernels(self.model).values()
        paths = [kernel.path for kernel in kernels if kernel.path not in taken]
        if self._rest is not None:
            self._rest.detach()
        if not paths:
            self._rest = None
            return
        if self._rest is None or not self._rest_fits(self._rest, paths):
            self._rest = Attachment(self.model, self.optimizer, paths=paths)
        self._rest.attach()

    def _rest_fits(self, rest: Attachment, paths: list[str]) -> bool:
        return rest.paths == paths and rest.fits(self.model, self.optimizer)

    def _attachments(self) -> list[Attachment]:
        attachments = [member.attachment for member in self._members]
        return attachments if self._rest is None else [*attachments, self._rest]

    def _batches_made(self) -> int:
        """How often gradients were applied since all members were there."""
        return self._attachments()[0].batches() - self._first_batch

    def _check_pace(self) -> None:
        batches = self._batches_made()
        for member in self._members:
            member.check_pace(batches)

    def _check_gradients_were_seen(self) -> None:
        self._unseen = _without_gradients(self._unseen)
        # Loss scaling may have skipped the steps until now; Keras 2 counts those too.
        is_scaled = compat.innermost_optimizer(self.optimizer) is not self.optimizer
        if is_scaled or not self._unseen:
            return
        if self._batches_made() > 0:
            self._unseen = []  # This says it; the session's end need not.
            raise ValueError(
                "A training step was made with gradients that rigl_keras did not see, "
                "so masked weights have left their traces in the optimizer. In a "
                "custom loop make or trace the step (tf.function) inside `attached`, "
                "and apply all gradients by the optimizer that it was given."
            )

    def _end(self) -> None:
        if self._unseen:
            warnings.warn(
                f"The optimizer {self.optimizer.name!r} made no step in this training, "
                "so nothing was kept sparse. Train with the optimizer that the model "
                "was compiled with, or that was given to `attached`.",
                stacklevel=2,
            )
        self._unseen = []
        self._state = _State.JOINING
        if self._rest is not None:
            self._rest.detach()
        if session_of(self.model) is self:
            del _sessions[self.model]


class FitSession(Session):
    """A training by `fit`: stands in the place of the model's train function.

    So an update happens before any callback sees the step's end, wherever the one that
    makes it stands in the list: a checkpoint at an update's step holds the new masks.

    Args:
      model: a compiled model.

    Attributes:
      params: what Keras gives the callbacks of one `fit`, by which it is recognised.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.optimizer)
        self.params: Any = None
        # Python makes a bound method anew for each access: keep one to compare with.
        self._handle = self._run_fit
        self._train_function: Any = None
        self._traced_with: list[Attachment] = []
        self._undo_logs: Callable[[], Any] = lambda: None

    def join(self, member: Member) -> None:
        """Takes a callback in, and stands in for the train function."""
        super().join(member)
        model = self.model
        if model.train_function is not self._handle:
            # `compile`, and a training without callbacks of ours, replace it. What was
            # traced then does not mask gradients.
            self._train_function = None
        model.train_function = self._handle
        # `object.__setattr__` avoids Keras's attribute tracking.
        object.__setattr__(model, "make_train_function", self._make_train_function)
        self._undo_logs = compat.pass_over_in_logs(model, self.logs)

    def _make_train_function(self, *args: Any, **kwargs: Any) -> Any:
        """Called by Keras when a later training begins: this one has broken off."""
        self._state = _State.LEFT_BEHIND
        model = self.model
        return type(model).make_train_function(model, *args, **kwargs)

    def _run_fit(self, iterator: Any) -> Any:
        """Called by Keras as the model's train function."""
        if session_of(self.model) is not self:
            return self._run_without_members(iterator)
        if self._state is _State.LEFT_BEHIND:
            self._end_left_behind()
            return self._run_without_members(iterator)
        logs = self.run(self._run_train_function, iterator)
        return {**logs, **self.logs} if isinstance(logs, dict) else logs

    def _run_train_function(self, iterator: Any) -> Any:
        """Runs Keras's train function, traced with the hooks of this training."""
        attachments = self._attachments()
        if self._train_function is None or attachments != self._traced_with:
            model = self.model
            type(model).make_train_function(model, force=True)
            self._train_function = model.train_function
            self._traced_with = attachments
            model.train_function = self._handle
        return self._train_function(iterator)

    def _run_without_members(self, iterator: Any) -> Any:
        """Runs the steps of a training in which no member takes part."""
        self.model.make_train_function(force=True)
        return self.model.train_function(iterator)

    def _end_left_behind(self) -> None:
        names = [member.method for member in self._members]
        warnings.warn(
            f"{', '.join(names)}: its training broke off and another has begun "
            "without it, so it no longer takes part.",
            stacklevel=2,
        )
        self.end()

    def _end(self) -> None:
        super()._end()
        vars(self.model).pop("make_train_function", None)
        self._undo_logs()


def _check_kernels_differ(member: Member, other: Member) -> None:
    """Refuses two callbacks that would train the same kernels."""
    both = set(member.attachment.paths) & set(other.attachment.paths)
    if both:
        raise ValueError(
            f"Two callbacks, {member.method} and {other.method}, would train the same "
            f"sparse kernels {sorted(both)}. Use one of them, or give each its own by "
            "`kernels=`, such as kernels='conv*'."
        )


def _without_gradients(attachments: list[Attachment]) -> list[Attachment]:
    """Those whose hooks have met no gradient yet, not even a symbolic one."""
    return [attachment for attachment in attachments if not attachment.hook.was_called]
