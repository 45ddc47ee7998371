"""What one-shot pruning leaves alone in a model, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import mask_updaters, prune_once

LAYERS = keras.layers
CRITERIA = ("snip", "grasp")


def noisy_model():
    """Batch normalisation, dropout and metrics; the same one at every call."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((tiny.INPUTS,)),
        LAYERS.Dense(tiny.HIDDEN, name="hidden"),
        LAYERS.BatchNormalization(),
        LAYERS.Dropout(0.5, seed=3),
        LAYERS.Dense(tiny.OUTPUTS, name="out"),
    ]
    model = tiny.sparsify(keras.Sequential(layers), 0.0)
    return tiny.compiled(
        model, keras.optimizers.Adam(0.01), metrics=["mae"], weighted_metrics=["mse"]
    )


def state_of(model):
    """All that it holds but the sparse kernels and their masks, by identity."""
    sparse = rigl_keras.sparse_kernels(model)
    ours = {id(variable) for k in sparse for variable in (k.kernel, k.mask)}
    variables = [*model.variables, *model.optimizer.variables]
    variables += [v for metric in model.metrics for v in metric.variables]
    return {
        id(variable): tf.identity(tiny.raw(variable)).numpy()
        for variable in variables
        if id(variable) not in ours
    }


@pytest.mark.parametrize(
    "criterion", [pytest.param("snip", marks=pytest.mark.release), "grasp"]
)
def test_nothing_but_kernels_and_masks_changes(criterion):
    model = noisy_model()
    tiny.fit(model, rigl_keras.Static())
    x, y = tiny.data(16)
    before = state_of(model)
    prune_once(model, criterion, 0.5, (100 * x, y))
    after = state_of(model)
    assert before.keys() == after.keys() and len(before) > 10
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value)


@pytest.mark.parametrize(
    "criterion", [pytest.param("snip", marks=pytest.mark.release), "grasp"]
)
def test_training_goes_on_as_if_the_masks_had_been_set(criterion):
    """Dropout draws the same; and what was pruned stays 0."""
    model, twin = noisy_model(), noisy_model()
    prune_once(model, criterion, 0.5, tiny.data(16))
    masks = rigl_keras.get_masks(model)
    rigl_keras.set_masks(twin, masks)
    losses = [
        tiny.fit(net, rigl_keras.Static(), epochs=2).history["loss"]
        for net in (model, twin)
    ]
    assert losses[0] == losses[1]
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    tiny.assert_zero_off_masks(model)
    for path, kernel in tiny.weights(model).items():
        np.testing.assert_array_equal(kernel, tiny.weights(twin)[path])
        assert np.count_nonzero(kernel) == masks[path].sum()


def test_masks_may_evolve_afterwards():
    model = tiny.sparse_mlp(sparsity=0.0)
    prune_once(model, "snip", 0.5, tiny.data(16))
    counts = tiny.counts(model)
    assert tiny.update_steps(model, tiny.forever(rigl_keras.RigL, 2)) == [2, 4]
    assert tiny.counts(model) == counts
    tiny.assert_zero_off_masks(model)


class Seen(mask_updaters.Magnitude):
    """Asks for nothing, and notes what it sees."""

    def keep_scores(self, state):
        assert state.gradient is None and state.hessian_gradient is None
        return super().keep_scores(state)


def test_what_no_criterion_asks_for_is_not_evaluated():
    model = tiny.sparsify(tiny.mlp(), 0.0)  # has no loss
    prune_once(model, Seen(), 0.5)
    assert tiny.counts(model) == {"hidden/kernel": 24, "out/kernel": 12}


def all_weights(model):
    return [tf.identity(tiny.raw(variable)).numpy() for variable in model.variables]


def assert_refused(model, message, *args):
    """The model is then unchanged."""
    before = all_weights(model)
    with pytest.raises(ValueError, match=message):
        prune_once(model, *args)
    for left, right in zip(before, all_weights(model), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("snip", 0.5), r"'snip' needs `data`"),
        (("grasp", 0.5), r"'grasp' needs `data`"),
        (("snip", 0.5, np.ones((4, tiny.INPUTS))), r"\(x, y\)"),
        (("random", 0.5), "criterion.*'random'"),
        ((mask_updaters.SNIP, 0.5), "criterion"),
        (("magnitude", 1.0), "sparsity.*1.0"),
        (("magnitude", -0.1), "sparsity"),
        (("magnitude", 0.5, None, "kernel"), "ranking.*'kernel'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    assert_refused(tiny.sparse_mlp(sparsity=0.0), message, *arguments)


def test_models_that_cannot_be_pruned_are_refused():
    dense = tiny.compiled(tiny.mlp())
    assert_refused(dense, "no sparse kernel", "magnitude", 0.5)
    frozen = tiny.sparse_mlp(sparsity=0.0)
    frozen.trainable = False
    assert_refused(frozen, "no sparse kernel", "magnitude", 0.5)
    with pytest.raises(TypeError, match="Keras"):
        prune_once(None, "magnitude", 0.5)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_model_without_loss_is_refused(criterion):
    model = tiny.sparsify(tiny.mlp(), 0.0)
    assert_refused(model, "compile", criterion, 0.5, tiny.data(4))


@pytest.mark.parametrize("criterion", [*CRITERIA, "magnitude"])
def test_weights_that_are_not_finite_are_refused(criterion):
    model = tiny.sparse_mlp(sparsity=0.0)
    kernel = rigl_keras.sparse_kernels(model)[1].kernel
    values = kernel.numpy()
    values[0, 0] = np.nan
    kernel.assign(values)
    assert_refused(model, "not finite", criterion, 0.5, tiny.data(16))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_data_that_are_not_finite_are_refused(criterion):
    x, y = tiny.data(16)
    y[0, 0] = np.inf
    assert_refused(tiny.sparse_mlp(sparsity=0.0), "not finite", criterion, 0.5, (x, y))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_kernel_that_the_loss_does_not_depend_on_is_refused(criterion):
    inputs = keras.Input((tiny.INPUTS,))
    outputs = [
        LAYERS.Dense(tiny.OUTPUTS, name=name)(inputs) for name in ("used", "unused")
    ]
    model = tiny.sparsify(keras.Model(inputs, outputs), 0.0)
    tiny.compiled(model, loss=["mse", None])
    x, y = tiny.data(16)
    data = (x, [y, y])
    assert_refused(model, r"depend on \['unused/kernel'\]", criterion, 0.5, data)
    model.get_layer("sparse_unused").trainable = False
    prune_once(model, criterion, 0.5, data)
    assert tiny.counts(model) == {"used/kernel": 9, "unused/kernel": 18}
