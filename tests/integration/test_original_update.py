"""Mask updates of a real training, against one worked out in plain NumPy.

The reference follows the paper's TF2 code (arXiv 2010.03533): after a weight step, the
loss of every example of a fixed batch, each with the regulariser, is summed, and its
gradient at the new weights says where to grow. Nothing of it is TensorFlow, and sums
are of float64.
"""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import data, mask_updaters, networks
from rigl_keras.program import algorithm
from rigl_keras.training.observers import MaskUpdateObserver

UPDATE_FREQ = 20
LAST_STEP = 240
# Not the last step: a cosine would be 1/2 at some updates, active * fraction a whole
# number, and its floor a matter of rounding.
DECAY_STEPS = 250
LEARNING_RATE = 0.05
DROP_FRACTION = 0.3
# Ten times the paper's, so that updates depend on it.
WEIGHT_DECAY = 5e-3
# Of float32 sums, relative to the largest.
PRECISION = 1e-5


# The network and its gradient.


def convolution(x, kernel):
    """A valid convolution of images [n, h, w, c] with taps [kh, kw, c, f]."""
    return np.tensordot(patches(x, kernel.shape[:2]), kernel, [(4, 5, 3), (0, 1, 2)])


def patches(x, size):
    """[n, h', w', c, kh, kw]."""
    return np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))


def convolution_gradients(x, kernel, dy):
    """Gradients by kernel and input, given that by the output."""
    size = kernel.shape[:2]
    dkernel = np.tensordot(patches(x, size), dy, [(0, 1, 2), (0, 1, 2)])
    margins = [(0, 0), *((tap - 1, tap - 1) for tap in size), (0, 0)]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return dkernel.transpose(1, 2, 0, 3), convolution(np.pad(dy, margins), turned)


def windows(x):
    """The 2x2 windows, row by row: [n, h / 2, w / 2, c, 4]."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(
        n, height // 2, width // 2, channels, 4
    )


def pooling_gradient(x, dy):
    """Every window's gradient goes to its first maximum, as in TensorFlow."""
    n, height, width, channels = x.shape
    first = np.argmax(windows(x), -1)[..., np.newaxis]
    dx = dy[..., np.newaxis] * (np.arange(4) == first)
    dx = dx.reshape(n, height // 2, width // 2, channels, 2, 2)
    return dx.transpose(0, 1, 4, 2, 5, 3).reshape(x.shape)


def lenet5_gradients(kernels, biases, images, labels, weight_decay):
    """The gradients by the kernels of LeNet5's loss, summed over the examples.

    The paper's code adds the regulariser, a scalar, to the vector of the examples'
    losses, so that it counts once for each example.
    """
    kernels = [np.float64(kernel) for kernel in kernels]
    biases = [np.float64(bias) for bias in biases]
    x = np.float64(images)
    inputs, convolved = [], []
    for kernel, bias in zip(kernels[:2], biases[:2], strict=True):
        inputs.append(x)
        convolved.append(np.maximum(convolution(x, kernel) + bias, 0))
        x = windows(convolved[-1]).max(-1)
    pooled_shape = x.shape
    x = x.reshape(len(x), -1)
    for kernel, bias in zip(kernels[2:], biases[2:], strict=True):
        inputs.append(x)
        x = np.maximum(x @ kernel + bias, 0)
    logits = inputs[-1] @ kernels[-1] + biases[-1]

    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    dy = probabilities - np.eye(10)[labels]
    gradients = []
    for kernel, x in zip(kernels[:1:-1], inputs[:1:-1], strict=True):
        gradients.append(x.T @ dy)
        dy = (dy @ kernel.T) * (x > 0)
    dy = dy.reshape(pooled_shape)
    for kernel, x, y in zip(
        kernels[1::-1], inputs[1::-1], convolved[::-1], strict=True
    ):
        dy = pooling_gradient(y, dy) * (y > 0)
        gradient, dy = convolution_gradients(x, kernel, dy)
        gradients.append(gradient)
    return [
        gradient + len(images) * 2 * weight_decay * kernel
        for gradient, kernel in zip(gradients[::-1], kernels, strict=True)
    ]


# The update of a mask.


def drop_fraction(step):
    """Follows a learning rate that decays along a cosine."""
    decay = (1 + np.cos(np.pi * step / DECAY_STEPS)) / 2
    return np.float32(DROP_FRACTION * decay)


def highest(scores, count):
    """Marks the highest scores; of equal ones the first."""
    marked = np.zeros(scores.size, bool)
    marked[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return marked.reshape(scores.shape)


def number_replaced(mask, fraction):
    return int(np.floor(np.float32(mask.sum()) * np.float32(fraction)))


def staying(weights, mask, fraction):
    """What is not dropped: inactive weights rank below active ones, even of value 0."""
    scores = np.where(mask, np.abs(weights), -1)
    return highest(scores, mask.sum() - number_replaced(mask, fraction))


def updated(weights, mask, grow_scores, fraction):
    """The mask after one update; what it drops may grow again."""
    stays = staying(weights, mask, fraction)
    scores = np.where(stays, -np.inf, grow_scores)
    return stays | highest(scores, number_replaced(mask, fraction))


def count_swaps(actual, expected, grow_scores):
    """How many connections differ, of which float32 cannot tell which score is higher.

    Zero, as a rule; another machine's rounding may meet one.
    """
    assert actual.sum() == expected.sum()
    scores = grow_scores[actual != expected]
    if scores.size:
        assert np.ptp(scores) <= PRECISION * np.abs(scores).max()
    return scores.size // 2


# A training.


class Snapshot(NamedTuple):
    """Lists of arrays, one for each layer."""

    kernels: list
    biases: list
    momenta: list
    masks: list


class Recorder(MaskUpdateObserver):
    """Takes snapshots just before and just after every mask update."""

    def __init__(self):
        super().__init__()
        self.updates = []
        self._before = None

    def on_mask_update_begin(self, step):
        self._before = snapshot(self.model)

    def on_mask_update_end(self, step):
        self.updates.append((step, self._before, snapshot(self.model)))


def snapshot(model):
    kernels = tiny.weights(model)
    momenta = []
    for path in kernels:
        (momentum,) = tiny.slots(model, path)
        momenta.append(momentum)
    masks = list(rigl_keras.get_masks(model).values())
    return Snapshot(list(kernels.values()), biases_of(model), momenta, masks)


def biases_of(model):
    return [variable.numpy() for variable in bias_variables(model)]


def bias_variables(model):
    return [v for v in model.trainable_variables if len(v.shape) == 1]


def sparse_lenet5(weight_decay):
    model = tiny.sparsify(
        networks.lenet5((28, 28, 1), 10, weight_decay=weight_decay),
        0.95,
        initializer="unit_scaled",
    )
    # Keeps units alive: those that are dead have gradients of 0, which RigL-Inverted
    # grows, and nothing else would be tested.
    for bias in bias_variables(model):
        bias.assign(np.full(bias.shape, 0.5, np.float32))
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, DECAY_STEPS)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def grow_batch(digits):
    return data.fixed_batch(digits.train_images, digits.train_labels, 1000, 1200)


def record_updates(name, digits):
    """Trains as the command line does; (step, before, after) of every mask update."""
    batches = data.batches(
        digits.train_images, digits.train_labels, 64, 0, LAST_STEP, seed=0
    )
    model = sparse_lenet5(WEIGHT_DECAY)
    updater = algorithm.make_mask_updater(
        algorithm.MaskUpdaterConfig(
            update_alg=name, update_freq=UPDATE_FREQ, init_drop_fraction=DROP_FRACTION
        ),
        model,
        lambda: grow_batch(digits),
        seeds=algorithm.Seeds(0, 0, 0),
    )
    recorder = Recorder()
    model.fit(batches, shuffle=False, verbose=0, callbacks=[recorder, updater])
    expected = range(UPDATE_FREQ, LAST_STEP + 1, UPDATE_FREQ)
    assert [step for step, *_ in recorder.updates] == list(expected)
    return recorder.updates


def assert_survivors_keep_their_state(before, after):
    """Regrown connections too; new ones, and those that are gone, are at 0."""
    for index, (old, new) in enumerate(zip(before.masks, after.masks, strict=True)):
        for name in ("kernels", "momenta"):
            expected = np.where(old & new, getattr(before, name)[index], 0)
            np.testing.assert_array_equal(getattr(after, name)[index], expected)
    for old, new in zip(before.biases, after.biases, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
def test_the_reference_gradient_is_the_models(digits, weight_decay):
    model = sparse_lenet5(weight_decay)
    x, y = grow_batch(digits)
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x))
        # A vector, whose gradient is that of its sum.
        loss = losses + sum(model.losses)
    variables = [tiny.raw(each.kernel) for each in rigl_keras.sparse_kernels(model)]
    kernels = list(tiny.weights(model).values())
    expected = lenet5_gradients(kernels, biases_of(model), x, y, weight_decay)
    for actual, gradient in zip(tape.gradient(loss, variables), expected, strict=True):
        tolerance = PRECISION * np.abs(gradient).max()
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("rigl", 1),
        pytest.param("rigl_inverted", -1, marks=pytest.mark.release),
    ],
)
def test_updates_of_a_training_are_the_originals(digits, name, sign):
    x, y = grow_batch(digits)
    swaps = new_ones = regrown = 0
    for step, before, after in record_updates(name, digits):
        fraction = drop_fraction(step)
        gradients = lenet5_gradients(before.kernels, before.biases, x, y, WEIGHT_DECAY)
        for weights, old, new, gradient in zip(
            before.kernels, before.masks, after.masks, gradients, strict=True
        ):
            scores = sign * np.abs(gradient)
            swaps += count_swaps(new, updated(weights, old, scores, fraction), scores)
            new_ones += (new & ~old).sum()
            regrown += (new & old & ~staying(weights, old, fraction)).sum()
        assert_survivors_keep_their_state(before, after)
    assert swaps <= 2
    assert new_ones > 500 and regrown > 500


@pytest.mark.release
def test_set_drops_as_the_original_and_grows_anywhere(digits):
    regrown = expected = 0
    for step, before, after in record_updates("set", digits):
        fraction = drop_fraction(step)
        for weights, old, new in zip(
            before.kernels, before.masks, after.masks, strict=True
        ):
            stays = staying(weights, old, fraction)
            replaced = number_replaced(old, fraction)
            assert new[stays].all()
            assert new.sum() == old.sum() == stays.sum() + replaced
            regrown += (new & old & ~stays).sum()
            expected += replaced**2 / (~stays).sum()
        assert_survivors_keep_their_state(before, after)
    # Hypergeometric draws, whose variance is less than their mean.
    assert abs(regrown - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "shape", [(5, 5, 1, 6), (5, 5, 6, 16), (256, 120), (120, 84), (84, 10)]
)
def test_selection_is_the_originals_for_random_tensors(shape, seed):
    generator = np.random.RandomState(seed)
    mask = generator.uniform(size=shape) < 0.2
    # Some active weights are exactly 0, as all inactive ones are.
    alive = mask & (generator.uniform(size=shape) < 0.9)
    weights = np.float32(generator.normal(size=shape) * alive)
    gradient = np.float32(generator.normal(size=shape))
    state = mask_updaters.KernelState(
        tf.constant(weights), tf.constant(mask), tf.constant(gradient)
    )
    for fraction in np.float32([0, 0.05, 0.3, 0.97, 1]):
        for updater, sign in (
            (mask_updaters.RigL(), 1),
            (mask_updaters.RigLInverted(), -1),
        ):
            np.testing.assert_array_equal(
                updater.new_mask(state, tf.constant(fraction)),
                updated(weights, mask, sign * np.abs(gradient), fraction),
            )
