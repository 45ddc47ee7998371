"""A run of the command line: set up, train, resume, and record the result."""

import copy
import dataclasses
import functools
import os
import sys
import tempfile
import time

import gin
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat, data
from rigl_keras.costs.summary import summary
from rigl_keras.program import algorithm, devices, files, test_set
from rigl_keras.program.checkpoints import Checkpoints, saved_steps
from rigl_keras.program.diagnostics import (
    MASK_UPDATES_FILE,
    Diagnostics,
    MaskUpdateRecorder,
    Norms,
)
from rigl_keras.program.files import RESULTS_FILE, RUN_FILE
from rigl_keras.program.lock import FolderLock
from rigl_keras.program.loggers import (
    METRICS_FILE,
    CheckpointSaver,
    RunLogger,
    Tests,
    record_meta_losses,
)
from rigl_keras.program.network import compile_network, make_network
from rigl_keras.program.optimizer import OptimizerConfig
from rigl_keras.program.schedule import TrainingConfig
from rigl_keras.program.watch import AtOnce, Beside
from rigl_keras.training.base import SparseTraining
from rigl_keras.training.clock import StepClock
from rigl_keras.training.gradient_flow import FlowMeter
from rigl_keras.training.gradient_penalty import regularize_gradient
from rigl_keras.training.metainit import meta_init
from rigl_keras.training.one_shot import prune_once
from rigl_keras.training.pruning import Pruning

CONFIG_FILE = "operative_config.gin"


class Run:
    """A training run in a folder, described by the gin configuration that is parsed.

    Creating it checks the configuration, loads the data and builds the model; nothing
    is written. In a folder that holds a part of the same run, `begin` goes back to its
    last checkpoint. Where several workers train together, each makes the same run; the
    chief alone writes into the folder.

    Args:
      logdir: path of the run's folder, made when it is not there; one for all workers.
      seed: int >= 0, for every seed that the configuration leaves open.

    Raises:
      ValueError: for a configuration that cannot be run, or a folder that holds another
        run.
    """

    def __init__(self, logdir, seed):
        self._logdir = logdir
        self._config = TrainingConfig()
        self._start = 0
        self._seeds = algorithm.make_seeds(seed)
        self._description = {
            "config": gin.config_str(),
            "seeds": dataclasses.asdict(self._seeds),
        }
        self._check_logdir()
        self.finished = files.read_json(self._path(RESULTS_FILE))
        if self.finished is None:
            # Before anything else of TensorFlow: workers connect as it starts.
            self._strategy = devices.StrategyConfig().make()
            self._is_chief = devices.is_chief(self._strategy)
            self._build()

    def _path(self, name):
        return os.path.join(self._logdir, name)

    def _check_logdir(self):
        before = files.read_json(self._path(RUN_FILE))
        if before is None:
            if saved_steps(self._logdir):
                raise ValueError(
                    f"{self._logdir} holds checkpoints of something else. Use another "
                    "--logdir."
                )
            return
        theirs, ours = _lines(before), _lines(self._description)
        if theirs != ours:
            raise ValueError(
                f"{self._logdir} holds a run with other settings: "
                f"{sorted(theirs - ours)} there, {sorted(ours - theirs)} here. Use "
                "another --logdir, or the same settings to go on with that run."
            )

    def _build(self):
        config = self._config
        self._optimizer_config = OptimizerConfig()
        parts = self._optimizer_config.gradient_accumulation_steps
        devices.check_batch_size(
            "training.batch_size", config.batch_size, self._strategy, parts=parts
        )
        self._images = algorithm.load_data()
        keras.utils.set_random_seed(self._seeds.init_seed)
        keras.mixed_precision.set_global_policy(config.precision)
        # Made here, so that sizes that do not fit are refused before anything is done.
        self._test_data = self._make_test_data()
        self._make_train_data(0, 1)
        with self._strategy.scope():
            self._build_model()

    def _build_model(self):
        self._model = self._make_network()
        self._compile(self._model)
        self._state = None
        if self._updater is not None:
            self._updater.prepare(self._model)
            self._state = self._updater.state

    def _compile(self, model):
        config = self._config
        compile_network(
            model,
            self._optimizer_config.make(config.steps, config.batch_size),
            label_smoothing=config.label_smoothing,
            top_k=config.top_k,
            jit_compile=config.jit_compile,
        )
        compat.build_optimizer(model.optimizer, list(model.trainable_variables))

    def _make_watch(self):
        """What tests and saves: beside the training where a core is left for it."""
        has_cores_only = not tf.config.list_logical_devices("GPU")
        is_small = isinstance(self._images, data.ImageData)
        is_plain = self._config.gradient_regularization == 0
        is_alone = self._strategy.num_replicas_in_sync == 1
        if not (has_cores_only and is_small and is_plain and is_alone):
            return AtOnce(self._model, self._state)
        with self._strategy.scope():
            model = self._network()
            self._compile(model)
            state = copy.deepcopy(self._state)
        return Beside(self._model, self._state, (model, state))

    def _make_test_set(self, model):
        is_alone = self._strategy.num_replicas_in_sync == 1
        is_small = isinstance(self._images, data.ImageData)
        kind = test_set.InMemory if is_alone and is_small else test_set.Streamed
        return kind(model, self._test_data, self._test_steps)

    def _make_test_data(self):
        replicas = self._strategy.num_replicas_in_sync
        size = min(self._config.val_batch_size, self._images.num_test)
        size = max(size - size % replicas, replicas)
        self._test_steps = -(-self._images.num_test // size)
        return devices.distribute(
            self._strategy,
            lambda worker, workers: self._images.test_batches(size, worker, workers),
            size,
        )

    def _make_train_data(self, start, stop):
        size, parts = self._config.batch_size, self._parts
        order = (size, start, stop, self._seeds.data_seed)

        def of_worker(worker, workers):
            batches = self._images.train_batches(*order, worker, workers)
            return batches.rebatch(size // workers // parts) if parts > 1 else batches

        return devices.distribute(self._strategy, of_worker, size // parts)

    @property
    def _parts(self):
        """How many batches make a step."""
        return self._optimizer_config.gradient_accumulation_steps

    def _make_network(self):
        """The network; makes what changes its masks before and while it trains too."""
        config = self._config
        updater_config = algorithm.MaskUpdaterConfig()
        self._updater_config = updater_config.stretched(config.length)
        self._one_shot = self._updater_config.one_shot_pruner(
            config.oneshot_prune_fraction, config.oneshot_ranking
        )
        pruning = algorithm.make_pruning(config.length)
        if pruning is not None and self._updater_config.update_alg:
            raise ValueError(
                "pruning.* and mask_updater.update_alg="
                f"{self._updater_config.update_alg!r} would both change the masks. Set "
                "pruning.mode='constant' and pruning.final_sparsity=0., or "
                "mask_updater.update_alg=''."
            )
        self._network = functools.partial(
            make_network,
            self._images.input_shape,
            self._images.num_classes,
            self._seeds,
            is_pruned=pruning is not None or self._one_shot is not None,
            is_scratch=pruning is None and not self._updater_config.evolves,
        )
        model = self._network()
        self._updater: SparseTraining | None = pruning or algorithm.make_mask_updater(
            self._updater_config, model, self._grow_batch, seeds=self._seeds
        )
        if config.gradient_regularization > 0:
            return regularize_gradient(model, config.gradient_regularization)
        return model

    def _grow_batch(self):
        return algorithm.grow_batch(self._images, self._config.val_batch_size)

    def _checkpoints_in(self, folder, model=None, state=None, *, keep=True):
        """Those of the run's own model and state, or of copies of both."""
        if model is None:
            model, state = self._model, self._state
        return Checkpoints(folder, model, model.optimizer, state=state, keep=keep)

    def begin(self):
        """Makes the folder, or restores the last checkpoint of the run in it.

        Raises:
          OSError: when the folder cannot be written, or another process works in it.
          ValueError: when a checkpoint in it belongs to another model.
        """
        if self.finished is not None:
            return
        os.makedirs(self._logdir, exist_ok=True)
        if self._is_chief:
            self._lock = FolderLock(self._logdir)
        step = self._checkpoints_in(self._logdir).restore_last()
        devices.check_same_on_all_workers(
            self._strategy, "the last checkpoint", -1 if step is None else step
        )
        # From here on the chief writes. What the others have to write nobody reads.
        if self._is_chief:
            self._own = self._logdir
        else:
            self._scratch = tempfile.TemporaryDirectory()
            self._own = self._scratch.name
        if not os.path.exists(os.path.join(self._own, RUN_FILE)):
            config = os.path.join(self._own, CONFIG_FILE)
            files.write_text(config, gin.operative_config_str())
            files.write_json(os.path.join(self._own, RUN_FILE), self._description)
        self._writer = tf.summary.create_file_writer(self._own)
        if step is None:
            self._prepare_weights()
            self._checkpoints_in(self._own, keep=self._is_chief).save(0)
        else:
            print(f"Going on from step {step} of {self._logdir}.")
            self._start = step
        # A training that starts at step 0 records that step itself.
        last_kept = self._start or -1
        for file in (METRICS_FILE, MASK_UPDATES_FILE):
            files.drop_records_after(os.path.join(self._own, file), last_kept)
        devices.check_same_on_all_workers(self._strategy, "the start", self._start)

    def _prepare_weights(self):
        """What happens once, before the first step: one-shot pruning and MetaInit."""
        fraction = self._config.oneshot_prune_fraction
        if self._one_shot is not None:
            prune_once(self._model, self._one_shot, fraction, self._grow_batch())
        if self._config.use_metainit:
            losses = meta_init(self._model, seed=self._seeds.init_seed)
            record_meta_losses(self._own, self._writer, losses)

    def train(self):
        """Trains to the end and writes the result; call `begin` first.

        Returns:
          The content of files.json.
        """
        if self.finished is not None:
            print(f"{self._logdir} is finished; its result is in {RESULTS_FILE}.")
            return self.finished
        if self._is_chief:
            summary(self._model)
        began = time.perf_counter()
        try:
            record = self._fit(self._start)
        finally:
            self._writer.close()
            self._release()
        seconds = time.perf_counter() - began
        steps_per_second = (self._config.steps - self._start) / seconds
        result = self._result(record, steps_per_second)
        files.write_json(os.path.join(self._own, RESULTS_FILE), result)
        return result

    def _release(self):
        if self._is_chief:
            self._lock.release()

    def _fit(self, start):
        config, images = self._config, self._images
        if start == config.steps:
            # Broken off between the last checkpoint and the result.
            return files.read_jsonl(self._path(METRICS_FILE))[-1]
        watch = self._make_watch()
        clock = StepClock(start, config.steps, self._parts)
        checkpoints = self._checkpoints_in(
            self._own, watch.model, watch.state, keep=self._is_chief
        )
        flow_batch = algorithm.flow_batch(images, config.val_batch_size)
        norms = Norms(FlowMeter(watch.model, flow_batch))
        before = self._make_updaters(watch, checkpoints, norms)
        logger = self._make_logger(watch, norms, clock)
        saver = CheckpointSaver(checkpoints, watch, clock, save_freq=config.save_freq)
        try:
            self._model.fit(
                self._make_train_data(start, config.steps),
                steps_per_epoch=(config.steps - start) * self._parts,
                shuffle=False,  # The data set is in its order already.
                verbose=1 if self._is_chief and sys.stdout.isatty() else 0,
                # The record before the checkpoint: a resumed run repeats neither.
                callbacks=[*before, logger, saver],
            )
        finally:
            watch.end()
        return logger.last_record

    def _make_updaters(self, watch, checkpoints, norms):
        """The callbacks that change masks and look at that."""
        config = self._config
        if self._updater is None:
            return []
        if not config.log_mask_updates:
            return [self._updater]
        recorder = MaskUpdateRecorder(
            self._own,
            checkpoints if config.save_mask_updates else None,
            norms,
            watch=watch,
            writer=self._writer,
        )
        return [self._updater, recorder]

    def _make_logger(self, watch, norms, clock):
        config, updater = self._config, self._updater
        return RunLogger(
            self._own,
            self._writer,
            clock,
            log_freq=config.log_freq,
            tests=Tests(
                self._make_test_set(watch.model),
                config.eval_freq(self._images.num_train),
            ),
            diagnostics=Diagnostics(watch, norms, self._path("ckpt-0")),
            thresholds=updater.thresholds if isinstance(updater, Pruning) else None,
            prints=self._is_chief and not sys.stdout.isatty(),
        )

    def _result(self, record, steps_per_second):
        table = summary(self._model, print_fn=None)
        masked = {row.path: row.sparsity for row in table.rows if row.masked}
        return {
            "data": self._images.name,
            "network": self._model.name,
            "method": self._method(),
            "test_accuracy": record["test_accuracy"],
            "test_loss": record["test_cross_entropy"],
            **{name: record[name] for name in record if name.startswith("test_top")},
            "sparsity": {"all": table.kernel_sparsity, **masked},
            "active_weights": table.active,
            "weights": table.size,
            "steps": self._config.steps,
            "steps_per_second": steps_per_second,
            "replicas": self._strategy.num_replicas_in_sync,
            **self._description,
            **files.environment(),
        }

    def _method(self):
        if self._one_shot is not None and not self._updater_config.evolves:
            return type(self._one_shot).__name__
        return "Dense" if self._updater is None else self._updater.method


def _lines(description):
    """The settings of a run, one a line, without gin's comments.

    A run may go on with other devices.
    """
    config = description["config"].splitlines()
    seeds = [f"{name} = {value}" for name, value in description["seeds"].items()]
    return {
        line
        for line in config + seeds
        if line and not line.startswith(("#", "strategy."))
    }
