"""Which strategy gin asks for, what of it is refused, how data are shared."""

import json

import gin
import numpy as np
import pytest
import tensorflow as tf
import tiny

from rigl_keras.program import devices
from rigl_keras.program.devices import StrategyConfig

ONE = tf.distribute.get_strategy()


@pytest.fixture(autouse=True)
def no_gin_left(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    yield
    gin.clear_config()


def workers(count, index=0, chief=False):
    names = [f"host{number}:2222" for number in range(count)]
    cluster = {"chief": names[:1], "worker": names[1:]} if chief else {"worker": names}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def test_one_device_is_keras_own_default():
    assert StrategyConfig().resolved == "one_device"
    assert StrategyConfig().make() is ONE
    assert StrategyConfig(name="one_device").make() is ONE


def test_one_named_device():
    strategy = StrategyConfig(name="one_device", devices=("CPU:1",)).make()
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    assert strategy.extended.worker_devices[0].endswith("CPU:1")


def test_several_devices_are_mirrored():
    config = StrategyConfig(devices=("CPU:0", "CPU:1"))
    assert config.resolved == "mirrored"
    assert not config.needs_other_keras
    assert config.make().num_replicas_in_sync == 2


@pytest.mark.parametrize("chief", [False, True])
def test_several_workers_are_found_in_the_environment(chief, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", workers(3, chief=chief))
    assert StrategyConfig().resolved == "multi_worker"
    assert StrategyConfig().needs_other_keras == tiny.IS_KERAS_3
    # What gin says goes before what the environment says.
    assert StrategyConfig(name="one_device").resolved == "one_device"


def test_one_worker_is_one_device(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", workers(1))
    assert StrategyConfig().resolved == "one_device"


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["strategy.name = 'horovod'"], r"strategy\.name"),
        (["strategy.name = 'tpu'", "strategy.devices = ('CPU:0',)"], "devices"),
        (["strategy.name = 'one_device'", "strategy.devices = ('a', 'b')"], "devices"),
    ],
)
def test_what_makes_no_sense_is_refused(bindings, message):
    gin.parse_config(bindings)
    with pytest.raises(ValueError, match=message):
        StrategyConfig()


@pytest.mark.parametrize("devices", [("CPU:0", "CPU:7"), ("GPU:0", "GPU:1")])
def test_devices_that_are_not_there_are_refused(devices):
    with pytest.raises(ValueError, match=f"no device '{devices[-1]}'|no device"):
        StrategyConfig(name="mirrored", devices=devices).make()


def test_a_cluster_that_is_no_json_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{worker: 2}")
    with pytest.raises(ValueError, match=r"TF_CONFIG is no JSON.*worker: 2"):
        StrategyConfig()


@pytest.mark.parametrize("name", ["multi_worker", "tpu"])
def test_keras_2_is_asked_for_where_it_is_needed(name):
    config = StrategyConfig(name=name)
    assert config.needs_other_keras == tiny.IS_KERAS_3
    # In Keras 2 what is missing is the cluster or the TPU.
    missing = {"multi_worker": "TF_CONFIG", "tpu": "no TPU"}[name]
    expected = "TF_USE_LEGACY_KERAS=1" if tiny.IS_KERAS_3 else missing
    with pytest.raises(ValueError, match=expected):
        config.make()


def test_a_batch_that_cannot_be_shared_is_refused():
    two = tiny.two_replicas()
    devices.check_batch_size("training.batch_size", 6, two)
    with pytest.raises(ValueError, match=r"batch_size=7 .* 2 replicas.* such as 8"):
        devices.check_batch_size("training.batch_size", 7, two)
    with pytest.raises(ValueError, match=r"in 3 accumulated parts.* such as 12"):
        devices.check_batch_size("training.batch_size", 8, two, parts=3)


def test_devices_of_one_machine_read_together():
    made = tf.data.Dataset.range(3)
    for strategy in (ONE, tiny.two_replicas()):
        found = devices.distribute(
            strategy,
            lambda worker, workers: made if (worker, workers) == (0, 1) else 0,
            2,
        )
        assert found is made


def test_one_process_is_the_chief_and_agrees_with_itself():
    for strategy in (ONE, tiny.two_replicas()):
        assert devices.is_chief(strategy)
        devices.check_same_on_all_workers(strategy, "a number", np.int64(3))
