"""One worker of a cluster: trains some cases, and writes what each step leaves.

    TF_CONFIG=... python multi_worker.py FOLDER SECONDS HOW:CASE ...

After SECONDS it says where it hangs, and ends. The test trains the same cases on one
device by the functions here.
"""

import collections
import faulthandler
import json
import os
import sys
import warnings
from pathlib import Path

import clusters
import histories
import numpy as np
import tensorflow as tf
import tiny
from golden import LAYERS, exact_net
from histories import BATCH, STEPS, X, Y, sgd, snapshot
from tensorflow import keras

import rigl_keras
from rigl_keras import SNFS, Pruning, Static, mask_updaters

SUPPORT = Path(__file__).resolve().parent
SECONDS = 300  # of a cluster that hangs
CHECKPOINT_STEP = 2


class ExactSNFS(SNFS):
    """Averages by powers of two, so that sums stay exact."""

    class updater(mask_updaters.SNFS):  # noqa: N801
        gradient_decay = 0.5


def _forever(callback, **options):
    return lambda: tiny.forever(callback, 2, 0.4, **options)


def _dense_net():
    """The same net without zeros, for pruning."""
    return exact_net(sparsity=0.0)


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
    return keras.mixed_precision.LossScaleOptimizer(sgd())


Case = collections.namedtuple(
    "Case", "callback model optimizer y", defaults=(exact_net, sgd, Y)
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
    histories.fit(model, case.callback(), history, case.y)
    return history


def by_loop(case, strategy, folder=None):
    """Trains by a loop of its own, which leaves a checkpoint in the middle."""
    model, optimizer = for_loop(case, strategy)
    callback = case.callback()
    history = [snapshot(model, optimizer)]
    for step in histories.loop(model, optimizer, callback, case.y):
        history.append(snapshot(model, optimizer))
        if folder is not None and step == CHECKPOINT_STEP:
            # All workers do, each its own: what is summed over them, such as Keras 2's
            # metrics or SNFS's averages, is read by all at once.
            model.save_weights(folder / "model.weights.h5")
            checkpoint = histories.checkpoint(model, optimizer, callback)
            checkpoint.write(str(folder / "ckpt"))
            if strategy.cluster_resolver.task_id == 0:
                rigl_keras.strip(model).save(folder / "plain.keras")
    return history


def for_loop(case, strategy):
    """A model and the optimizer that a loop trains it by."""
    with strategy.scope():
        model, optimizer = case.model(), case.optimizer()
        tiny.compiled(model, sgd())  # Only for its loss, which grow_data needs.
    return model, optimizer


def trainings():
    """All trainings of this Keras, as pairs of how it is done and the case."""
    if tiny.IS_KERAS_3:
        return [("loop", name) for name in CASES]
    loops = ["RigL", "grow_data", "SNFS"]
    return [("fit", name) for name in CASES] + [("loop", name) for name in loops]


def train(how, name, strategy, folder=None):
    """Trains a case; returns a snapshot of the start and of each step."""
    function = {"fit": by_fit, "loop": by_loop}[how]
    return function(CASES[name], strategy, folder)


# What a test starts, and reads


def on_two_workers(folder, trainings):
    """Trains them by two processes together; returns the folder of each."""
    folders = [folder / "worker0", folder / "worker1"]
    wanted = [f"{how}:{name}" for how, name in trainings]

    def command(index):
        return [sys.executable, __file__, folders[index], str(SECONDS), *wanted]

    paths = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT)])
    with clusters.two_workers(command, folder, PYTHONPATH=paths) as processes:
        clusters.wait_for(processes, folder)
    return folders


def history(folder, how, name):
    """For each step a dict of arrays; see `histories.snapshot`."""
    with np.load(folder / how / name / "history.npz") as arrays:
        steps = [{} for _ in range(STEPS + 1)]
        for key in arrays:
            step, name = key.split("/", 1)
            steps[int(step)][name] = arrays[key]
    assert all(steps)
    return steps


# What a worker does


def _train_all(trainings, strategy, folder):
    for how, name in trainings:
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
    # A checkout may be named so too, with other packages below it.
    return Path(rigl_keras.__file__).parent in Path(warning.filename).parents


def _refusal_of_fit(strategy):
    with strategy.scope():
        model = tiny.compiled(exact_net(), sgd())
    try:
        model.fit(X, Y, verbose=0)
    except ValueError as error:
        return str(error)
    return "none"


def main(folder, seconds, *trainings):
    """Trains cases as this worker of the cluster."""
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    _train_all([each.split(":") for each in trainings], strategy, Path(folder))
    if tiny.IS_KERAS_3:
        (Path(folder) / "refusal.txt").write_text(_refusal_of_fit(strategy))


if __name__ == "__main__":
    main(*sys.argv[1:])
