"""What joins an algorithm to a model: the hook, the slots, the mask update."""

from collections.abc import Collection, Iterable
from typing import Any

import tensorflow as tf

from rigl_keras import compat
from rigl_keras.algorithms.base import MaskUpdater, Pruner
from rigl_keras.algorithms.compressed_update import check_suits_compressed
from rigl_keras.common.checks import check_has_loss
from rigl_keras.common.graphs import own_function
from rigl_keras.core.masked_kernel import TrainedKernel
from rigl_keras.core.masks import check_patterns, sparse_kernels, trainable_kernels
from rigl_keras.training.gradient_hook import GradientHook
from rigl_keras.training.mask_update import MaskUpdate, UpdatedKernel
from rigl_keras.training.outlook import KernelCount, sparsity_of
from rigl_keras.training.slots import find_slots
from rigl_keras.training.step_snapshot import StepSnapshot


class Attachment:
    """Keeps a model's gradients and optimizer sparse, and updates its masks.

    `attach` it before the training step is traced.

    Args:
      model: a model with sparse kernels.
      optimizer: the one that trains it, perhaps in wrappers.
      updater: a `MaskUpdater` or `Pruner`; None for masks that stay as they are.
      paths: those of the kernels to take care of; None for all.
      grow_data: None, or the batch whose gradient masks grow by (`BatchGradients`).
      follow_learning_rate: whether `hook.highest_learning_rate` is wanted.
      seed: int, for the updater's random draws.

    Attributes:
      model: the model.
      optimizer: its optimizer.
      hook: the `GradientHook` on the optimizer.
      mask_update: the `MaskUpdate`; None without an updater.
      kernels_without_gradient: paths of the kernels that the last update left as they
        were because the loss does not depend on them.

    Raises:
      ValueError: when the model has no sparse kernel; when its optimizer cannot be
        used; or when there is none, or no loss for `grow_data`.
      TypeError: when model or optimizer are not of the Keras in use.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        updater: MaskUpdater | Pruner | None = None,
        *,
        paths: Collection[str] | None = None,
        grow_data: Any = None,
        follow_learning_rate: bool = False,
        seed: int = 0,
    ) -> None:
        kernels = sparse_kernels(model)
        _check_model(model, optimizer, kernels)
        if grow_data is not None:
            check_has_loss(model, "grow_data")
        self.model = model
        self.optimizer = optimizer
        self.kernels_without_gradient: list[str] = []
        self._strategy = compat.strategy_of(model)
        self._loss = compat.compiled_loss(model)
        self._trainable = set(_ids(model.trainable_variables))
        self._snapshot = StepSnapshot(model, optimizer)
        self._needs_gradient = updater is not None and updater.needs_gradient
        self._keeps_gradient = self._needs_gradient and grow_data is None
        with self._strategy.scope():
            self._kernels, self._updated = self._prepare_kernels(kernels, paths)
            self.hook = GradientHook(
                optimizer,
                [updated.kernel for updated in self._updated],
                keeps_gradients=self._keeps_gradient,
                gradient_decay=getattr(updater, "gradient_decay", 0.0),
                follow_learning_rate=follow_learning_rate,
            )
            self.mask_update: Any = None
            if updater is not None:
                check_suits_compressed(updater, self.kernels)
                self.mask_update = MaskUpdate(
                    model,
                    updater,
                    self._updated,
                    hook=self.hook,
                    grow_data=grow_data,
                    seed=seed,
                )
            # Autograph has nothing to convert here, and takes a second to find out.
            self._compiled_count = own_function(self._active_counts, autograph=False)

    def fits(self, model: Any, optimizer: Any) -> bool:
        """True when it was made for this model and optimizer, trainable as it is."""
        return (
            self.model is model
            and self.optimizer is optimizer
            # Another loss may depend on other kernels, and has other gradients.
            and self._loss is compat.compiled_loss(model)
            and (self.mask_update is None or self.mask_update.fits(model))
            and _ids(kernel.variable for kernel in sparse_kernels(model))
            == _ids(kernel.variable for kernel in self._kernels)
            and set(_ids(model.trainable_variables)) == self._trainable
        )

    def attach(self) -> None:
        """Hooks into the optimizer; zeroes masked weights and resets their slots.

        Raises:
          ValueError: when a mask has lost the pattern of its kernel, as by a checkpoint
            of another model.
        """
        check_patterns(self.model)
        with self._strategy.scope():
            for updated in self._updated:
                updated.kernel.clear(updated.slots)
        self.hook.attach()

    def detach(self) -> None:
        """Leaves the optimizer as it was."""
        self.expect_update(None)
        self.hook.detach()

    def batches(self) -> int:
        """How many batches the optimizer has seen; `accumulated` of them are a step."""
        return int(compat.raw(compat.batch_counter(self.optimizer)).numpy())

    @property
    def accumulated(self) -> int:
        """How many batches make one step of the optimizer."""
        return compat.accumulation_steps(self.optimizer)

    def sparsity(self) -> float:
        """Share of zeros among the weights of all masked kernels, in [0, 1)."""
        return sparsity_of(self._counts())

    def counts(self) -> list[KernelCount]:
        """How many units are active of each kernel whose mask may change."""
        counts = self._counts()
        return [counts[updated.place] for updated in self._updated]

    @property
    def paths(self) -> list[str]:
        """The paths of the kernels whose masks may change."""
        return [kernel.path for kernel in self.kernels]

    @property
    def kernels(self) -> list[TrainedKernel]:
        """The kernels whose masks may change."""
        return [updated.kernel for updated in self._updated]

    def smallest_magnitudes(self) -> list[tf.Tensor]:
        """The smallest magnitude among the active weights of each such kernel."""
        return [
            tf.reduce_min(tf.abs(tf.boolean_mask(kernel.weights(), kernel.mask())))
            for kernel in self.kernels
        ]

    def expect_update(self, step: int | None) -> None:
        """Has the gradient of the step that ends at `step` kept; None keeps none."""
        with self._strategy.scope():
            self.hook.keep_at(step)

    def in_step(self, is_in_step: bool) -> None:
        """Says that a training step begins, or has ended."""
        with self._strategy.scope():
            self.hook.in_step(is_in_step)

    def remember_weights(self) -> None:
        """Notes weights and optimizer state, for `take_step_back`."""
        self._snapshot.take()

    def take_step_back(self) -> None:
        """Puts weights and optimizer state back to what `remember_weights` noted."""
        with self._strategy.scope():
            self._snapshot.restore()

    def update(self, step: int, fraction: float) -> str | None:
        """Updates all masks once, between two training steps.

        Args:
          step: int, the training step that the update belongs to.
          fraction: float, the drop fraction of a `MaskUpdater`, the sparsity of a
            `Pruner`.

        Returns:
          None when it was done, or a text that says why nothing was changed.
        """
        if self._keeps_gradient and not self.hook.has_kept(step):
            return (
                "there is no gradient of the last step: it was skipped, as loss "
                "scaling does, began before a training went on, or did not go through "
                "the model's optimizer"
            )
        with self._strategy.scope():
            result = self.mask_update.run(step, fraction)
        self.kernels_without_gradient = result.without_gradient
        return None if result.is_finite else "weights or gradients are not finite"

    def _prepare_kernels(
        self, kernels: list[Any], paths: Collection[str] | None
    ) -> tuple[list[TrainedKernel], list[UpdatedKernel]]:
        """All kernels as training sees them, and those that are updated."""
        chosen = [
            place
            for place, kernel in trainable_kernels(self.model).items()
            if paths is None or kernel.path in paths
        ]
        # On `grow_data` too, a compressed kernel keeps it in the backward pass.
        needs_gradient = {
            place
            for place in chosen
            if self._keeps_gradient
            or (self._needs_gradient and kernels[place].is_compressed)
        }
        trained = [
            kernel.trained(place in needs_gradient)
            for place, kernel in enumerate(kernels)
        ]
        slots = find_slots(
            self.optimizer,
            list(self.model.trainable_variables),
            [trained[place].variable for place in chosen],
        )
        return trained, [
            UpdatedKernel(place, trained[place], slots_of_kernel)
            for place, slots_of_kernel in zip(chosen, slots, strict=True)
        ]

    def _counts(self) -> list[KernelCount]:
        with self._strategy.scope():
            active = self._compiled_count().numpy()
        groupings = [
            kernel.pattern.grouping(kernel.shape, *kernel.axes)
            for kernel in self._kernels
        ]
        return [
            KernelCount(
                int(count) // grouping.elements,
                grouping.groups * grouping.units,
                grouping.groups,
                grouping.elements,
            )
            for count, grouping in zip(active, groupings, strict=True)
        ]

    def _active_counts(self) -> tf.Tensor:
        return tf.stack([kernel.active_count() for kernel in self._kernels])


def _ids(variables: Iterable[Any]) -> list[int]:
    return [id(variable) for variable in variables]


def _check_model(model: Any, optimizer: Any, kernels: list[Any]) -> None:
    if not kernels:
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel, so there is nothing to train "
            "sparsely. Make it sparse first: model = rigl_keras.sparsify(model), with "
            "sparsity=0 for pruning, then compile it. A model of Sparse layers that is "
            "not built yet has none either: call model.build(input_shape), or the "
            "model on a batch."
        )
    if optimizer is None:
        raise ValueError(
            f"Model {model.name!r} has no optimizer. Call model.compile(...) first, "
            "or, in a custom loop, pass the optimizer."
        )
