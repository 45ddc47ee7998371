"""A checkout whose launchers start the stubs beside this file, not real programs."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "tests" / "support" / "stubs"
# What scripts may use of a machine, and no more: there may be a real gcloud on it.
TOOLS = [
    *("awk", "bash", "cat", "cp", "cut", "date", "df", "dirname", "env", "git", "grep"),
    *("head", "kill", "ls", "mkdir", "nohup", "realpath", "rm", "sed", "setsid"),
    *("sleep", "sort", "tail", "touch", "tr"),
]
SETUP = '#!/usr/bin/env bash\nprintf "%s\\n" "setup $*" >>"$STUB/python_calls"\n'
ENVIRONMENT = (".venv/bin/python", ".venv/bin/tfds")


class Checkout:
    """A copy of the launchers, whose set-up, Python, trainer and cloud are stubs.

    Args:
      folder: an empty folder.

    Attributes:
      root: the copy's folder, in git.
      cloud: what the stub of gcloud sees.
    """

    def __init__(self, folder):
        self.root = folder / "a checkout"
        self.cloud = folder / "cloud"
        self._stub = folder / "stub"
        # Links to real programs, and apart from them what stands in for some: to write
        # among the links could write to what they lead to.
        self._tools, self._stubs = folder / "tools", folder / "stubs"
        self._make_trainer()
        self._make_tools()
        self._make_root()
        (self.cloud / "bucket").mkdir(parents=True)

    def _make_trainer(self):
        package = self._stub / "rigl_keras"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copy(STUBS / "trainer.py", package / "train.py")

    def _make_tools(self):
        self._tools.mkdir()
        for name in TOOLS:
            (self._tools / name).symlink_to(shutil.which(name))
        self._stubs.mkdir()
        shutil.copy(STUBS / "python3", self._stubs)
        # Not by the stub's own first line, which looks for a python3.
        text = (STUBS / "gcloud").read_text().partition("\n")[2]
        (self._stubs / "gcloud").write_text(f"#!{sys.executable} -IS\n{text}")
        (self._stubs / "gcloud").chmod(0o755)

    def _make_root(self):
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        shutil.copytree(ROOT / "gin", self.root / "gin")
        (self.root / ".gitignore").write_text(".venv\n")
        (self.root / "scripts" / "setup.sh").write_text(SETUP)
        for name in ENVIRONMENT:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(STUBS / "python3", self.root / name)
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"]):
            self.git(*command)

    def git(self, *arguments):
        """Runs git in the checkout."""
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *who, *arguments], cwd=self.root, check=True)

    def remove_tool(self, name):
        """Takes a stub off the machine."""
        (self._stubs / name).unlink()

    def add_tool(self, name, text):
        """Puts a shell script on the machine, before a program of that name."""
        path = self._stubs / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def shorten_pauses(self):
        """Lets the copy of launch_workers.py start processes again at once."""
        path = self.root / "scripts" / "launch_workers.py"
        text = path.read_text()
        assert text.count("default=10, help") == 1
        path.write_text(text.replace("default=10, help", "default=0, help"))

    def run(self, script, *arguments, plan=None, timeout=60):
        """Runs a script of the checkout.

        Args:
          script: its name.
          *arguments: its arguments.
          plan: what the trainer does, see stubs/trainer.py.
          timeout: seconds it may take.

        Returns:
          The `CompletedProcess`, with text.
        """
        return subprocess.run(
            [self.root / "scripts" / script, *arguments],
            env=self.environment(plan),
            cwd=self.root.parent,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def environment(self, plan=None):
        """The environment of a script."""
        return {
            "PATH": f"{self._stubs}:{self._tools}",
            "HOME": str(self.root.parent),
            "STUB": str(self._stub),
            "CLOUD": str(self.cloud),
            "PLAN": json.dumps(plan or {}),
            "REAL_PYTHON": sys.executable,
            "PAUSE_SECONDS": "0.1",
            "UPLOAD_SECONDS": "0.1",
            "TMPDIR": str(self.root.parent),
        }

    def starts(self, worker=0):
        """How the processes of a worker were started, in their order."""
        return starts(self._stub, worker)

    def python_calls(self):
        """The calls of set-up and of the stub of Python, as lines."""
        return _lines(self._stub / "python_calls")

    def gcloud_calls(self):
        """The calls of gcloud, each a list of arguments."""
        return [json.loads(line) for line in _lines(self.cloud / "calls")]


def starts(folder, worker):
    """The records of a worker's processes, see stubs/trainer.py."""
    return [json.loads(line) for line in _lines(Path(folder) / f"starts-{worker}")]


def _lines(path):
    return path.read_text().splitlines() if path.exists() else []


def is_alive(pid):
    """True for a process that runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def trainer_environment(folder, plan, mode=""):
    """The environment with which launch_workers.py starts the stub of the trainer."""
    package = folder / "rigl_keras"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(STUBS / "trainer.py", package / "train.py")
    return {
        **os.environ,
        "PYTHONPATH": str(folder),
        "STUB": str(folder),
        "PLAN": json.dumps(plan),
        "STUB_MODE": mode,
    }


def commands(result):
    """The commands that a dry run printed, each a list of words."""
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("# ")]


def nothing_was_run(checkout):
    calls = checkout.python_calls() + checkout.gcloud_calls() + checkout.starts()
    return calls == []


def refusal(result):
    """The problems that a script named before it started anything."""
    assert result.returncode == 2
    head, *problems = result.stderr.splitlines()
    assert head.endswith(": cannot start:")
    assert all(problem.startswith("  - ") for problem in problems)
    return [problem.removeprefix("  - ") for problem in problems]


def assert_each_names(problems, beginnings):
    assert len(problems) == len(beginnings), problems
    for problem, beginning in zip(problems, beginnings, strict=True):
        assert problem.startswith(beginning)
