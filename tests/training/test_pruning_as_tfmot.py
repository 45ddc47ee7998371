"""Masks of pruning against those of TensorFlow Model Optimization itself."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import Pruning, networks
from rigl_keras.algorithms import schedules
from rigl_keras.mask_updaters import KernelState, Magnitude

if tiny.IS_KERAS_3:
    pytest.skip("TFMOT prunes models of Keras 2 only", allow_module_level=True)

import tensorflow_model_optimization as tfmot
from tensorflow_model_optimization.python.core.sparsity.keras import (
    pruning_impl,
    pruning_wrapper,
)

pytestmark = pytest.mark.both_kerases

SCHEDULES = {
    "polynomial": lambda: schedules.polynomial_decay(0.1, 0.93, 2, 14, frequency=3),
    "linear": lambda: schedules.polynomial_decay(0.0, 0.8, 0, 9, 1, frequency=1),
    "constant": lambda: schedules.constant_sparsity(0.75, 3, 13, frequency=4),
    "constant, for ever": lambda: schedules.constant_sparsity(0.6, 1, frequency=2),
}
STEPS = 16
# Of 5 and 25 weights half is no whole number; one weight is never pruned.
ODD_SHAPES = [(1, 1), (5, 1), (5, 5), (3, 7), (2, 3, 1, 5), (1, 1, 1, 9), (7, 2, 3)]
LENET5_SHAPES = [
    tuple(each.variable.shape)
    for each in rigl_keras.core.kernels.find_kernels(
        networks.build("lenet5", (28, 28, 1), 10)
    )
]


class Theirs:
    """One kernel as TFMOT prunes it."""

    def __init__(self, weights, schedule):
        self.weights = tf.Variable(weights)
        self.mask = tf.Variable(tf.ones_like(self.weights))
        self.threshold = tf.Variable(0.0)
        self._step = tf.Variable(0, dtype=tf.int64)
        self._pruning = pruning_impl.Pruning(
            lambda: self._step,
            [(self.weights, self.mask, self.threshold)],
            schedule,
            block_size=(1, 1),
            block_pooling_type="AVG",
        )

    def prune(self, step):
        self._step.assign(step)
        self._pruning.conditional_mask_update()
        self._pruning.weight_mask_op()
        return self.mask.numpy() == 1


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("shapes", [ODD_SHAPES, LENET5_SHAPES], ids=["odd", "lenet5"])
def test_masks_of_moving_weights_kernel_by_kernel(name, shapes):
    generator, schedule, ours = np.random.RandomState(0), SCHEDULES[name](), Magnitude()
    for shape in shapes:
        theirs = Theirs(generator.randn(*shape).astype(np.float32), schedule)
        mask = np.ones(shape, bool)
        for step in range(1, STEPS + 1):
            weights = theirs.weights.numpy()
            is_due, sparsity = schedule(tf.constant(step, tf.int64))
            if is_due:
                state = KernelState(tf.constant(weights), tf.constant(mask))
                [mask] = ours.new_masks([state], sparsity)
                mask = mask.numpy()
            np.testing.assert_array_equal(theirs.prune(step), mask, f"{shape}, {step}")
            if is_due:
                assert theirs.threshold.numpy() == np.abs(weights[mask]).min()
            move = generator.normal(0, 0.1, shape)
            theirs.weights.assign(np.float32(np.where(mask, weights + move, 0)))
        assert mask.all() == (mask.size == 1)


# Trainings of both, from the same weights on the same batches


class Noted(keras.callbacks.Callback):
    """Notes masks and thresholds at the start of a training and after every batch."""

    def __init__(self, read):
        super().__init__()
        self._read, self.seen = read, []

    def on_train_begin(self, logs=None):
        self.seen.append(self._read(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self._read(self.model))


def their_masks(model):
    return [
        (mask.numpy() == 1, float(threshold.numpy()))
        for layer in pruning_wrapper.collect_prunable_layers(model)
        for _, mask, threshold in layer.pruning_vars
    ]


def lenet5():
    model = networks.build("lenet5", (28, 28, 1), 10, seed=3)
    generator = np.random.RandomState(1)
    x = generator.randn(36, 28, 28, 1).astype(np.float32)
    return model, x, generator.randint(0, 10, 36)


def odd_net():
    model = keras.Sequential(
        [
            keras.Input((7, 5, 3)),
            keras.layers.Conv2D(5, (3, 2), name="conv"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(11, "tanh", name="hidden"),
            keras.layers.Dense(1, name="neck"),
            keras.layers.Dense(3, name="out"),
        ]
    )
    generator = np.random.RandomState(2)
    for weight in model.weights:
        weight.assign(generator.normal(0, 0.3, weight.shape).astype(np.float32))
    x = generator.randn(36, 7, 5, 3).astype(np.float32)
    return model, x, generator.randint(0, 3, 36)


def trained(model, x, y, *callbacks):
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # 9 steps an epoch, so that epochs begin between two prunings.
    model.fit(x, y, 4, epochs=2, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "name", "changing"),
    [
        (lenet5, "polynomial", [2, 5, 8, 11, 14]),
        (odd_net, "polynomial", [2, 5, 8, 11, 14]),
        (odd_net, "constant", [3]),
    ],
)
def test_masks_after_every_batch_of_a_training(make, name, changing):
    model, x, y = make()
    noted = Noted(their_masks)
    theirs = trained(
        tfmot.sparsity.keras.prune_low_magnitude(
            model, pruning_schedule=SCHEDULES[name]()
        ),
        x,
        y,
        tfmot.sparsity.keras.UpdatePruningStep(),
        noted,
    )
    theirs = tfmot.sparsity.keras.strip_pruning(theirs)

    pruning = Pruning(SCHEDULES[name]())
    read = Noted(
        lambda model: list(
            zip(
                rigl_keras.get_masks(model).values(),
                pruning.thresholds().values(),
                strict=True,
            )
        )
    )
    model, x, y = make()
    ours = trained(tiny.sparsify(model, 0), x, y, pruning, read)

    assert len(read.seen) == len(noted.seen) == 19
    before, changes = None, []
    for step, (mine, his) in enumerate(zip(read.seen, noted.seen, strict=True)):
        for (mask, threshold), (mask2, threshold2) in zip(mine, his, strict=True):
            np.testing.assert_array_equal(mask, mask2, f"step {step}")
            assert threshold == pytest.approx(threshold2, rel=1e-5), step
        counts = [int(mask.sum()) for mask, _ in mine]
        if before not in (None, counts):
            changes.append(step)
        before = counts
    assert changes == changing
    trained_by_both = zip(
        rigl_keras.strip(ours).get_weights(), theirs.get_weights(), strict=True
    )
    for mine, his in trained_by_both:
        np.testing.assert_allclose(mine, his, rtol=1e-4, atol=1e-6)


def test_of_equal_weights_tfmot_keeps_all_and_we_the_exact_count():
    weights = np.float32([[2, -1, 1], [1, 3, -1]])
    schedule = schedules.constant_sparsity(0.5, 1, frequency=1)
    theirs = Theirs(weights, schedule)
    assert theirs.prune(1).sum() == 6  # the threshold is 1, and no weight is smaller
    state = KernelState(tf.constant(weights), tf.ones((2, 3), tf.bool))
    [mask] = Magnitude().new_masks([state], tf.constant(0.5))
    np.testing.assert_array_equal(mask, [[True, True, False], [False, True, False]])


def test_unlike_tfmot_a_pruned_weight_stays_pruned():
    """There one step's gradient can lift a pruned weight over the others."""
    schedule = schedules.constant_sparsity(0.5, 1, frequency=1)
    theirs = Theirs(np.float32([[4, 3, 2, 1]]), schedule)
    first = theirs.prune(1)
    theirs.weights.assign([[4, 3, 9, 0]])
    assert (theirs.prune(2) != first).any()
    state = KernelState(tf.constant([[4.0, 3.0, 9.0, 0.0]]), tf.constant(first))
    [mask] = Magnitude().new_masks([state], tf.constant(0.5))
    np.testing.assert_array_equal(mask, first)
