"""How this suite is run: scripts/test.sh, tiers, and the limit of a test's time."""

import shutil
import subprocess
from pathlib import Path

import durations
import pytest
import tiers

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.one_keras

ROOT = Path(__file__).resolve().parents[2]

MARKED = """
import pytest

def test_plain(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.release
def test_release(): pass

@pytest.mark.both_kerases
def test_both(): pass

@pytest.mark.one_keras
def test_one(): pass
"""
MARKS = """
[pytest]
markers =
    slow
    release
    both_kerases
    one_keras
"""
BUSY = """
import os, subprocess, sys, time

LOOP = '''
import os
while sum(os.times()[:4]) < {seconds}: sum(range(10_000))
'''

def burn(seconds):
    exec(LOOP.format(seconds=sum(os.times()[:4]) + seconds))
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Runs pytest with both plugins and arguments; returns the names that passed."""
    pytester.makeini(f"{MARKS}testpaths = tests")
    folder = pytester.mkdir("tests")
    for name in ("layers", "program"):
        (folder / name).mkdir()
        (folder / name / f"test_of_{name}.py").write_text(MARKED)

    def run(*arguments, is_legacy=False):
        monkeypatch.setattr(tiers, "IS_LEGACY", is_legacy)
        result = pytester.inline_run("-p", "tiers", "-p", "durations", *arguments)
        passed, _, failed = result.listoutcomes()
        assert not failed
        return {
            report.nodeid.removeprefix("tests/").replace(".py::test", "")
            for report in passed
            if report.when == "call"
        }

    return run


def of(folder, *names):
    return {f"{folder}/test_of_{folder}_{name}" for name in names}


EVERY = ("plain", "slow", "release", "both", "one")


def test_in_keras_3_the_default_tier_is_all_but_release(suite):
    names = ("plain", "slow", "both", "one")
    assert suite() == of("layers", *names) | of("program", *names)


def test_in_keras_2_the_default_tier_is_some_folders_and_what_is_marked(suite):
    expected = of("layers", "plain", "slow", "both") | of("program", "both")
    assert suite(is_legacy=True) == expected


def test_all_is_all_but_one_keras_in_keras_2(suite):
    assert suite("--tier=all") == of("layers", *EVERY) | of("program", *EVERY)
    assert suite("--tier=all", is_legacy=True) == (
        of("layers", *EVERY[:-1]) | of("program", *EVERY[:-1])
    )


def test_what_is_named_runs(suite):
    path = "tests/program/test_of_program.py"
    assert suite(path) == of("program", *EVERY)
    assert suite(f"{path}::test_plain", is_legacy=True) == of("program", "plain")
    expected = of("layers", "release") | of("program", "release")
    assert suite("-k", "release", is_legacy=True) == expected
    assert suite("-k", "release", "--tier=default") == set()


def test_marks_choose_within_the_tier(suite):
    names = ("plain", "both", "one")
    assert suite("-m", "not slow") == of("layers", *names) | of("program", *names)


@pytest.fixture
def outcomes(pytester, monkeypatch):
    """Runs tests under a limit of 0.2 CPU seconds; returns the outcomes and output."""
    pytester.makeini(MARKS)

    def run(tests):
        pytester.makepyfile(BUSY + tests)
        with monkeypatch.context() as patch:  # Not the limit of the test that asks.
            patch.setattr(durations, "LIMIT", 0.2)
            result = pytester.runpytest_inprocess("-p", "durations")
        return result.parseoutcomes(), result.stdout.str()

    return run


def test_a_test_over_the_limit_fails_with_what_to_do(outcomes):
    counts, output = outcomes("def test_busy(): burn(0.3)")
    assert counts == {"failed": 1}
    assert "This test passed but took 0." in output and "more than 0.2." in output
    assert "Or mark it: `slow`" in output


def test_the_time_of_a_process_that_a_test_waits_for_counts(outcomes):
    loop = "subprocess.run([sys.executable, '-c', LOOP.format(seconds=0.3)])"
    assert outcomes(f"def test_busy(): {loop}")[0] == {"failed": 1}


def test_marks_fixtures_and_waiting_are_free(outcomes):
    tests = """
import pytest

@pytest.fixture
def busy():
    burn(0.3)

@pytest.mark.slow
def test_slow(): burn(0.3)

@pytest.mark.release
def test_release(): burn(0.3)

def test_fixture(busy): pass

def test_waiting(): time.sleep(0.3)
"""
    assert outcomes(tests)[0] == {"passed": 4}


def test_a_test_that_fails_by_itself_says_so(outcomes):
    counts, output = outcomes("def test_busy():\n    burn(0.3)\n    assert 1 == 2")
    assert counts == {"failed": 1}
    assert "assert 1 == 2" in output and "CPU seconds" not in output


@pytest.fixture
def script(tmp_path):
    """Runs test.sh with stubs; returns its status, its output and what it called."""
    scripts, python = tmp_path / "scripts", tmp_path / ".venv" / "bin" / "python"
    scripts.mkdir()
    python.parent.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "test.sh", scripts)
    (scripts / "setup.sh").write_text("#!/bin/sh\n")
    python.write_text(
        '#!/bin/sh\necho "${TF_USE_LEGACY_KERAS:-3} $*" >>calls\n[ "$2" != mypy ]\n'
    )
    for path in (scripts / "setup.sh", python):
        path.chmod(0o755)

    def run(*arguments):
        command = ["bash", scripts / "test.sh", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        calls = (tmp_path / "calls").read_text().splitlines()
        return done.returncode, done.stdout, calls

    return run


def test_every_stage_runs_and_one_that_fails_is_named(script):
    code, output, calls = script("--all", "-k", "two words")
    tests = "-m pytest -n 2 --dist worksteal --tier=all -k two words"
    assert calls[-2:] == [f"3 {tests}", f"1 {tests}"]
    assert [call.split()[2] for call in calls[:-2]] == ["ruff", "ruff", "mypy"]
    assert code == 1
    assert "FAILED: [types]" in output
    assert "0 min 00 s  tests in Keras 2" in output
