#!/usr/bin/env python3
"""Starts the processes of a training, watches them, and starts them again.

Everything after -- goes to `python -m rigl_keras.train`. When a worker is lost or a
machine preempted (exit code 75, or a signal), the training goes on from its last
checkpoint. Any other exit code ends it, and becomes this program's. A worker's output
is in <logdir>/logs/worker-<index>.log; that of the first one here is shown too.

Needs nothing but the standard library.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

EX_USAGE = 2  # Wrong settings, of the trainer too: another start would not help.
EX_TEMPFAIL = 75
STOP_SECONDS = 10  # between TERM and KILL
POLL_SECONDS = 0.1
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line says, checked.

    Attributes:
      local: int >= 1, the workers on this machine; None for another mode.
      hosts: "host:port" of each worker; None for another mode.
      index: int, the worker of `hosts` that this machine is.
      python: path of the interpreter of the processes.
      max_restarts: int >= 0.
      restart_pause: float >= 0, seconds before each restart.
      dry_run: whether the commands are printed and not run.
      train_arguments: those of the trainer.
      logdir: path of the run's folder, from them.
    """

    local: int | None
    hosts: list[str] | None
    index: int | None
    python: str
    max_restarts: int
    restart_pause: float
    dry_run: bool
    train_arguments: list[str]
    logdir: Path

    @property
    def command(self):
        """The command line of every process."""
        return [self.python, "-m", "rigl_keras.train", *self.train_arguments]

    def environments(self):
        """What each process here has in its environment, by the index of its worker.

        The ports of local workers are free ones, others at every call.
        """
        if self.local is not None:
            hosts = [f"127.0.0.1:{port}" for port in free_ports(self.local)]
            return {
                index: worker_environment(hosts, index) for index in range(len(hosts))
            }
        if self.hosts is not None:
            return {self.index: worker_environment(self.hosts, self.index)}
        return {0: {}}


def free_ports(count):
    """Ports of the loopback that nothing listens on, all different."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def worker_environment(hosts, index):
    """The environment variables that make a process one of several workers.

    Args:
      hosts: "host:port" of each worker.
      index: int, which of them the process is.

    Returns:
      A dict of strings.
    """
    config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
    # Several workers need Keras 2; without this the trainer would start twice.
    return {"TF_CONFIG": json.dumps(config), "TF_USE_LEGACY_KERAS": "1"}


class Launcher:
    """Runs a training to its end, with restarts.

    Args:
      settings: `Settings`.
    """

    def __init__(self, settings):
        self._settings = settings
        self._signal = None

    def run(self):
        """Starts, watches and restarts the processes.

        Returns:
          The exit code: the trainer's, 128 + n after a signal n.
        """
        # Signals are only noted. An exception could come between the start of a process
        # and its record, and the process would outlive this one.
        for number in STOP_SIGNALS:
            signal.signal(number, self._note_signal)
        restarts = 0
        while True:
            code = self._attempt()
            if self._signal is not None:
                return 128 + self._signal
            if not is_temporary(code) or restarts == self._settings.max_restarts:
                return code if code >= 0 else 128 - code
            restarts += 1
            say(
                f"a worker ended with {described(code)}: restart {restarts} of "
                f"{self._settings.max_restarts} in {self._settings.restart_pause:g} s"
            )
            self._pause()

    def _note_signal(self, number, frame):
        del frame
        self._signal = number

    def _pause(self):
        end = time.monotonic() + self._settings.restart_pause
        while self._signal is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def _attempt(self):
        """Runs all processes until all are done or one fails.

        Returns:
          The exit code that decides, negative for a signal.
        """
        processes, first_log = [], None
        try:
            for index, environment in self._settings.environments().items():
                path = self._settings.logdir / "logs" / f"worker-{index}.log"
                path.parent.mkdir(parents=True, exist_ok=True)
                first_log = first_log or opened_at_end(path)
                processes.append(self._start(path, environment))
            while self._signal is None and is_going_on(processes):
                show(first_log)
                time.sleep(POLL_SECONDS)
            return deciding([process.poll() for process in processes])
        finally:
            stop(processes)
            if first_log is not None:
                show(first_log)
                first_log.close()

    def _start(self, path, environment):
        """Starts a process that appends its output to a log."""
        with path.open("ab") as log:
            return subprocess.Popen(
                self._settings.command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches this program alone, which stops all.
                start_new_session=True,
            )


def opened_at_end(path):
    """Opens a log, which may not be there yet, to read what will be appended."""
    path.touch()
    log = path.open("rb")
    log.seek(0, os.SEEK_END)
    return log


def show(log):
    """Writes what was appended to a log since it was last read to stdout."""
    sys.stdout.buffer.write(log.read())
    sys.stdout.flush()


def is_going_on(processes):
    """True while none has failed and some are not done."""
    codes = [process.poll() for process in processes]
    return None in codes and not any(codes)


def is_temporary(code):
    """True for an exit code after which the same command goes on."""
    return code == EX_TEMPFAIL or code < 0


def deciding(codes):
    """The exit code of an attempt: a lasting failure before one that may pass.

    Args:
      codes: those of the processes, None of one that has not ended.

    Returns:
      An int.
    """
    failures = [code for code in codes if code]
    lasting = [code for code in failures if not is_temporary(code)]
    return (lasting or failures or [0])[0]


def stop(processes):
    """Ends processes and all they have started: TERM, then KILL."""
    for process in processes:
        send(process, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            say(f"process {process.pid} does not heed TERM")
        # Its session too: a process that is gone may have left others behind.
        send(process, signal.SIGKILL)
        process.wait()


def send(process, number):
    """Sends a signal to a process and all of its session."""
    with contextlib.suppress(ProcessLookupError):  # All of them are gone.
        os.killpg(process.pid, number)


def described(code):
    """An exit code in words."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def say(text):
    """Prints a line about the launch, which is not the trainer's."""
    print(f"launch_workers: {text}", file=sys.stderr, flush=True)


def parse(arguments):
    """Reads the command line.

    Args:
      arguments: list of strings, without the program's name.

    Returns:
      A `Settings`. Exits with code 2 where they are wrong, naming all that is.
    """
    own, separator, train_arguments = split_at(arguments, "--")
    parser = make_parser()
    options = parser.parse_args(own)
    hosts = None if options.hosts is None else options.hosts.split(",")
    logdir = flag_value(train_arguments, "logdir")
    problems = []
    if not separator:
        problems.append("put `--` before the arguments of rigl_keras.train")
    if not logdir:
        problems.append("give rigl_keras.train its --logdir")
    elif "://" in logdir:
        problems.append(f"--logdir={logdir} must be a folder of the file system")
    problems += counts_problems(options) + hosts_problems(hosts, options.index)
    if problems:
        parser.error("; ".join(problems))
    return Settings(
        local=options.local,
        hosts=hosts,
        index=options.index,
        python=options.python,
        max_restarts=options.max_restarts,
        restart_pause=options.restart_pause,
        dry_run=options.dry_run,
        train_arguments=train_arguments,
        logdir=Path(logdir),
    )


def make_parser():
    """The parser of this program's own options."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        usage="%(prog)s MODE [options] -- --logdir=DIR [arguments of rigl_keras.train]",
        allow_abbrev=False,
    )
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--single", action="store_true", help="one process, no cluster")
    mode.add_argument(
        "--local", type=int, metavar="N", help="N workers on this machine"
    )
    mode.add_argument(
        "--hosts",
        metavar="HOST:PORT,...",
        help="a worker on each host; this program runs on all of them",
    )
    parser.add_argument("--index", type=int, help="which of --hosts this is, from 0")
    parser.add_argument("--max_restarts", type=int, default=10)
    parser.add_argument(
        "--restart_pause", type=float, default=10, help="seconds before a restart"
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter")
    parser.add_argument("--dry_run", action="store_true", help="print, run nothing")
    return parser


def split_at(items, separator):
    """Splits a list at the first separator, which may be missing."""
    if separator not in items:
        return items, False, []
    position = items.index(separator)
    return items[:position], True, items[position + 1 :]


def flag_value(arguments, name):
    """The value of an absl flag, whose last one counts; None without it."""
    value = None
    for argument, following in itertools.pairwise([*arguments, None]):
        flag, equals, rest = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            value = rest if equals else following
    return value


def counts_problems(options):
    """What is wrong with the numbers, as a list of sentences."""
    problems = []
    if options.local is not None and options.local < 1:
        problems.append(f"--local must be at least 1, got {options.local}")
    if options.max_restarts < 0:
        problems.append(f"--max_restarts must be >= 0, got {options.max_restarts}")
    if not options.restart_pause >= 0:
        problems.append(f"--restart_pause must be >= 0, got {options.restart_pause}")
    return problems


def hosts_problems(hosts, index):
    """What is wrong with --hosts and --index, as a list of sentences."""
    if hosts is None:
        return [] if index is None else ["--index belongs to --hosts"]
    problems = []
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not (name and port.isdecimal() and 0 < int(port) < 65536):
            problems.append(f"--hosts must be like host1:2222,host2:2222, got {host!r}")
    if len(set(hosts)) < len(hosts):
        problems.append(f"--hosts names a worker twice: {','.join(hosts)}")
    if index is None:
        problems.append("--hosts needs --index, from 0, the place of this host in it")
    elif not 0 <= index < len(hosts):
        problems.append(f"--index must be in 0 ... {len(hosts) - 1}, got {index}")
    return problems


def main(arguments=None):
    """Runs the command line.

    Returns:
      The exit code.
    """
    settings = parse(sys.argv[1:] if arguments is None else arguments)
    if not settings.dry_run:
        return Launcher(settings).run()
    for environment in settings.environments().values():
        variables = [f"{name}={value}" for name, value in environment.items()]
        print(shlex.join(["env", *variables, *settings.command]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
