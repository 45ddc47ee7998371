"""Two workers train together; one is killed, both start again, and nothing is lost."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tiny

SECONDS = 300  # after which a cluster hangs
STEPS, SAVE_FREQ = 240, 20
BINDINGS = [
    f"training.total_steps={STEPS}",
    f"training.save_freq={SAVE_FREQ}",
    "training.batch_size=32",
    "training.log_freq=60",
    "training.val_batch_size=100",
    "training.save_mask_updates=False",
    "mask_updater.update_freq=10",
    "lenet5.hidden_sizes=(3, 4, 12, 8)",
]
# The command line takes Keras 2 for several workers, whichever it is started in; that
# it does is shown once, where it is started in Keras 3.
in_keras_2 = pytest.mark.skipif(tiny.IS_KERAS_3, reason="the run is one of Keras 2")
pytestmark = pytest.mark.slow


def command(logdir):
    return [
        sys.executable,
        "-m",
        "rigl_keras.train",
        f"--logdir={logdir}",
        "--gin_config=digits/rigl.gin",
        *(f"--gin_bindings={binding}" for binding in BINDINGS),
    ]


@contextlib.contextmanager
def two_workers(logdir):
    """The processes of two workers, which end with the context."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        with log_of(logdir, index).open("a") as log:
            processes.append(
                subprocess.Popen(
                    command(logdir),
                    env={**os.environ, "TF_CONFIG": config},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def log_of(logdir, index):
    return logdir.with_name(f"{logdir.name}-{index}.log")


def wait_until(condition, logdir):
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            pytest.fail("\n".join(log_of(logdir, i).read_text() for i in range(2)))
        time.sleep(0.1)


def train(logdir):
    """Both workers, from where the folder is to the end."""
    with two_workers(logdir) as processes:
        wait_until(lambda: all(p.poll() is not None for p in processes), logdir)
        codes = [process.returncode for process in processes]
    assert codes == [0, 0], log_of(logdir, 0).read_text()


def variables(logdir, step):
    reader = tf.train.load_checkpoint(str(logdir / f"ckpt-{step}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.endswith("VALUE")}


@in_keras_2
def test_a_killed_worker_costs_only_the_steps_since_the_last_checkpoint(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole)
    with two_workers(broken) as (chief, other):
        saved = broken / f"ckpt-{2 * SAVE_FREQ}.index"
        wait_until(saved.exists, broken)
        other.send_signal(signal.SIGKILL)
        wait_until(lambda: chief.poll() is not None, broken)
        assert chief.returncode == 75
    assert "another worker or device is gone" in log_of(broken, 0).read_text()
    assert not (broken / "results.json").exists()
    train(broken)
    assert "Going on from step" in log_of(broken, 0).read_text()

    # Each file is the chief's; the checkpoints and records are those of the run that
    # nothing disturbed, bit for bit.
    expected, found = (
        {path.name for path in folder.iterdir() if "tfevents" not in path.name}
        for folder in (whole, broken)
    )
    assert found == expected
    for step in (0, STEPS // 2, STEPS):
        one, other = variables(whole, step), variables(broken, step)
        assert set(other) == set(one)
        for name, value in one.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
    for file in ("metrics.jsonl", "mask_updates.jsonl"):
        one, other = (
            [json.loads(line) for line in (folder / file).read_text().splitlines()]
            for folder in (whole, broken)
        )
        assert [record["step"] for record in other] == [
            record["step"] for record in one
        ]
        # A record is a mean over the steps before it that the process has made.
        assert other[-2:] == one[-2:]
    result = json.loads((broken / "results.json").read_text())
    assert (result["steps"], result["replicas"]) == (STEPS, 2)


@pytest.mark.skipif(not tiny.IS_KERAS_3, reason="Keras 2 is there already")
def test_several_workers_get_keras_2(tmp_path):
    task = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker"}}
    # No worker has this index: Keras 2 is in use when TensorFlow says so.
    task["task"]["index"] = 5
    done = subprocess.run(
        command(tmp_path / "run"),
        env={**os.environ, "TF_CONFIG": json.dumps(task)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 2
    assert "trains with Keras 2: starting again" in done.stdout
    assert "error: " in done.stderr
