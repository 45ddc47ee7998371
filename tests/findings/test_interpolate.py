"""The line between two checkpoints, by the command line and as a function."""

import subprocess
import sys
import types
import warnings
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver
from tensorflow import keras

from rigl_keras import data, interpolate
from rigl_keras.findings import line
from rigl_keras.program import files, gin_files, run
from rigl_keras.program.saved_runs import SavedRun

pytestmark = pytest.mark.one_keras

STEPS = 8
BASE = [
    "data.name = 'digits'",
    f"training.total_steps = {STEPS}",
    "training.batch_size = 32",
    "training.save_freq = 4",
    "training.log_freq = 8",
    "training.val_batch_size = 100",
    "optimizer.name = 'sgd'",
    "optimizer.learning_rate = 0.1",
    "network.network_name = 'mlp'",
    "network.weight_decay = 0.01",
    "mlp.hidden_sizes = (8, 6)",
]
PRUNING = [
    "pruning.final_sparsity = 0.5",
    "pruning.begin_step = 4",
    "pruning.end_step = 6",
    "pruning.frequency = 2",
]
FEW = ["--gin_bindings=interpolate.n_interpolation=8"]


def make(folder, *bindings, trained=True):
    gin.clear_config()
    gin.parse_config([*BASE, *bindings])
    made = run.Run(str(folder), 0)
    made.begin()
    if trained:
        made.train()
    gin.clear_config()
    return SavedRun(str(folder))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        "prune": make(root / "prune", *PRUNING),
        "normal": make(root / "normal", "mlp.use_batch_norm = True"),
        "small": make(root / "small", "mlp.hidden_sizes = (8, 5)", trained=False),
    }


@pytest.fixture(autouse=True)
def clean():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def images():
    return data.load("digits")


def logits(point, x):
    """The outputs of the perceptron, in NumPy."""
    hidden = x.reshape(len(x), -1)
    for name in ("dense1", "dense2"):
        hidden = hidden @ point[f"{name}/kernel"] + point[f"{name}/bias"]
        hidden = np.maximum(hidden, 0)
    return hidden @ point["logits/kernel"] + point["logits/bias"]


def losses(start, end, images, coefficients):
    """The test loss along the line, in NumPy."""
    x, y = images.test_images / 255, images.test_labels
    found = []
    for coefficient in coefficients:
        point = {k: (1 - coefficient) * start[k] + coefficient * end[k] for k in start}
        out = logits(point, x)
        out = out - out.max(1, keepdims=True)
        chosen = out[np.arange(len(y)), y]
        found.append(np.mean(np.log(np.exp(out).sum(1)) - chosen))
    return found


def under(point, masks):
    return {path: value * masks.get(path, 1) for path, value in point.items()}


SOME = [-0.2, 0.0, 0.5, 1.0]


def few(records):
    return line.InterpolationConfig(num_train=records)


def test_each_checkpoint_is_opened_once_and_each_tensor_read_once(
    runs, images, monkeypatch
):
    opened, read = [], []
    load = tf.train.load_checkpoint

    def counting(path):
        opened.append(path)
        reader = load(path)
        return types.SimpleNamespace(
            get_variable_to_shape_map=reader.get_variable_to_shape_map,
            get_tensor=lambda key: read.append((path, key)) or reader.get_tensor(key),
        )

    monkeypatch.setattr(tf.train, "load_checkpoint", counting)
    pruned = runs["prune"]
    pruned.configure()
    paths = pruned.checkpoint(0), pruned.checkpoint()
    line.interpolate_checkpoints(
        *paths, [0.0, 1.0], load_mask_from=0, eval_on_train=False, images=images
    )
    assert sorted(opened) == sorted(paths)
    assert len(read) == len(set(read)) > 10


def test_the_line_is_that_of_the_checkpoints_parameters(runs, images):
    pruned = runs["prune"]
    pruned.configure()
    found = line.interpolate_checkpoints(
        pruned.checkpoint(0), pruned.checkpoint(), SOME, config=few(100), images=images
    )
    start, end = pruned.parameters(0), pruned.parameters()
    expected = losses(start, end, images, SOME)
    np.testing.assert_allclose(found["test_loss"], expected, rtol=1e-4)
    assert sorted(found) == [
        "test_accuracy",
        "test_loss",
        "train_accuracy",
        "train_loss",
    ]
    # As the run measured itself.
    last = pruned.records[-1]
    assert found["test_loss"][3] == pytest.approx(last["test_cross_entropy"], rel=1e-4)
    assert found["test_accuracy"][3] == pytest.approx(last["test_accuracy"])


def test_masks_are_those_of_the_checkpoint_that_is_named(runs, images):
    pruned = runs["prune"]
    pruned.configure()
    paths = pruned.checkpoint(0), pruned.checkpoint()
    start, end, masks = pruned.parameters(0), pruned.parameters(), pruned.masks()
    options = {"eval_on_train": False, "images": images}
    with warnings.catch_warnings():
        # The pruned network is within the masks of the first one, all ones.
        warnings.simplefilter("error")
        of_start = line.interpolate_checkpoints(
            *paths, SOME, load_mask_from=0, **options
        )
    lost = sum(np.count_nonzero(start[path][~mask]) for path, mask in masks.items())
    assert lost
    with pytest.warns(UserWarning, match=f"^{lost} weights of .*ckpt-0 lie off"):
        of_end = line.interpolate_checkpoints(*paths, SOME, load_mask_from=1, **options)
    for found, begin in ((of_start, start), (of_end, under(start, masks))):
        expected = losses(begin, end, images, SOME)
        np.testing.assert_allclose(found["test_loss"], expected, rtol=1e-4)


def test_checkpoints_around_updates_are_points_too(runs, images):
    pruned = runs["prune"]
    around = [int(name.name[5:-6]) for name in Path(pruned.folder).glob("ckpt--*.ind*")]
    before, after = sorted(abs(step) for step in around)[:2]
    pruned.configure()
    found = line.interpolate_checkpoints(
        pruned.checkpoint(-before),
        pruned.checkpoint(-after),
        [0, 1],
        eval_on_train=False,
        images=images,
    )
    expected = losses(
        pruned.parameters(-before), pruned.parameters(-after), images, [0, 1]
    )
    np.testing.assert_allclose(found["test_loss"], expected, rtol=1e-4)


def test_batch_norm_is_that_of_the_training_records(runs, images):
    normal = runs["normal"]
    paths = normal.checkpoint(0), normal.checkpoint()
    normal.configure()
    options = {"eval_on_train": False, "images": images}
    kept = line.interpolate_checkpoints(
        *paths,
        [1.0],
        config=line.InterpolationConfig(reestimate_batch_norm=False),
        **options,
    )
    # The averages of the end, as that run was evaluated.
    expected = normal.records[-1]["test_cross_entropy"]
    assert kept["test_loss"][0] == pytest.approx(expected, rel=1e-4)
    anew = line.interpolate_checkpoints(*paths, [1.0], config=few(200), **options)
    parameters = normal.parameters()
    x = images.train_images[:200].reshape(200, -1) / 255
    test = images.test_images.reshape(len(images.test_images), -1) / 255
    for name in ("dense1", "dense2"):
        kernel, bias = parameters[f"{name}/kernel"], parameters[f"{name}/bias"]
        x, test = (np.maximum(each @ kernel + bias, 0) for each in (x, test))
        mean, scale = x.mean(0), np.sqrt(x.var(0) + 1e-3)
        gamma, beta = parameters[f"{name}_bn/gamma"], parameters[f"{name}_bn/beta"]
        x, test = ((each - mean) / scale * gamma + beta for each in (x, test))
    out = test @ parameters["logits/kernel"] + parameters["logits/bias"]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = float(loss(images.test_labels, out.astype(np.float32)))
    assert anew["test_loss"][0] == pytest.approx(expected, rel=1e-4)


def main(*arguments):
    """Runs the command line in this process; returns its exit code."""
    with flagsaver.flagsaver():
        argv = flags.FLAGS(["interpolate", *arguments])
        return interpolate.main(argv)


def line_of(run, *arguments, logdir):
    return [
        f"--logdir={logdir}",
        f"--ckpt_start={run.checkpoint(0)}",
        f"--ckpt_end={run.checkpoint()}",
        *arguments,
    ]


@pytest.mark.slow
def test_the_command_writes_numbers_configuration_and_figure(runs, tmp_path, images):
    pruned, logdir = runs["prune"], tmp_path / "deep" / "line"
    config = "--gin_config=mnist/interpolate.gin"
    command = [sys.executable, "-m", "rigl_keras.interpolate"]
    command += line_of(pruned, config, *FEW, logdir=logdir)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    arrays, description = files.read_arrays(logdir / "interpolation.npz")
    coefficients = -0.2 + 0.2 * np.arange(8)
    np.testing.assert_allclose(arrays.pop("coefficients"), coefficients, atol=1e-9)
    expected = losses(pruned.parameters(0), pruned.parameters(), images, coefficients)
    np.testing.assert_allclose(arrays.pop("test_loss"), expected, rtol=1e-4)
    assert sorted(arrays) == ["test_accuracy", "train_accuracy", "train_loss"]
    assert description["start"] == pruned.checkpoint(0)
    assert description["end"] == pruned.checkpoint()
    assert "mlp.hidden_sizes = (8, 6)" in description["config"]
    assert "tensorflow" in description["versions"]
    text = (logdir / "operative_config.gin").read_text()
    assert "interpolate.i_end = 1.2" in text
    assert "interpolate.n_interpolation = 8" in text
    assert (logdir / "interpolation.png").read_bytes().startswith(b"\x89PNG")
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 8
    assert f"| {expected[0]:.4f} " in lines[2]
    # Those from 0 to 1.
    inside = np.array(expected[1:7])
    barrier = max(inside - np.linspace(inside[0], inside[-1], 6))
    assert f"test loss: barrier {barrier:.4f} nats" in done.stdout


def test_the_test_set_alone_is_enough(runs, tmp_path, capsys):
    arguments = line_of(
        runs["prune"],
        "--noeval_on_train",
        "--gin_bindings=interpolate.i_start=0.5",
        *FEW,
        logdir=tmp_path,
    )
    assert main(*arguments) == 0
    arrays, _ = files.read_arrays(tmp_path / "interpolation.npz")
    assert sorted(arrays) == ["coefficients", "test_accuracy", "test_loss"]
    assert "No barrier without the coefficients 0 and 1" in capsys.readouterr().out


def test_flags_change_the_configuration_of_the_run(runs, tmp_path, capsys):
    # Checkpoints know nothing of the activation.
    preload = Path(runs["prune"].folder) / "operative_config.gin"
    changes = [f"--preload_gin_config={preload}"]
    changes += ["--gin_bindings=network.activation='tanh'", *FEW, "--noeval_on_train"]
    assert main(*line_of(runs["prune"], *changes, logdir=tmp_path / "tanh")) == 0
    plain = line_of(runs["prune"], *FEW, "--noeval_on_train", logdir=tmp_path / "relu")
    assert main(*plain) == 0
    losses = [
        files.read_arrays(tmp_path / name / "interpolation.npz")[0]["test_loss"]
        for name in ("tanh", "relu")
    ]
    assert not np.allclose(*losses)
    assert (
        "network.activation = 'tanh'"
        in (tmp_path / "tanh" / "operative_config.gin").read_text()
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--use_tpu", "--use_tpu is for training"),
        ("--mode=hessian", "--mode=hessian"),
        ("surplus", "unexpected arguments"),
        ("--ckpt_end=nowhere/ckpt-1", "cannot be read"),
        ("--gin_bindings=interpolate.n_interpolation=1", "n_interpolation"),
        ("--gin_bindings=interpolate.i_end=-1", "i_start < interpolate.i_end"),
        ("--gin_bindings=interpolate.num_train=0", "num_train"),
        ("--gin_bindings=interpolate.batch_size=0", "batch_size"),
        ("--gin_bindings=interpolate.steps=3", "steps"),
        ("--gin_bindings=mlp.hidden_sizes=(8,7)", "another network"),
        ("--gin_config=mnist/no_such.gin", "no_such.gin"),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(
    flag, message, runs, tmp_path, capsys
):
    logdir = tmp_path / "line"
    assert main(*line_of(runs["prune"], flag, logdir=logdir)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not logdir.exists()


def test_without_matplotlib_nothing_is_evaluated(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    logdir = tmp_path / "line"
    assert main(*line_of(runs["prune"], logdir=logdir)) == 2
    assert "pip install 'rigl_keras[plots]'" in capsys.readouterr().err
    assert not logdir.exists()


def test_checkpoints_of_two_networks_are_refused(runs, tmp_path, capsys):
    start, end = runs["small"].checkpoint(0), runs["prune"].checkpoint()
    logdir = tmp_path / "line"
    code = main(f"--logdir={logdir}", f"--ckpt_start={start}", f"--ckpt_end={end}")
    assert code == 2
    message = capsys.readouterr().err
    assert "dense2/kernel" in message and start in message
    assert not logdir.exists()


def test_both_checkpoints_are_needed(tmp_path, capsys):
    assert main(f"--logdir={tmp_path}", "--ckpt_end=runs/prune/ckpt-5") == 2
    assert "--ckpt_start is needed" in capsys.readouterr().err


def test_the_folder_of_a_run_is_not_written_over(runs, capsys):
    pruned = runs["prune"]
    before = (Path(pruned.folder) / "operative_config.gin").read_text()
    assert main(*line_of(pruned, logdir=pruned.folder)) == 2
    assert "Use another --logdir" in capsys.readouterr().err
    assert (Path(pruned.folder) / "operative_config.gin").read_text() == before


def test_an_unknown_source_of_masks_is_refused():
    with pytest.raises(ValueError, match="0, 1 or -1"):
        line.interpolate_checkpoints("a", "b", load_mask_from=2)


def test_the_gin_file_is_the_originals():
    [folder] = gin_files.gin_search_paths()
    gin.parse_config_file(f"{folder}/mnist/interpolate.gin")
    coefficients = line.InterpolationConfig().coefficients
    np.testing.assert_allclose(coefficients, -0.2 + 0.05 * np.arange(29), atol=1e-9)


def test_train_and_interpolate_share_one_process():
    from rigl_keras import train

    shared = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(train)}
    ours = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(interpolate)}
    assert {"logdir", "gin_config", "gin_bindings", "mode", "use_tpu"} <= shared & ours
    assert "seed" in shared - ours
    assert {"ckpt_start", "load_mask_from"} <= ours - shared
