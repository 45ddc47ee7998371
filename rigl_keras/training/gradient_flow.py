"""Gradient flow: the squared norm of the loss gradient, and its change by updates."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from rigl_keras import compat
from rigl_keras.common.checks import check_has_loss, check_int
from rigl_keras.common.graphs import own_function
from rigl_keras.core.kernels import find_kernels, masked, named_weights
from rigl_keras.core.masks import masks_by_weight
from rigl_keras.training.batch_gradients import BatchGradients
from rigl_keras.training.batches import check_batch
from rigl_keras.training.clock import Countdown
from rigl_keras.training.observers import MaskUpdateObserver


class FlowMeasurement(NamedTuple):
    """The norms of a loss gradient.

    Attributes:
      norms: dict from the paths of trainable variables, such as "conv1/kernel" or
        "conv1/bias", to the norms of their gradients. Variables of equal paths count
        together.
      kernel_norms: the same of the kernels alone.
    """

    norms: dict[str, float]
    kernel_norms: dict[str, float]

    @property
    def norm(self) -> float:
        """The norm over all trainable parameters."""
        return math.hypot(*self.norms.values())

    @property
    def flow(self) -> float:
        """The gradient flow ∇Lᵀ∇L, which is `norm` squared."""
        return self.norm**2

    @property
    def kernel_norm(self) -> float:
        """The norm over the kernels alone."""
        return math.hypot(*self.kernel_norms.values())


class FlowMeter:
    """Measures a model's gradient flow on one batch, as often as wanted.

    The loss is the one that the model is compiled with, without regularisers, in
    training mode. Gradients of masked weights do not count. Nothing in the model
    changes. The first measurement compiles, which takes seconds.

    Args:
      model: a compiled, built model, sparse or dense.
      data: tuple `(x, y)` or `(x, y, sample_weight)`, as for `model.fit`.

    Raises:
      ValueError: when `data` is no such tuple, or the model is not compiled or has
        nothing to train.

    Source: Evci et al. 2022, section 3.
    """

    def __init__(self, model: Any, data: Sequence[Any]) -> None:
        check_batch("data", data)
        self._paths = _trainable_paths(model)
        self._strategy = model.distribute_strategy
        masks = masks_by_weight(model)
        kernels = {id(kernel.variable) for kernel in find_kernels(model)}
        variables = model.trainable_variables
        self._masks = [masks.get(id(variable)) for variable in variables]
        self._is_kernel = [id(variable) in kernels for variable in variables]
        with self._strategy.scope():
            self._gradients = BatchGradients(model, data, variables, regularized=False)
            # Autograph has nothing to convert here, and takes a second to find out.
            self._compiled = own_function(self._norms, autograph=False)

    def measure(self) -> FlowMeasurement:
        """Measures with the weights and masks of now.

        Returns:
          A `FlowMeasurement`.
        """
        with self._strategy.scope():
            values = [float(norm) for norm in self._compiled()]
        norms: dict[str, float] = {}
        kernel_norms: dict[str, float] = {}
        for path, is_kernel, norm in zip(
            self._paths, self._is_kernel, values, strict=True
        ):
            norms[path] = math.hypot(norms.get(path, 0.0), norm)
            if is_kernel:
                kernel_norms[path] = norms[path]
        return FlowMeasurement(norms, kernel_norms)

    def _norms(self) -> list[tf.Tensor]:
        """The norm of each variable's gradient; 0 where the loss is independent."""
        norms = []
        for gradient, mask in zip(
            self._gradients.gradients(), self._masks, strict=True
        ):
            if gradient is None:
                norms.append(tf.constant(0.0))
            elif mask is None:
                norms.append(tf.norm(gradient))
            else:
                norms.append(tf.norm(masked(gradient, compat.raw(mask))))
        return norms


def gradient_flow(model: Any, data: Sequence[Any]) -> FlowMeasurement:
    """A model's gradient flow on one batch.

    To measure more than once, a `FlowMeter` compiles only once.

    Args:
      model: see `FlowMeter`.
      data: see `FlowMeter`.

    Returns:
      A `FlowMeasurement`.

    Raises:
      ValueError: see `FlowMeter`.

    Source: Evci et al. 2022, section 3.
    """
    return FlowMeter(model, data).measure()


class GradientFlow(MaskUpdateObserver):
    """Measures gradient flow while `fit` trains, and how mask updates change it.

    It goes into the list of callbacks, beside the one that updates the masks. Training
    goes on exactly as without it. At an epoch's end the last record goes into the logs,
    as "gradient_flow" and "gradient_norm".

    Args:
      data: tuple `(x, y)` or `(x, y, sample_weight)`, as for `model.fit`, to measure
        on.
      every: int >= 1, optimizer steps from one record to the next, at multiples of it.
        Where several steps make one execution, a record comes at the end of the
        execution. None: only mask updates are measured.

    Attributes:
      records: list of dicts with "step", "flow" (∇Lᵀ∇L), "norm" (its root) and
        "kernel_norms" (path → norm), of all trainings.
      updates: list of dicts with the "step" of each mask update, the gradient norms
        "before" and "after" it and their difference "change", of all trainings.

    Raises:
      ValueError: for an argument out of range.

    Source: Evci et al. 2022, section 3 and Figures 2 and 3.
    """

    def __init__(self, data: Sequence[Any], every: int | None = 100) -> None:
        super().__init__()
        check_batch("data", data)
        self._data = data
        self.every = None if every is None else check_int("every", every, minimum=1)
        self.records: list[dict[str, Any]] = []
        self.updates: list[dict[str, float]] = []
        self._meter: Any = None
        self._norm_before = 0.0
        self._next_record = 0
        self._countdown = Countdown()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: arguments and records, but no training."""
        return {**super().__getstate__(), "_meter": None}

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Begins to take part."""
        super().on_train_begin(logs)
        self._meter = FlowMeter(self.model, self._data)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Plans from the optimizer's step count, which other callbacks may restore."""
        if self.every is not None:
            self._plan(self._step(), self.every)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Records when it is time to."""
        if self.every is None or not self._countdown.passed():
            return
        step = self._step()
        # Loss scaling may have skipped steps.
        if step >= self._next_record:
            self._record(step)
        self._plan(step, self.every)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Puts the last record into the logs."""
        if self.records and logs is not None:
            logs["gradient_flow"] = self.records[-1]["flow"]
            logs["gradient_norm"] = self.records[-1]["norm"]

    def on_mask_update_begin(self, step: int) -> None:
        """Measures with the old masks."""
        self._norm_before = self._meter.measure().norm

    def on_mask_update_end(self, step: int) -> None:
        """Measures with the new masks."""
        before, after = self._norm_before, self._meter.measure().norm
        self.updates.append(
            {"step": step, "before": before, "after": after, "change": after - before}
        )

    def _step(self) -> int:
        return int(compat.innermost_optimizer(self.model.optimizer).iterations.numpy())

    def _plan(self, step: int, every: int) -> None:
        self._next_record = (step // every + 1) * every
        self._countdown.start_batches(
            self._next_record - step, compat.steps_per_execution(self.model)
        )

    def _record(self, step: int) -> None:
        measured = self._meter.measure()
        self.records.append(
            {
                "step": step,
                "flow": measured.flow,
                "norm": measured.norm,
                "kernel_norms": measured.kernel_norms,
            }
        )


def _trainable_paths(model: Any) -> list[str]:
    """A path for each of a model's trainable variables."""
    check_has_loss(model, "The gradient")
    if not model.trainable_variables:
        raise ValueError(
            f"Model {model.name!r} has nothing to train, so it has no gradient. Build "
            "it, or unfreeze its layers."
        )
    paths = {id(weight): path for path, _, weight in named_weights(model)}
    return [paths[id(variable)] for variable in model.trainable_variables]
