"""Optimizers: their steps, and the hook through which gradients pass."""

import tensorflow as tf
from tensorflow import keras

from rigl_keras.compat.which import IS_KERAS_3, KERAS_NAME


def innermost_optimizer(optimizer):
    """The optimizer inside wrappers such as the loss-scale optimizer."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def check_optimizer(optimizer):
    """Refuses an optimizer whose gradients cannot be reached.

    Raises:
      TypeError: for a legacy optimizer of Keras 2, or no optimizer at all.
    """
    if isinstance(innermost_optimizer(optimizer), keras.optimizers.Optimizer):
        return
    raise TypeError(
        f"Expected an optimizer of {KERAS_NAME}, but got "
        f"{type(optimizer).__module__}.{type(optimizer).__name__}. Compile the model "
        "with one of keras.optimizers (not keras.optimizers.legacy)."
    )


def build_optimizer(optimizer, variables):
    """Creates an optimizer's slot variables now, named as its first step would."""
    if IS_KERAS_3:
        if not optimizer.built:
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(variables)
    else:
        optimizer = innermost_optimizer(optimizer)
        with tf.name_scope(optimizer.name):
            optimizer.build(variables)


def learning_rate(optimizer, step):
    """The learning rate of a step as a float32 tensor, from a schedule or a variable.

    Keras 2's `optimizer.learning_rate` is a schedule's value at the step before. With
    gradient accumulation Keras 3 asks a schedule for a batch: the last of the step.
    """
    rate = innermost_optimizer(optimizer)._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        batches = accumulation_steps(optimizer)
        rate = rate(step * batches + batches - 1)
    elif callable(rate) and not isinstance(rate, tf.Variable | _Variable):
        rate = rate()
    return tf.cast(tf.convert_to_tensor(rate), tf.float32)


_Variable = keras.Variable if IS_KERAS_3 else tf.Variable


def set_gradient_hook(optimizer, hook, own=()):
    """Puts `hook` before the innermost optimizer's step; returns a function to undo it.

    There gradients are unscaled and finite under loss scaling, and steps of custom
    loops pass too. Several hooks may be set, and taken off in any order.

    Args:
      optimizer: an optimizer, perhaps in wrappers.
      hook: function `(gradients, variables, summed) -> gradients`; `summed` says that
        the gradients are already summed over the replicas.
      own: variables of Keras that are to be seen as such, and constrained, where a step
        hands over what TensorFlow has in their place, as a tape's `watched_variables`
        does.
    """
    optimizer = innermost_optimizer(optimizer)
    name, hooked = ("apply", _hooked_apply)
    if not IS_KERAS_3:
        name, hooked = ("apply_gradients", _hooked_apply_gradients)
    hooks = getattr(vars(optimizer).get(name), "hooks", None)
    if hooks is None:
        hooks = []
        function = hooked(getattr(optimizer, name), optimizer, hooks)
        function.hooks = hooks
        setattr(optimizer, name, function)
    # One key for a variable, its replicas' components and what wraps it.
    hook_with_own = hook, {optimizer._var_key(variable): variable for variable in own}
    hooks.append(hook_with_own)

    def undo():
        hooks.remove(hook_with_own)
        if not hooks:
            vars(optimizer).pop(name, None)

    return undo


def _hooked_apply(apply, optimizer, hooks):
    def hooked(grads, trainable_variables=None):
        variables = trainable_variables
        if variables is None:
            variables = optimizer._trainable_variables
        # Loss scaling hands over gradients that are not yet summed over replicas.
        gradients, variables = _pass_hooks(
            optimizer, hooks, grads, variables=variables, summed=False
        )
        return apply(gradients, None if trainable_variables is None else variables)

    return hooked


def _hooked_apply_gradients(apply_gradients, optimizer, hooks):
    def hooked(grads_and_vars, name=None, **kwargs):
        grads_and_vars = list(grads_and_vars)
        gradients = [gradient for gradient, _ in grads_and_vars]
        variables = [variable for _, variable in grads_and_vars]
        summed = kwargs.get("skip_gradients_aggregation", False) or not kwargs.get(
            "experimental_aggregate_gradients", True
        )
        gradients, variables = _pass_hooks(
            optimizer, hooks, gradients, variables=variables, summed=summed
        )
        return apply_gradients(
            list(zip(gradients, variables, strict=True)), name=name, **kwargs
        )

    return hooked


def _pass_hooks(optimizer, hooks, gradients, *, variables, summed):
    """The gradients that hooks return, and the variables, Keras's where they know."""
    gradients, variables = list(gradients), list(variables)
    for hook, own in hooks:
        if own:
            variables = [own.get(optimizer._var_key(v), v) for v in variables]
        gradients = hook(gradients, variables, summed)
    return gradients, variables


def accumulation_steps(optimizer):
    """How many batches make one step of the optimizer: 1, but for accumulation."""
    optimizer = innermost_optimizer(optimizer)
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


def accumulation_options(steps):
    """The option of optimizers that makes one step of so many batches.

    Raises:
      ValueError: in Keras 2, whose optimizers have none.
    """
    if IS_KERAS_3:
        return {"gradient_accumulation_steps": steps}
    raise ValueError(
        f"The optimizers of {KERAS_NAME} cannot accumulate gradients, got "
        f"gradient_accumulation_steps={steps}. Leave it at 1, or use Keras 3."
    )


def batch_counter(optimizer):
    """The variable that counts the batches whose gradients the optimizer was given.

    With gradient accumulation Keras 3's `iterations` counts whole steps.
    """
    return innermost_optimizer(optimizer)._iterations


def loss_scale(optimizer):
    """By what loss scaling multiplies gradients in the backward pass; 1 without it."""
    if innermost_optimizer(optimizer) is optimizer:
        return tf.constant(1.0)
    scaled = optimizer.scale_loss if IS_KERAS_3 else optimizer.get_scaled_loss
    return tf.cast(scaled(tf.constant(1.0)), tf.float32)


def gradient_accumulators(optimizer):
    """The variables in which gradients add up to a step's."""
    return getattr(innermost_optimizer(optimizer), "_accumulated_gradients", [])
