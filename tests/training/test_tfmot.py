"""Trainings of models as TensorFlow Model Optimization has wrapped them."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras
from wrapped_models import (
    mlp,
    nested,
    predicted,
    pruned_mlp,
    pruned_nested,
    their_masks,
    theirs,
    train,
    wrap,
    wrappers,
)

import rigl_keras
from rigl_keras import SET, SNFS, Pruning, RigL, Static
from rigl_keras.core.kernels import find_kernels

LAYERS, OPTIMIZERS = keras.layers, keras.optimizers
pytestmark = pytest.mark.both_kerases


def check_invariants(model, counts):
    tiny.assert_zero_off_masks(model)
    assert tiny.counts(model) == counts
    for path, mask in rigl_keras.get_masks(model).items():
        slots = tiny.slots(model, path)
        assert slots
        for slot in slots:
            assert (slot[~mask] == 0).all(), path


@pytest.mark.parametrize(
    ("callback", "optimizer"),
    [
        (RigL, lambda: OPTIMIZERS.Adam(0.01, global_clipnorm=0.5)),
        pytest.param(
            SET,
            lambda: OPTIMIZERS.SGD(0.05, momentum=0.9),
            marks=pytest.mark.release,
        ),
        (SNFS, lambda: OPTIMIZERS.AdamW(0.01, use_ema=True)),
    ],
)
def test_weights_and_slots_off_the_masks_stay_0_at_every_step(callback, optimizer):
    theirs()
    model = pruned_nested(optimizer())
    counts, masks = tiny.counts(model), their_masks(model)
    check = tiny.EveryStep(lambda model: check_invariants(model, counts))
    train(model, tiny.forever(callback, 2), check)
    after = their_masks(model)
    assert all((after[name][0] != mask).any() for name, (mask,) in masks.items())
    # The kernels are those that the wrapped layers compute with.
    for wrapper in wrappers(model).values():
        for weight, mask, _ in wrapper.pruning_vars:
            assert (weight.numpy()[mask.numpy() == 0] == 0).all()


@pytest.mark.parametrize(
    ("callback", "options"),
    [
        (RigL, {}),
        pytest.param(SET, {"steps_per_execution": 2}, marks=pytest.mark.release),
        pytest.param(RigL, {"jit_compile": True}, marks=pytest.mark.release),
        (SNFS, {"run_eagerly": True}),
    ],
)
def test_masks_and_weights_are_those_of_the_same_training_of_a_copy(callback, options):
    model = pruned_mlp(**options)
    sparse = tiny.compiled(rigl_keras.from_tfmot(model, verbose=False), **options)
    tiny.compiled(model, **options)
    for trained in (model, sparse):
        tiny.fit(trained, tiny.forever(callback, 2), epochs=2)
    tiny.assert_same_masks(rigl_keras.get_masks(model), rigl_keras.get_masks(sparse))
    for path, weight in tiny.weights(model).items():
        np.testing.assert_array_equal(weight, tiny.weights(sparse)[path])


def test_masks_by_grow_data_are_those_of_a_copy():
    model = pruned_mlp()
    sparse = tiny.compiled(rigl_keras.from_tfmot(model, verbose=False))
    for trained in (tiny.compiled(model), sparse):
        tiny.fit(trained, tiny.forever(RigL, 2, grow_data=tiny.data(8)))
    tiny.assert_same_masks(rigl_keras.get_masks(model), rigl_keras.get_masks(sparse))


@pytest.mark.release
def test_masks_on_two_replicas_are_those_on_one_device():
    theirs()
    one = pruned_mlp()
    with tiny.two_replicas().scope():
        two = pruned_mlp()
    for model in (one, two):
        tiny.fit(model, tiny.forever(RigL), epochs=2)
    tiny.assert_zero_off_masks(two)
    tiny.assert_same_masks(rigl_keras.get_masks(one), rigl_keras.get_masks(two))
    for kernel in rigl_keras.sparse_kernels(two):
        for variable in (kernel.kernel, kernel.mask):
            first, second = [component.numpy() for component in variable.values]
            np.testing.assert_array_equal(first, second)


def test_under_mixed_precision_weights_are_no_longer_rounded():
    """TFMOT writes half-precision products back at every call."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = pruned_nested()
    kernel = wrappers(model)["hidden"].layer.kernel
    counts = tiny.counts(model)
    check = tiny.EveryStep(lambda model: check_invariants(model, counts))
    train(model, tiny.forever(RigL), check)
    before = kernel.numpy()
    predicted(model)
    np.testing.assert_array_equal(kernel.numpy(), before)
    assert (before != before.astype(np.float16).astype(np.float32)).any()


@pytest.mark.parametrize("callback", [Static, lambda: tiny.forever(SET, fraction=0.0)])
def test_the_schedule_of_tfmot_is_stopped(callback):
    """It would prune at every step, and to another sparsity."""
    model = tiny.compiled(wrap(mlp(), 0.9))
    rigl_keras.prune_once(model, "magnitude", 0.5, ranking="layer")
    before = rigl_keras.get_masks(model)
    tiny.fit(model, callback())
    tiny.assert_same_masks(rigl_keras.get_masks(model), before)


def test_update_pruning_step_may_stand_anywhere_and_trainings_may_follow():
    model = pruned_mlp()
    counts = tiny.counts(model)
    step = theirs().UpdatePruningStep
    trainings = (
        [step(), RigL(1, 0.5)],
        [tiny.forever(SET), step()],
        [Static()],
        [step()],
    )
    for callbacks in trainings:
        tiny.fit(model, *callbacks, epochs=2)
        tiny.assert_zero_off_masks(model)
        assert tiny.counts(model) == counts
    # After Static and TFMOT's callback alone; UpdatePruningStep counts on.
    assert int(wrappers(model)["out"].pruning_step.numpy()) == 36


def test_pruning_by_the_schedule_of_the_wrapper_gives_its_masks():
    theirs()
    schedule = theirs().PolynomialDecay(0.0, 0.9, 2, 7, frequency=2)
    trained = []
    for callback in (theirs().UpdatePruningStep(), Pruning(schedule)):
        keras.utils.set_random_seed(4)
        model = theirs().prune_low_magnitude(nested(), schedule)
        train(tiny.compiled(model, OPTIMIZERS.SGD(0.01)), callback)
        trained.append(their_masks(model))
    for name, (mask,) in trained[0].items():
        assert 0 < mask.mean() < 0.5
        np.testing.assert_array_equal(trained[1][name][0], mask, name)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"block_size": (4, 1)}, "block_size"),
        ({"sparsity_m_by_n": (2, 4)}, "sparsity_m_by_n"),
    ],
)
def test_patterns_that_do_not_divide_are_refused_and_left_as_they_are(options, pattern):
    model = tiny.compiled(wrap(mlp(), **options))
    with pytest.raises(ValueError, match=pattern):
        tiny.fit(model, Static())
    tiny.fit(model, theirs().UpdatePruningStep())
    for mask in rigl_keras.get_masks(model).values():
        assert 0.4 < mask.mean() < 0.7


class Subclassed(keras.Model):
    """A model that only its own code can call."""

    def __init__(self):
        super().__init__()
        self.hidden = wrap(LAYERS.Dense(tiny.HIDDEN, name="hidden"))
        self.out = wrap(LAYERS.Dense(tiny.OUTPUTS, name="out"))

    def call(self, inputs, training=None):
        hidden = self.hidden(inputs, training=training)
        return self.out(hidden, training=training)


def test_subclassed_models_with_wrapped_layers_are_trained():
    model = tiny.compiled(Subclassed())
    model.predict(tiny.data()[0], verbose=0)
    rigl_keras.prune_once(model, "magnitude", 0.5, ranking="layer")
    counts = tiny.counts(model)
    check = tiny.EveryStep(lambda model: check_invariants(model, counts))
    tiny.fit(model, tiny.forever(RigL), check)
    assert counts == {"hidden/kernel": 24, "out/kernel": 12}


# After a training


@pytest.fixture
def trained():
    theirs()
    return train(pruned_nested(), tiny.forever(RigL, 2))


def test_stripping_by_tfmot_and_by_us_keeps_the_outputs(trained):
    expected, masks = predicted(trained), rigl_keras.get_masks(trained)
    for strip in (theirs().strip_pruning, rigl_keras.strip):
        plain = strip(trained)
        names = {type(layer).__name__ for layer in plain.layers}
        assert names == {"InputLayer", "Sequential", "Dense"}
        np.testing.assert_array_equal(predicted(plain), expected)
        for kernel in find_kernels(plain):
            assert (kernel.variable.numpy()[~masks[kernel.path]] == 0).all()


@pytest.mark.parametrize(
    "name",
    [
        *("model.h5", "model.keras"),
        pytest.param("saved_model", marks=pytest.mark.release),
    ],
)
def test_a_saved_model_trains_on(trained, tmp_path, name):
    path = os.path.join(tmp_path, name)
    trained.save(path)
    with theirs().prune_scope():
        loaded = keras.models.load_model(path)
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), rigl_keras.get_masks(trained))
    np.testing.assert_array_equal(predicted(loaded), predicted(trained))
    counts = tiny.counts(trained)
    check = tiny.EveryStep(lambda model: check_invariants(model, counts))
    train(loaded, tiny.forever(SET), check)


@pytest.mark.parametrize("name", ["weights.h5", "model.weights.h5", "weights"])
def test_saved_weights_bring_the_masks(trained, tmp_path, name):
    path = os.path.join(tmp_path, name)
    trained.save_weights(path)
    loaded = wrap(nested())
    loaded.load_weights(path)
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), rigl_keras.get_masks(trained))
    np.testing.assert_array_equal(predicted(loaded), predicted(trained))


def test_a_training_resumed_from_a_checkpoint_ends_as_an_undisturbed_one(tmp_path):
    def resumable():
        model = tiny.compiled(wrap(mlp()), OPTIMIZERS.Adam(0.01))
        callback = tiny.forever(RigL, 2)
        callback.prepare(model)
        return (
            model,
            callback,
            tf.train.Checkpoint(
                model=model, optimizer=model.optimizer, state=callback.state
            ),
        )

    model, callback, checkpoint = resumable()
    rigl_keras.prune_once(model, "magnitude", 0.5, ranking="layer")
    tiny.fit(model, callback)
    path = checkpoint.save(os.path.join(tmp_path, "ckpt"))
    resumed, its_callback, checkpoint = resumable()
    checkpoint.restore(path).assert_existing_objects_matched()
    tiny.fit(resumed, its_callback)
    tiny.fit(model, callback)
    tiny.assert_same_masks(rigl_keras.get_masks(resumed), rigl_keras.get_masks(model))
    for left, right in zip(model.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())
