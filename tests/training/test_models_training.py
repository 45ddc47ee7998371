"""Models whose kernels are frozen, constrained, regularised, or without a gradient."""

import model_checks
import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, RigL

LAYERS = keras.layers
MLP = ("hidden/kernel", "out/kernel")


# Frozen layers


def part_frozen(name):
    model = tiny.mlp()
    model.get_layer(name).trainable = False
    return model


@pytest.mark.parametrize("name", ["hidden", "out"])
def test_a_frozen_layer_keeps_its_mask_and_kernel(tmp_path, name):
    frozen = {f"{name}/kernel"}
    model_checks.check_model(part_frozen(name), tmp_path, MLP, frozen=frozen)


def test_a_frozen_nested_model_keeps_its_masks_and_kernels(tmp_path):
    body = tiny.mlp()
    body.trainable = False
    model = keras.Sequential([keras.Input((6,)), body, LAYERS.Dense(4, name="head")])
    frozen = {f"{body.name}/{path}" for path in MLP}
    paths = frozen | {"head/kernel"}
    model_checks.check_model(model, tmp_path, paths, frozen=frozen)


@pytest.mark.parametrize("callback", [RigL, SET])
def test_a_layer_is_frozen_in_a_first_training_and_not_in_a_second(callback):
    """Transfer learning: the head alone is trained, then all of the model."""
    model = tiny.sparsify(part_frozen("hidden"))
    x = model_checks.inputs_of(model)
    y = model_checks.targets_of(model, x)
    callback = tiny.forever(callback)
    before, weights = rigl_keras.get_masks(model), tiny.weights(model)

    tiny.compiled(model, keras.optimizers.SGD(0.05, momentum=0.9))
    seen = model_checks.train(model, callback, x, y)
    assert model_checks.changed(before, *seen) == {"out/kernel"}
    np.testing.assert_array_equal(
        tiny.weights(model)["hidden/kernel"], weights["hidden/kernel"]
    )

    for layer in model.layers:
        layer.trainable = True
    tiny.compiled(model, keras.optimizers.SGD(0.05, momentum=0.9))
    seen = model_checks.train(model, callback, x, y)
    assert model_checks.changed(before, *seen) == set(MLP)
    assert (tiny.weights(model)["hidden/kernel"] != weights["hidden/kernel"]).any()


# Constraints and regularizers of the user's


def is_within(constraint, kernel):
    """What the constraints promise, by their definitions."""
    lengths = np.sqrt((kernel**2).sum(0))
    if constraint == "NonNeg":
        return (kernel >= 0).all()
    if constraint == "MaxNorm":
        return (lengths <= 0.5 + 1e-5).all()
    return (np.abs(lengths[lengths > 0] - 1) <= 1e-4).all()


CONSTRAINTS = {
    "NonNeg": keras.constraints.NonNeg,
    "MaxNorm": lambda: keras.constraints.MaxNorm(0.5),
    "UnitNorm": keras.constraints.UnitNorm,
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_of_the_users_are_trained_with(tmp_path, name):
    model = tiny.mlp(kernel_constraint=CONSTRAINTS[name]())
    model_checks.check_model(model, tmp_path, MLP)


# An update, which sets weights to 0, leaves a norm that is not 1 until the next step.
HOLDING = [("NonNeg", RigL), ("MaxNorm", RigL), ("UnitNorm", None)]


@pytest.mark.parametrize(("name", "callback"), HOLDING)
def test_constraints_of_the_users_hold_together_with_the_masks(name, callback):
    constrained = tiny.mlp(kernel_constraint=CONSTRAINTS[name]())
    model_checks.shake(constrained)
    free = tiny.mlp()
    free.set_weights(constrained.get_weights())
    held = {constrained: [], free: []}
    for plain, holds in held.items():
        model = tiny.compiled(tiny.sparsify(plain), keras.optimizers.SGD(0.3))

        def check(model, holds=holds):
            tiny.assert_zero_off_masks(model)
            kernels = tiny.weights(model).values()
            holds.append(all(is_within(name, kernel) for kernel in kernels))

        trained = tiny.forever(callback, 2) if callback else rigl_keras.Static()
        tiny.fit(model, trained, tiny.EveryStep(check), epochs=2)
    assert all(held[constrained])
    assert not any(held[free])


@pytest.mark.parametrize("name", ["L1", "L2", "OrthogonalRegularizer"])
def test_regularizers_of_kernels_are_trained_with(tmp_path, name):
    regularizer = getattr(keras.regularizers, name)(0.1)
    model = tiny.mlp(kernel_regularizer=regularizer)
    model_checks.check_model(model, tmp_path, MLP)


# A kernel that the loss does not depend on


@keras.utils.register_keras_serializable("test_models_training")
class Stop(LAYERS.Layer):
    def call(self, inputs):
        return tf.stop_gradient(inputs)


def with_a_stop():
    inputs = keras.Input((6,))
    stopped = Stop()(LAYERS.Dense(8, name="stopped")(inputs))
    x = LAYERS.Add()([stopped, LAYERS.Dense(8, name="hidden")(inputs)])
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_kernel_without_gradient_keeps_its_mask_under_rigl(tmp_path):
    paths = {"stopped/kernel", *MLP}
    with pytest.warns(UserWarning, match=r"does not depend on \['stopped/kernel'\]"):
        model_checks.check_model(
            with_a_stop(), tmp_path, paths, still={"stopped/kernel"}
        )


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_kernel_without_gradient_is_left_as_it_was_by_rigl():
    model = tiny.compiled(tiny.sparsify(with_a_stop()))
    x, y = tiny.data()
    masks, weights = rigl_keras.get_masks(model), tiny.weights(model)
    with pytest.warns(UserWarning, match="does not depend on"):
        seen = model_checks.train(model, tiny.forever(RigL), x, y)
    assert model_checks.changed(masks, *seen) == set(MLP)
    np.testing.assert_array_equal(
        tiny.weights(model)["stopped/kernel"], weights["stopped/kernel"]
    )


# A model that was compiled and trained before


class Compiled(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = LAYERS.Dense(8, name="hidden")
        self.out = LAYERS.Dense(3, name="out")

    def call(self, inputs):
        return self.out(self.hidden(inputs))


def test_metrics_of_a_model_compiled_before_are_not_those_of_the_sparse_one():
    x, y = tiny.data()
    model = Compiled()
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(x, y, verbose=0)
    sparse = rigl_keras.SparseModel(rigl_keras.Sparse(model, 0.5, seed=0))
    sparse(x)
    history = tiny.fit(tiny.compiled(sparse), tiny.forever(RigL, 2)).history
    assert set(history) == {"loss", "sparsity", "drop_fraction"}


def test_a_frozen_nested_model_is_unfrozen():
    body = functional_mlp()
    body.trainable = False
    model = keras.Sequential([keras.Input((6,)), body, LAYERS.Dense(4, name="head")])
    for copy in (tiny.sparsify(model), rigl_keras.strip(tiny.sparsify(model))):
        copied = copy.layers[0]
        assert not copied.trainable and len(copy.trainable_variables) == 2
        copied.trainable = True
        assert len(copy.trainable_variables) == 6


def functional_mlp():
    inputs = keras.Input((6,))
    x = LAYERS.Dense(8, name="hidden")(inputs)
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))
