"""A run of the command line: set up, train, resume, and record the result."""

import dataclasses
import os
import sys
import time

import gin
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat, data, distributions, experiment, results
from rigl_keras.checkpoints import Checkpoints, steps
from rigl_keras.checks import check_int, check_not_negative
from rigl_keras.diagnostics import (
    MASK_UPDATES_FILE,
    Diagnostics,
    MaskUpdateRecorder,
)
from rigl_keras.experiment_network import compile_network, make_network
from rigl_keras.gradient_flow import FlowMeter
from rigl_keras.gradient_regularization import regularize_gradient
from rigl_keras.loggers import (
    METRICS_FILE,
    CheckpointSaver,
    RunLogger,
    record_meta_losses,
)
from rigl_keras.metainit import meta_init
from rigl_keras.oneshot import prune_once
from rigl_keras.pruning import Pruning
from rigl_keras.results import RESULTS_FILE, RUN_FILE
from rigl_keras.sparse_training import SparseTraining
from rigl_keras.summary import summary

CONFIG_FILE = "operative_config.gin"


@gin.configurable("training")
@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long a run trains and how often it writes.

    Attributes:
      total_steps: int >= 1, training steps.
      batch_size: int >= 1, examples in each step.
      val_batch_size: int >= 1, examples evaluated at a time, and training records in
        each of the two fixed batches on which gradient flow is measured and by which
        RigL grows.
      save_freq: int >= 1, steps between two checkpoints.
      log_freq: int >= 1, steps between two records of metrics.
      use_metainit: whether MetaInit rescales the initial weights.
      oneshot_prune_fraction: float in [0, 1), the share of weights that is pruned
        before training, by the criterion of mask_updater.update_alg.
      gradient_regularization: float >= 0, factor of half the squared norm of the
        gradient that is added to the loss.
      log_mask_updates: this package's own: whether the gradient norm is measured, and a
        checkpoint saved, before and after every mask update.
      oneshot_ranking: this package's own: "global" ranks the weights of all kernels
        together before training, "layer" those of each kernel.
    """

    total_steps: int = 5000
    batch_size: int = 128
    val_batch_size: int = 1000
    save_freq: int = 5
    log_freq: int = 250
    use_metainit: bool = False
    oneshot_prune_fraction: float = 0.0
    gradient_regularization: float = 0.0
    oneshot_ranking: str = "global"
    log_mask_updates: bool = True

    def __post_init__(self):
        """Refuses what is out of range.

        Raises:
          ValueError: naming it.
        """
        for name in (
            "total_steps",
            "batch_size",
            "val_batch_size",
            "save_freq",
            "log_freq",
        ):
            check_int(f"training.{name}", getattr(self, name), minimum=1)
        distributions.check_sparsity(
            self.oneshot_prune_fraction, "training.oneshot_prune_fraction"
        )
        check_not_negative(
            "training.gradient_regularization", self.gradient_regularization
        )


class Run:
    """A training run in a folder, described by the gin configuration that is parsed.

    Creating it checks the configuration, loads the data and builds the model; nothing
    is written. In a folder that holds a part of the same run, `begin` goes back to its
    last checkpoint.

    Args:
      logdir: path of the run's folder, made when it is not there.
      seed: int >= 0, for every seed that the configuration leaves open.

    Raises:
      ValueError: for a configuration that cannot be run, or a folder that holds another
        run.
    """

    def __init__(self, logdir, seed):
        self._logdir = logdir
        self._config = TrainingConfig()
        self._start = 0
        self._seeds = experiment.make_seeds(seed)
        self._description = {
            "config": gin.config_str(),
            "seeds": dataclasses.asdict(self._seeds),
        }
        self._check_logdir()
        self.finished = results.read_json(self._path(RESULTS_FILE))
        if self.finished is None:
            self._build()

    def _path(self, name):
        return os.path.join(self._logdir, name)

    def _check_logdir(self):
        before = results.read_json(self._path(RUN_FILE))
        if before is None:
            if steps(self._logdir):
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
        self._images = experiment.load_data()
        keras.utils.set_random_seed(self._seeds.init_seed)
        self._model = self._make_network()
        compile_network(self._model, experiment.make_optimizer(config.total_steps))
        images = self._images
        # Made here, so that sizes that do not fit are refused before anything is done.
        self._test_data = data.evaluation_batches(
            images.test_images,
            images.test_labels,
            min(config.val_batch_size, len(images.test_labels)),
        )
        data.batches(
            images.train_images, images.train_labels, config.batch_size, 0, 1, seed=0
        )
        compat.build_optimizer(
            self._model.optimizer, list(self._model.trainable_variables)
        )
        state = None
        if self._updater is not None:
            self._updater.prepare(self._model)
            state = self._updater.state
        self._checkpoints = Checkpoints(
            self._logdir, self._model, self._model.optimizer, state
        )

    def _make_network(self):
        """The network; makes what changes its masks before and while it trains too."""
        config = self._config
        self._updater_config = experiment.MaskUpdaterConfig()
        self._one_shot = self._updater_config.one_shot_pruner(
            config.oneshot_prune_fraction, config.oneshot_ranking
        )
        pruning = experiment.make_pruning(config.total_steps)
        if pruning is not None and self._updater_config.update_alg:
            raise ValueError(
                "pruning.* and mask_updater.update_alg="
                f"{self._updater_config.update_alg!r} would both change the masks. Set "
                "pruning.mode='constant' and pruning.final_sparsity=0., or "
                "mask_updater.update_alg=''."
            )
        model = make_network(
            self._images.input_shape,
            self._images.num_classes,
            self._seeds,
            is_pruned=pruning is not None or self._one_shot is not None,
            is_scratch=pruning is None and not self._updater_config.evolves,
        )
        self._grow_batch = experiment.grow_batch(self._images, config.val_batch_size)
        self._updater: SparseTraining | None = pruning or experiment.make_mask_updater(
            self._updater_config, model, self._grow_batch, self._seeds
        )
        if config.gradient_regularization > 0:
            return regularize_gradient(model, config.gradient_regularization)
        return model

    def begin(self):
        """Makes the folder, or restores the last checkpoint of the run in it.

        Raises:
          OSError: when the folder cannot be written.
          ValueError: when a checkpoint in it belongs to another model.
        """
        if self.finished is not None:
            return
        os.makedirs(self._logdir, exist_ok=True)
        if not os.path.exists(self._path(RUN_FILE)):
            results.write_text(self._path(CONFIG_FILE), gin.operative_config_str())
            results.write_json(self._path(RUN_FILE), self._description)
        self._writer = tf.summary.create_file_writer(self._logdir)
        step = self._checkpoints.restore_last()
        if step is None:
            self._prepare_weights()
            self._checkpoints.save(0)
        else:
            print(f"Going on from step {step} of {self._logdir}.")
            self._start = step
        # A training that starts at step 0 records that step itself.
        last_kept = self._start or -1
        for file in (METRICS_FILE, MASK_UPDATES_FILE):
            results.drop_records_after(self._path(file), last_kept)

    def _prepare_weights(self):
        """What happens once, before the first step: one-shot pruning and MetaInit."""
        fraction = self._config.oneshot_prune_fraction
        if self._one_shot is not None:
            prune_once(self._model, self._one_shot, fraction, self._grow_batch)
        if self._config.use_metainit:
            losses = meta_init(self._model, seed=self._seeds.init_seed)
            record_meta_losses(self._logdir, self._writer, losses)

    def train(self):
        """Trains to the end and writes the result; call `begin` first.

        Returns:
          The content of results.json.
        """
        if self.finished is not None:
            print(f"{self._logdir} is finished; its result is in {RESULTS_FILE}.")
            return self.finished
        summary(self._model)
        began = time.perf_counter()
        record = self._fit(self._start)
        self._writer.close()
        seconds = time.perf_counter() - began
        steps_per_second = (self._config.total_steps - self._start) / seconds
        result = self._result(record, steps_per_second)
        results.write_json(self._path(RESULTS_FILE), result)
        return result

    def _fit(self, start):
        config, images = self._config, self._images
        total = config.total_steps
        meter = FlowMeter(
            self._model, experiment.flow_batch(images, config.val_batch_size)
        )
        logger = RunLogger(
            self._logdir,
            self._writer,
            self._test_data,
            start,
            total,
            config.log_freq,
            Diagnostics(self._model, meter, self._path("ckpt-0")),
            self._updater.thresholds if isinstance(self._updater, Pruning) else None,
        )
        saver = CheckpointSaver(self._checkpoints, start, total, config.save_freq)
        train_data = data.batches(
            images.train_images,
            images.train_labels,
            config.batch_size,
            start,
            total,
            self._seeds.data_seed,
        )
        updater = [] if self._updater is None else [self._updater]
        if config.log_mask_updates and updater:
            updater.append(
                MaskUpdateRecorder(self._logdir, self._checkpoints, meter, self._writer)
            )
        if start < total:
            self._model.fit(
                train_data,
                steps_per_epoch=total - start,
                shuffle=False,  # The data set is in its order already.
                verbose=1 if sys.stdout.isatty() else 0,
                # The record before the checkpoint: a resumed run repeats neither.
                callbacks=[*updater, logger, saver],
            )
            return logger.last_record
        # Broken off between the last checkpoint and the result.
        return results.read_jsonl(self._path(METRICS_FILE))[-1]

    def _result(self, record, steps_per_second):
        table = summary(self._model, print_fn=None)
        masked = {row.path: row.sparsity for row in table.rows if row.masked}
        return {
            "data": self._images.name,
            "network": self._model.name,
            "method": self._method(),
            "test_accuracy": record["test_accuracy"],
            "test_loss": record["test_cross_entropy"],
            "sparsity": {"all": table.kernel_sparsity, **masked},
            "active_weights": table.active,
            "weights": table.size,
            "steps": self._config.total_steps,
            "steps_per_second": steps_per_second,
            **self._description,
            **results.environment(),
        }

    def _method(self):
        if self._one_shot is not None and not self._updater_config.evolves:
            return type(self._one_shot).__name__
        return "Dense" if self._updater is None else type(self._updater).__name__


def _lines(description):
    """The settings of a run, one a line, without gin's comments."""
    config = description["config"].splitlines()
    seeds = [f"{name} = {value}" for name, value in description["seeds"].items()]
    return {line for line in config + seeds if line and not line.startswith("#")}
