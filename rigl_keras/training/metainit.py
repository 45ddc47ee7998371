"""MetaInit: rescales kernels until a step along the gradient hardly changes it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_int, check_not_negative
from rigl_keras.common.graphs import own_function
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.core.kernels import masked
from rigl_keras.core.masks import masks_by_weight

# Biases and the weights of normalisation have rank 1.
_LEAST_RANK = 2


def meta_init(
    model: Any,
    loss: Callable[[Any, Any], Any] | None = None,
    steps: int = 1000,
    learning_rate: float = 0.001,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    batch_size: int = 128,
    seed: int = 0,
    min_rank: int = 3,
) -> np.ndarray:
    """Finds norms for the kernels such that the gradient changes little along itself.

    With g the gradient of the loss with respect to all trainable variables and H its
    Hessian, both without the weights that masks exclude, every step draws normal inputs
    and random labels and lowers the gradient quotient

      sum |1 - (g - Hg) / (g + epsilon * sign(g))| / number of active weights,

    where sign(0) is 1. The sum is over active weights and all biases; the number counts
    active weights of variables of rank 2 or more. Only norms change: each kernel is
    multiplied by a number, such that its norm moves against the sign of the quotient's
    derivative with respect to the norm, with momentum. It needs no data.

    Regularisers are left out. The model runs in training mode; its batch-norm averages
    and dropout seeds are put back afterwards.

    Args:
      model: a model, with or without masks, compiled or not, of one input, floats of
        shape [n, ...], and one output, logits of shape [n, ..., classes]. In half
        precision the derivatives overflow.
      loss: function `(labels, logits) -> loss` of int32 labels [n, ...] and logits,
        such as a Keras loss; a loss with entries is averaged. None is cross-entropy.
      steps: int >= 1.
      learning_rate: float >= 0, change of every norm in the first step.
      momentum: float in [0, 1), the share of a step's change that the next repeats.
      epsilon: float > 0, which bounds the terms of small gradients.
      batch_size: int >= 1, the inputs drawn at each step.
      seed: int >= 0, for inputs and labels.
      min_rank: int >= 2, the least rank of the trainable variables that are rescaled: 3
        for kernels of convolutions only, 2 for those of dense layers too.

    Returns:
      A float32 array [steps], the gradient quotient before each step.

    Raises:
      TypeError: when `model` is no model of the Keras in use, or `loss` no function.
      ValueError: for other inputs or outputs, nothing to rescale, an argument out of
        range; or a quotient that is not finite, and then the model is as it was.

    Source: Dauphin and Schoenholz, "MetaInit: Initializing learning by learning to
    initialize" (2019), Algorithm 1; with masks in Evci et al. (2022).
    """
    steps = check_int("steps", steps, minimum=1)
    learning_rate = check_not_negative("learning_rate", learning_rate)
    momentum = check_not_negative("momentum", momentum)
    epsilon = check_not_negative("epsilon", epsilon)
    if momentum >= 1 or epsilon == 0:
        raise ValueError(
            "Expected momentum in [0, 1) and epsilon > 0, but got "
            f"momentum={momentum} and epsilon={epsilon}."
        )
    min_rank = check_int("min_rank", min_rank, minimum=_LEAST_RANK)
    batches = _RandomBatches(model, batch_size, seed)
    quotient = _GradientQuotient(model, _checked_loss(loss), epsilon)
    kernels = _kernels_to_rescale(model, min_rank)
    descent = _NormDescent(kernels, learning_rate, momentum)

    def step(index: int) -> tf.Tensor:
        x, y = batches.draw(tf.constant(index))
        value, gradients = quotient.with_gradients(x, y, kernels)
        descent.apply(gradients)
        return value

    return _run(model, step, steps, kernels=kernels)


def _run(
    model: Any,
    step: Callable[[int], tf.Tensor],
    steps: int,
    *,
    kernels: Sequence[tf.Variable],
) -> np.ndarray:
    """Makes the steps; puts back what the forward passes changed on the way."""
    state = [compat.raw(variable) for variable in compat.forward_state(model)]
    state_before = [tf.identity(variable) for variable in state]
    kernels_before = [tf.identity(kernel) for kernel in kernels]
    try:
        quotients = np.array([step(index) for index in range(steps)], np.float32)
    finally:
        _assign(state, state_before)
    results = [quotients, *(kernel.numpy() for kernel in kernels)]
    if not all(np.isfinite(values).all() for values in results):
        _assign(kernels, kernels_before)
        raise ValueError(
            "Expected a finite gradient quotient, but the loss or its derivatives "
            f"overflowed; the last quotient was {quotients[-1]}. The kernels are as "
            "they were. Start from smaller weights or use a lower learning_rate."
        )
    return quotients


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class _NormDescent:
    """Signed gradient descent with momentum on the norms of kernels."""

    def __init__(
        self, kernels: Sequence[tf.Variable], learning_rate: float, momentum: float
    ) -> None:
        self._kernels = kernels
        self._learning_rate = learning_rate
        self._momentum = momentum
        self.apply = own_function(self._apply)
        self._changes = [tf.Variable(tf.zeros([], kernel.dtype)) for kernel in kernels]

    def _apply(self, gradients: Sequence[tf.Tensor]) -> None:
        """Moves the norms; the gradients are those with respect to the kernels."""
        for kernel, change, gradient in zip(
            self._kernels, self._changes, gradients, strict=True
        ):
            # The derivative with respect to the norm is this sum over the norm.
            sign = tf.sign(tf.reduce_sum(kernel * gradient))
            change.assign(self._momentum * change - self._learning_rate * sign)
            norm = tf.norm(kernel)
            # A kernel of zeros has no direction to grow in, and stays.
            kernel.assign(kernel * tf.math.divide_no_nan(norm + change, norm))


class _GradientQuotient:
    """The gradient quotient, which MetaInit lowers, and its gradient.

    Each order of derivative is a graph of its own. TensorFlow 2.21 with oneDNN, its
    default on CPUs, would now and then fuse a bias gradient with the wrong convolution
    in one graph of all three; that makes a cycle, and the graph is refused.
    """

    def __init__(
        self, model: Any, loss: Callable[[Any, Any], Any], epsilon: float
    ) -> None:
        self._model = model
        self._loss = loss
        self._epsilon = epsilon
        self._loss_gradients = own_function(self._compute_loss_gradients)
        self._quotient = own_function(self._compute_quotient)
        variables = model.trainable_variables
        masks = masks_by_weight(model)
        self._variables = [compat.raw(variable) for variable in variables]
        self._masks = [masks.get(id(variable)) for variable in variables]
        self._count = sum(
            int(tf.size(variable) if mask is None else np.sum(mask.numpy()))
            for variable, mask in zip(self._variables, self._masks, strict=True)
            if len(variable.shape) >= _LEAST_RANK
        )

    def with_gradients(
        self, x: tf.Tensor, y: tf.Tensor, kernels: Sequence[tf.Variable]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The quotient of a batch, and its gradients with respect to the kernels."""
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(kernels)
            with tf.GradientTape() as inner:
                gradients, half_square = self._loss_gradients(x, y)
            products = inner.gradient(
                half_square, self._variables, unconnected_gradients="zero"
            )
            quotient = self._quotient(gradients, products)
        return quotient, outer.gradient(quotient, kernels, unconnected_gradients="zero")

    def _compute_loss_gradients(
        self, x: tf.Tensor, y: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """g, and ½‖g‖², whose gradient is Hg."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self._loss(y, self._model(x, training=True)))
        gradients = self._masked(
            tape.gradient(loss, self._variables, unconnected_gradients="zero")
        )
        return gradients, tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients])

    def _compute_quotient(
        self, gradients: Sequence[tf.Tensor], products: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        terms = map(self._terms, gradients, self._masked(products))
        sums = [tf.reduce_sum(active_terms) for active_terms in self._masked(terms)]
        return tf.add_n(sums) / self._count

    def _terms(self, gradient: tf.Tensor, product: tf.Tensor) -> tf.Tensor:
        shift = tf.where(gradient >= 0, self._epsilon, -self._epsilon)
        shifted = gradient + tf.cast(shift, gradient.dtype)
        return tf.abs(1 - (gradient - product) / shifted)

    def _masked(self, values: Iterable[tf.Tensor]) -> list[tf.Tensor]:
        return [
            value if mask is None else masked(value, mask)
            for value, mask in zip(values, self._masks, strict=True)
        ]


class _RandomBatches:
    """Normal inputs and uniform labels for a model, a batch for every step."""

    def __init__(self, model: Any, batch_size: int, seed: int) -> None:
        size = check_int("batch_size", batch_size, minimum=1)
        self._seed = check_int("seed", seed, minimum=0)
        compat.check_layer(model, "a model")
        x, logits = _input_and_output(model)
        self._dtype = tf.as_dtype(x.dtype)
        self._input_shape = (size, *x.shape[1:])
        self._label_shape = (size, *logits.shape[1:-1])
        self._classes = logits.shape[-1]
        self.draw = own_function(self._draw)

    def _draw(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The inputs and labels of a step, given as an int tensor."""
        x = tf.random.stateless_normal(
            self._input_shape,
            stateless_seed("metainit", self._seed, 0, step=step),
            dtype=self._dtype,
            alg=ALGORITHM,
        )
        y = tf.random.stateless_uniform(
            self._label_shape,
            stateless_seed("metainit", self._seed, 1, step=step),
            maxval=self._classes,
            dtype=tf.int32,
            alg=ALGORITHM,
        )
        return x, y


def _input_and_output(model: Any) -> tuple[Any, Any]:
    inputs = getattr(model, "inputs", None) or []
    outputs = getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            "MetaInit draws normal inputs and labels for a Functional or built "
            f"Sequential model of one input and one output; {model.name!r} has "
            f"{len(inputs)} and {len(outputs)}. Put it behind a keras.Input."
        )
    x, logits = inputs[0], outputs[0]
    is_known = None not in (*x.shape[1:], *logits.shape[1:])
    if not (is_known and tf.as_dtype(x.dtype).is_floating and len(logits.shape) > 1):
        raise ValueError(
            "MetaInit draws normal inputs and labels for floats of known shape and "
            f"logits [n, ..., classes]; {model.name!r} maps {tf.as_dtype(x.dtype).name}"
            f" {tuple(x.shape)} to {tuple(logits.shape)}. Give keras.Input all sizes."
        )
    return x, logits


def _kernels_to_rescale(model: Any, min_rank: int) -> list[tf.Variable]:
    variables = [compat.raw(variable) for variable in model.trainable_variables]
    kernels = [variable for variable in variables if len(variable.shape) >= min_rank]
    if not kernels:
        raise ValueError(
            f"Expected a model with trainable weights of rank >= {min_rank}, whose "
            f"norms MetaInit changes, but {model.name!r} has none, so nothing would "
            "change. Convolutions have rank 3 or more; for dense layers set min_rank=2."
        )
    return kernels


def _checked_loss(loss: Callable[[Any, Any], Any] | None) -> Callable[[Any, Any], Any]:
    if loss is None:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if not callable(loss):
        raise TypeError(
            f"Expected `loss` to be a function (labels, logits) -> loss, got {loss!r}."
        )
    return loss
