"""A training of one model: the callbacks that keep it sparse, around its steps."""

import warnings
import weakref
from typing import Any

from rigl_keras import compat
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.training.attachment import Attachment

# The training that each model is in, right now.
_sessions: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def session_of(model):
    """The `Session` in which a model is trained right now, or None."""
    return _sessions.get(model)


class Session:
    """Calls the members' `before_steps` and `after_steps` around each training step.

    Members are callbacks, each with the `Attachment` of its own kernels. Kernels that
    no member takes care of keep their masks.

    Args:
      model: the model that is trained.
      optimizer: its optimizer.

    Attributes:
      logs: dict from names to floats that all members share.
    """

    def __init__(self, model, optimizer):
        self.model = model
        self.optimizer = optimizer
        self.logs: dict[str, float] = {}
        self._members: list = []
        self._rest: Any = None  # the attachment of kernels without a member
        self._is_complete = False
        self._unseen: list = []  # attachments whose hook no gradient has passed
        self._first_batch = 0

    def join(self, member):
        """Takes a callback in, and attaches it.

        Raises:
          ValueError: when another one trains some of its kernels.
        """
        for other in self._members:
            both = set(other.attachment.paths) & set(member.attachment.paths)
            if both:
                raise ValueError(
                    f"Two callbacks, {type(other).__name__} and "
                    f"{type(member).__name__}, would train the same sparse kernels "
                    f"{sorted(both)}. Use one of them, or give each its own by "
                    "`kernels=`, such as kernels='conv*'."
                )
        self._is_complete = False
        self._members.append(member)
        member.attachment.attach()
        _sessions[self.model] = self

    def leave(self, member):
        """Detaches a callback; the last one leaves the model as it was."""
        if member not in self._members:
            return
        self._members.remove(member)
        member.attachment.detach()
        if not self._members:
            self._end()

    def end(self):
        """Has the members leave that a training which broke off left behind."""
        self._unseen = []
        for member in list(self._members):
            self.leave(member)

    def holds(self, member):
        """True while the callback takes part."""
        return member in self._members and _sessions.get(self.model) is self

    def run(self, function, *args, **kwargs):
        """Calls a function that makes training steps, and updates masks where due.

        Returns:
          What the function returns.

        Raises:
          ValueError: when gradients went past the optimizer's `apply`, unmasked; or
            when the first call applied gradients more often than members count on.
        """
        is_first = not self._is_complete
        if is_first:
            self._complete()
        for member in self._members:
            member.before_steps()
        result = function(*args, **kwargs)
        if self._unseen:
            self._check_seen()
        if is_first:
            batches = self._attachments()[0].batches() - self._first_batch
            for member in self._members:
                member.check_pace(batches)
        for member in self._members:
            member.after_steps()
        return result

    def _complete(self):
        """All members are there: what they leave over keeps its masks."""
        paths = set()
        for member in self._members:
            paths |= set(member.attachment.paths)
        trainable = {id(variable) for variable in self.model.trainable_variables}
        left = [
            each.path
            for each in sparse_kernels(self.model)
            if id(each.kernel) in trainable and each.path not in paths
        ]
        if self._rest is not None:
            self._rest.detach()
        if not left:
            self._rest = None
        elif not self._rest_fits(left):
            self._rest = Attachment(self.model, self.optimizer, paths=left)
        if self._rest is not None:
            self._rest.attach()
        attachments = self._attachments()
        self._unseen = [each for each in attachments if not each.hook.was_called]
        self._first_batch = attachments[0].batches()
        self._is_complete = True

    def _rest_fits(self, paths):
        rest = self._rest
        return (
            rest is not None
            and rest.paths == paths
            and rest.fits(self.model, self.optimizer)
        )

    def _attachments(self):
        attachments = [member.attachment for member in self._members]
        return attachments if self._rest is None else [*attachments, self._rest]

    def _check_seen(self):
        self._unseen = [each for each in self._unseen if not each.hook.was_called]
        # Loss scaling may have skipped the steps until now; Keras 2 counts those too.
        is_scaled = compat.innermost_optimizer(self.optimizer) is not self.optimizer
        if is_scaled or not self._unseen:
            return
        if self._unseen[0].batches() > self._first_batch:
            self._unseen = []
            raise ValueError(
                "A training step was made with gradients that rigl_keras did not see, "
                "so masked weights have left their traces in the optimizer. In a "
                "custom loop make or trace the step (tf.function) inside `attached`, "
                "and apply all gradients by the optimizer that it was given."
            )

    def _end(self):
        if self._unseen:
            warnings.warn(
                f"The optimizer {self.optimizer.name!r} made no step in this training, "
                "so nothing was kept sparse. Train with the optimizer that the model "
                "was compiled with, or that was given to `attached`.",
                stacklevel=2,
            )
        self._unseen = []
        self._is_complete = False
        if self._rest is not None:
            self._rest.detach()
        if _sessions.get(self.model) is self:
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

    def __init__(self, model):
        super().__init__(model, model.optimizer)
        self.params: Any = None
        self._handle = self._run_fit  # one object, to recognise it
        self._train_function: Any = None
        self._traced_with: list = []
        self._is_left_behind = False
        self._undo_logs: Any = None

    def join(self, member):
        """Takes a callback in, and stands in for the train function."""
        super().join(member)
        model = self.model
        # `compile` and trainings without us put another one there; what was traced then
        # does not mask gradients.
        if model.train_function is not self._handle:
            self._train_function = None
        model.train_function = self._handle
        self._is_left_behind = False
        # Past Keras, which tracks attributes.
        object.__setattr__(model, "make_train_function", self._make_train_function)
        self._undo_logs = compat.pass_over_in_logs(model, self.logs)

    def _make_train_function(self, *args, **kwargs):
        """Keras asks for the train function when a training begins: a later one."""
        self._is_left_behind = True
        model = self.model
        return type(model).make_train_function(model, *args, **kwargs)

    def _run_fit(self, iterator):
        if session_of(self.model) is not self or self._is_left_behind:
            return self._run_without(iterator)
        logs = self.run(self._run_train_function, iterator)
        return {**logs, **self.logs} if isinstance(logs, dict) else logs

    def _run_train_function(self, iterator):
        # The trace holds the hooks of those that took part.
        attachments = self._attachments()
        if self._train_function is None or attachments != self._traced_with:
            model = self.model
            type(model).make_train_function(model, force=True)
            self._train_function = model.train_function
            self._traced_with = attachments
            model.train_function = self._handle
        return self._train_function(iterator)

    def _run_without(self, iterator):
        """Runs the steps of a training in which no member takes part."""
        if session_of(self.model) is self:
            names = [type(member).__name__ for member in self._members]
            warnings.warn(
                f"{', '.join(names)}: its training broke off and another has begun "
                "without it, so it no longer takes part.",
                stacklevel=2,
            )
            self.end()
        self.model.make_train_function(force=True)
        return self.model.train_function(iterator)

    def _end(self):
        super()._end()
        vars(self.model).pop("make_train_function", None)
        self._undo_logs()
