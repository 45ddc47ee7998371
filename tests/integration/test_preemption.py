"""Two workers train together; one is killed, both start again, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys

import clusters
import gin
import numpy as np
import pytest
import tensorflow as tf
import tiny

from rigl_keras.program.saved_runs import SavedRun

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
pytestmark = pytest.mark.release


def command(logdir):
    return [
        sys.executable,
        "-m",
        "rigl_keras.train",
        f"--logdir={logdir}",
        "--gin_config=digits/rigl.gin",
        *(f"--gin_bindings={binding}" for binding in BINDINGS),
    ]


def two_workers(logdir):
    logs_of(logdir).mkdir(exist_ok=True)
    return clusters.two_workers(lambda index: command(logdir), logs_of(logdir))


def logs_of(logdir):
    return logdir.with_suffix(".logs")


def train(logdir):
    """Both workers, from where the folder is to the end."""
    with two_workers(logdir) as processes:
        clusters.wait_for(processes, logs_of(logdir))


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
        clusters.wait_until(saved.exists, logs_of(broken))
        other.send_signal(signal.SIGKILL)
        clusters.wait_until(lambda: chief.poll() is not None, logs_of(broken))
        assert chief.returncode == 75
    assert "another worker or device is gone" in clusters.text_of(logs_of(broken))
    assert not (broken / "results.json").exists()
    train(broken)
    assert "Going on from step" in clusters.text_of(logs_of(broken))

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
    assert_measured_on_all(result, broken)


def assert_measured_on_all(result, folder):
    """The test metrics are those of the saved network on the whole test set."""
    model, images = SavedRun(folder).open()
    found = model.evaluate(
        images.test_images / np.float32(255),
        images.test_labels,
        verbose=0,
        return_dict=True,
    )
    gin.clear_config()
    assert result["test_accuracy"] == pytest.approx(found["accuracy"], abs=1e-6)
    assert result["test_loss"] == pytest.approx(found["cross_entropy"], rel=1e-5)


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
        timeout=clusters.SECONDS,
    )
    assert done.returncode == 2
    assert "trains with Keras 2: starting again" in done.stdout
    assert "error: " in done.stderr
