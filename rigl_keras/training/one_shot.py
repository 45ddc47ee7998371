"""Pruning at one stroke, before training: SNIP, GraSP, magnitude."""

import tensorflow as tf

from rigl_keras import compat
from rigl_keras.algorithms import KernelState, Pruner, named
from rigl_keras.common.checks import choice
from rigl_keras.core.distributions import check_sparsity
from rigl_keras.core.kernels import read_mask
from rigl_keras.core.masks import set_masks, sparse_kernels
from rigl_keras.training.batch_gradients import BatchGradients


def prune_once(model, criterion, sparsity, data=None, ranking="global"):
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
        data, a kernel that the loss does not depend on, or weights or derivatives that
        are not finite; the model is then unchanged.

    Source: Lee et al. 2019 (SNIP), section 4; Wang et al. 2020 (GraSP), Algorithm 1.
    """
    pruner = _checked_pruner(criterion, ranking)
    sparsity = check_sparsity(sparsity, "`sparsity`")
    kernels = _trainable_kernels(model)
    if not kernels:
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel to prune. Make it sparse "
            "first: rigl_keras.sparsify(model, sparsity=0)."
        )
    states = _states(model, kernels, pruner, data)
    # As the schedules of pruning do, in float32 arithmetic.
    masks = pruner.new_masks(states, tf.constant(sparsity, tf.float32))
    set_masks(
        model,
        {each.path: mask.numpy() for each, mask in zip(kernels, masks, strict=True)},
    )


def _checked_pruner(criterion, ranking):
    if isinstance(criterion, Pruner):
        return criterion
    return choice("`criterion`", criterion, named(Pruner))(ranking)


def _trainable_kernels(model):
    kernels = sparse_kernels(model)  # which refuses what is no model
    trainable = {id(variable) for variable in model.trainable_variables}
    return [each for each in kernels if id(each.kernel) in trainable]


def _states(model, kernels, pruner, data):
    gradients = products = [None] * len(kernels)
    if pruner.needs_gradient or pruner.needs_hessian_gradient:
        _check_has_loss(model, pruner, data)
        with model.distribute_strategy.scope():
            on_batch = BatchGradients(
                model, data, [each.kernel for each in kernels], regularized=False
            )
            gradients = tf.function(on_batch.gradients)()
            if pruner.needs_hessian_gradient:
                masks = [compat.raw(each.mask) for each in kernels]
                products = tf.function(
                    lambda: on_batch.hessian_gradient_products(masks)
                )()
        _check_dependence(kernels, gradients)
    states = [
        KernelState(
            weights=tf.convert_to_tensor(compat.raw(each.kernel)),
            mask=read_mask(compat.raw(each.mask)),
            gradient=gradient if pruner.needs_gradient else None,
            hessian_gradient=product,
        )
        for each, gradient, product in zip(kernels, gradients, products, strict=True)
    ]
    _check_finite(states)
    return states


def _check_has_loss(model, pruner, data):
    if data is None:
        raise ValueError(
            f"The criterion {pruner.name!r} needs `data`, a batch (x, y) to evaluate "
            "the loss on."
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"Model {model.name!r} has no loss, which the criterion {pruner.name!r} "
            "needs. Call model.compile(...) first."
        )


def _check_dependence(kernels, gradients):
    independent = [
        each.path
        for each, gradient in zip(kernels, gradients, strict=True)
        if gradient is None
    ]
    if independent:
        raise ValueError(
            f"The loss does not depend on {independent}, so these kernels cannot be "
            "pruned by its derivatives. Leave them dense, or freeze them."
        )


def _check_finite(states):
    tensors = [
        tensor
        for state in states
        for tensor in (state.weights, state.gradient, state.hessian_gradient)
        if tensor is not None
    ]
    if not all(bool(tf.reduce_all(tf.math.is_finite(each))) for each in tensors):
        raise ValueError(
            "Weights, gradients or Hessian-gradient products are not finite, so there "
            "is no order to prune by. Check the model's initial weights and the data."
        )
