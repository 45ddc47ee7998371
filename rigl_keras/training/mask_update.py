"""One mask update of all kernels, in a graph."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.algorithms.base import (
    CompressedState,
    KernelState,
    MaskUpdater,
    Pruner,
)
from rigl_keras.common.graphs import own_function
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core.compressed_units import by_parts
from rigl_keras.core.masked_kernel import Slot, TrainedKernel
from rigl_keras.training.batch_gradients import BatchGradients
from rigl_keras.training.gradient_hook import GradientHook


class UpdatedKernel(NamedTuple):
    """A kernel whose mask is updated.

    Attributes:
      place: its index among all sparse kernels of the model, which keys its draws.
      kernel: the kernel.
      slots: what the optimizer keeps for its weights.
    """

    place: int
    kernel: TrainedKernel
    slots: Sequence[Slot]


class UpdateResult(NamedTuple):
    """What a mask update came to.

    Attributes:
      without_gradient: paths of the kernels that kept their masks because the loss does
        not depend on them.
      is_finite: whether weights and gradients were finite; otherwise all masks stayed.
    """

    without_gradient: list[str]
    is_finite: bool


class MaskUpdate:
    """Updates the masks of kernels by an algorithm.

    Create and call it under the model's strategy.

    Args:
      model: the model that the kernels belong to.
      updater: the algorithm.
      kernels: the kernels.
      hook: what the kernels' dense gradients were kept by, where they have some.
      grow_data: None, or the batch on which the gradient that masks grow by is
        evaluated, instead of the one that was kept.
      seed: int, for the algorithm's random draws.
    """

    def __init__(
        self,
        model: Any,
        updater: MaskUpdater | Pruner,
        kernels: Sequence[UpdatedKernel],
        *,
        hook: GradientHook,
        grow_data: Any,
        seed: int,
    ) -> None:
        self._updater = updater
        self._kernels = kernels
        self._hook = hook
        self._seed = seed
        self._batch_gradients: BatchGradients | None = None
        if grow_data is not None:
            self._batch_gradients = BatchGradients(
                model,
                grow_data,
                [updated.kernel.variable for updated in kernels],
                name="grow_data",
                listening=[updated.kernel for updated in kernels],
            )
        # Under XLA the gradients on `grow_data` have other rounding errors.
        self._suits_xla = grow_data is None and _suits_xla(updater)
        self._uses_xla = self._can_use_xla(model)
        # Autograph has nothing to convert here, and takes a second to find out.
        self._compiled = own_function(
            self.apply, autograph=False, jit_compile=self._uses_xla
        )

    def fits(self, model: Any) -> bool:
        """True while it is compiled as the model's training step is."""
        return self._uses_xla == self._can_use_xla(model)

    def run(self, step: int, fraction: float) -> UpdateResult:
        """Updates all masks once.

        Args:
          step: int, the training step that the update belongs to.
          fraction: float, the drop fraction of a `MaskUpdater`, the sparsity of a
            `Pruner`.
        """
        # Arrays, because TensorFlow keeps every Python number that it has seen.
        *have_gradient, is_finite = self._compiled(
            tf.constant(np.array(step, np.int64)),
            tf.constant(np.array(fraction, np.float32)),
        ).numpy()
        without_gradient = [
            updated.kernel.path
            for updated, has_gradient in zip(self._kernels, have_gradient, strict=True)
            if not has_gradient
        ]
        return UpdateResult(without_gradient, bool(is_finite))

    def apply(self, step: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
        """Updates all masks once, traceable.

        Args:
          step: int64 scalar, see `run`.
          fraction: float32 scalar, see `run`.

        Returns:
          A bool tensor: for each kernel, whether it has a gradient of this step or
          needs none; and at last, whether all is finite and masks were changed.
        """
        gradients = self._gradients()
        have_gradient = self._have_gradient(step, gradients)
        taking_part = [
            (updated, self._state(updated, gradient, step), has_gradient)
            for updated, gradient, has_gradient in zip(
                self._kernels, gradients, have_gradient, strict=True
            )
            if gradient is not None or not self._updater.needs_gradient
        ]
        is_finite = tf.reduce_all(
            [tf.logical_not(has) | _is_finite(state) for _, state, has in taking_part]
            or [True]
        )
        states = [state for _, state, _ in taking_part]
        masks = self._updater.new_masks(states, fraction)
        for (updated, state, has_gradient), new in zip(taking_part, masks, strict=True):
            connections = tf.where(is_finite & has_gradient, new, state.connections)
            updated.kernel.replace(connections, updated.slots)
        return tf.stack([*have_gradient, is_finite])

    def _gradients(self) -> list[Any]:
        """The gradient that each kernel's mask may grow by."""
        if self._batch_gradients is None:
            return [updated.kernel.kept_gradient() for updated in self._kernels]
        for updated in self._kernels:
            updated.kernel.forget()
        return [
            None if gradient is None else updated.kernel.gradient_on_batch(gradient)
            for updated, gradient in zip(
                self._kernels, self._batch_gradients.summed_gradients(), strict=True
            )
        ]

    def _have_gradient(
        self, step: tf.Tensor, gradients: Sequence[Any]
    ) -> list[tf.Tensor]:
        """Whether each kernel has a gradient of this step or needs none, as bools."""
        if not self._updater.needs_gradient:
            return [tf.constant(True)] * len(self._kernels)
        if self._batch_gradients is None:
            return tf.unstack(tf.equal(self._hook.kept_steps(), step))
        return [tf.constant(gradient is not None) for gradient in gradients]

    def _state(
        self, updated: UpdatedKernel, gradient: Any, step: tf.Tensor
    ) -> KernelState | CompressedState:
        name, place = self._updater.name, updated.place
        seed = stateless_seed(name, self._seed, place, step=step)
        return updated.kernel.state(gradient, seed)

    def _can_use_xla(self, model: Any) -> bool:
        return self._suits_xla and _is_compiled(model)


def _suits_xla(updater: MaskUpdater | Pruner) -> bool:
    """True where the algorithm's own class says so: a subclass has other scores."""
    return vars(type(updater)).get("suits_xla", False) and updater.suits_xla


def _is_compiled(model: Any) -> bool:
    """True where XLA compiles the training step, on one device.

    XLA can then compile an update too. That takes seconds once, and makes each update
    quicker: docs/performance.md.
    """
    is_alone = compat.strategy_of(model).num_replicas_in_sync == 1
    # Of a model that is not compiled for `fit`, Keras 3 would make up `jit_compile`.
    is_known = getattr(model, "optimizer", None) is not None
    return is_alone and is_known and bool(getattr(model, "jit_compile", False))


def _is_finite(state: KernelState | CompressedState) -> tf.Tensor:
    finite = tf.reduce_all(tf.math.is_finite(state.weights))
    if state.gradient is None:
        return finite
    if isinstance(state, CompressedState):
        return finite & tf.reduce_all(_finite_groups(state))
    return finite & tf.reduce_all(tf.math.is_finite(state.gradient))


def _finite_groups(state: CompressedState) -> tf.Tensor:
    """Whether the gradients of each group are finite, looked at in parts."""

    def finite(start: Any, groups: int) -> tf.Tensor:
        gradient = state.part(start, groups).gradient
        return tf.reduce_all(tf.math.is_finite(gradient), axis=1, keepdims=True)

    return by_parts(finite, (state.indices.shape[0], 1), state.units, dtype=tf.bool)
