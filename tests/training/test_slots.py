import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.training.slots import find_slots

OPTIMIZERS = keras.optimizers
# Each Keras lays out its own.
pytestmark = pytest.mark.both_kerases
KINDS = {
    # Keras 2 keeps a momentum even where none is asked for.
    "sgd": (lambda: OPTIMIZERS.SGD(0.1), [] if tiny.IS_KERAS_3 else [0]),
    "momentum": (lambda: OPTIMIZERS.SGD(0.1, momentum=0.9), [0]),
    "nesterov": (lambda: OPTIMIZERS.SGD(0.1, momentum=0.9, nesterov=True), [0]),
    "adam": (lambda: OPTIMIZERS.Adam(), [0, 0]),
    "amsgrad": (lambda: OPTIMIZERS.Adam(amsgrad=True), [0, 0, 0]),
    "adamw": (lambda: OPTIMIZERS.AdamW(weight_decay=0.01), [0, 0]),
    "adamax": (lambda: OPTIMIZERS.Adamax(), [0, 0]),
    "nadam": (lambda: OPTIMIZERS.Nadam(), [0, 0]),
    "adagrad": (lambda: OPTIMIZERS.Adagrad(initial_accumulator_value=0.5), [0.5]),
    "adadelta": (lambda: OPTIMIZERS.Adadelta(), [0, 0]),
    "rmsprop": (lambda: OPTIMIZERS.RMSprop(momentum=0.9, centered=True), [0, 0, 0]),
    "ftrl": (lambda: OPTIMIZERS.Ftrl(initial_accumulator_value=0.5), [0, 0.5]),
    "lion": (lambda: OPTIMIZERS.Lion(), [0]),
    "ema": (lambda: OPTIMIZERS.SGD(0.1, momentum=0.9, use_ema=True), [0, 0]),
}


def slots_of(model):
    kernels = [kernel.kernel for kernel in rigl_keras.sparse_kernels(model)]
    slots = find_slots(model.optimizer, model.trainable_variables, kernels)
    return dict(zip(rigl_keras.get_masks(model), slots, strict=True))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("trained", [False, True])
def test_every_slot_of_a_kernel_with_its_initial_value(kind, trained):
    make, initial_values = KINDS[kind]
    model = tiny.sparse_mlp(make())
    if trained:
        tiny.fit(model)
    for path, slots in slots_of(model).items():
        assert sorted(slot.initial_value for slot in slots) == initial_values
        # Of all optimizer variables those with the shape that only this kernel has.
        shape = tiny.weights(model)[path].shape
        expected = [v for v in model.optimizer.variables if tuple(v.shape) == shape]
        assert {id(slot.variable) for slot in slots} == {id(v) for v in expected}


def test_slots_belong_to_the_right_kernel_when_shapes_are_equal():
    model = keras.Sequential(
        [keras.Input((4,))] + [keras.layers.Dense(4, name=n) for n in "abc"]
    )
    model = tiny.compiled(tiny.sparsify(model), OPTIMIZERS.Adam(0.1))
    x = tiny.integers((8, 4))
    # Only the last layer's kernel gets a gradient.
    for name in "bc":
        model.get_layer(f"sparse_{name}").layer.kernel.assign(np.zeros((4, 4), "f"))
    model.fit(x, x + 1, verbose=0)
    for path, slots in slots_of(model).items():
        touched = [np.any(slot.variable.numpy()) for slot in slots]
        assert touched == [path.startswith("c/")] * 2 or path == "c/kernel"
        if path != "c/kernel":
            assert not any(touched)


def test_wrapped_optimizers_are_looked_into():
    model = tiny.sparse_mlp(
        OPTIMIZERS.LossScaleOptimizer(OPTIMIZERS.Adam())
        if tiny.IS_KERAS_3
        else keras.mixed_precision.LossScaleOptimizer(OPTIMIZERS.Adam())
    )
    assert [len(slots) for slots in slots_of(model).values()] == [2, 2]


def test_state_that_belongs_to_no_single_weight_is_refused_by_name():
    model = tiny.sparse_mlp(OPTIMIZERS.Adafactor())
    with pytest.raises(ValueError, match=r"Adafactor.*one entry a weight"):
        tiny.fit(model, rigl_keras.Static())


def test_frozen_kernels_after_the_optimizer_was_built_are_refused():
    if not tiny.IS_KERAS_3:
        pytest.skip("Keras 2 trains what was trainable at compile")
    model = tiny.sparse_mlp(OPTIMIZERS.Adam())
    tiny.fit(model)
    model.layers[0].trainable = False
    with pytest.raises(ValueError, match="Compile the model again"):
        tiny.fit(model, rigl_keras.Static())


def test_an_optimizer_of_a_users_own():
    class Own(OPTIMIZERS.Optimizer):
        """One slot by `add_variable_from_reference`, one start that is not 0."""

        def __init__(self, learning_rate=0.1, name="own", **kwargs):
            if not tiny.IS_KERAS_3:
                super().__init__(name=name, **kwargs)
                self._learning_rate = self._build_learning_rate(learning_rate)
            else:
                super().__init__(learning_rate, name=name, **kwargs)

        def build(self, variables):
            super().build(variables)
            ones = {"initializer": "ones"}
            if not tiny.IS_KERAS_3:
                self.own = [
                    self.add_variable_from_reference(
                        v, "s", initial_value=tf.ones(v.shape)
                    )
                    for v in variables
                ]
            else:
                self.own = [
                    self.add_variable_from_reference(v, "s", **ones) for v in variables
                ]

        def get_config(self):
            return {"name": self.name, "learning_rate": 0.1}

    model = tiny.mlp()
    model = tiny.compiled(tiny.sparsify(model), Own())
    for slots in slots_of(model).values():
        assert [slot.initial_value for slot in slots] == [1.0]


def test_an_initial_value_that_is_unknown_is_refused():
    class Own(OPTIMIZERS.SGD):
        def build(self, variables):
            super().build(variables)
            for slot in self.momentums:
                slot.assign(tiny.integers(tuple(slot.shape)))

    model = tiny.sparse_mlp(Own(0.1, momentum=0.9))
    with pytest.raises(ValueError, match="different values"):
        slots_of(model)
