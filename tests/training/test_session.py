"""Several callbacks in one training, each with kernels of its own."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tiny
from golden import exact_net
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, SNFS, Pruning, RigL, Static

X, Y = tiny.integers((64, 6, 6, 1), 1), tiny.integers((64, 1), 2)


def train(model, *callbacks, **options):
    options = {"batch_size": 16, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def compiled(optimizer=None, **options):
    optimizer = optimizer or keras.optimizers.SGD(2.0**-6, momentum=0.5)
    return tiny.compiled(exact_net(), optimizer, **options)


def changed(before, after):
    return [path for path in after if (before[path] != after[path]).any()]


def test_a_callback_changes_the_masks_of_its_kernels_only():
    model = compiled()
    before = rigl_keras.get_masks(model)
    train(model, tiny.forever(SET, kernels=["conv/*", "out/*"]))
    after = rigl_keras.get_masks(model)
    assert changed(before, after) == ["conv/kernel", "out/kernel"]


@pytest.mark.parametrize(
    ("first", "options"),
    [
        (RigL, {}),
        pytest.param(
            *(RigL, {"jit_compile": True}),
            marks=[pytest.mark.release, pytest.mark.one_keras],
        ),
        (SNFS, {"run_eagerly": True}),
    ],
)
def test_kernels_of_two_callbacks_get_the_masks_of_each_alone(first, options):
    """Masks of one kernel move the gradients of another, so one step is compared."""

    def masks(*callbacks):
        model = compiled(**options)
        train(model, *callbacks, steps_per_epoch=1)
        return rigl_keras.get_masks(model)

    left = lambda **o: tiny.forever(first, 1, 0.4, **o)  # noqa: E731
    right = lambda **o: tiny.forever(SET, 1, 0.8, **o)  # noqa: E731
    both = masks(left(kernels="conv/*"), right(kernels=["hidden/*", "out/*"]))
    np.testing.assert_array_equal(both["conv/kernel"], masks(left())["conv/kernel"])
    other = masks(right())
    for path in ("hidden/kernel", "out/kernel"):
        np.testing.assert_array_equal(both[path], other[path])


def test_the_state_of_all_sparse_kernels_stays_as_new():
    """Of those that no callback takes care of, too."""
    model = compiled(keras.optimizers.Adam(0.01))
    counts = tiny.counts(model)

    def check(model):
        tiny.assert_zero_off_masks(model)
        for path, mask in rigl_keras.get_masks(model).items():
            slots = tiny.slots(model, path)
            assert len(slots) == 2 and all((s[~mask] == 0).all() for s in slots), path

    callbacks = [tiny.forever(RigL, 2, kernels="conv/*"), Static("hidden/*")]
    train(model, *callbacks, tiny.EveryStep(check), epochs=2)
    assert tiny.counts(model) == counts


def test_pruning_some_kernels_beside_rigl_on_others():
    plain = rigl_keras.strip(exact_net())
    sparsities = {"conv/kernel": 0.5, "hidden/kernel": 0.0}
    model = rigl_keras.sparsify(plain, 0, overrides={"conv/*": 0.5}, verbose=False)
    model = tiny.compiled(model)
    schedule = rigl_keras.schedules.polynomial_decay(0.0, 0.75, 1, 4, frequency=1)
    pruning = Pruning(schedule, kernels="hidden/*")
    history = train(model, tiny.forever(RigL, 2, kernels="conv/*"), pruning).history
    masks = rigl_keras.get_masks(model)
    assert 1 - masks["conv/kernel"].mean() == sparsities["conv/kernel"]
    assert 1 - masks["hidden/kernel"].mean() == 0.75
    assert masks["out/kernel"].all()
    zeros = sum((~mask).sum() for mask in masks.values())
    size = sum(mask.size for mask in masks.values())
    assert history["sparsity"] == pytest.approx([zeros / size])
    assert history["drop_fraction/conv/*"] == [0.5]
    assert list(pruning.thresholds()) == ["hidden/kernel"]


def test_on_two_replicas():
    def masks(model):
        rigl = tiny.forever(RigL, 2, kernels="conv/*")
        train(model, rigl, tiny.forever(SET, 2, kernels="hidden/*"))
        return rigl_keras.get_masks(model)

    with tiny.two_replicas().scope():
        model = compiled()
    tiny.assert_same_masks(masks(model), masks(compiled()))


def test_a_second_fit_with_the_same_and_with_other_callbacks():
    model, callbacks = compiled(), [tiny.forever(RigL, 2, kernels="conv/*")]
    callbacks.append(tiny.forever(SET, 2, kernels="hidden/*"))
    train(model, *callbacks)
    function = model.train_function
    before = rigl_keras.get_masks(model)
    train(model, *callbacks)
    assert model.train_function is function  # nothing was traced anew
    after = rigl_keras.get_masks(model)
    assert changed(before, after) == ["conv/kernel", "hidden/kernel"]
    train(model, callbacks[1])
    assert changed(after, rigl_keras.get_masks(model)) == ["hidden/kernel"]
    tiny.assert_zero_off_masks(model)


def test_the_optimizer_is_left_as_it_was():
    model = compiled()
    before = set(vars(model.optimizer))
    train(model, Static("conv/*"), Static("hidden/*"), Static("out/*"))
    assert not {"apply", "apply_gradients"} & (set(vars(model.optimizer)) - before)
    assert "make_train_function" not in vars(model)


def test_a_frozen_kernel_in_a_pattern_is_masked_and_never_updated():
    net = rigl_keras.strip(exact_net())
    net.get_layer("hidden").trainable = False
    model = tiny.compiled(tiny.sparsify(net))
    before = rigl_keras.get_masks(model)
    weights = tiny.weights(model)["hidden/kernel"]
    train(model, tiny.forever(SET, 1, kernels=["hidden/*", "conv/*"]))
    assert changed(before, rigl_keras.get_masks(model)) == ["conv/kernel"]
    np.testing.assert_array_equal(tiny.weights(model)["hidden/kernel"], weights)


# What is refused


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (lambda: [SET(2), RigL(2)], "SET and RigL"),
        (lambda: [RigL(2, kernels="conv/*"), Static()], "conv/kernel"),
        (lambda: [Static(["conv/*", "out/*"]), SET(2, kernels="o*")], "out/kernel"),
        (lambda: [RigL(2, kernels="dense/*")], "`kernels`.*dense"),
        (lambda: [RigL(2, kernels=[])], "`kernels`"),
        (lambda: [RigL(2, kernels=[3])], "`kernels`"),
    ],
)
def test_overlapping_and_empty_patterns_are_refused(callbacks, message):
    model = compiled()
    with pytest.raises(ValueError, match=message):
        train(model, *callbacks())
    train(model, tiny.forever(SET))  # The model is as usable as before.
    tiny.assert_zero_off_masks(model)


class Unheard(keras.Sequential):
    """A model whose step goes past the optimizer."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        variables = self.trainable_variables
        for variable, gradient in zip(
            variables, tape.gradient(loss, variables), strict=True
        ):
            variable.assign_sub(0.01 * tf.convert_to_tensor(gradient))
        return {"loss": loss}


def test_a_step_past_the_optimizer_is_told():
    model = Unheard([keras.Input((6,)), rigl_keras.Sparse(keras.layers.Dense(3), 0.5)])
    tiny.compiled(model)
    with pytest.warns(UserWarning, match="made no step"):
        tiny.fit(model, tiny.forever(SET))


@pytest.mark.both_kerases
def test_a_training_that_broke_off_does_not_keep_its_model_in_memory():
    def fail(model):
        raise KeyboardInterrupt

    def broken_off():
        model = tiny.sparse_mlp()
        flow = rigl_keras.GradientFlow(tiny.data(8), every=None)
        try:
            tiny.fit(model, tiny.forever(RigL), flow, tiny.EveryStep(fail))
        except KeyboardInterrupt:
            return weakref.ref(model)

    reference = broken_off()
    keras.backend.clear_session()
    gc.collect()
    assert reference() is None
