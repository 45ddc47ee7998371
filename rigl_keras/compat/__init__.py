"""The few places in which Keras 3 and Keras 2 (`tf_keras`) differ.

Everything else in this package is written against `tf.keras`, whichever of the two it
is. What has no public name in one of them is reached here and nowhere else; checked
with Keras 3.15 and tf_keras 2.21.
"""

import contextlib

import tensorflow as tf
from tensorflow import keras

IS_KERAS_3 = hasattr(keras, "ops")

KERAS_NAME = "Keras 3" if IS_KERAS_3 else "Keras 2 (tf_keras, by TF_USE_LEGACY_KERAS=1)"

if IS_KERAS_3 and keras.backend.backend() != "tensorflow":
    raise ImportError(
        "rigl_keras needs Keras on TensorFlow, but Keras runs on the "
        f"{keras.backend.backend()!r} backend. Set KERAS_BACKEND=tensorflow before "
        "Keras is imported."
    )

register_serializable = keras.utils.register_keras_serializable(package="rigl_keras")


def keras_version():
    """Version of the Keras in use, such as "3.15.1"."""
    if IS_KERAS_3:
        return keras.__version__
    import tf_keras

    return tf_keras.__version__


def needs_deterministic_ops():
    """Whether `tf.config.experimental.enable_op_determinism` was called.

    TensorFlow has no public way to ask; checked with 2.21, and Keras asks likewise.
    """
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()


def check_layer(layer, what="a layer"):
    """Refuses what is no layer or model of the Keras in use.

    Raises:
      TypeError: for a layer of the other Keras, or for no layer at all.
    """
    if isinstance(layer, keras.layers.Layer):
        return
    modules = {cls.__module__.split(".")[0] for cls in type(layer).__mro__}
    if modules & {"keras", "tf_keras"}:
        switch = "set" if IS_KERAS_3 else "unset"
        raise TypeError(
            f"Expected {what} of {KERAS_NAME}, which tf.keras is here, but "
            f"{type(layer).__name__} comes from {'/'.join(sorted(modules))}, the other "
            f"Keras. Build it with `from tensorflow import keras`, or {switch} "
            "TF_USE_LEGACY_KERAS=1 before TensorFlow is imported."
        )
    raise TypeError(f"Expected {what} of Keras, but got {layer!r}.")


def raw(variable):
    """The `tf.Variable` behind a variable of either Keras."""
    return variable.value if IS_KERAS_3 else variable


def variable_name(variable):
    """A variable's own name without its scopes, such as "kernel"."""
    return variable.name.split("/")[-1].split(":")[0]


def has_value(variable):
    """False for a variable that Keras 3 creates only when a symbolic call ends."""
    return not IS_KERAS_3 or variable._value is not None


def map_initial_value(variable, function):
    """Makes a variable that has no value yet start at `function(initial value)`."""
    initializer = variable._initializer
    variable._initializer = lambda *args, **kwargs: function(
        initializer(*args, **kwargs)
    )


def set_constraint(variable, constraint):
    """Sets the constraint that the optimizer applies to a variable after each step."""
    if IS_KERAS_3:
        variable.constraint = constraint
        return
    # Keras 2 has no setter. Under mixed precision the variable hides in an
    # AutoCastVariable, and under a strategy the optimizer asks one replica's component.
    variable = getattr(variable, "_variable", variable)
    for component in getattr(variable, "_values", [variable]):
        component._constraint = constraint


def sublayers(layer):
    """The layers directly below a layer, in the order in which it got them."""
    return [
        child
        for child in layer._flatten_layers(include_self=False, recursive=False)
        if not isinstance(child, keras.layers.InputLayer)
    ]


def is_graph_model(layer):
    """True for a Sequential or Functional model, which can be cloned layer by layer.

    Not for one of a class with a config of its own, such as KerasHub's: its clone would
    be another class, without the attributes and methods that the model is used by.
    """
    if not isinstance(layer, keras.Model) or _has_own_config(layer):
        return False
    return isinstance(layer, keras.Sequential) or bool(getattr(layer, "inputs", None))


def is_nested_graph_model(layer):
    """True for a model inside another one that is to be cloned layer by layer too.

    Keras 2 counts the calls of a Functional model, of whatever class, from 1 and those
    of any other layer from 0: with another in its place its clone would not end.
    """
    is_functional = isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
    return is_graph_model(layer) or (not IS_KERAS_3 and bool(is_functional))


def _has_own_config(model):
    owner = next(cls for cls in type(model).__mro__ if "get_config" in vars(cls))
    return owner.__module__.split(".")[0] not in ("keras", "tf_keras")


def is_subclassed_model(layer):
    """True for a model that only its own code can call."""
    return isinstance(layer, keras.Model) and not is_graph_model(layer)


def has_config(layer):
    """False for a model whose `get_config` is Keras 2's own, which knows nothing of it.

    Keras 3 keeps the arguments of the constructor, or says that it cannot.
    """
    if IS_KERAS_3 or not is_subclassed_model(layer):
        return True
    return _has_own_config(layer)


def set_name(layer, name):
    """Names a layer; the config of a subclassed model in Keras 2 leaves it out."""
    if IS_KERAS_3:
        layer.name = name
    else:
        layer._name = name


def serialized(layer):
    """A layer as a dict of JSON types, for the config of another one."""
    if IS_KERAS_3:
        return keras.layers.serialize(layer)
    return keras.layers.serialize(layer, use_legacy_format=False)


def deserialized(config, custom_objects=None):
    """The layer of such a dict, or of one as HDF5 files of Keras 2 hold them."""
    if IS_KERAS_3:
        return keras.layers.deserialize(config, custom_objects)
    is_legacy = "module" not in config
    return keras.layers.deserialize(config, custom_objects, use_legacy_format=is_legacy)


def build_config(model):
    """What `build_from_config` needs to build a model like this one."""
    return _plain(model.get_build_config())


def _plain(shapes):
    """Nested shapes in plain dicts and tuples: Keras 3 reads none that it tracks."""
    if isinstance(shapes, dict):
        return {key: _plain(value) for key, value in shapes.items()}
    if isinstance(shapes, list | tuple):
        is_shape = all(each is None or isinstance(each, int) for each in shapes)
        return tuple(shapes) if is_shape else [_plain(each) for each in shapes]
    return shapes


def weights(layer):
    """A layer's weights; none where Keras 2 complains that a model is not built."""
    try:
        return layer.weights
    except ValueError:
        if layer.built:
            raise
        return []


def trace(layer, *args, **kwargs):
    """Calls a layer on symbolic inputs like these, so that it and its sublayers build.

    Args:
      layer: a layer or model.
      *args: of the call; tensors or symbolic tensors, nested or not, and others.
      **kwargs: likewise.
    """
    args, kwargs = tf.nest.map_structure(_spec, (args, kwargs))
    # A graph may be being traced already; the variables do not belong in it.
    with tf.init_scope():
        call = tf.function(lambda *args, **kwargs: layer(*args, **kwargs))
        call.get_concrete_function(*args, **kwargs)


def _spec(value):
    is_tensor = hasattr(value, "shape") and hasattr(value, "dtype")
    return tf.TensorSpec(value.shape, value.dtype) if is_tensor else value


def random_states(layer):
    """Variables that hold the state of random layers, such as dropout.

    Keras 3 keeps them out of `weights` and of `tf.train.Checkpoint`; Keras 2 draws
    from TensorFlow's global state and has none.
    """
    if not IS_KERAS_3:
        return []
    weights = {id(weight) for weight in layer.weights}
    return [
        variable
        for variable in layer.variables
        if id(variable) not in weights
        and variable_name(variable) == "seed_generator_state"
    ]


@contextlib.contextmanager
def unchanged_trace_seeds(layer):
    """Puts back what a trace within the context does to the seeds of later traces.

    In Keras 2 every trace of a random layer, such as dropout, counts up its seed.
    """
    generators = [
        child._random_generator
        for child in layer._flatten_layers()
        if hasattr(child, "_random_generator")
    ]
    seeds = [generator._seed for generator in generators]
    try:
        yield
    finally:
        for generator, seed in zip(generators, seeds, strict=True):
            generator._seed = seed


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
        gradients, variables = _pass_hooks(optimizer, hooks, grads, variables, False)
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
            optimizer, hooks, gradients, variables, summed
        )
        return apply_gradients(
            list(zip(gradients, variables, strict=True)), name=name, **kwargs
        )

    return hooked


def _pass_hooks(optimizer, hooks, gradients, variables, summed):
    """The gradients that hooks return, and the variables, Keras's where they know."""
    gradients, variables = list(gradients), list(variables)
    for hook, own in hooks:
        if own:
            variables = [own.get(optimizer._var_key(v), v) for v in variables]
        gradients = hook(gradients, variables, summed)
    return gradients, variables


def strategy_of(layer):
    """The distribution strategy of a model; for a layer alone, that in scope."""
    return getattr(layer, "distribute_strategy", tf.distribute.get_strategy())


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


def gradient_accumulators(optimizer):
    """The variables in which gradients add up to a step's."""
    return getattr(innermost_optimizer(optimizer), "_accumulated_gradients", [])


def check_fit(model):
    """Refuses set-ups in which Keras's own `fit` fails.

    Raises:
      ValueError: saying what to set instead.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    if not IS_KERAS_3 or replicas == 1:
        return
    fails = {
        "gradient_accumulation_steps": accumulation_steps(model.optimizer),
        "steps_per_execution": steps_per_execution(model),
    }
    for name, steps in fails.items():
        if steps > 1:
            raise ValueError(
                f"Keras {keras_version()} itself fails with {name}={steps} on "
                f"{replicas} replicas. Leave it out; or set TF_USE_LEGACY_KERAS=1, "
                "under which steps_per_execution works."
            )


def refuse_fit(model):
    """Has `fit` say what to do instead, where Keras's own fails with several workers.

    It fails before it looks at any callback, so `check_fit` would come too late.
    """
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    replicas_here = len(strategy.extended.worker_devices)
    if not IS_KERAS_3 or strategy.num_replicas_in_sync == replicas_here:
        return

    def fit(*args, **kwargs):
        raise ValueError(
            f"The fit of Keras {keras_version()} itself fails with several workers "
            "(MultiWorkerMirroredStrategy). Set TF_USE_LEGACY_KERAS=1 before "
            "TensorFlow is imported, under which it works; or train in a loop of your "
            "own: with callback.attached(model, optimizer, total_steps)."
        )

    # Past Keras, which tracks attributes.
    object.__setattr__(model, "fit", fit)


# What makes an epoch's logs of its last step's.
_EPOCH_LOGS = (
    "_get_metrics_result_or_logs" if IS_KERAS_3 else "_validate_and_get_metrics_result"
)


def pass_over_in_logs(model, names):
    """Has `fit` find the metrics of an epoch in spite of other names in its logs.

    Keras replaces the logs of the last step, which replicas have each for itself, by
    the results of the metrics, but only where both have the same names.

    Args:
      model: a model that is to be trained.
      names: collection of the other names, which may change.

    Returns:
      A function that leaves the model as it was.
    """
    own_logs = getattr(type(model), _EPOCH_LOGS)

    def epoch_logs(logs):
        if not isinstance(logs, dict):
            return own_logs(model, logs)
        others = {name: value for name, value in logs.items() if name in names}
        of_metrics = {name: logs[name] for name in logs if name not in others}
        return {**own_logs(model, of_metrics), **others}

    # Past Keras, which tracks attributes.
    object.__setattr__(model, _EPOCH_LOGS, epoch_logs)
    return lambda: vars(model).pop(_EPOCH_LOGS, None)


def compiled_loss(model):
    """What `compile` made of a model's loss, to see whether it was called again."""
    return getattr(model, "_compile_loss" if IS_KERAS_3 else "compiled_loss", None)


def report_metrics_once(model):
    """Has Keras 2 report metrics of several workers as they are.

    Each worker's are those of all; the logs of a batch would add them up.
    """
    if not IS_KERAS_3:
        model.distribute_reduction_method = "first"


def forward_state(model):
    """Variables that a forward pass in training mode or the loss may change.

    Batch-norm averages, dropout seeds and metrics; sparse masks are among the
    non-trainable variables too, but never change in a forward pass.
    """
    state = [v for v in model.non_trainable_variables if raw(v).dtype != tf.bool]
    metrics = list(model.metrics)
    compiled_loss = None if IS_KERAS_3 else model.compiled_loss
    if compiled_loss is not None and not compiled_loss.built:
        # Until the first step Keras 2 leaves it out, but that step counts on from it.
        metrics.append(compiled_loss._total_loss_mean)
    return state + [v for metric in metrics for v in metric.variables]


def steps_per_execution(model):
    """How many steps one call of the model's train function makes.

    Raises:
      ValueError: when Keras 2 is to find the number out while it trains.
    """
    if IS_KERAS_3:
        return int(model.steps_per_execution)
    if getattr(model, "autotune_steps_per_execution", False):
        raise ValueError(
            "With steps_per_execution='auto' it is not known at which steps masks "
            "could be updated. Compile the model with a number."
        )
    return int(model._steps_per_execution.numpy())


@contextlib.contextmanager
def unchanged_losses(layer):
    """Puts back the losses of the last call, which a trace within makes symbolic."""
    name = "_losses" if IS_KERAS_3 else "_eager_losses"
    held = [
        (child, list(getattr(child, name)))
        for child in layer._flatten_layers()
        if hasattr(child, name)
    ]
    try:
        yield
    finally:
        for child, losses in held:
            getattr(child, name)[:] = losses
