"""The benchmark: what goes into a ratio, what is measured, what its tables say."""

import importlib
import inspect
import itertools
import math
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import command_line, footprint, selections, setups, tables, trainings
from benchmarks import run as benchmark
from benchmarks import turns as taking_turns
from benchmarks.parts import PARTS, Part, chosen
from benchmarks.turns import by_clock, estimate, ratios, take_turns, timed
from rigl_keras import networks
from rigl_keras.program import files
from rigl_keras.training.attachment import Attachment

pytestmark = pytest.mark.one_keras
DOCS = benchmark.ROOT / "docs"


def published_parts():
    return files.read_json(DOCS / "results" / "performance" / "benchmark.json")["parts"]


# Ratios and their intervals


def test_the_median_has_the_interval_of_published_tables():
    # Of the median's distribution-free 95 % intervals, counted from 1.
    for values, first, last in ((3, 1, 3), (6, 1, 6), (9, 2, 8), (12, 3, 10)):
        shuffled = np.random.RandomState(0).permutation(np.arange(1, values + 1))
        expected = (values + 1) / 2, first, last, values
        assert estimate(shuffled.tolist()) == expected


def test_ratios_are_of_the_same_round():
    # The machine was ten times slower in the second round: that is no difference.
    assert ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == (2.0, 2.0, 2.0, 3)


def test_contestants_take_turns_in_changing_orders():
    order = []
    contestants = {name: lambda name=name: order.append(name) or name for name in "abc"}
    assert take_turns(contestants, 60) == {name: [name] * 60 for name in "abc"}
    rounds = ["".join(order[i : i + 3]) for i in range(0, 180, 3)]
    assert set(rounds) == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_a_call_is_timed_by_the_wall_and_by_its_threads(monkeypatch):
    clock = taking_turns.time
    monkeypatch.setattr(clock, "perf_counter", iter([10.0, 13.0]).__next__)
    monkeypatch.setattr(clock, "process_time", iter([1.0, 6.0]).__next__)
    seconds = timed(lambda: None)()
    assert seconds == {"wall": 3.0, "cpu": 5.0}
    assert by_clock({"a": [seconds]}) == {"wall": {"a": [3.0]}, "cpu": {"a": [5.0]}}


def test_rigl_all_in_is_a_step_and_a_hundredth_of_what_an_update_adds():
    part = {
        "wall": {"RigL": [1.0, 2.0], "RigL, always updating": [3.0, 2.5]},
        "update": {"RigL, always updating": [1.0, 1.0]},
    }
    assert tables.all_in(part) == pytest.approx([1.02, 2.005])
    assert tables.update_to_step(part, "wall") == pytest.approx(
        (7 / 12, 1 / 2, 2 / 3, 2)
    )


def test_the_exponent_of_a_power_is_found():
    sizes = [1, 2, 4, 8]
    radix = [[3 * size**1.5] * 2 for size in sizes]
    power = tables.exponent({"sizes": sizes, "wall": {"radix": radix}}, "wall")
    assert power == pytest.approx((1.5, 1.5, 1.5, 2))


def test_a_speed_up_is_over_the_faster_way_to_sort():
    times = {"argsort": [9.0, 4.0], "top_k": [6.0, 8.0], "radix": [1.0, 2.0]}
    assert tables.speed_up({"wall": times}, "wall") == (4.0, 2.0, 6.0, 2)


# Parts


def test_every_part_names_a_function_and_its_arguments():
    for part in PARTS.values():
        module, _, name = part.function.partition(":")
        function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
        for arguments in (part.arguments, {**part.arguments, **part.quick}):
            inspect.signature(function).bind(**arguments)
        assert part.arguments.get("setup", "lenet5") in setups.SETUPS


def test_the_benchmarks_hold_each_other():
    quick, default, full = map(set, map(chosen, ("quick", "default", "full")))
    assert quick < default < full == set(PARTS)
    some = chosen("default", "selection/*")
    assert some == [f"selection/{n}{xla}" for n in (1, 4) for xla in ("", "/xla")]


def _small_mlp(shape, classes):
    return networks.build("mlp", shape, classes, hidden_sizes=(8,))


def test_every_contestant_is_timed_and_updates_in_every_step_or_in_none(monkeypatch):
    small = setups.Setup("small", _small_mlp, (4, 4, 1), 4, steps=2, warm_up=1)
    monkeypatch.setitem(setups.SETUPS, "small", small)
    steps, update = [], Attachment.update

    def counted(attachment, *args, **kwargs):
        steps.append(attachment)
        return update(attachment, *args, **kwargs)

    monkeypatch.setattr(Attachment, "update", counted)
    names = ["dense", "RigL", "RigL, always updating"]
    part = trainings.measure("small", names=names, rounds=1)
    for clock in ("wall", "cpu"):
        assert list(part[clock]) == names
        assert all(len(times) == 1 and times[0] > 0 for times in part[clock].values())
    # 3 steps in the turn that traces and in the one that is timed, of which 1 warms up.
    assert len(steps) == 6 and len(set(steps)) == 1
    assert part["update"]["dense"] == [0] and part["update"][names[2]][0] > 0


def test_sorting_chooses_as_radix_does():
    # Both compare the masks.
    selections.measure(10_000, rounds=1)
    part = selections.measure_updates([2048], sorts_up_to=2048, rounds=2)
    for clock in ("wall", "cpu"):
        assert [len(part[clock][way][0]) for way in ("radix", "sorting")] == [2, 2]


def test_memory_is_that_of_all_variables_and_allocations():
    variables, allocated = footprint._bytes_of_variables(), footprint._allocated()
    kept = tf.Variable(np.zeros((1000, 1000), np.float32)), tf.Variable([True] * 1000)
    assert footprint._bytes_of_variables() - variables == 4_001_000
    array = np.zeros(10_000_000, np.uint8)
    assert footprint._allocated() - allocated >= array.nbytes and len(kept) == 2


@pytest.mark.release
def test_masks_cost_a_byte_a_weight_and_rigl_four_more():
    memory = {
        name: footprint.measure_memory(name, width=16, batch_size=10, steps=36)
        for name in ("dense", "static", "RigL")
    }
    assert tables.beyond_dense(memory, "static") == pytest.approx(1, abs=0.01)
    assert tables.beyond_dense(memory, "RigL") == pytest.approx(5, abs=0.01)


def test_times_of_the_command_line_leave_out_what_they_hold(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(command_line.time, "perf_counter", lambda: next(ticks))

    class Work:
        def step(self):
            self.test()
            self.test()

        def test(self):
            pass

    watch = command_line._Stopwatch()
    watch.watch(command_line.STEPS, Work, "step")
    watch.watch("tests", Work, "test")
    for _ in range(2):
        Work().step()
    # A step takes 5 ticks, each test 1 of them; the first step belongs to the start.
    assert watch.seconds[command_line.START] == 3
    assert watch.seconds[command_line.STEPS] == 3
    assert watch.seconds["tests"] == 4
    assert math.fsum(watch.seconds.values()) == 10
    thread = threading.Thread(target=Work().test)
    thread.start()
    thread.join()
    assert watch.beside["tests"] == 1
    assert math.fsum(watch.seconds.values()) == 10


def test_what_the_command_line_is_timed_by_exists():
    for methods in command_line._PARTS.values():
        assert all(callable(getattr(cls, name)) for cls, name in methods)


# Tables


def test_the_page_of_the_docs_has_the_tables_of_its_numbers(tmp_path):
    (tmp_path / "results" / "performance").mkdir(parents=True)
    shutil.copy(DOCS / "performance.md", tmp_path)
    page = tables.write(tmp_path, published_parts())
    assert page.read_text() == (DOCS / "performance.md").read_text()
    figure = tmp_path / tables.FIGURE
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_the_numbers_of_the_targets_are_those_of_the_tables():
    page = (DOCS / "performance.md").read_text()
    targets = page[page.index("## Targets") : page.index("## Training steps")]
    measured = "".join(tables.sections(published_parts()).values())
    numbers = re.findall(r"\d+\.\d+ \(\d+\.\d+–\d+\.\d+\)", targets)
    assert len(numbers) == 70
    assert not [number for number in numbers if number not in measured]


def test_what_is_not_measured_is_said(tmp_path):
    (tmp_path / "results" / "performance").mkdir(parents=True)
    text = tables.write(tmp_path, {}).read_text()
    assert "## Memory\n\n<!-- memory -->\nNot measured.\n" in text
    assert text.count("Not measured.") == len(tables.sections({})) - 1
    assert tables.growth({}, "static") is None
    known = {"growth/static": {"growth": 300, "growth_steps": 100}}
    assert tables.growth(known, "static") == 3


def test_each_part_tells_with_what_it_was_measured():
    versions = dict.fromkeys(("python", "tensorflow", "keras", "numpy"), "1.0")
    same = {"machine": "m", "versions": versions}
    revisions = {"a": "0" * 40, "b": "0" * 40 + "-dirty", "c": "0" * 40, "d": None}
    parts = {
        name: {"environment": {**same, "git_revision": revision}}
        for name, revision in revisions.items()
    }
    listed = "python 1.0, tensorflow 1.0, keras 1.0, numpy 1.0"
    expected = {"0" * 12: "a, c", "0" * 12 + "-dirty": "b", "none": "d"}
    assert " ".join(tables.origins(parts).split()) == " ".join(
        f"- m; revision {revision}; {listed}: {names}"
        for revision, names in expected.items()
    )


# The command


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command line, with numbers and page in `tmp_path`."""

    def run(*options):
        arguments = ["benchmarks.run", "--output", str(tmp_path), *options]
        monkeypatch.setattr("sys.argv", arguments)
        return benchmark.main()

    return run


def record_of(folder):
    return folder / "results" / "performance" / "benchmark.json"


def measured(part, arguments):
    environment = {**files.environment(), "git_revision": None}
    seconds = {clock: {"import": [0.1, 0.2]} for clock in ("wall", "cpu")}
    return {
        **seconds,
        "arguments": arguments,
        "environment": environment,
        "seconds_in_all": 1.0,
    }


def test_only_what_is_not_known_of_this_revision_is_measured(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(benchmark, "run", measured)
    only = ["--keep", "--only", "import"]
    assert command(*only) == 0
    assert files.read_json(record_of(tmp_path))["parts"]["import"]["arguments"] == {}
    assert "0.15 (0.10–0.20) s" in (tmp_path / "performance.md").read_text()
    assert command(*only) == 0
    assert "Nothing to measure" in capsys.readouterr().out
    # Other arguments; then another revision.
    assert command(*only, "--quick") == 0
    assert "[1/1] import" in capsys.readouterr().out
    elsewhere = {**files.environment(), "git_revision": "another"}
    monkeypatch.setattr(files, "environment", lambda: elsewhere)
    assert command(*only, "--quick") == 0
    assert "[1/1] import" in capsys.readouterr().out


def test_a_part_that_fails_is_told_and_has_no_old_numbers(
    command, tmp_path, monkeypatch, capsys
):
    def fail(part, arguments):
        raise subprocess.CalledProcessError(1, "worker", stderr="KeyError: 'none'")

    monkeypatch.setattr(benchmark, "run", fail)
    record_of(tmp_path).parent.mkdir(parents=True)
    before = {"import": {"seconds": [9.0]}, "of another version": {}}
    files.write_json(record_of(tmp_path), {"format": benchmark.FORMAT, "parts": before})
    assert command("--only", "import") == 1
    assert "KeyError: 'none'" in capsys.readouterr().out
    expected = {"format": benchmark.FORMAT, "parts": {}}
    assert files.read_json(record_of(tmp_path)) == expected


def test_wrong_options_are_refused(command, capsys):
    for wrong in (["--rounds", "0"], ["--only", "nothing"]):
        with pytest.raises(SystemExit):
            command(*wrong)
        assert wrong[0] in capsys.readouterr().err


def test_an_interrupted_benchmark_writes_its_page(
    command, tmp_path, monkeypatch, capsys
):
    def interrupt(part, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", interrupt)
    assert command() == 130
    assert "--keep goes on" in capsys.readouterr().out
    assert "Not measured." in (tmp_path / "performance.md").read_text()


@pytest.mark.release
def test_a_part_is_measured_in_a_process_of_its_own():
    part = benchmark.run(Part("footprint:measure_import"), {"rounds": 1})
    assert len(part["wall"]["import"]) == 1 and part["arguments"] == {"rounds": 1}
    assert {"versions", "git_revision", "machine"} <= set(part["environment"])
