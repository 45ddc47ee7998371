"""Sees the gradients on their way into the optimizer: masks them and keeps some."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.core.masked_kernel import TrainedKernel

_NEVER = -1


class GradientHook:
    """Masks the gradients of sparse kernels, and keeps the dense ones when asked to.

    With it momentum, Adam's moments, clipping and decay see a sparse model. The kernels
    keep dense gradients on one step only, the one before a mask update. Each replica
    writes its own part, and reading gives the sum, so replicas exchange nothing until
    then. Where the gradients of several batches are accumulated, the gradient of their
    mean is kept.

    Create it under the model's strategy. `attach` and `detach` put it on the optimizer
    and take it off; what was traced while it was attached keeps using it.

    Args:
      optimizer: the model's optimizer, perhaps in wrappers, already built.
      kernels: the kernels whose gradients are masked, and kept.
      keeps_gradients: whether dense gradients are kept when asked for; the kernels have
        a `gradient_variable` then.
      gradient_decay: 0, or the share of the past in a moving average over the steps,
        which is kept instead, in every step.
      follow_learning_rate: whether `highest_learning_rate` is wanted.

    Attributes:
      gradient_averages: dict from kernels' paths to the variables of those averages.
      highest_learning_rate: variable of the highest learning rate of a step so far, or
        None.
      was_called: bool, whether gradients have come by, be it symbolic ones.
    """

    def __init__(
        self,
        optimizer: Any,
        kernels: Sequence[TrainedKernel],
        *,
        keeps_gradients: bool = False,
        gradient_decay: float = 0.0,
        follow_learning_rate: bool = False,
    ) -> None:
        self._optimizer = optimizer
        self._kernels = list(kernels)
        self._by_variable = {id(kernel.variable): kernel for kernel in kernels}
        self._undo: Callable[[], None] | None = None
        self.was_called = False
        self._decay = gradient_decay
        self._keeps_gradients = keeps_gradients
        if self._keeps_gradients:
            self._keep_at = tf.Variable(_NEVER, trainable=False, dtype=tf.int64)
            # The step whose gradient each kernel has kept, and at last that of the last
            # step of which any gradient was seen.
            self._kept_at = _of_first_replica([_NEVER] * (len(kernels) + 1), tf.int64)
            self._has_taps = any(kernel.is_compressed for kernel in kernels)
            self._in_step = tf.Variable(False, trainable=False)
        self.gradient_averages = {
            kernel.path: kernel.gradient_variable
            for kernel in kernels
            if gradient_decay
        }
        self.highest_learning_rate: tf.Variable | None = None
        if follow_learning_rate:
            self.highest_learning_rate = _of_first_replica(0.0, tf.float32)

    def attach(self) -> None:
        """Puts the hook on the optimizer."""
        self._undo = compat.set_gradient_hook(
            self._optimizer,
            self._on_gradients,
            own=[kernel.variable for kernel in self._kernels],
        )
        for kernel in self._kernels:
            kernel.listen(self._is_asked_in_step if self._keeps_gradients else None)

    def detach(self) -> None:
        """Takes the hook off the optimizer again."""
        if self._undo is not None:
            self._undo()
            self._undo = None
            for kernel in self._kernels:
                kernel.listen(None)

    def keep_at(self, step: int | None) -> None:
        """Asks for the dense gradients of the step that ends at iteration `step`.

        Args:
          step: int, or None to keep none.
        """
        if self._keeps_gradients:
            # An array, because TensorFlow keeps every Python number that it has seen.
            self._keep_at.assign(np.array(_NEVER if step is None else step))
            if step is not None and self._has_taps:
                for kernel in self._kernels:
                    kernel.forget()
                # With them goes what was kept of a step that loss scaling has broken.
                self._kept_at.assign(np.full(self._kept_at.shape, _NEVER))

    def in_step(self, is_in_step: bool) -> None:
        """Says that a training step begins, or has ended.

        Backward passes between the steps are the caller's own, and no kernel is to keep
        gradients of theirs.
        """
        if self._keeps_gradients and self._has_taps:
            self._in_step.assign(is_in_step)

    def has_kept(self, step: int) -> bool:
        """True when gradients of the step that ended at `step` are there."""
        return self._keeps_gradients and int(self._kept_at.numpy()[-1]) == step

    def kept_steps(self) -> tf.Tensor:
        """The steps whose gradients the kernels have kept.

        Returns:
          An int64 tensor with an entry for each kernel. It is another step than the
          last one where that step's loss does not depend on the kernel, and negative
          where no gradient of a whole step was kept.
        """
        return tf.convert_to_tensor(self._kept_at)[:-1]

    def _on_gradients(
        self, gradients: Sequence[Any], variables: Sequence[Any], summed: bool
    ) -> list[Any]:
        self.was_called = True
        batch = self._batch()
        self._note_learning_rate(batch)
        pairs = list(zip(gradients, variables, strict=True))
        dense = {
            id(variable): tf.convert_to_tensor(gradient)
            for gradient, variable in pairs
            if gradient is not None and id(variable) in self._by_variable
        }
        if self._keeps_gradients:
            self._keep_if_asked(dense, batch, summed)
        return [
            self._by_variable[id(variable)].masked_gradient(dense[id(variable)])
            if id(variable) in dense
            else gradient
            for gradient, variable in pairs
        ]

    def _note_learning_rate(self, batch: tf.Tensor) -> None:
        highest = self.highest_learning_rate
        if highest is not None:
            step = batch // compat.accumulation_steps(self._optimizer)
            rate = compat.learning_rate(self._optimizer, step)
            highest.assign(tf.maximum(tf.convert_to_tensor(highest), rate))

    def _keep_if_asked(
        self, dense: Mapping[int, tf.Tensor], batch: tf.Tensor, summed: bool
    ) -> None:
        def keep() -> None:
            self._keep(dense, batch, summed)

        if self._decay:
            keep()
            return
        tf.cond(self._is_asked(), keep, lambda: None)

    def _is_asked(self) -> tf.Tensor:
        """Whether the gradients of the batch that is now trained on are to be kept."""
        ends_at = self._batch() // compat.accumulation_steps(self._optimizer) + 1
        return tf.equal(ends_at, self._keep_at)

    def _is_asked_in_step(self) -> tf.Tensor:
        return tf.logical_and(self._is_asked(), self._in_step)

    def _batch(self) -> tf.Tensor:
        """How many batches came before, an int64 scalar."""
        batch = compat.raw(compat.batch_counter(self._optimizer))
        return tf.cast(tf.convert_to_tensor(batch), tf.int64)

    def _keep(
        self, dense: Mapping[int, tf.Tensor], batch: tf.Tensor, summed: bool
    ) -> None:
        """Adds a batch's gradients to what the kernels keep, and notes of which step.

        Args:
          dense: the gradients, by the ids of the kernels' variables.
          batch: int64 scalar, how many batches came before.
          summed: whether the gradients are summed over the replicas already.
        """
        count = compat.accumulation_steps(self._optimizer)
        is_first = tf.equal(batch % count, 0) if count > 1 else True
        is_last = tf.equal((batch + 1) % count, 0)
        kept_at = tf.convert_to_tensor(self._kept_at)
        # Earlier batches of the step may have come before this training.
        are_whole = tf.logical_or(is_first, tf.equal(kept_at, _until(batch)))
        now = tf.where(is_last, batch // count + 1, _until(batch + 1))
        now = tf.where(are_whole, now, _NEVER)
        are_here = [id(kernel.variable) in dense for kernel in self._kernels]
        self._kept_at.assign(tf.where(np.array([*are_here, True]), now, kept_at))
        scale = compat.loss_scale(self._optimizer) * count
        for kernel in self._kernels:
            if id(kernel.variable) in dense:
                share = _share_of_replica(dense[id(kernel.variable)], summed) / count
                added = functools.partial(self._added, is_first=is_first)
                kernel.keep(share, added, scale)

    def _added(
        self, kept: tf.Tensor, gradient: tf.Tensor, *, is_first: tf.Tensor | bool
    ) -> tf.Tensor:
        """What a kernel keeps, with the gradient of one more batch of the step."""
        past = tf.where(is_first, self._decay * kept, kept)
        new = past + (1 - self._decay) * gradient
        if not self._decay:
            # Not `new` on the first batch: what was kept before may not be finite.
            return tf.where(is_first, gradient, new)
        # One overflow would stay in a moving average for ever.
        return tf.where(tf.reduce_all(tf.math.is_finite(gradient)), new, kept)


def _until(batch: tf.Tensor) -> tf.Tensor:
    """Marks a step of which the batches before `batch` have been kept.

    Negative, so that it equals no step, and below `_NEVER`.
    """
    return _NEVER - 1 - batch


def _of_first_replica(value: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(
        value,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def _share_of_replica(gradient: tf.Tensor, summed: bool) -> tf.Tensor:
    """What a replica writes so that the replicas' sum is the whole gradient."""
    gradient = tf.cast(gradient, tf.float32)
    if not summed:
        return gradient
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return gradient
    first = tf.equal(context.replica_id_in_sync_group, 0)
    return tf.where(first, gradient, tf.zeros_like(gradient))
