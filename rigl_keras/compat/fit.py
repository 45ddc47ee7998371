"""The training by `fit`: what Keras itself cannot do, its logs, its state."""

import tensorflow as tf

from rigl_keras.compat.optimizers import accumulation_steps
from rigl_keras.compat.variables import raw
from rigl_keras.compat.which import IS_KERAS_3, keras_version


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


def without_model(callback):
    """The attributes of a callback, but for the model that `fit` gave it."""
    return {**vars(callback), "_model" if IS_KERAS_3 else "model": None}


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
