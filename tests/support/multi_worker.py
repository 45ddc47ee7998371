"""One worker of a cluster: trains every case, and writes what each step leaves.

    TF_CONFIG=... python multi_worker.py FOLDER SECONDS

After SECONDS it says where it hangs, and ends. The test trains the same cases on one
device by the functions here.
"""

import collections
import faulthandler
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
import tiny
from golden import LAYERS, exact_net
from tensorflow import keras

import rigl_keras
from rigl_keras import SNFS, Pruning, Static, mask_updaters

STEPS, BATCH = 4, 16
CHECKPOINT_STEP = 2
X, Y = tiny.integers((STEPS * BATCH, 6, 6, 1), 1), tiny.integers((STEPS * BATCH, 1), 2)


class ExactSNFS(SNFS):
    """Averages by powers of two, so that sums stay exact."""

    class updater(mask_updaters.SNFS):  # noqa: N801
        gradient_decay = 0.5


def _sgd():
    return keras.optimizers.SGD(2.0**-6, momentum=0.5)


def _forever(callback, **options):
    return lambda: tiny.forever(callback, 2, 0.4, **options)


def _dense_net():
    """The same net without zeros, for pruning."""
    model = exact_net()
    masks = rigl_keras.get_masks(model)
    rigl_keras.set_masks(model, {path: np.ones_like(m) for path, m in masks.items()})
    return model


def _rounding_net():
    """Its sums depend on their order, and its draws on the replica."""
    layers = [
        keras.Input((6, 6, 1)),
        LAYERS.Conv2D(5, 3, activation="relu", name="conv"),
        LAYERS.BatchNormalization(),
        LAYERS.Flatten(),
        LAYERS.Dropout(0.2),
        LAYERS.Dense(7, activation="relu", name="hidden"),
        LAYERS.Dense(1, name="out"),
    ]
    keras.utils.set_random_seed(0)
    return tiny.sparsify(keras.Sequential(layers), 0.6)


def _prune():
    schedule = rigl_keras.schedules.polynomial_decay(0.0, 0.9, 1, STEPS, frequency=1)
    return Pruning(schedule)


def _spoilt():
    """A target that is no number, in the part of the second worker in the 2nd batch."""
    y = Y.copy()
    y[2 * BATCH - 1] = np.nan
    return y


def _overflowing():
    """A target whose scaled gradient overflows, there in the first batch."""
    y = Y.copy()
    y[BATCH - 1] = 1e37
    return y


def _loss_scaling():
    return keras.mixed_precision.LossScaleOptimizer(_sgd())


Case = collections.namedtuple(
    "Case", "callback model optimizer y", defaults=(exact_net, _sgd, Y)
)

CASES = {
    "RigL": Case(_forever(rigl_keras.RigL)),
    "SET": Case(_forever(rigl_keras.SET)),
    "grow_data": Case(_forever(rigl_keras.RigL, grow_data=(X[:16], Y[:16]))),
    "skip_weight_step": Case(_forever(rigl_keras.RigL, skip_weight_step=True)),
    "SNFS": Case(_forever(ExactSNFS)),
    "Static": Case(Static),
    "Pruning": Case(_prune, _dense_net),
    "not finite": Case(_forever(rigl_keras.RigL), y=_spoilt()),
    "rounding": Case(
        _forever(rigl_keras.RigL), _rounding_net, lambda: keras.optimizers.Adam(0.01)
    ),
}
if not tiny.IS_KERAS_3:
    # Keras 3 asks each worker by itself whether gradients overflow, and hangs.
    CASES["overflow"] = Case(
        _forever(rigl_keras.RigL), optimizer=_loss_scaling, y=_overflowing()
    )


def by_fit(case, strategy, folder=None):
    """Trains by `fit`, as Keras 2 can on several workers."""
    with strategy.scope():
        model = tiny.compiled(case.model(), case.optimizer())
    history = [snapshot(model, model.optimizer)]
    note = tiny.EveryStep(
        lambda model: history.append(snapshot(model, model.optimizer))
    )
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(X, case.y, callbacks=[case.callback(), note], **options)
    return history


def by_loop(case, strategy, folder=None):
    """Trains by a loop of its own, which leaves a checkpoint in the middle."""
    model, optimizer = for_loop(case, strategy)
    callback = case.callback()
    history = [snapshot(model, optimizer)]
    for step in run(case, strategy, model, optimizer, callback):
        history.append(snapshot(model, optimizer))
        if folder is not None and step == CHECKPOINT_STEP:
            # All workers do, each its own: what is summed over them, such as Keras 2's
            # metrics or SNFS's averages, is read by all at once.
            model.save_weights(folder / "model.weights.h5")
            checkpoint(model, optimizer, callback).write(str(folder / "ckpt"))
            if strategy.cluster_resolver.task_id == 0:
                rigl_keras.strip(model).save(folder / "plain.keras")
    return history


def for_loop(case, strategy):
    """A model and the optimizer that a loop trains it by."""
    with strategy.scope():
        model, optimizer = case.model(), case.optimizer()
        tiny.compiled(model, _sgd())  # Only for its loss, which grow_data needs.
    return model, optimizer


def run(case, strategy, model, optimizer, callback, first=0):
    """Yields each step's number, counted from 1, when it is done."""
    data = tf.data.Dataset.from_tensor_slices((X, case.y)).batch(BATCH).skip(first)
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


def snapshot(model, optimizer):
    """Masks, kernels and the slots of kernels, as a dict of arrays."""
    arrays = {}
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for each in rigl_keras.sparse_kernels(model):
        arrays[f"mask/{each.path}"] = each.mask.numpy()
        arrays[f"kernel/{each.path}"] = each.kernel.numpy()
        slots = [v for v in optimizer.variables if v.shape == each.kernel.shape]
        for index, slot in enumerate(slots):
            arrays[f"slot{index}/{each.path}"] = slot.numpy()
    return arrays


def trainings():
    """The trainings of this Keras, as pairs of how it is done and the case."""
    if tiny.IS_KERAS_3:
        return [("loop", name) for name in CASES]
    loops = ["RigL", "grow_data", "SNFS"]
    return [("fit", name) for name in CASES] + [("loop", name) for name in loops]


def train(how, name, strategy, folder=None):
    """Trains a case; returns a snapshot of the start and of each step."""
    function = {"fit": by_fit, "loop": by_loop}[how]
    return function(CASES[name], strategy, folder)


def _train_all(strategy, folder):
    for how, name in trainings():
        print(how, name, flush=True)  # So that a log says where it hangs.
        own = folder / how / name
        own.mkdir(parents=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = train(how, name, strategy, own)
        messages = [str(each.message) for each in caught if _is_ours(each)]
        arrays = {
            f"{step}/{key}": value
            for step, snapshot in enumerate(history)
            for key, value in snapshot.items()
        }
        np.savez(own / "history.npz", **arrays)
        (own / "warnings.json").write_text(json.dumps(messages))


def _is_ours(warning):
    return "rigl_keras" in Path(warning.filename).parts


def _refusal_of_fit(strategy):
    with strategy.scope():
        model = tiny.compiled(exact_net(), _sgd())
    try:
        model.fit(X, Y, verbose=0)
    except ValueError as error:
        return str(error)
    return "none"


def main(folder, seconds):
    """Trains all cases as this worker of the cluster."""
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    _train_all(strategy, Path(folder))
    if tiny.IS_KERAS_3:
        (Path(folder) / "refusal.txt").write_text(_refusal_of_fit(strategy))


if __name__ == "__main__":
    main(*sys.argv[1:])
