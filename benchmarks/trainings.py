"""Training steps: dense, static, SET and RigL in turn, and TFMOT's pruning beside them.

Every contestant trains a model of its own by `fit`, as users do. A turn is a call of
`fit`, of which the steps after the first ones are timed.
"""

import os
import statistics
import time
import warnings

from tensorflow import keras

import rigl_keras
from benchmarks.setups import SETUPS
from benchmarks.turns import by_clock, take_turns, timed

SPARSITY = 0.9
NEVER = 10**6  # steps are not made in any turn
ALWAYS = {"schedule": "constant", "last_update_step": -1}


class _Clock(keras.callbacks.Callback):
    """Times the steps of one `fit` but for the first ones, and says when it begins.

    It has no method for a batch's end, for which Keras 3 would wait.
    """

    def __init__(self, warm_up, begin):
        super().__init__()
        self._warm_up, self._begin = warm_up, begin
        self._wall = self._cpu = 0.0
        self.wall = self.cpu = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """Starts after the warm-up."""
        if batch == self._warm_up:
            self._begin()
            self._wall, self._cpu = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        """Stops: Keras has read the metrics, so the steps are done."""
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu


class Contestant:
    """One way to train a setup's model.

    Args:
      setup: `Setup`.
      wrap: function from the dense model to the one that is trained.
      callbacks: of `fit`.
      jit_compile: whether XLA compiles the training step.
      optimizer: of this model alone; None for SGD with momentum.
    """

    def __init__(self, setup, wrap, callbacks, *, jit_compile, optimizer=None):
        self._steps, self._warm_up = setup.steps, setup.warm_up
        self._data = setup.data()
        keras.utils.set_random_seed(0)
        self._model = wrap(setup.make(setup.input_shape, setup.classes))
        self._model.compile(
            optimizer or keras.optimizers.SGD(0.001, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile,
        )
        self._callbacks = callbacks
        self._updates: list[dict[str, float]] = []
        for callback in callbacks:
            if isinstance(callback, rigl_keras.SET | rigl_keras.RigL):
                self._time_updates(callback)
        self.turn()  # traces and compiles

    def _time_updates(self, callback):
        after_steps = timed(callback.after_steps)
        callback.after_steps = lambda: self._updates.append(after_steps())

    def turn(self):
        """Trains for some steps; seconds a step of wall and of CPU time, and more."""
        clock = _Clock(self._warm_up, begin=self._updates.clear)
        with warnings.catch_warnings():
            # Between updates none is due, which is what is measured.
            warnings.filterwarnings("ignore", ".*no mask update is due")
            self._model.fit(
                self._data,
                steps_per_epoch=self._warm_up + self._steps,
                verbose=0,
                callbacks=[*self._callbacks, clock],
            )
        return {
            "wall": clock.wall / self._steps,
            "cpu": clock.cpu / self._steps,
            "update": self._mean_update("wall"),
            "update_cpu": self._mean_update("cpu"),
        }

    def _mean_update(self, key):
        return statistics.fmean(times[key] for times in self._updates or [{key: 0.0}])


def _sparse(model):
    # ERK would leave some small kernels dense: this way all have a mask.
    return rigl_keras.sparsify(
        model, SPARSITY, distribution="uniform", initializer="unit_scaled", seed=0
    )


def _contestants(setup, jit_compile):
    def make(wrap, *callbacks):
        return Contestant(setup, wrap, callbacks, jit_compile=jit_compile)

    rare, always = {"update_freq": NEVER}, {"update_freq": 1}
    return {
        "dense": lambda: make(lambda model: model),
        "static": lambda: make(_sparse, rigl_keras.Static()),
        "SET": lambda: make(_sparse, rigl_keras.SET(**rare, **ALWAYS)),
        "RigL": lambda: make(_sparse, rigl_keras.RigL(**rare, **ALWAYS)),
        "RigL, always updating": lambda: make(
            _sparse, rigl_keras.RigL(**always, **ALWAYS)
        ),
        "TFMOT": lambda: _tfmot(NEVER, make),
        "TFMOT, always updating": lambda: _tfmot(1, make),
    }


def _tfmot(frequency, make):
    """TFMOT's pruning at the same sparsity, whose masks it draws anew by magnitude."""
    import tensorflow_model_optimization as tfmot

    sparsity = tfmot.sparsity.keras
    schedule = sparsity.ConstantSparsity(SPARSITY, 0, frequency=frequency)
    return make(
        lambda model: sparsity.prune_low_magnitude(model, schedule),
        sparsity.UpdatePruningStep(),
    )


def measure(setup, jit_compile=False, *, names=None, rounds=None):
    """Times the steps of a setup.

    Args:
      setup: key of `SETUPS`.
      jit_compile: whether XLA compiles the training steps.
      names: list of contestants; None for dense, static, SET and RigL.
      rounds: int >= 1, turns of each; None for the setup's.

    Returns:
      A dict of the setup's numbers, and of "wall", "cpu", "update" and "update_cpu",
      each a dict from contestants to lists of seconds a step, or of an update, round by
      round.
    """
    setup = SETUPS[setup]
    makers = _contestants(setup, jit_compile)
    names = names or [name for name in makers if not name.startswith("TFMOT")]
    contestants = {name: makers[name]().turn for name in names}
    results = take_turns(contestants, rounds or setup.turns)
    return {
        "setup": setup.name,
        "batch_size": setup.batch_size,
        "jit_compile": jit_compile,
        "legacy_keras": os.environ.get("TF_USE_LEGACY_KERAS") == "1",
        **by_clock(results),
    }
