"""Gradients of a model's loss on one fixed batch, and their products with its Hessian.

RigL may grow from such a gradient; gradient flow is measured by it.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from rigl_keras import compat
from rigl_keras.common.graphs import own_function
from rigl_keras.core.kernels import compressed_kernel, masked, walk
from rigl_keras.core.masked_kernel import TrainedKernel
from rigl_keras.core.tfmot_wrappers import is_pruning
from rigl_keras.training.batches import check_batch, check_fits, described


class BatchGradients:
    """Evaluates derivatives of a model's loss on one batch, leaving no trace in it.

    The model runs in training mode; batch-norm averages, dropout seeds and metrics are
    put back afterwards. Every replica evaluates the whole batch, so that batch
    normalisation sees all of it however many replicas there are.

    Call the methods in a `tf.function`, under the model's strategy.

    Args:
      model: a compiled model.
      data: tuple `(x, y)` or `(x, y, sample_weight)`, as for `model.fit`.
      variables: list of variables of the model, whose gradients are wanted.
      regularized: False leaves out `model.losses`: weight penalties, activity penalties
        and other additional losses. A model's own `compute_loss` is then expected to
        add them once, as Keras's does.
      name: what errors call `data`.
      listening: kernels that keep gradients in the backward pass, if they do that at
        all: each backward pass of this object adds to what they keep.

    Raises:
      ValueError: when `data` is no such tuple, or does not fit the model.

    Source: the paper's TF2 code grows from 1,000 fixed training examples.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        variables: Sequence[Any],
        *,
        regularized: bool = True,
        name: str = "data",
        listening: Sequence[TrainedKernel] = (),
    ) -> None:
        check_batch(name, data)
        check_fits(name, data, model)
        self._model = model
        self._name = name
        self._data = tf.nest.map_structure(tf.convert_to_tensor, tuple(data))
        self._variables = [compat.raw(variable) for variable in variables]
        self._regularized = regularized
        self._listening = list(listening)

    def gradients(self) -> list[tf.Tensor | None]:
        """The gradients of the variables, summed over the replicas.

        Returns:
          A tensor for each variable, or None where the loss does not depend on it.
        """
        return self._run(self._scaled_loss_gradients)

    def summed_gradients(self) -> list[tf.Tensor | None]:
        """The gradients of the loss that is added up over the examples.

        That is the number of examples times the loss, so that a regulariser counts
        once for each of them. The paper's TF2 code grows by it.

        Returns:
          As of `gradients`.
        """
        return self._run(lambda: self._loss_gradients(float(self._examples)))

    def hessian_products(self, directions: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The Hessian of the loss times vectors, exact, by double backpropagation.

        The forward pass and the first backward pass are made once for all of them.

        Args:
          directions: for each variable a tensor [k, *shape of the variable], its part
            of the k vectors; k is known when the function is traced.

        Returns:
          A tensor [k, *shape] for each variable, its part of the k products; 0 where
          the loss does not depend on the variable.

        Source: Pearlmutter 1994, "Fast exact multiplication by the Hessian".
        """
        return self._run(lambda: self._products(directions))

    def hessian_gradient_products(self, masks: Sequence[Any]) -> list[tf.Tensor]:
        """The Hessian of the loss times its gradient; see `hessian_products`.

        Hessian and gradient are those of the variables of this object.

        Args:
          masks: for each variable a bool tensor of its shape, off which the gradient
            counts as 0, or None.

        Returns:
          A tensor for each variable; off its mask too it is the product's value.
        """
        return self._run(lambda: self._gradient_products(masks))

    def _run(self, function: Callable[[], list[tf.Tensor | None]]) -> list[Any]:
        """Calls a function on every replica, and adds up what it returns there."""
        _check_forward_pass(self._model)
        strategy = self._model.distribute_strategy
        # A function of its own, because a model may need autograph and callers do not.
        replica_function = own_function(lambda: self._without_trace(function))
        with compat.unchanged_trace_seeds(self._model), self._only_own_listening():
            try:
                by_replica = strategy.run(replica_function)
            except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
                raise ValueError(
                    f"The loss of model {self._model.name!r} cannot be evaluated on "
                    f"`{self._name}`, {described(self._data)}. Give one batch of what "
                    f"model.fit is given. {_reason(error)}"
                ) from error
        return [
            None
            if values is None
            else strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
            for values in by_replica
        ]

    @contextlib.contextmanager
    def _only_own_listening(self) -> Iterator[None]:
        """Has no kernel keep gradients while this is traced, but those that are to."""
        taps = [
            compressed.tap
            for layer, _ in walk(self._model)
            if (compressed := compressed_kernel(layer)) is not None
        ]
        before = [tap.listener for tap in taps]
        for tap in taps:
            tap.listener = None
        for kernel in self._listening:
            kernel.listen(lambda: True)
        try:
            yield
        finally:
            for tap, listener in zip(taps, before, strict=True):
                tap.listener = listener

    def _without_trace(
        self, function: Callable[[], list[tf.Tensor | None]]
    ) -> list[tf.Tensor | None]:
        """Calls a function, and puts back what the forward pass in it changes."""
        state = [compat.raw(v) for v in compat.forward_state(self._model)]
        values_before = [tf.identity(variable) for variable in state]
        results = function()
        tensors = [tensor for tensor in results if tensor is not None]
        with tf.control_dependencies(tensors):
            for variable, value in zip(state, values_before, strict=True):
                variable.assign(value)
        return results

    def _products(self, directions: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        tape, gradients = self._taped_gradients()
        by_direction = zip(*map(tf.unstack, directions), strict=True)
        products = [
            self._product(tape, gradients, direction) for direction in by_direction
        ]
        return [tf.stack(of_variable) for of_variable in zip(*products, strict=True)]

    def _gradient_products(self, masks: Sequence[Any]) -> list[tf.Tensor]:
        tape, gradients = self._taped_gradients()
        directions = [
            gradient if mask is None else masked(gradient, mask)
            for gradient, mask in zip(gradients, masks, strict=True)
        ]
        # A replica's loss is its share of the whole; the direction must not be.
        directions = tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, directions
        )
        return self._product(tape, gradients, directions)

    def _taped_gradients(self) -> tuple[tf.GradientTape, list[tf.Tensor]]:
        """The gradients, 0 for None, and a tape that can differentiate them again."""
        with tf.GradientTape(persistent=True) as tape:
            gradients = [
                tf.zeros_like(variable) if gradient is None else gradient
                for variable, gradient in zip(
                    self._variables, self._loss_gradients(), strict=True
                )
            ]
        return tape, gradients

    def _product(
        self,
        tape: tf.GradientTape,
        gradients: Sequence[tf.Tensor],
        direction: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """The Hessian times one vector: the gradient of the gradients along it."""
        return tape.gradient(
            gradients,
            self._variables,
            direction,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    @property
    def _examples(self) -> int:
        return len(tf.nest.flatten(self._data)[0])

    def _scaled_loss_gradients(self) -> list[tf.Tensor | None]:
        """Gradients that float16 does not flush to 0, where training scales its loss.

        The loss is a mean, so that what reaches the layers shrinks as the batch grows.
        A power of two changes no digit.
        """
        optimizer = self._model.optimizer
        if compat.innermost_optimizer(optimizer) is optimizer:
            return self._loss_gradients()
        scale = 2.0 ** math.ceil(math.log2(self._examples))
        return [
            None if gradient is None else gradient / scale
            for gradient in self._loss_gradients(scale)
        ]

    def _loss_gradients(self, scale: float = 1.0) -> list[tf.Tensor | None]:
        with tf.GradientTape() as tape:
            loss = scale * self._loss()
        return [
            # Dense, where it is that of an embedding.
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(loss, self._variables)
        ]

    def _loss(self) -> tf.Tensor:
        """The loss on a replica: its share of the whole."""
        model = self._model
        x, y, *sample_weight = self._data
        predictions = model(x, training=True)
        loss = model.compute_loss(
            x=x,
            y=y,
            y_pred=predictions,
            sample_weight=sample_weight[0] if sample_weight else None,
        )
        if self._regularized:
            return loss
        # Both Kerases add on every replica its share of the additional losses.
        replicas = model.distribute_strategy.num_replicas_in_sync
        additional = [tf.cast(tf.reduce_sum(term), loss.dtype) for term in model.losses]
        return loss - sum(additional) / replicas


def _reason(error: Exception) -> str:
    """What an error says, without the code that autograph lists before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    marked = [line for line in lines if "Error: " in line]
    # Keras leaves out of `fit` the error that another one came from.
    return (marked or lines or [type(error).__name__])[-1]


def _check_forward_pass(model: Any) -> None:
    """Refuses a model whose forward pass in training mode changes its weights."""
    if any(is_pruning(layer) for layer, _ in walk(model)):
        raise ValueError(
            f"Model {model.name!r} is pruned by TFMOT's wrappers, in any forward pass "
            "in training mode, so none can be made just to see a gradient. Train it "
            "with a callback such as rigl_keras.Static(), which stops that, or use "
            "rigl_keras.from_tfmot(model)."
        )
