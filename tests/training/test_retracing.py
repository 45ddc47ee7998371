"""TensorFlow does not warn of retracing where many models are trained in a process."""

import logging

import pytest
import tensorflow as tf
import tiny

import rigl_keras
from rigl_keras import SET, GradientFlow, Pruning, RigL
from rigl_keras.common.graphs import own_function
from rigl_keras.cost import training_flops
from rigl_keras.metainit import meta_init
from rigl_keras.schedules import constant_sparsity

# TensorFlow warns twice of each code, and then no more; other tests may have had it so.
MODELS = 5


@pytest.fixture
def warned():
    """What TensorFlow's logger is told of retracing, but of Keras's own functions."""
    lines = []

    class Listener(logging.Handler):
        def emit(self, record):
            line = record.getMessage()
            if "retracing" in line and "make_" not in line:
                lines.append(line)

    listener = Listener()
    tf.get_logger().addHandler(listener)
    yield lines
    tf.get_logger().removeHandler(listener)


def test_the_listener_hears_of_functions_of_the_same_code(warned):
    for _ in range(MODELS):
        tf.function(lambda: tf.constant(1))()
    assert warned


def test_own_functions_are_counted_each_by_itself(warned):
    class Owner:
        def __init__(self, value):
            self.value = value
            self.compiled = own_function(self.method)

        def method(self, x):
            return x + self.value

    owners = [Owner(float(index)) for index in range(MODELS)]
    assert [float(owner.compiled(tf.constant(1.0))) for owner in owners] == [
        1.0 + index for index in range(MODELS)
    ]
    assert not warned
    # One that is really traced again and again is still told of.
    for size in range(MODELS):
        owners[0].compiled(tf.zeros(size))
    assert warned


@pytest.mark.slow
def test_many_trainings_in_one_process_are_silent(warned):
    data = tiny.data()
    for _ in range(MODELS):
        for callback in (
            tiny.forever(RigL, 2),
            tiny.forever(RigL, 2, grow_data=data),
            tiny.forever(SET, 2),
            Pruning(constant_sparsity(0.6, 2, frequency=2)),
        ):
            tiny.fit(tiny.sparse_mlp(), callback, GradientFlow(data, 2))
        rigl_keras.prune_once(tiny.sparse_mlp(), "grasp", 0.7, data)
    assert not warned


def test_what_is_computed_for_many_models_is_silent(warned):
    for _ in range(MODELS):
        meta_init(tiny.mlp(), steps=1, min_rank=2)
        schedule = constant_sparsity(0.5, 2)
        training_flops(tiny.sparse_mlp(), "pruning", 4, 1, schedule=schedule)
    assert not warned
