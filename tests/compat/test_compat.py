import importlib.metadata
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

from rigl_keras import compat


def test_keras_version_is_that_of_the_keras_in_use():
    package = "keras" if tiny.IS_KERAS_3 else "tf_keras"
    assert compat.keras_version() == importlib.metadata.version(package)


@pytest.mark.slow
def test_another_backend_is_refused_at_import():
    if not tiny.IS_KERAS_3:
        pytest.skip("Keras 2 knows no other backend")
    program = (
        "import tensorflow as tf; from tensorflow import keras;"
        "keras.backend.backend = lambda: 'jax';"
        "import rigl_keras"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "KERAS_BACKEND=tensorflow" in run.stderr


def other_keras():
    if tiny.IS_KERAS_3:
        return pytest.importorskip("tf_keras")
    import keras as keras_3

    return keras_3


def test_a_model_of_the_other_keras_is_refused_with_the_reason():
    if not tiny.IS_KERAS_3 and "KERAS_BACKEND" in os.environ:
        pytest.skip("the other Keras may run on another backend")
    other = other_keras()
    layer = other.layers.Dense(2)
    with pytest.raises(TypeError, match=r"other Keras.*TF_USE_LEGACY_KERAS"):
        compat.check_layer(layer)


@pytest.mark.parametrize("thing", [None, 3, "model", keras.layers.Dense])
def test_what_is_no_layer_is_refused(thing):
    with pytest.raises(TypeError, match="Expected a layer of Keras"):
        compat.check_layer(thing)


def test_learning_rate_of_variables_and_schedules():
    constant = keras.optimizers.SGD(0.25)
    assert float(compat.learning_rate(constant, 3)) == 0.25
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([10], [1.0, 0.5])
    scheduled = keras.optimizers.SGD(schedule)
    assert float(compat.learning_rate(scheduled, 10)) == 1.0
    assert float(compat.learning_rate(scheduled, 11)) == 0.5


def test_legacy_optimizers_are_refused():
    legacy = getattr(keras.optimizers, "legacy", None)
    if legacy is None or tiny.IS_KERAS_3:
        pytest.skip("only Keras 2 has legacy optimizers")
    with pytest.raises(TypeError, match="legacy"):
        compat.check_optimizer(legacy.SGD(0.1))


def test_hook_sees_every_gradient_and_what_it_returns_is_applied():
    variable = (keras if tiny.IS_KERAS_3 else tf).Variable(np.float32([1, 2]))
    optimizer = keras.optimizers.SGD(1.0)
    seen = []

    def hook(gradients, variables, summed):
        seen.append((gradients[0].numpy().tolist(), variables[0] is variable, summed))
        return [2 * gradients[0]]

    undo = compat.set_gradient_hook(optimizer, hook)
    gradient = tf.constant([0.25, 0.5])
    optimizer.apply_gradients([(gradient, variable)])
    assert seen == [([0.25, 0.5], True, False)]
    np.testing.assert_array_equal(variable.numpy(), [0.5, 1.0])
    undo()
    optimizer.apply_gradients([(gradient, variable)])
    assert len(seen) == 1
    np.testing.assert_array_equal(variable.numpy(), [0.25, 0.5])


def test_steps_per_execution_of_a_compiled_model():
    model = tiny.compiled(tiny.mlp(), steps_per_execution=3)
    assert compat.steps_per_execution(model) == 3
