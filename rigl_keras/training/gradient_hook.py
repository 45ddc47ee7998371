"""Sees the gradients on their way into the optimizer: masks them and keeps some."""

from typing import Any

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.core.kernels import masked

_NEVER = -1


class GradientHook:
    """Masks the gradients of sparse kernels, and keeps the dense ones when asked to.

    With it momentum, Adam's moments, clipping and decay see a sparse model. The dense
    gradient is kept on one step only, the one before a mask update: each replica writes
    its own, and reading them gives the sum, so nothing is communicated until then.
    Where the gradients of several batches are accumulated, it is that of their mean.

    Args:
      optimizer: the model's optimizer, perhaps in wrappers, already built.
      kernels: list of `SparseKernel`.
      keep_gradients: whether `keep_at` will be used; costs 4 bytes a weight.
      follow_learning_rate: whether `highest_learning_rate` is wanted.
      gradient_decay: 0, or the share of the past in a moving average over the steps,
        which is then kept instead.

    Attributes:
      gradient_averages: dict from kernels' paths to the variables of those averages.
      was_called: bool, whether gradients have come by, be it symbolic ones.

    Create it under the model's strategy. `attach` and `detach` put it on the optimizer
    and take it off; what was traced while it was attached keeps using it.
    """

    def __init__(
        self,
        optimizer,
        kernels,
        keep_gradients,
        follow_learning_rate,
        gradient_decay=0.0,
    ):
        self._optimizer = optimizer
        self._kernels = [each.kernel for each in kernels]
        self._masks = {id(each.kernel): each.mask for each in kernels}
        self._undo: Any = None
        self.was_called = False
        self._kept = {}
        if keep_gradients:
            self._kept = {id(each.kernel): _own_by_replica(each) for each in kernels}
            self._keep_at = tf.Variable(_NEVER, trainable=False, dtype=tf.int64)
            # At which step for each kernel, and at last for any step that was seen.
            self._kept_at = _of_first_replica([_NEVER] * (len(kernels) + 1), tf.int64)
        self._decay = gradient_decay
        self.gradient_averages = {
            each.path: self._kept[id(each.kernel)] for each in kernels if gradient_decay
        }
        self.highest_learning_rate: tf.Variable | None = None
        if follow_learning_rate:
            self.highest_learning_rate = _of_first_replica(0.0, tf.float32)

    def attach(self):
        """Puts the hook on the optimizer."""
        self._undo = compat.set_gradient_hook(
            self._optimizer, self._on_gradients, own=self._kernels
        )

    def detach(self):
        """Takes the hook off the optimizer again."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def keep_at(self, step):
        """Asks for the dense gradients of the step that ends at iteration `step`.

        Args:
          step: int, or None to keep none.
        """
        if self._kept:
            # An array, because TensorFlow keeps every Python number that it has seen.
            self._keep_at.assign(np.array(_NEVER if step is None else step))

    def has_kept(self, step):
        """True when gradients of the step that ended at `step` are there."""
        return int(self._kept_at.numpy()[-1]) == step

    def kept_gradients(self):
        """The dense gradients of the kernels, summed over the replicas.

        Returns:
          A tensor for each kernel, in their order; and an int64 tensor with the steps
          that they are of, which are others where a step's loss does not depend on the
          kernel.
        """
        gradients = [tf.convert_to_tensor(each) for each in self._kept.values()]
        return gradients, tf.convert_to_tensor(self._kept_at)[:-1]

    def _on_gradients(self, gradients, variables, summed):
        self.was_called = True
        batch = compat.raw(compat.batch_counter(self._optimizer))
        batch = tf.cast(tf.convert_to_tensor(batch), tf.int64)
        highest = self.highest_learning_rate
        if highest is not None:
            step = batch // compat.accumulation_steps(self._optimizer)
            rate = compat.learning_rate(self._optimizer, step)
            highest.assign(tf.maximum(tf.convert_to_tensor(highest), rate))
        pairs = list(zip(gradients, variables, strict=True))
        dense = {
            id(variable): tf.convert_to_tensor(gradient)
            for gradient, variable in pairs
            if gradient is not None and id(variable) in self._masks
        }
        self._keep(dense, batch, summed)
        return [
            masked(dense[id(variable)], self._masks[id(variable)])
            if id(variable) in dense
            else gradient
            for gradient, variable in pairs
        ]

    def _keep(self, dense, batch, summed):
        if not self._kept:
            return
        count = compat.accumulation_steps(self._optimizer)
        ends_at = batch // count + 1  # the step that this batch belongs to
        is_first = tf.equal(batch % count, 0) if count > 1 else True
        is_last = tf.equal((batch + 1) % count, 0)
        are_here = np.array([key in dense for key in self._kept] + [True])

        def keep():
            before = tf.convert_to_tensor(self._kept_at)
            # Earlier batches of the step may have come before this training.
            are_whole = tf.logical_or(is_first, tf.equal(before, _until(batch)))
            now = tf.where(is_last, ends_at, _until(batch + 1))
            now = tf.where(are_whole, now, _NEVER)
            self._kept_at.assign(tf.where(are_here, now, before))
            for key in set(self._kept) & set(dense):
                kept = self._kept[key]
                share = _share_of_replica(dense[key], summed) / count
                kept.assign(self._added(tf.convert_to_tensor(kept), share, is_first))

        if self._decay:
            keep()
        else:
            tf.cond(tf.equal(ends_at, self._keep_at), keep, lambda: None)

    def _added(self, kept, gradient, is_first):
        """What is kept, with the gradient of one more batch of the step."""
        past = tf.where(is_first, self._decay * kept, kept)
        new = past + (1 - self._decay) * gradient
        if not self._decay:
            return tf.where(is_first, gradient, new)  # which `kept` cannot spoil
        # One overflow would stay in a moving average for ever.
        return tf.where(tf.reduce_all(tf.math.is_finite(gradient)), new, kept)


def _until(batch):
    """What notes that a step's batches before this one are kept; no step's number."""
    return _NEVER - 1 - batch


def _own_by_replica(kernel):
    return tf.Variable(
        np.zeros(tuple(kernel.kernel.shape), np.float32),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
        name=f"{kernel.path}/dense_gradient".replace("/", "_"),
    )


def _of_first_replica(value, dtype):
    return tf.Variable(
        value,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def _share_of_replica(gradient, summed):
    """What a replica writes so that the replicas' sum is the whole gradient."""
    gradient = tf.cast(gradient, tf.float32)
    if not summed:
        return gradient
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return gradient
    first = tf.equal(context.replica_id_in_sync_group, 0)
    return tf.where(first, gradient, tf.zeros_like(gradient))
