"""Pruning at one stroke, before training: SNIP, GraSP, magnitude."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from rigl_keras.algorithms import KernelState, Pruner, named
from rigl_keras.algorithms.base import check_global_ranking
from rigl_keras.algorithms.compressed_update import check_suits_compressed
from rigl_keras.common.checks import check_has_loss, choice
from rigl_keras.common.graphs import own_function
from rigl_keras.core.choosing import check_own_sparsity
from rigl_keras.core.distributions import check_sparsity
from rigl_keras.core.masked_kernel import TrainedKernel
from rigl_keras.core.masks import set_masks, trainable_kernels
from rigl_keras.training.batch_gradients import BatchGradients


def prune_once(
    model: Any,
    criterion: str | Pruner,
    sparsity: float,
    data: Any = None,
    ranking: str = "global",
) -> None:
    """Prunes a sparse model's masks once, by a criterion.

    Weights that are pruned become 0; those that remain keep their value. Start from
    `sparsify(model, sparsity=0)`, and train with `Static` or another callback after.

    Args:
      model: a model with sparse kernels, compiled where the criterion evaluates the
        loss. Frozen kernels keep their masks.
      criterion: "snip", "grasp" or "magnitude", or a `Pruner`, which brings its own
        ranking.
      sparsity: share of zeros afterwards, in [0, 1).
      data: the batch `(x, y)` or `(x, y, sample_weight)` on which SNIP and GraSP
        evaluate the loss, without regularisers and in training mode; batch-norm
        averages do not change.
      ranking: "global" ranks the weights of all kernels together, as in the papers, and
        leaves each kernel one at least; "layer" prunes every kernel to `sparsity`.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: for an argument out of range, a model without sparse kernels, missing
        data, a kernel that the loss does not depend on, one whose pattern sets another
        sparsity or does not go with the ranking "global", or weights or derivatives
        that are not finite; the model is then unchanged.

    Source: Lee et al. 2019 (SNIP), section 4; Wang et al. 2020 (GraSP), Algorithm 1.
    """
    pruner = _checked_pruner(criterion, ranking)
    sparsity = check_sparsity(sparsity, "`sparsity`")
    kernels = [kernel.trained() for kernel in trainable_kernels(model).values()]
    if not kernels:
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel to prune. Make it sparse "
            "first: rigl_keras.sparsify(model, sparsity=0)."
        )
    check_suits_compressed(pruner, kernels)
    for kernel in kernels:
        check_own_sparsity(kernel.path, kernel.pattern, sparsity)
    if pruner.is_global:
        check_global_ranking(kernels)
    states = _states(model, kernels, pruner, data=data)
    # As the schedules of pruning do, in float32 arithmetic.
    masks = pruner.new_masks(states, tf.constant(sparsity, tf.float32))
    set_masks(
        model,
        {
            kernel.path: mask.numpy()
            for kernel, mask in zip(kernels, masks, strict=True)
        },
    )


def _checked_pruner(criterion: str | Pruner, ranking: str) -> Pruner:
    if isinstance(criterion, Pruner):
        return criterion
    return choice("`criterion`", criterion, named(Pruner))(ranking)


def _states(
    model: Any, kernels: Sequence[TrainedKernel], pruner: Pruner, *, data: Any
) -> list[KernelState]:
    """What the criterion ranks the kernels by."""
    gradients: Sequence[Any] = [None] * len(kernels)
    products: Sequence[Any] = gradients
    if pruner.needs_gradient or pruner.needs_hessian_gradient:
        gradients, products = _derivatives(model, kernels, pruner, data=data)
    states = [
        KernelState(
            weights=kernel.weights(),
            mask=kernel.mask(),
            gradient=gradient if pruner.needs_gradient else None,
            hessian_gradient=product,
            pattern=kernel.pattern,
            axes=kernel.axes,
        )
        for kernel, gradient, product in zip(kernels, gradients, products, strict=True)
    ]
    _check_finite(states)
    return states


def _derivatives(
    model: Any, kernels: Sequence[TrainedKernel], pruner: Pruner, *, data: Any
) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor | None]]:
    """The gradients of the kernels, and where needed the Hessian's products with it."""
    if data is None:
        raise ValueError(
            f"The criterion {pruner.name!r} needs `data`, a batch (x, y) to evaluate "
            "the loss on."
        )
    check_has_loss(model, f"The criterion {pruner.name!r}")
    products: Sequence[tf.Tensor | None] = [None] * len(kernels)
    with model.distribute_strategy.scope():
        variables = [kernel.variable for kernel in kernels]
        on_batch = BatchGradients(model, data, variables, regularized=False)
        gradients = own_function(on_batch.gradients, autograph=False)()
        if pruner.needs_hessian_gradient:
            masks = [kernel.mask() for kernel in kernels]
            products = own_function(
                on_batch.hessian_gradient_products, autograph=False
            )(masks)
    _check_dependence(kernels, gradients)
    return gradients, products


def _check_dependence(
    kernels: Sequence[TrainedKernel], gradients: Sequence[tf.Tensor | None]
) -> None:
    independent = [
        kernel.path
        for kernel, gradient in zip(kernels, gradients, strict=True)
        if gradient is None
    ]
    if independent:
        raise ValueError(
            f"The loss does not depend on {independent}, so these kernels cannot be "
            "pruned by its derivatives. Leave them dense, or freeze them."
        )


def _check_finite(states: Sequence[KernelState]) -> None:
    tensors = [
        tensor
        for state in states
        for tensor in (state.weights, state.gradient, state.hessian_gradient)
        if tensor is not None
    ]
    if not all(tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors):
        raise ValueError(
            "Weights, gradients or Hessian-gradient products are not finite, so there "
            "is no order to prune by. Check the model's initial weights and the data."
        )
