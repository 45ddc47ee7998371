"""The command line, in processes of its own as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

SMALL = [
    "training.total_steps=40",
    "training.batch_size=32",
    "training.save_freq=10",
    "training.log_freq=20",
    "mask_updater.update_freq=5",
]


def command(logdir, *bindings, config="digits/rigl.gin", flags=()):
    return [
        sys.executable,
        "-m",
        "rigl_keras.train",
        f"--logdir={logdir}",
        f"--gin_config={config}",
        *(f"--gin_bindings={binding}" for binding in bindings),
        *flags,
    ]


def run(*args, **kwargs):
    return subprocess.run(command(*args, **kwargs), capture_output=True, text=True)


def variables(logdir, step):
    reader = tf.train.load_checkpoint(os.path.join(logdir, f"ckpt-{step}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.endswith("VALUE")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing disturbed."""
    logdir = tmp_path_factory.mktemp("finished") / "run"
    done = run(logdir, *SMALL)
    assert done.returncode == 0, done.stderr
    return logdir


@pytest.mark.slow
def test_a_run_leaves_its_files(finished):
    names = set(os.listdir(finished))
    expected = {"operative_config.gin", "metrics.jsonl", "results.json"}
    expected |= {f"ckpt-{step}.index" for step in (0, 10, 20, 30, 40)}
    assert expected <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (
        "mask_updater.update_alg = 'rigl'"
        in (finished / "operative_config.gin").read_text()
    )


@pytest.mark.slow
def test_the_result_says_what_was_run(finished):
    result = json.loads((finished / "results.json").read_text())
    assert (result["data"], result["network"], result["method"]) == (
        "digits",
        "lenet5",
        "RigL",
    )
    assert result["steps"] == 40
    assert result["seeds"] == {"init_seed": 0, "data_seed": 0, "mask_seed": 0}
    # 8 + 120 + 1536 + 504 + 42 of 44190 weights, and 236 biases.
    assert result["active_weights"] == 2210 + 236
    assert result["sparsity"]["all"] == pytest.approx(1 - 2210 / 44190)
    assert 0 < result["test_accuracy"] <= 1
    assert "tensorflow" in result["versions"]


@pytest.mark.slow
def test_checkpoints_hold_masks_that_fit_the_weights(finished):
    for step in (0, 40):
        found = variables(finished, step)
        masks = {name: value for name, value in found.items() if "mask" in name}
        assert len(masks) == 5
        for name, mask in masks.items():
            kernel = found[name.replace(".Smask", "")]
            assert not kernel[~mask].any()


@pytest.mark.slow
def test_events_have_the_papers_tags(finished):
    [path] = finished.glob("events.out.tfevents.*")
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    expected = {"train_batch_loss", "train_batch_reg_loss", "train_batch_accuracy"}
    expected |= {"lr", "test_loss", "test_acc", "drop_fraction"}
    expected |= {"sparsity/conv1/kernel", "mask/conv1/kernel"}
    expected |= {"gradnorm/conv1/kernel", "gradnorm/conv1/bias"}
    expected |= {"dist_init_l2/conv1/kernel", "dist_init_cosine/logits/bias"}
    expected |= {
        f".allparams/{name}"
        for name in (
            "gradnorm",
            "norm_momentum",
            "dist_init_l2",
            "dist_init_cosine",
            "gradnorm_mask_update_improvment",
        )
    }
    assert expected <= tags


@pytest.mark.slow
def test_a_finished_run_says_so_and_changes_nothing(finished):
    before = (finished / "results.json").read_text()
    again = run(finished, *SMALL)
    assert again.returncode == 0
    assert "is finished" in again.stdout
    assert (finished / "results.json").read_text() == before


@pytest.mark.one_keras
@pytest.mark.release
def test_other_settings_in_the_same_folder_are_refused(finished):
    other = run(finished, *SMALL, "masks.sparsity=0.5")
    assert other.returncode != 0
    assert "masks.sparsity = 0.5" in other.stderr
    other = run(finished, *SMALL, flags=["--seed=1"])
    assert other.returncode != 0
    assert "init_seed = 1" in other.stderr


@pytest.mark.release
def test_a_killed_run_ends_as_an_undisturbed_one(finished, tmp_path):
    logdir = tmp_path / "run"
    for after in (10, 30):  # Killed twice, and once more with a broken checkpoint.
        process = subprocess.Popen(
            command(logdir, *SMALL),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(logdir / f"ckpt-{after}.index", process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (logdir / "results.json").exists()
    # Not those around mask updates, ckpt--<step>, which no run goes on from.
    data = max(logdir.glob("ckpt-[0-9]*.data*"), key=lambda path: path.stat().st_mtime)
    data.write_bytes(data.read_bytes()[:1000])
    done = run(logdir, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "cannot be read" in done.stdout
    ours, theirs = variables(logdir, 40), variables(finished, 40)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    steps = [
        json.loads(line)["step"]
        for line in (logdir / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [0, 20, 40]


@pytest.mark.one_keras
@pytest.mark.release
def test_hessian_spectra_of_a_run(finished):
    # The original's command repeats the network's settings; here that changes nothing.
    mode = ["--mode=hessian", f"--preload_gin_config={finished}/operative_config.gin"]
    bindings = [
        "hessian.ckpt_ids=[0, -5]",
        "hessian.method='lanczos'",
        "hessian.lanczos_steps=4",
        "hessian.num_probes=2",
        "hessian.batch_size=20",
    ]
    done = run(finished, *bindings, config="mnist/hessian.gin", flags=mode)
    assert done.returncode == 0, done.stderr
    for label in ("step 0", "step 5, after the update"):
        [row] = [line for line in done.stdout.splitlines() if f"| {label} " in line]
        assert "2446" in row
    assert set(os.listdir(finished / "hessian")) == {
        "ckpt-0-lanczos.npz",
        "ckpt--5-lanczos.npz",
        "spectrum-lanczos.png",
    }


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.one_keras
@pytest.mark.parametrize(
    ("bindings", "config", "flags", "message"),
    [
        (["training.total_stepz=3"], "digits/rigl.gin", [], "total_stepz"),
        *(
            pytest.param(*case, marks=pytest.mark.release)
            for case in (
                ([], "digits/no_such.gin", [], "no_such.gin"),
                ([], "digits/rigl.gin", ["--logdirr=3"], "logdirr"),
                (["masks.sparsity=1.5"], "digits/rigl.gin", [], "1.5"),
                ([], "mnist/hessian.gin", ["--mode=hessian"], "holds no run.json"),
            )
        ),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(
    tmp_path, bindings, config, flags, message
):
    logdir = tmp_path / "run"
    done = run(logdir, *bindings, config=config, flags=flags)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    # TensorFlow's native code may write lines of its own.
    starts = ("error: ", "FATAL Flags parsing error: ")
    lines = [line for line in done.stderr.splitlines() if line.startswith(starts)]
    assert len(lines) == 1
    assert message in lines[0]
    assert not logdir.exists()
