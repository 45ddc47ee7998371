"""Variables: their names, values and constraints."""

import tensorflow as tf

from rigl_keras.compat.which import IS_KERAS_3


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


def strategy_of(layer):
    """The distribution strategy of a model; for a layer alone, that in scope."""
    return getattr(layer, "distribute_strategy", tf.distribute.get_strategy())
