"""Processes of a training: started with their part, watched, restarted, stopped."""

import os
import shlex
import signal
import subprocess
import sys
import time

import launch_workers
import pytest
from launch_stubs import ROOT, is_alive, starts, trainer_environment

pytestmark = pytest.mark.one_keras

LAUNCHER = ROOT / "scripts" / "launch_workers.py"
# As the program, but without the pauses that real processes need.
QUICK = (
    "import sys, launch_workers as l; l.STOP_SECONDS = 0.3; l.POLL_SECONDS = 0.02; "
    "sys.exit(l.main())"
)


def command(folder, *options, arguments=()):
    logdir = f"--logdir={folder / 'a run'}"
    options = ["--restart_pause=0", *options]
    return [sys.executable, "-c", QUICK, *options, "--", logdir, *arguments]


def environment(folder, plan, mode=""):
    values = trainer_environment(folder, plan, mode)
    return {**values, "PYTHONPATH": f"{folder}:{LAUNCHER.parent}"}


def launch(folder, *options, plan=None, arguments=(), mode=""):
    return subprocess.run(
        command(folder, *options, arguments=arguments),
        env=environment(folder, plan or {}, mode),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
    )


def log(folder, worker):
    return (folder / "a run" / "logs" / f"worker-{worker}.log").read_text()


def test_every_local_worker_gets_its_part(tmp_path):
    result = launch(tmp_path, "--local=3", arguments=["--gin_bindings=a.b = 'c d'"])
    assert result.returncode == 0
    records = [starts(tmp_path, worker) for worker in range(3)]
    assert [len(of_worker) for of_worker in records] == [1, 1, 1]
    clusters = [record["tf_config"]["cluster"] for [record] in records]
    addresses = clusters[0]["worker"]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    for index, [record] in enumerate(records):
        task = {"type": "worker", "index": index}
        assert record["tf_config"] == {"cluster": clusters[0], "task": task}
        assert record["legacy"] == "1"
        expected = [f"--logdir={tmp_path / 'a run'}", "--gin_bindings=a.b = 'c d'"]
        assert record["argv"] == expected


def test_the_first_workers_output_is_shown_and_all_is_logged(tmp_path):
    result = launch(tmp_path, "--local=2")
    assert result.stdout == "worker 0, start 1: 0\n"
    assert [log(tmp_path, worker) for worker in (0, 1)] == [
        "worker 0, start 1: 0\n",
        "worker 1, start 1: 0\n",
    ]


@pytest.mark.parametrize("how", [75, "killed"])
def test_all_workers_start_again_when_one_is_lost(tmp_path, how):
    result = launch(tmp_path, "--local=2", plan={"0": ["hang", 0], "1": [how, 0]})
    assert result.returncode == 0
    assert [len(starts(tmp_path, worker)) for worker in (0, 1)] == [2, 2]
    assert "restart 1 of 10" in result.stderr
    assert ("SIGKILL" in result.stderr) == (how == "killed")
    assert result.stdout == "worker 0, start 1: hang\nworker 0, start 2: 0\n"
    assert not is_alive(starts(tmp_path, 0)[0]["pid"])


@pytest.mark.parametrize(
    ("how", "code"), [(75, 75), pytest.param("killed", 137, marks=pytest.mark.release)]
)
def test_restarts_are_bounded(tmp_path, how, code):
    plan = {"0": ["hang"], "1": [how]}
    result = launch(tmp_path, "--local=2", "--max_restarts=2", plan=plan)
    assert result.returncode == code
    assert len(starts(tmp_path, 1)) == 3


@pytest.mark.parametrize("code", [1, 2])
def test_other_failures_of_a_worker_end_all_at_once(tmp_path, code):
    result = launch(tmp_path, "--local=2", plan={"0": ["hang"], "1": [code]})
    assert result.returncode == code
    assert "restart" not in result.stderr
    assert not is_alive(starts(tmp_path, 0)[0]["pid"])


@pytest.mark.parametrize(
    ("codes", "decision"),
    [
        ([0, 0], 0),
        ([None, None], 0),
        ([None, 75], 75),
        ([75, 2], 2),
        ([-9, None, 1], 1),
        ([0, -9], -9),
    ],
)
def test_a_lasting_failure_decides_over_the_losses_it_causes(codes, decision):
    assert launch_workers.deciding(codes) == decision


def test_a_host_starts_its_own_worker_again(tmp_path):
    options = ["--hosts=one:2222,two:2223", "--index=1"]
    result = launch(tmp_path, *options, plan={"1": [75, 0]}, mode="hosts")
    assert result.returncode == 0
    records = starts(tmp_path, 1)
    assert len(records) == 2
    assert records[0]["tf_config"] == records[1]["tf_config"]
    assert records[0]["tf_config"] == {
        "cluster": {"worker": ["one:2222", "two:2223"]},
        "task": {"type": "worker", "index": 1},
    }
    assert result.stdout == "worker 1, start 1: 75\nworker 1, start 2: 0\n"


def test_a_single_process_is_in_no_cluster(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    result = launch(tmp_path, "--single", plan={"0": [75, 0]})
    assert result.returncode == 0
    records = starts(tmp_path, 0)
    assert [record["tf_config"] for record in records] == [{}, {}]
    assert [record["legacy"] for record in records] == [None, None]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.release),
        pytest.param(signal.SIGHUP, marks=pytest.mark.release),
    ],
)
def test_a_signal_ends_every_process_and_its_children(tmp_path, number):
    plan = {"0": ["with_child"], "1": ["stubborn"]}
    launcher = subprocess.Popen(
        command(tmp_path, "--local=2"),
        env=environment(tmp_path, plan),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    child, stubborn = tmp_path / "child", tmp_path / "is_stubborn"
    end = time.monotonic() + 20
    while not (child.exists() and stubborn.exists()) and time.monotonic() < end:
        time.sleep(0.02)
    pids = [starts(tmp_path, worker)[0]["pid"] for worker in (0, 1)]
    pids.append(int(child.read_text()))
    assert all(is_alive(pid) for pid in pids)
    os.kill(launcher.pid, number)
    assert launcher.wait(20) == 128 + number
    assert not any(is_alive(pid) for pid in pids)


def test_a_signal_ends_the_pause_before_a_restart(tmp_path):
    launcher = subprocess.Popen(
        command(tmp_path, "--single", "--restart_pause=50"),
        env=environment(tmp_path, {"0": [75]}),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "restart 1" in launcher.stderr.readline()
    launcher.terminate()
    assert launcher.wait(20) == 143
    launcher.stderr.close()
    assert len(starts(tmp_path, 0)) == 1


def test_a_dry_run_prints_commands_that_can_be_pasted_and_runs_none(tmp_path):
    arguments = ["--gin_bindings=a.b = 'c d'"]
    result = launch(tmp_path, "--local=2", "--dry_run", arguments=arguments)
    assert result.returncode == 0
    assert not list(tmp_path.glob("starts-*")) and not (tmp_path / "a run").exists()
    lines = result.stdout.splitlines()
    processes = [
        subprocess.Popen(
            ["bash", "-c", line], cwd=tmp_path, env=dict(os.environ, **more)
        )
        for line, more in zip(lines, [stub_variables(tmp_path)] * 2, strict=True)
    ]
    assert [process.wait(20) for process in processes] == [0, 0]
    records = [starts(tmp_path, worker)[0] for worker in (0, 1)]
    indices = [record["tf_config"]["task"]["index"] for record in records]
    assert indices == [0, 1]
    assert [record["argv"][1:] for record in records] == [arguments, arguments]


def stub_variables(folder):
    return {"PYTHONPATH": str(folder), "STUB": str(folder), "PLAN": "{}"}


def test_a_dry_run_prints_no_environment_of_a_single_process(tmp_path):
    result = launch(tmp_path, "--single", "--dry_run")
    words = shlex.split(result.stdout)
    assert words == [
        "env",
        *(sys.executable, "-m", "rigl_keras.train"),
        f"--logdir={tmp_path / 'a run'}",
    ]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ([], ["one of the arguments --single --local --hosts is required"]),
        (["--local=2", "--single"], ["not allowed with"]),
        (
            ["--local=0", "--max_restarts=-1"],
            ["at least 1", "--max_res", "`--`", "--logd"],
        ),
        (["--single", "--restart_pause=nan", "--", "--logdir="], ["pause", "--logdir"]),
        (["--single", "--", "--logdir=gs://b/run"], ["--logdir=gs://b/run must be"]),
        (
            ["--local=2", "--index=1", "--", "--logdir=x"],
            ["--index belongs to --hosts"],
        ),
        (["--hosts=a:1,a:1,b", "--", "--logdir=x"], ["'b'", "twice", "needs --index"]),
        (["--hosts=a:1,b:0", "--index=2", "--", "--logdir=x"], ["'b:0'", "0 ... 1"]),
        (["--hosts=a:1,b:2", "--index=-1", "--", "--logdir=x"], ["got -1"]),
    ],
)
def test_wrong_arguments_are_all_named(arguments, messages, capsys):
    with pytest.raises(SystemExit) as error:
        launch_workers.parse(arguments)
    assert error.value.code == launch_workers.EX_USAGE
    text = capsys.readouterr().err
    for message in messages:
        assert message in text


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--logdir=a=b"], "a=b"),
        (["--logdir", "a"], "a"),
        (["-logdir=a", "--logdir=b"], "b"),
        (["--logdirs=a"], None),
        (["--logdir"], None),
    ],
)
def test_the_logdir_is_read_as_the_trainer_reads_it(arguments, value):
    assert launch_workers.flag_value(arguments, "logdir") == value
