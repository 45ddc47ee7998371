"""What else users put into `fit`: callbacks of Keras, weights, precisions."""

import itertools
import os
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tiny
from golden import cross_entropy, images, net
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, SNFS, Pruning, RigL, Static

OPTIMIZERS, CALLBACKS = keras.optimizers, keras.callbacks
X, Y = images()


def compiled(optimizer=None, **options):
    optimizer = optimizer or OPTIMIZERS.Adam(0.01)
    options = {"loss": cross_entropy(), "metrics": ["accuracy"], **options}
    return tiny.compiled(tiny.sparsify(net(), 0.6), optimizer, **options)


def train(model, *callbacks, **options):
    """Trains, checking after every step what always holds."""
    counts = tiny.counts(model)

    def check(model):
        tiny.assert_zero_off_masks(model)
        assert tiny.counts(model) == counts
        for path, mask in rigl_keras.get_masks(model).items():
            for slot in tiny.slots(model, path):
                assert (slot[~mask] == 0).all(), path

    options = {"batch_size": 8, "epochs": 3, "verbose": 0, **options}
    history = model.fit(
        X, Y, callbacks=[*callbacks, tiny.EveryStep(check)], **options
    ).history
    tiny.assert_zero_off_masks(model)
    return history


def assert_equal_weights(left, right):
    pairs = [*left.weights, *left.optimizer.variables]
    others = [*right.weights, *right.optimizer.variables]
    for one, other in zip(pairs, others, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


# Callbacks of Keras


def test_learning_rate_callbacks():
    model = compiled(OPTIMIZERS.SGD(0.1, momentum=0.9))
    halves = CALLBACKS.LearningRateScheduler(lambda epoch: 0.1 * 0.5**epoch)
    plateau = CALLBACKS.ReduceLROnPlateau("loss", 0.5, patience=0, min_delta=9.0)
    rigl = RigL(2, 0.4, schedule="lr", last_update_step=-1)
    history = train(model, rigl, halves, plateau)
    rates = [0.1, 0.05, 0.025]
    # The first epoch of all improves on none before; the others by less than 9.
    expected = [0.4 * rate / 0.1 for rate in rates]
    np.testing.assert_allclose(history["drop_fraction"], expected, rtol=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_early_stopping_restores_the_best_masks_with_the_best_weights(place):
    best = {}

    class Note(CALLBACKS.Callback):
        def on_epoch_end(self, epoch, logs=None):
            best[epoch] = rigl_keras.get_masks(self.model)

    model = compiled()
    # The first epoch stays the best one.
    stop = CALLBACKS.EarlyStopping(
        "sparsity", patience=2, mode="min", restore_best_weights=True
    )
    callbacks = [Note(), tiny.forever(SET, 2)]
    callbacks.insert(place, stop)
    history = train(model, *callbacks, epochs=9)
    assert len(history["loss"]) == 3
    tiny.assert_same_masks(rigl_keras.get_masks(model), best[0])
    assert any((best[2][path] != best[0][path]).any() for path in best[0])
    train(model, tiny.forever(SET, 2))  # Stale momentum is cleared, too.


@pytest.mark.parametrize(
    "weights_only", [False, pytest.param(True, marks=pytest.mark.release)]
)
def test_checkpoint_callbacks_save_what_goes_on(tmp_path, weights_only):
    name = "model.weights.h5" if weights_only else "model.keras"
    path = os.path.join(tmp_path, name)
    model = compiled()
    save = CALLBACKS.ModelCheckpoint(path, save_weights_only=weights_only)
    train(model, save, tiny.forever(RigL, 3))
    if weights_only:
        other = compiled()
        other.load_weights(path)
    else:
        other = keras.models.load_model(path)
    tiny.assert_same_masks(rigl_keras.get_masks(other), rigl_keras.get_masks(model))
    tiny.assert_zero_off_masks(other)
    train(other, tiny.forever(RigL, 3))


class KilledError(Exception):
    pass


class Kill(CALLBACKS.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KilledError


def gradual_pruning():
    schedule = rigl_keras.schedules.polynomial_decay(0.0, 0.9, 2, 20, frequency=3)
    return Pruning(schedule)


def half_rigl():
    return RigL(update_freq=2, drop_fraction=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "first"),
    [
        (half_rigl, "backup"),
        pytest.param(half_rigl, "ours", marks=pytest.mark.release),
        pytest.param(gradual_pruning, "backup", marks=pytest.mark.release),
    ],
)
def test_backup_and_restore_ends_as_an_undisturbed_training(tmp_path, make, first):
    def fit(model, *callbacks):
        options = {"batch_size": 8, "epochs": 4, "verbose": 0, "shuffle": False}
        model.fit(X, Y, callbacks=list(callbacks), **options)

    def new():
        model = tiny.sparsify(plain_net(), 0.0 if prunes else 0.6)
        keras.utils.set_random_seed(7)
        return tiny.compiled(model, OPTIMIZERS.Adam(0.01), loss=cross_entropy())

    prunes = isinstance(make(), Pruning)
    straight = new()
    fit(straight, make())

    def callbacks():
        both = [CALLBACKS.BackupAndRestore(os.path.join(tmp_path, "backup")), make()]
        return both if first == "backup" else both[::-1]

    with pytest.raises(KilledError):
        fit(new(), *callbacks(), Kill())
    resumed = new()
    fit(resumed, *callbacks())
    assert_equal_weights(straight, resumed)


def plain_net():
    """Without dropout, whose state Keras 2 does not keep."""
    keras.utils.set_random_seed(3)
    layers = [layer for layer in net().layers if "dropout" not in layer.name]
    return keras.Sequential([keras.Input((4, 4, 2)), *layers])


@pytest.mark.parametrize(
    "make",
    [lambda: RigL(2, 0.5, schedule="lr"), lambda: SNFS(2, 0.5)],
    ids=["lr", "SNFS"],
)
def test_a_resumed_training_without_its_state_is_warned_of(tmp_path, make):
    """BackupAndRestore keeps model and optimizer, not the callbacks' state."""
    backup = os.path.join(tmp_path, "backup")
    with pytest.raises(KilledError):
        train(compiled(), make(), CALLBACKS.BackupAndRestore(backup), Kill())
    with pytest.warns(UserWarning, match="state"):
        train(compiled(), make(), CALLBACKS.BackupAndRestore(backup))


# Weights of classes and of samples


def test_class_and_sample_weights_weigh_the_growing_gradient():
    """RigL grows where the weighted loss's gradient is largest, which differs."""
    model = tiny.compiled(tiny.sparsify(plain_net(), 0.6), OPTIMIZERS.SGD(0.0))
    model.compile(OPTIMIZERS.SGD(0.0), loss=cross_entropy())
    before = rigl_keras.get_masks(model)
    weights = np.where(Y == 1, 5.0, 0.25).astype(np.float32)
    expected, unweighted = (
        expected_masks(model, before, each) for each in (weights, np.ones_like(weights))
    )
    start = model.get_weights()
    by_sample = {"sample_weight": weights}
    by_class = {"class_weight": {0: 0.25, 1: 5.0, 2: 0.25}}
    for options in (by_sample, by_class):
        model.set_weights(start)
        model.fit(
            X,
            Y,
            batch_size=len(X),
            verbose=0,
            callbacks=[tiny.forever(RigL, 1, 0.6)],
            **options,
        )
        tiny.assert_same_masks(rigl_keras.get_masks(model), expected)
        model.compile(OPTIMIZERS.SGD(0.0), loss=cross_entropy())
    assert any((expected[p] != unweighted[p]).any() for p in expected)


def expected_masks(model, masks, sample_weight):
    kernels = rigl_keras.sparse_kernels(model)
    averages = [v.numpy() for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        logits = model(X, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(Y, logits)
        loss = tf.reduce_mean(losses * sample_weight)
    gradients = tape.gradient(loss, [tiny.raw(each.kernel) for each in kernels])
    for variable, value in zip(model.non_trainable_variables, averages, strict=True):
        variable.assign(value)
    return {
        each.path: tiny.reference_mask(
            masks[each.path], np.abs(each.kernel.numpy()), np.abs(gradient.numpy()), 0.6
        )
        for each, gradient in zip(kernels, gradients, strict=True)
    }


# Precisions


@pytest.mark.parametrize(
    ("policy", "callback", "jit_compile"),
    [
        pytest.param("mixed_float16", RigL, False, marks=pytest.mark.both_kerases),
        pytest.param("mixed_float16", SET, False, marks=pytest.mark.release),
        pytest.param("mixed_float16", SNFS, False, marks=pytest.mark.release),
        pytest.param("mixed_bfloat16", RigL, False, marks=pytest.mark.release),
        pytest.param(
            *("mixed_bfloat16", RigL, True),
            marks=[pytest.mark.release, pytest.mark.one_keras],
        ),
        pytest.param("float64", RigL, False, marks=pytest.mark.release),
    ],
)
def test_invariants_in_other_precisions(policy, callback, jit_compile):
    keras.mixed_precision.set_global_policy(policy)
    model = compiled(jit_compile=jit_compile)
    scales = hasattr(model.optimizer, "inner_optimizer")
    assert scales == (policy == "mixed_float16")
    before = rigl_keras.get_masks(model)
    train(model, tiny.forever(callback, 2))
    after = rigl_keras.get_masks(model)
    assert any((before[path] != after[path]).any() for path in after)


@pytest.mark.both_kerases
def test_steps_that_loss_scaling_skips_change_nothing():
    """Of six batches four overflow: after those neither weights nor slots moved."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    options = {"initial_scale": 2.0**4}
    if not tiny.IS_KERAS_3:
        options["dynamic"] = True
    optimizer = OPTIMIZERS.Adam(0.01)
    optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, **options)
    model = compiled(optimizer, loss="mse")
    x = np.tile(X[:8], (6, 1, 1, 1))
    y = np.tile(np.eye(3, dtype=np.float32)[Y[:8]], (6, 1))
    y[8:24] = y[32:] = 1e30
    states = []

    class Note(CALLBACKS.Callback):
        def on_train_batch_end(self, batch, logs=None):
            masks = rigl_keras.get_masks(self.model)
            slots = [s for path in masks for s in tiny.slots(self.model, path)]
            states.append([*masks.values(), *tiny.weights(self.model).values(), *slots])

    model.fit(
        x,
        y,
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[Static(), Note()],
    )
    same = [
        all((a == b).all() for a, b in zip(left, right, strict=True))
        for left, right in itertools.pairwise(states)
    ]
    assert same == [True, True, False, True, True]
    tiny.assert_zero_off_masks(model)


@pytest.mark.parametrize("callback", [Static, lambda: tiny.forever(RigL, 1)])
def test_a_training_that_begins_with_an_overflow(callback):
    """No gradient comes by until the loss scale has come down."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    scale = {"initial_scale": 2.0**40}
    if not tiny.IS_KERAS_3:
        scale["dynamic"] = True
    optimizer = OPTIMIZERS.SGD(0.01, momentum=0.9)
    optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, **scale)
    model = compiled(optimizer, run_eagerly=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of updates that are left out
        train(model, callback(), epochs=6)
    assert any(slot.any() for slot in tiny.slots(model, "conv/kernel"))


# From a dense model


@pytest.mark.slow
def test_fine_tuning_a_trained_dense_model():
    """The largest weights stay, and training recovers what the others were worth."""
    dense = tiny.compiled(plain_net(), OPTIMIZERS.Adam(0.01), loss=cross_entropy())
    dense.fit(X, Y, batch_size=8, epochs=20, verbose=0)
    trained = dense.evaluate(X, Y, verbose=0)
    sparse = rigl_keras.sparsify(dense, 0.7, method="magnitude", verbose=False)
    for each in rigl_keras.sparse_kernels(sparse):
        name = each.path.split("/")[0]
        magnitudes = np.abs(dense.get_layer(name).kernel.numpy())
        mask = each.mask.numpy()
        assert magnitudes[mask].min() >= magnitudes[~mask].max(initial=0)
    model = tiny.compiled(sparse, OPTIMIZERS.Adam(0.01), loss=cross_entropy())
    cut = model.evaluate(X, Y, verbose=0)
    train(model, RigL(update_freq=10), epochs=20)
    tuned = model.evaluate(X, Y, verbose=0)
    assert trained < cut and tuned < cut


def test_metrics_of_replicas_are_those_of_the_whole_batch():
    with tiny.two_replicas().scope():
        model = tiny.sparsify(tiny.mlp())
        tiny.compiled(model, OPTIMIZERS.SGD(0.0), metrics=["mae"])
    # Of seven examples one replica gets four, so that a mean of means is another.
    x, y = tiny.data(7)
    y[-1] += 8
    expected = np.abs(model.predict(x, verbose=0) - y).mean()
    options = {"batch_size": 4, "validation_data": (x, y), "verbose": 0}
    logs = model.fit(x, y, callbacks=[Static()], **options).history
    assert logs["sparsity"] == [0.5]
    for name in ("mae", "val_mae"):
        np.testing.assert_allclose(logs[name], [expected], rtol=1e-5, err_msg=name)
