"""What `fit` may be given as data: batches from workers, and fewer than it expects."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.training.session import session_of

BATCH, BATCHES, EPOCHS = 8, 8, 2
X, Y = tiny.data(BATCH * BATCHES)
SCHEDULE = rigl_keras.schedules.polynomial_decay(0.0, 0.8, 2, 12, frequency=3)
METHODS = {
    "RigL": (0.5, lambda: rigl_keras.RigL(3, 0.5)),
    "Pruning": (0.0, lambda: rigl_keras.Pruning(SCHEDULE)),
}
both_methods = pytest.mark.parametrize("method", METHODS)


class Batches(keras.utils.PyDataset if tiny.IS_KERAS_3 else keras.utils.Sequence):
    """The data, made by workers."""

    def __init__(self, **options):
        if tiny.IS_KERAS_3:
            super().__init__(**options)

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return X[part], Y[part]


def from_workers(use_multiprocessing=False):
    options = {"workers": 2, "use_multiprocessing": use_multiprocessing}
    if tiny.IS_KERAS_3:
        return {"x": Batches(**options)}
    return {"x": Batches(), **options}


def from_a_generator():
    source = Batches()
    batches = (source[i] for _ in range(EPOCHS) for i in range(BATCHES))
    return {"x": batches, "steps_per_epoch": BATCHES}


def trained(method, **options):
    sparsity, make = METHODS[method]
    model, noted = tiny.sparse_mlp(sparsity=sparsity), tiny.UpdateSteps()
    model.fit(callbacks=[make(), noted], shuffle=False, verbose=0, **options)
    return model, noted.steps


@both_methods
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(from_workers, marks=pytest.mark.release),
        # Processes that are forked after TensorFlow has started.
        pytest.param(lambda: from_workers(True), marks=pytest.mark.release),
        from_a_generator,
    ],
    ids=["threads", "processes", "generator"],
)
def test_batches_of_any_source_train_as_arrays_do(method, make):
    model, steps = trained(method, epochs=EPOCHS, **make())
    expected, expected_steps = trained(
        method, x=X, y=Y, batch_size=BATCH, epochs=EPOCHS
    )
    assert steps == expected_steps == {"RigL": [3, 6], "Pruning": [5, 8, 11]}[method]
    tiny.assert_same_masks(rigl_keras.get_masks(model), rigl_keras.get_masks(expected))
    for weight, other in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


@tiny.too_short
@pytest.mark.both_kerases
@both_methods
def test_data_that_end_early_leave_a_model_that_can_be_trained_on(method):
    """Keras warns; Keras 2 ends the training then, and Keras 3 begins the data anew."""
    sparsity, make = METHODS[method]
    model, callback = tiny.sparse_mlp(sparsity=sparsity), make()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    noted = tiny.UpdateSteps()
    callbacks = [callback, noted, tiny.EveryStep(tiny.assert_zero_off_masks)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        model.fit(data, steps_per_epoch=6, epochs=4, callbacks=callbacks, verbose=0)
    assert noted.steps[:2] == {"RigL": [3, 6], "Pruning": [5, 8]}[method]
    assert session_of(model) is None
    tiny.assert_zero_off_masks(model)

    before = int(model.optimizer.iterations.numpy())
    model.fit(X, Y, batch_size=BATCH, callbacks=callbacks, verbose=0)
    assert session_of(model) is None
    assert int(model.optimizer.iterations.numpy()) == before + BATCHES
