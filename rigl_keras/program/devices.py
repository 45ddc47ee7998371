"""On which devices a run trains, as gin says it: TensorFlow's strategies."""

import contextlib
import dataclasses
import json
import os

import gin
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.common.checks import check_int, choice

_NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
# Keras 3's `fit` fails on several workers (3.15), and Keras 2's is the proven one on
# TPUs.
_NEED_KERAS_2 = ("multi_worker", "tpu")


@gin.configurable("strategy", module="rigl_keras.strategies")
@dataclasses.dataclass(frozen=True)
class StrategyConfig:
    """The devices of a run.

    Attributes:
      name: "one_device"; "mirrored", the devices of this machine, each with a part of
        every batch; "multi_worker", those of the machines that the environment variable
        TF_CONFIG lists; "tpu"; "auto" for several workers where TF_CONFIG lists them,
        for all GPUs where there are several, for one device otherwise.
      devices: None for all GPUs, or names such as ("GPU:0", "GPU:1"), for "mirrored"
        and "one_device". Of "CPU:0", "CPU:1", ... so many are made.
      tpu_name: name or address of the TPU; "" for that of this machine.
      tpu_job_name: name of the TPU's job.

    Raises:
      ValueError: for an unknown name, or devices that have no use.
    """

    name: str = "auto"
    devices: tuple[str, ...] | None = None
    tpu_name: str = ""
    tpu_job_name: str = "tpu_worker"

    def __post_init__(self):
        """Refuses what cannot be meant."""
        choice("strategy.name", self.name, dict.fromkeys(_NAMES))
        if self.devices is not None and self.resolved not in ("one_device", "mirrored"):
            raise ValueError(
                "strategy.devices belongs to strategy.name='mirrored' and 'one_device',"
                f" got devices={self.devices} with {self.resolved!r}."
            )
        if self.resolved == "one_device" and len(self.devices or [""]) != 1:
            raise ValueError(
                "strategy.name='one_device' trains on one of strategy.devices, got "
                f"{self.devices}: name one, or use 'mirrored'."
            )

    @property
    def resolved(self):
        """The name, with "auto" decided."""
        if self.name != "auto":
            return self.name
        if _num_workers() > 1:
            return "multi_worker"
        devices = self.devices or tf.config.list_physical_devices("GPU")
        return "mirrored" if len(devices) > 1 else "one_device"

    @property
    def needs_other_keras(self):
        """True where Keras 3 is in use and only Keras 2 can train so."""
        return compat.IS_KERAS_3 and self.resolved in _NEED_KERAS_2

    def make(self):
        """Makes the strategy, once in a process.

        Returns:
          A `tf.distribute.Strategy`.

        Raises:
          ValueError: when there are no such devices, or Keras is the wrong one.
        """
        if self.needs_other_keras:
            raise ValueError(
                f"strategy.name={self.resolved!r} needs Keras 2: set "
                "TF_USE_LEGACY_KERAS=1 before Python starts."
            )
        _make_cpus(self.devices or ())
        return getattr(self, f"_{self.resolved}")()

    def _one_device(self):
        if self.devices is None:
            return tf.distribute.get_strategy()
        return tf.distribute.OneDeviceStrategy(_existing(self.devices)[0])

    def _mirrored(self):
        return tf.distribute.MirroredStrategy(self.devices and _existing(self.devices))

    def _multi_worker(self):
        if _num_workers() < 1:
            raise ValueError(
                "strategy.name='multi_worker' needs the environment variable TF_CONFIG,"
                ' such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task":'
                ' {"type": "worker", "index": 0}}. scripts/train_multi_worker.sh sets '
                "it."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()

    def _tpu(self):
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
                self.tpu_name or "local", job_name=self.tpu_job_name
            )
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        # What a machine without one raises depends on how far it gets.
        except (ValueError, tf.errors.OpError) as error:
            cause = str(error).partition("\n")[0]
            raise ValueError(
                f"There is no TPU strategy.tpu_name={self.tpu_name!r} that this "
                f"machine can use ({type(error).__name__}: {cause}). Run on a TPU VM, "
                "or leave out --use_tpu."
            ) from error
        return tf.distribute.TPUStrategy(resolver)


def _make_cpus(devices):
    """Makes the CPU devices that are named, of the one that a machine has.

    Raises:
      ValueError: when TensorFlow has started with fewer.
    """
    wanted = sum("CPU:" in name.upper() for name in devices)
    if wanted < 2:
        return
    [cpu] = tf.config.list_physical_devices("CPU")
    made = tf.config.get_logical_device_configuration(cpu) or [None]
    if len(made) < wanted:
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(wanted)]
        with contextlib.suppress(RuntimeError):  # `_existing` says what is missing.
            tf.config.set_logical_device_configuration(cpu, parts)


def _existing(devices):
    """Device names, of which each is there.

    Raises:
      ValueError: naming what is missing.
    """
    there = [device.name.upper() for device in tf.config.list_logical_devices()]
    for name in devices:
        if not any(full.endswith(f":{name.upper()}") for full in there):
            raise ValueError(
                f"There is no device {name!r} of strategy.devices, only {there}."
            )
    return list(devices)


def _tf_config():
    """What TF_CONFIG says, {} without it.

    Raises:
      ValueError: when it is not JSON.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"The environment variable TF_CONFIG is no JSON ({error}): {text!r}."
        ) from error


def _num_workers():
    cluster = _tf_config().get("cluster", {})
    return len(cluster.get("chief", [])) + len(cluster.get("worker", []))


def is_chief(strategy):
    """True for the one process of a run that writes its folder."""
    if not _is_multi_worker(strategy):
        return True
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def _is_multi_worker(strategy):
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def check_same_on_all_workers(strategy, name, number):
    """Waits until every worker of a run has come here, with the same number.

    Args:
      strategy: the run's strategy.
      name: what the number is.
      number: int.

    Raises:
      ValueError: on every worker when their numbers differ.
    """
    if not _is_multi_worker(strategy):
        return

    @tf.function
    def moments():
        def local():
            value = tf.constant(number, tf.float64)
            return tf.stack([value, value**2])

        by_replica = strategy.run(local)
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, by_replica, axis=None)

    mean, square = moments().numpy()
    if mean**2 != square:
        raise ValueError(
            f"The workers of this run do not agree on {name}: it is {number} here. Use "
            "a --logdir that is one folder for all of them, on a shared file system, "
            "and the same flags everywhere."
        )


def check_batch_size(name, size, strategy, *, parts=1):
    """Refuses a batch that the devices cannot share evenly.

    Args:
      name: of the setting.
      size: int, examples in a batch, of all devices together.
      strategy: the run's strategy.
      parts: int, parts of a batch that pass one after the other.

    Raises:
      ValueError: naming the nearest that would do.
    """
    check_int(name, size, minimum=1)
    unit = strategy.num_replicas_in_sync * parts
    if size % unit:
        in_parts = f" in {parts} accumulated parts" if parts > 1 else ""
        raise ValueError(
            f"{name}={size} cannot be shared evenly by {unit // parts} replicas"
            f"{in_parts}: use a multiple of {unit}, such as {-(-size // unit) * unit}."
        )


def distribute(strategy, make_dataset, batch_size):
    """A data set of which each worker reads its share.

    Args:
      strategy: the run's strategy.
      make_dataset: function `(worker, workers)` that makes a worker's `tf.data.Dataset`
        of batches of batch_size / workers examples.
      batch_size: int, a multiple of the number of replicas.

    Returns:
      A data set for `fit` and `evaluate`.
    """
    # Devices of one machine share what it reads; Keras sees to that.
    if not _is_multi_worker(strategy) and not _is_tpu(strategy):
        return make_dataset(0, 1)

    def local(context):
        dataset = make_dataset(context.input_pipeline_id, context.num_input_pipelines)
        return dataset.rebatch(context.get_per_replica_batch_size(batch_size))

    return strategy.distribute_datasets_from_function(local)


def _is_tpu(strategy):
    return isinstance(strategy, tf.distribute.TPUStrategy)
