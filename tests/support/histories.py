"""Trainings of exact sums, recorded: what every step leaves of masks and weights."""

import numpy as np
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras

STEPS, BATCH = 4, 16
X, Y = tiny.integers((STEPS * BATCH, 6, 6, 1), 1), tiny.integers((STEPS * BATCH, 1), 2)


def sgd():
    return keras.optimizers.SGD(2.0**-6, momentum=0.5)


def snapshot(model, optimizer):
    """Masks, kernels and the slots of kernels, as a dict of arrays."""
    arrays = {}
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for kernel in rigl_keras.sparse_kernels(model):
        arrays[f"mask/{kernel.path}"] = kernel.mask.numpy()
        arrays[f"kernel/{kernel.path}"] = in_full(kernel, kernel.variable)
        slots = [v for v in optimizer.variables if v.shape == kernel.variable.shape]
        for index, slot in enumerate(slots):
            arrays[f"slot{index}/{kernel.path}"] = in_full(kernel, slot)
    return arrays


def in_full(kernel, variable):
    """The kernel or one of its slots as an array of the dense shape.

    Of a compressed kernel it is one of two axes.
    """
    values = variable.numpy()
    if not kernel.is_compressed:
        return values
    array = np.zeros(kernel.shape, values.dtype)
    size = values.shape[2]
    for group, outputs in enumerate(kernel.indices.numpy()):
        for block, output in enumerate(outputs):
            rows = slice(group * size, (group + 1) * size)
            array[rows, output] = values[group, block]
    return array


def of_kind(arrays, kind):
    """The masks, the kernels or one kind of slots of a snapshot, by their paths."""
    return {
        name.split("/", 1)[1]: array
        for name, array in arrays.items()
        if name.startswith(f"{kind}/")
    }


def fit(model, callback, history, y=Y, first=0, last=STEPS):
    """Trains the steps from `first` to `last`; appends a snapshot of each."""
    note = tiny.EveryStep(
        lambda model: history.append(snapshot(model, model.optimizer))
    )
    steps = slice(first * BATCH, last * BATCH)
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(X[steps], y[steps], callbacks=[callback, note], **options)


def loop(model, optimizer, callback, y=Y, first=0):
    """Trains the steps after `first` without `fit`; yields the number of each."""
    strategy = model.distribute_strategy
    data = tf.data.Dataset.from_tensor_slices((X, y)).batch(BATCH).skip(first)
    replicas = strategy.num_replicas_in_sync

    def local_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y)) / replicas
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    with callback.attached(model, optimizer, total_steps=STEPS - first):
        step = tf.function(lambda x, y: strategy.run(local_step, (x, y)))
        batches = strategy.experimental_distribute_dataset(data)
        for number, (x, y) in enumerate(batches, start=first + 1):
            callback.run(step, x, y)
            yield number


def checkpoint(model, optimizer, callback):
    """All that a training goes on from."""
    return tf.train.Checkpoint(model=model, optimizer=optimizer, sparse=callback.state)
