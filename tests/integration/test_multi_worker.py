"""Two workers, each a process of its own, hold the same masks: those of one device."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import multi_worker
import numpy as np
import pytest
import tensorflow as tf
import tiny
from golden import GOLDEN, digest
from multi_worker import CASES, CHECKPOINT_STEP

import rigl_keras

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # of a cluster that hangs

TRAININGS = multi_worker.trainings()
LOOPS = [name for how, name in TRAININGS if how == "loop"]
# Others have targets that are no numbers, or sums that depend on their order.
EXACT = [each for each in TRAININGS if each[1] not in ("not finite", "rounding")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The folders of two workers that have trained every case together."""
    folder = tmp_path_factory.mktemp("cluster")
    folders = [folder / "worker0", folder / "worker1"]
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    processes = [
        _start_worker(index, addresses, own) for index, own in enumerate(folders)
    ]
    try:
        _wait_for(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = "\n\n".join(_log_of(own).read_text()[-4000:] for own in folders)
    assert [process.returncode for process in processes] == [0, 0], logs
    return folders


def _free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _start_worker(index, addresses, folder):
    task = {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    paths = [str(ROOT), str(ROOT / "tests" / "support")]
    environment = {
        **os.environ,
        "TF_CONFIG": json.dumps(task),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    program = Path(multi_worker.__file__)
    with _log_of(folder).open("w") as log:
        return subprocess.Popen(
            [sys.executable, str(program), str(folder), str(SECONDS)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _log_of(folder):
    return folder.with_suffix(".log")


def _wait_for(processes):
    """Until all have ended, or one has failed: the other would wait for it."""
    end = time.monotonic() + SECONDS + 30
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < end, "The workers hang, and do not end by themselves."
        if any(process.poll() for process in processes):
            time.sleep(5)  # The other may have failed too, and tell more in its log.
            return
        time.sleep(0.2)


def history(folder, how, name):
    """For each step a dict of arrays; see `multi_worker.snapshot`."""
    with np.load(folder / how / name / "history.npz") as arrays:
        steps = [{} for _ in range(multi_worker.STEPS + 1)]
        for key in arrays:
            step, name = key.split("/", 1)
            steps[int(step)][name] = arrays[key]
    assert all(steps)
    return steps


def of_kind(snapshot, kind):
    return {
        name.split("/", 1)[1]: array
        for name, array in snapshot.items()
        if name.startswith(f"{kind}/")
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, array in left.items():
        np.testing.assert_array_equal(array, right[key], err_msg=key)


@pytest.mark.parametrize(("how", "name"), TRAININGS)
def test_masks_weights_and_slots_of_both_workers_are_equal_at_every_step(
    cluster, how, name
):
    first, second = (history(folder, how, name) for folder in cluster)
    for left, right in zip(first, second, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize(("how", "name"), TRAININGS)
def test_weights_and_slots_off_the_masks_are_0(cluster, how, name):
    steps = history(cluster[1], how, name)
    for snapshot in steps[1:]:
        masks = of_kind(snapshot, "mask")
        assert of_kind(snapshot, "slot0").keys() == masks.keys()
        for kind in ("kernel", "slot0", "slot1"):
            for path, array in of_kind(snapshot, kind).items():
                assert (array[~masks[path]] == 0).all(), (kind, path)


@pytest.mark.parametrize(("how", "name"), EXACT)
def test_masks_weights_and_slots_are_those_of_one_device(cluster, how, name):
    one_device = multi_worker.train(how, name, tf.distribute.get_strategy())
    for ours, theirs in zip(history(cluster[0], how, name), one_device, strict=True):
        assert_same(of_kind(ours, "mask"), of_kind(theirs, "mask"))
        # After the first steps the weights have more digits than sums keep.
        for key, array in theirs.items():
            np.testing.assert_allclose(ours[key], array, 1e-5, 1e-6, err_msg=key)


@pytest.mark.parametrize(
    ("how", "name"), [each for each in TRAININGS if each[1] in GOLDEN]
)
def test_masks_are_the_golden_ones(cluster, how, name):
    masks = of_kind(history(cluster[0], how, name)[-1], "mask")
    assert digest(masks) == GOLDEN[name]


@pytest.mark.parametrize(("how", "name"), TRAININGS)
def test_masks_change_where_the_algorithm_changes_them(cluster, how, name):
    masks = [of_kind(each, "mask") for each in history(cluster[0], how, name)]
    changes = [
        step
        for step in range(1, len(masks))
        if any((masks[step][path] != masks[step - 1][path]).any() for path in masks[0])
    ]
    expected = {"Static": [], "not finite": [], "Pruning": [2, 3, 4]}
    assert changes == expected.get(name, [2, 4])


@pytest.mark.parametrize(("how", "name"), TRAININGS)
def test_both_workers_warn_alike(cluster, how, name):
    first, second = (
        json.loads((folder / how / name / "warnings.json").read_text())
        for folder in cluster
    )
    assert first == second
    reason = "weights or gradients are not finite"
    expected = [f"RigL: no mask update at step {step}: {reason}." for step in (2, 4)]
    assert first == (expected if name == "not finite" else [])


@pytest.mark.parametrize("name", LOOPS)
def test_weights_that_the_chief_saved_have_the_same_masks_on_one_device(cluster, name):
    step = history(cluster[0], "loop", name)[CHECKPOINT_STEP]
    model = CASES[name].model()
    model.load_weights(cluster[0] / "loop" / name / "model.weights.h5")
    assert_same(rigl_keras.get_masks(model), of_kind(step, "mask"))
    assert_same(tiny.weights(model), of_kind(step, "kernel"))


@pytest.mark.parametrize("name", LOOPS)
def test_a_plain_model_that_the_chief_alone_saved_has_its_weights(cluster, name):
    step = history(cluster[0], "loop", name)[CHECKPOINT_STEP]
    model = tf.keras.models.load_model(cluster[0] / "loop" / name / "plain.keras")
    kernels = {f"{each.name}/kernel": each for each in model.layers if each.weights}
    for path, kernel in of_kind(step, "kernel").items():
        np.testing.assert_array_equal(kernels[path].kernel.numpy(), kernel)


@pytest.mark.parametrize("name", [name for how, name in EXACT if how == "loop"])
def test_a_training_goes_on_on_one_device_as_the_workers_would(cluster, name):
    case, strategy = CASES[name], tf.distribute.get_strategy()
    model, optimizer = multi_worker.for_loop(case, strategy)
    callback = case.callback()
    callback.prepare(model, optimizer)
    checkpoint = multi_worker.checkpoint(model, optimizer, callback)
    status = checkpoint.read(str(cluster[0] / "loop" / name / "ckpt"))
    status.assert_existing_objects_matched()
    steps = history(cluster[0], "loop", name)
    assert_same(rigl_keras.get_masks(model), of_kind(steps[CHECKPOINT_STEP], "mask"))
    run = multi_worker.run(case, strategy, model, optimizer, callback, CHECKPOINT_STEP)
    for number in run:
        assert_same(rigl_keras.get_masks(model), of_kind(steps[number], "mask"))
    assert number == multi_worker.STEPS


@pytest.mark.skipif(not tiny.IS_KERAS_3, reason="Keras 2's fit works on workers")
def test_fit_of_keras_3_is_refused_with_what_to_do(cluster):
    for folder in cluster:
        message = (folder / "refusal.txt").read_text()
        assert "TF_USE_LEGACY_KERAS=1" in message and "attached" in message
