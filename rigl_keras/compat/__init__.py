"""The few places in which Keras 3 and Keras 2 (`tf_keras`) differ.

Everything else in this package is written against `tf.keras`, whichever of the two it
is. What has no public name in one of them is reached here and nowhere else; checked
with Keras 3.15 and tf_keras 2.21.
"""

from rigl_keras.compat.fit import (
    check_fit,
    compiled_loss,
    forward_state,
    pass_over_in_logs,
    refuse_fit,
    report_metrics_once,
    steps_per_execution,
)
from rigl_keras.compat.layers import (
    build_config,
    deserialized,
    has_config,
    is_graph_model,
    is_nested_graph_model,
    is_subclassed_model,
    serialized,
    set_name,
    sublayers,
    trace,
    unchanged_losses,
    unchanged_trace_seeds,
    weights,
)
from rigl_keras.compat.optimizers import (
    accumulation_options,
    accumulation_steps,
    batch_counter,
    build_optimizer,
    check_optimizer,
    gradient_accumulators,
    innermost_optimizer,
    learning_rate,
    set_gradient_hook,
)
from rigl_keras.compat.variables import (
    has_value,
    map_initial_value,
    random_states,
    raw,
    set_constraint,
    strategy_of,
    variable_name,
)
from rigl_keras.compat.which import (
    IS_KERAS_3,
    KERAS_NAME,
    check_layer,
    keras_version,
    needs_deterministic_ops,
    register_serializable,
)

__all__ = [
    "IS_KERAS_3",
    "KERAS_NAME",
    "accumulation_options",
    "accumulation_steps",
    "batch_counter",
    "build_config",
    "build_optimizer",
    "check_fit",
    "check_layer",
    "check_optimizer",
    "compiled_loss",
    "deserialized",
    "forward_state",
    "gradient_accumulators",
    "has_config",
    "has_value",
    "innermost_optimizer",
    "is_graph_model",
    "is_nested_graph_model",
    "is_subclassed_model",
    "keras_version",
    "learning_rate",
    "map_initial_value",
    "needs_deterministic_ops",
    "pass_over_in_logs",
    "random_states",
    "raw",
    "refuse_fit",
    "register_serializable",
    "report_metrics_once",
    "serialized",
    "set_constraint",
    "set_gradient_hook",
    "set_name",
    "steps_per_execution",
    "strategy_of",
    "sublayers",
    "trace",
    "unchanged_losses",
    "unchanged_trace_seeds",
    "variable_name",
    "weights",
]
