"""Small models, data and checks that several test modules share."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import rigl_keras

IS_KERAS_3 = hasattr(keras, "ops")
INPUTS, HIDDEN, OUTPUTS = 6, 8, 3
# A test whose training is too short for its schedule, and is told so.
too_short = pytest.mark.filterwarnings(
    "ignore:.* (of|in) this training, ([0-9]+ in )?steps:UserWarning"
)


@functools.cache
def two_replicas():
    """The strategy of all tests, as two in one process mix up their collectives."""
    return tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])


def raw(variable):
    """The `tf.Variable` behind a variable of either Keras."""
    return variable.value if IS_KERAS_3 else variable


def integers(shape, seed=0, low=-2, high=2):
    """Small integers as float32: their sums are exact, in whatever order."""
    generator = np.random.RandomState(seed)
    return generator.randint(low, high + 1, shape).astype(np.float32)


def data(samples=32, inputs=INPUTS, outputs=OUTPUTS):
    return integers((samples, inputs), 1), integers((samples, outputs), 2)


def batch(model, size=3):
    """One batch of small integers for every input of a model."""
    generator = np.random.RandomState(0)
    inputs = [
        generator.randint(0, 5, (size, *shape[1:])).astype(np.float32)
        for shape in (tuple(tensor.shape) for tensor in model.inputs)
    ]
    return inputs if len(inputs) > 1 else inputs[0]


def mlp(**options):
    """6 → 8 → 3; every kernel has a shape of its own."""
    return keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Dense(HIDDEN, name="hidden", **options),
            keras.layers.Dense(OUTPUTS, name="out", **options),
        ]
    )


def set_integer_weights(model, divisor=2.0):
    """Small weights with ties and zeros among them."""
    for index, variable in enumerate(model.weights):
        variable.assign(integers(tuple(variable.shape), index) / divisor)


def sparsify(model, sparsity=0.5, **options):
    options = {"distribution": "uniform", "verbose": False, **options}
    return rigl_keras.sparsify(model, sparsity, **options)


def compiled(model, optimizer=None, **options):
    optimizer = optimizer or keras.optimizers.SGD(2.0**-6, momentum=0.5)
    model.compile(optimizer, **{"loss": "mse", **options})
    return model


def sparse_mlp(optimizer=None, sparsity=0.5, seed=0, **options):
    """A compiled sparse MLP with the same small weights at every call."""
    model = mlp()
    set_integer_weights(model)
    return compiled(sparsify(model, sparsity, seed=seed), optimizer, **options)


def fit(model, *callbacks, samples=32, batch_size=8, epochs=1, **options):
    """Trains on the same data in the same order at every call."""
    x, y = data(samples)
    options = {"shuffle": False, "verbose": 0, **options}
    return model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        callbacks=list(callbacks),
        **options,
    )


def weights(model):
    return {each.path: each.kernel.numpy() for each in rigl_keras.sparse_kernels(model)}


def counts(model):
    return {p: int(m.sum()) for p, m in rigl_keras.get_masks(model).items()}


def assert_same_masks(left, right):
    assert left.keys() == right.keys()
    for path, mask in left.items():
        np.testing.assert_array_equal(mask, right[path], err_msg=path)


def assert_zero_off_masks(model):
    masks = rigl_keras.get_masks(model)
    for path, kernel in weights(model).items():
        assert np.isfinite(kernel).all(), path
        assert (kernel[~masks[path]] == 0).all(), path


def slots(model, path):
    """All optimizer state of a kernel's shape, which only that kernel has."""
    shape = weights(model)[path].shape
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return [v.numpy() for v in optimizer.variables if tuple(v.shape) == shape]


def largest(scores, count, among):
    """Flat indices of the largest scores; of equal ones the lower index, NaN last."""

    def rank(index):
        score = scores[index]
        return (1, 0.0, index) if np.isnan(score) else (0, -float(score), index)

    return sorted(among, key=rank)[:count]


def reference_mask(mask, drop_scores, grow_scores, fraction):
    """One update of a mask as Algorithm 1 of RigL states it, by sorting lists."""
    active = np.flatnonzero(mask)
    replaced = int(np.floor(np.float32(len(active)) * np.float32(fraction)))
    kept = largest(drop_scores.ravel(), len(active) - replaced, active)
    candidates = sorted(set(range(mask.size)) - set(kept))
    grown = largest(grow_scores.ravel(), replaced, candidates)
    new = np.zeros(mask.size, bool)
    new[kept + grown] = True
    return new.reshape(mask.shape)


class EveryStep(keras.callbacks.Callback):
    """Calls a function with the model after every execution of steps."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def on_train_batch_end(self, batch, logs=None):
        self._function(self.model)


def forever(callback=rigl_keras.SET, every=1, fraction=0.5, **options):
    """A callback that updates masks, by the same fraction, until the training ends."""
    return callback(
        update_freq=every,
        drop_fraction=fraction,
        schedule="constant",
        last_update_step=-1,
        **options,
    )


class UpdateSteps(keras.callbacks.Callback):
    """Notes after which of the optimizer's steps the masks were others than before."""

    def __init__(self):
        super().__init__()
        self.steps, self._masks = [], None

    def on_train_begin(self, logs=None):
        self._masks = self._bytes()

    def on_train_batch_end(self, batch, logs=None):
        masks = self._bytes()
        if masks != self._masks:
            optimizer = self.model.optimizer
            optimizer = getattr(optimizer, "inner_optimizer", optimizer)
            self.steps.append(int(optimizer.iterations.numpy()))
        self._masks = masks

    def _bytes(self):
        return [m.tobytes() for m in rigl_keras.get_masks(self.model).values()]


def update_steps(model, *callbacks, **options):
    """Trains and returns the optimizer's steps that changed masks."""
    noted = UpdateSteps()
    fit(model, *callbacks, noted, **options)
    return noted.steps
