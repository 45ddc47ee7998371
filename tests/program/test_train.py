"""The command line, in processes of its own as a user runs it."""

import argparse
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import tensorflow as tf

from rigl_keras.program import command_line

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


def environment():
    """Without what the tests set to keep TensorFlow quiet: the commands do that."""
    return {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}


def run(*args, **kwargs):
    return subprocess.run(
        command(*args, **kwargs), capture_output=True, text=True, env=environment()
    )


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
    assert set(os.listdir(finished / "hessian")) - {".lock"} == {
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
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not logdir.exists()


LONG = [*SMALL, "training.total_steps=100000"]


@contextlib.contextmanager
def begun(logdir):
    """A process that trains for long, and has saved a checkpoint of its own."""
    process = subprocess.Popen(
        command(logdir, *LONG),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # A shell has its background jobs, such as these tests may be, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(logdir / f"ckpt-{last_step(logdir) + 10}.index", process)
        yield process
    finally:
        process.kill()


def last_step(logdir):
    return max([int(p.stem[5:]) for p in logdir.glob("ckpt-[0-9]*.index")], default=0)


@pytest.mark.release
@pytest.mark.one_keras
def test_a_folder_is_one_processs_and_a_signal_ends_it_in_one_line(tmp_path):
    logdir = tmp_path / "run"
    with begun(logdir) as process:
        other = run(logdir, *LONG)
        assert other.returncode == 2
        [line] = other.stderr.splitlines()
        assert f"process (number {process.pid}) is working in" in line
        assert_stops_by(signal.SIGINT, process, logdir)
    # What is killed leaves no lock either.
    with begun(logdir) as process:
        pass
    process.wait()
    with begun(logdir) as process:
        assert_stops_by(signal.SIGTERM, process, logdir)


def assert_stops_by(number, process, logdir):
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -number
    [line] = [line for line in errors.splitlines() if line]
    assert line == (
        f"stopped by {number.name}. The same command goes on from step "
        f"{last_step(logdir)} of {logdir}."
    )


@pytest.mark.one_keras
def test_help_is_no_failure_and_lists_the_gin_files():
    done = subprocess.run(
        [sys.executable, "-m", "rigl_keras.train", "--help"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0
    assert not done.stderr
    # The example keeps its line.
    assert "--gin_config=mnist/rigl.gin \\\n" in done.stdout
    assert "  mnist/rigl.gin\n" in done.stdout


FULL = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    tf.errors.ResourceExhaustedError(None, None, "/runs/ckpt; No space left on device"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_said_in_one_line(error, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command_line, "_logdir", lambda: tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    (tmp_path / "ckpt-40.index").touch()

    def write(argv):
        raise error

    assert command_line._call(write, []) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: no space is left on the disk of {tmp_path}. Free some. The same "
        f"command goes on from step 40 of {tmp_path}."
    )


def test_a_disk_that_is_full_at_the_start(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command_line, "_logdir", lambda: tmp_path)
    assert command_line.refuse(FULL[0]) == 1
    assert "Free some. The same command starts again." in capsys.readouterr().err


def test_what_a_full_disk_is_not_is_raised(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def write(argv):
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        command_line._call(write, [])


@pytest.mark.parametrize(
    ("logdir", "message"),
    [
        (None, "--logdir is needed.*It has no default"),
        ("runs/x[1]", r"without \[ \], which TensorFlow takes for a pattern"),
        (__file__, "is a file. Give the path of a folder"),
    ],
)
def test_a_folder_that_cannot_be_one_is_refused(monkeypatch, logdir, message):
    monkeypatch.setattr(command_line, "FLAGS", argparse.Namespace(logdir=logdir))
    with pytest.raises(ValueError, match=message):
        command_line.check(["train"])
