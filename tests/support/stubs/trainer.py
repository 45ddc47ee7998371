"""Stands in for rigl_keras.train where launchers are tested: does as $PLAN says.

$PLAN is JSON: for each worker what its first, second, ... process does, the last one
for all that follow. $STUB is the folder where each process records how it was started.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main():
    folder = Path(os.environ["STUB"])
    task = json.loads(os.environ.get("TF_CONFIG", "{}"))
    index = task.get("task", {}).get("index", 0)
    start = {
        "argv": sys.argv[1:],
        "tf_config": task,
        "legacy": os.environ.get("TF_USE_LEGACY_KERAS"),
        "pid": os.getpid(),
    }
    number = record(folder / f"starts-{index}", start)
    plan = json.loads(os.environ.get("PLAN", "{}")).get(str(index), [0])
    action = plan[min(number, len(plan)) - 1]
    print(f"worker {index}, start {number}: {action}", flush=True)
    if "hosts" not in os.environ.get("STUB_MODE", ""):
        workers = len(task.get("cluster", {}).get("worker", [0]))
        wait_until(
            lambda: all(count(folder / f"starts-{i}") >= number for i in range(workers))
        )
    return ACTIONS[action](folder) if action in ACTIONS else action


def record(path, start):
    with path.open("a") as file:
        file.write(json.dumps(start) + "\n")
    return count(path)


def count(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def hang(folder):
    time.sleep(60)


def stubborn(folder):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "is_stubborn").touch()
    time.sleep(60)


def with_child(folder):
    child = subprocess.Popen(["sleep", "60"])
    (folder / "child.writing").write_text(str(child.pid))
    (folder / "child.writing").rename(folder / "child")
    time.sleep(60)


def killed(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def first_vm(folder):
    """Saves a checkpoint, waits until it is in the bucket, and is preempted."""
    logdir = logdir_of_run()
    logdir.joinpath("ckpt-1.data").write_text("weights")
    logdir.joinpath("ckpt-1.index").write_text("index")
    uploaded = Path(os.environ["CLOUD"]) / "bucket/runs/net/ckpt-1.index"
    wait_until(uploaded.exists)
    (Path(os.environ["CLOUD"]) / "state").write_text("PREEMPTED")
    time.sleep(60)


def second_vm(folder):
    """Goes on from the checkpoint."""
    logdir = logdir_of_run()
    if logdir.joinpath("ckpt-1.data").read_text() != "weights":
        return 1
    logdir.joinpath("ckpt-1.data").unlink()
    logdir.joinpath("ckpt-1.index").unlink()
    for step in (9, 10):
        logdir.joinpath(f"ckpt-{step}.data").write_text("weights")
        logdir.joinpath(f"ckpt-{step}.index").write_text("index")
    logdir.joinpath("results.json").write_text("{}")
    return 0


def logdir_of_run():
    [flag] = [word for word in sys.argv if word.startswith("--logdir=")]
    return Path(flag.partition("=")[2])


ACTIONS = {
    action.__name__: action
    for action in (hang, stubborn, with_child, killed, first_vm, second_vm)
}

if __name__ == "__main__":
    sys.exit(main())
