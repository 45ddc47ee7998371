"""Training with the squared norm of the loss gradient added to the loss."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_not_negative
from rigl_keras.core.kernels import masked
from rigl_keras.core.masks import masks_by_weight, sparse_kernels


def regularize_gradient(model: Any, weight: float) -> "GradientRegularized":
    """Makes a model whose training also keeps the loss gradient small.

    A training step adds the penalty weight * ½‖g‖² to the loss, and so weight * Hg to
    the loss gradient. g is the gradient of the loss of the data, without regularisers,
    with respect to all trainable variables, 0 for the weights that masks exclude; H is
    the Hessian of the same loss.

    The model that is returned shares layers, weights and masks with `model`: compile
    and fit it, and `model` has learnt too. The log "loss" leaves the penalty out, as it
    does in evaluation; "gradient_penalty" is the penalty of the last step. A step takes
    about twice as long.

    Args:
      model: a `keras.Sequential` that is built or a `keras.Model(inputs, outputs)`,
        with or without masks, compiled or not.
      weight: float >= 0; with 0 the training is Keras's own.

    Returns:
      A Functional model of the same name and paths, not compiled. Saved, it is loaded
      as such a model; what is to be deployed is `model`.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: for a model of another kind or with `Compressed` layers, a weight out
        of range or several replicas.

    Source: `training.gradient_regularization` of the TF2 code of Evci et al. 2022.
    """
    weight = check_not_negative("weight", weight)
    compat.check_layer(model, "a model")
    inputs, outputs = _inputs_and_outputs(model)
    if any(kernel.is_compressed for kernel in sparse_kernels(model)):
        raise ValueError(
            f"Model {model.name!r} has Compressed layers, which see what grows in one "
            "backward pass, and the penalty takes two. Use the masked model, "
            "rigl_keras.decompress(model)."
        )
    for strategy in (model.distribute_strategy, tf.distribute.get_strategy()):
        _check_one_replica(strategy)
    regularized = GradientRegularized(inputs, outputs, name=model.name)
    regularized.gradient_penalty_weight = weight
    return regularized


def _inputs_and_outputs(model: Any) -> tuple[Any, Any]:
    """What makes a Functional model of another one, of which nothing is lost."""
    if not getattr(model, "inputs", None):
        raise ValueError(
            "Expected a Functional model or a Sequential model that is built, but "
            f"{model.name!r} has no inputs yet, or none at all. Begin with keras.Input."
        )
    if isinstance(model, keras.Sequential):
        inputs, outputs = model.inputs[0], model.outputs[0]
    else:
        inputs, outputs = model.input, model.output
    if type(model) not in (keras.Sequential, type(keras.Model(inputs, outputs))):
        raise ValueError(
            "Expected a keras.Sequential or a keras.Model(inputs, outputs), but "
            f"{model.name!r} is a {type(model).__name__}, whose own way to train or to "
            "call would be lost. Pass keras.Model(inputs, outputs) of its tensors."
        )
    return inputs, outputs


@compat.register_serializable
class GradientRegularized(keras.Model):
    """A Functional model with the gradient penalty; see `regularize_gradient`.

    The penalty needs the loss, and a tape around the forward pass. Keras's training
    step makes both, with its loss scaling and metrics. So `train_step` opens the tape,
    and `compute_loss`, which Keras's step calls, uses it.
    """

    gradient_penalty_weight = 0.0
    _penalty: "_Penalty | None" = None

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras's training step, with the penalty in the loss."""
        _check_one_replica(tf.distribute.get_strategy())
        if not self.gradient_penalty_weight or not self.trainable_variables:
            return super().train_step(data)
        with tf.GradientTape() as tape:
            self._penalty = penalty = _Penalty(self, tape)
            try:
                logs = super().train_step(data)
            finally:
                self._penalty = None
        return {**logs, "gradient_penalty": penalty.value}

    def compute_loss(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Keras's loss; in a training step its gradient is that with the penalty."""
        loss = super().compute_loss(*args, **kwargs)
        if self._penalty is None:
            return loss
        penalty = self._penalty.evaluate(loss)
        # The value is that without the penalty, the gradient that with it: Keras 3 logs
        # what is returned here and Keras 2 does not, and both are to log the same.
        # The cast is for a loss of half precision.
        return tf.cast(loss, penalty.dtype) + (penalty - tf.stop_gradient(penalty))

    def get_config(self) -> dict[str, Any]:
        """The config of a Functional model, and the penalty's weight."""
        weight = {"gradient_penalty_weight": self.gradient_penalty_weight}
        return {**super().get_config(), **weight}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict | None = None
    ) -> "GradientRegularized":
        """The model of a config."""
        config = dict(config)
        weight = config.pop("gradient_penalty_weight")
        model = super().from_config(config, custom_objects)
        model.gradient_penalty_weight = weight
        return model


class _Penalty:
    """The gradient penalty of one training step, whose forward pass a tape records."""

    def __init__(self, model: Any, tape: tf.GradientTape) -> None:
        self._model = model
        self._tape = tape
        self.value: tf.Tensor | None = None

    def evaluate(self, loss: tf.Tensor) -> tf.Tensor:
        """The penalty for a loss that includes `model.losses`; also kept in `value`."""
        model = self._model
        additional = [tf.cast(tf.reduce_sum(term), loss.dtype) for term in model.losses]
        masks = masks_by_weight(model)
        variables = model.trainable_variables
        gradients = self._tape.gradient(
            loss - sum(additional),
            [compat.raw(variable) for variable in variables],
            unconnected_gradients="zero",
        )
        half_squares = []
        for variable, gradient in zip(variables, gradients, strict=True):
            # An embedding's gradient is not dense yet.
            gradient = tf.convert_to_tensor(gradient)
            if id(variable) in masks:
                gradient = masked(gradient, masks[id(variable)])
            half_squares.append(tf.nn.l2_loss(gradient))
        self.value = model.gradient_penalty_weight * tf.add_n(half_squares)
        return self.value


def _check_one_replica(strategy: tf.distribute.Strategy) -> None:
    if strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "The gradient penalty is that of the whole batch, and is only implemented "
            f"for one replica; got {strategy.num_replicas_in_sync}. Use "
            "tf.distribute.OneDeviceStrategy or none."
        )
