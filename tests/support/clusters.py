"""Programs that run as two workers of one cluster, each a process of its own."""

import contextlib
import json
import os
import socket
import subprocess
import time

SECONDS = 300  # after which a cluster hangs


@contextlib.contextmanager
def two_workers(command, logs, **environment):
    """Starts both; they end with the context.

    Args:
      command: function from a worker's number, 0 or 1, to its command line.
      logs: folder for what they print, appended to worker0.log and worker1.log.
      **environment: variables that are set for them.

    Returns:
      The two processes.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": addresses}, "task": task})
        with (logs / f"worker{index}.log").open("a") as log:
            processes.append(
                subprocess.Popen(
                    command(index),
                    env={**os.environ, **environment, "TF_CONFIG": cluster},
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


def wait_until(condition, logs):
    """Waits; fails with the logs of the workers when it takes too long."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, text_of(logs)
        time.sleep(0.1)


def wait_for(processes, logs):
    """Waits until all have ended, or one has failed: the other would wait for it."""
    wait_until(lambda: any(p.poll() for p in processes) or _all_ended(processes), logs)
    if not _all_ended(processes):
        time.sleep(5)  # The other may have failed too, and tell more in its log.
    assert [process.poll() for process in processes] == [0, 0], text_of(logs)


def _all_ended(processes):
    return all(process.poll() is not None for process in processes)


def text_of(logs):
    """The ends of both logs."""
    texts = [(logs / f"worker{index}.log").read_text() for index in range(2)]
    return "\n\n".join(text[-4000:] for text in texts)
