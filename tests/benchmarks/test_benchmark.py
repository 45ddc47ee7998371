"""The benchmark: its statistics, its parts run small, its tables."""

import importlib
import inspect
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import benchmarks.turns
from benchmarks import command_line, footprint, page, selections, setups, trainings
from benchmarks import run as benchmark
from benchmarks.turns import Estimate, by_clock, estimate, ratios, take_turns, timed
from rigl_keras import networks
from rigl_keras.program import files
from rigl_keras.training.attachment import Attachment

pytestmark = pytest.mark.one_keras


# From published tables of the median's distribution-free intervals, counted from 1.
@pytest.mark.parametrize(
    ("values", "first", "last"),
    [(3, 1, 3), (6, 1, 6), (9, 2, 8), (12, 3, 10), (20, 6, 15), (30, 10, 21)],
)
def test_the_median_has_the_interval_of_the_tables(values, first, last):
    shuffled = np.random.RandomState(0).permutation(np.arange(1, values + 1))
    assert estimate(shuffled.tolist()) == ((values + 1) / 2, first, last, values)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.9, 1.0, "met"), (0.9, 1.01, "undecided"), (1.01, 1.2, "missed")],
)
def test_a_limit_within_the_interval_is_undecided(low, high, verdict):
    assert Estimate(1.0, low, high, 6).meets(1.0) == verdict
    opposite = {"met": "missed", "missed": "met"}
    # A limit at the interval's end is met from either side.
    if high != 1.0:
        turned = Estimate(1.0, low, high, 6).exceeds(1.0)
        assert turned == opposite.get(verdict, verdict)


def test_few_rounds_are_told():
    assert Estimate(1.0, 0.9, 1.0, 5).meets(1.0) == "met (5 rounds)"
    assert Estimate(1.0, 1.0, 1.0, 1).meets(0.5) == "missed (1 round)"


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
    clock = benchmarks.turns.time
    monkeypatch.setattr(clock, "perf_counter", iter([10.0, 13.0]).__next__)
    monkeypatch.setattr(clock, "process_time", iter([1.0, 6.0]).__next__)
    assert timed(lambda: None)() == {"wall": 3.0, "cpu": 5.0}


def test_times_are_sorted_by_clock():
    found = {"a": [{"wall": 1, "cpu": 2}, {"wall": 3, "cpu": 4}]}
    assert by_clock(found) == {"wall": {"a": [1, 3]}, "cpu": {"a": [2, 4]}}


@pytest.mark.parametrize("is_quick", [False, True])
@pytest.mark.parametrize("name", benchmark.PARTS)
def test_every_part_names_a_function_and_its_arguments(name, is_quick):
    part = benchmark.PARTS[name]
    module, _, function = part.function.partition(":")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    arguments = {**part.arguments, **(part.quick if is_quick else {})}
    inspect.signature(function).bind(**arguments)
    if module == "trainings":
        assert arguments["setup"] in setups.SETUPS


def test_the_benchmarks_hold_each_other():
    quick, default, full = (
        set(benchmark.chosen(kind)) for kind in ("quick", "default", "full")
    )
    assert quick < default < full == set(benchmark.PARTS)
    found = benchmark.chosen("default", "selection/*")
    assert found == [
        f"selection/{size}{xla}" for size in (1, 4) for xla in ("", "/xla")
    ]


def _small_mlp(shape, classes):
    return networks.build("mlp", shape, classes, hidden_sizes=(8,))


@pytest.fixture(scope="module")
def parts():
    """What the parts measure, small; the setups' and the runs' sizes alone differ."""
    small = setups.Setup("lenet5", _small_mlp, (4, 4, 1), batch_size=4, steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(setups.SETUPS, "lenet5", small)
        steps = trainings.measure("lenet5", rounds=2)
        always = trainings.measure("lenet5", rounds=2, names=["RigL, always updating"])
        memory = {
            f"memory/{method}": footprint.measure_memory(method, 16, 10, steps=36)
            for method in footprint.METHODS
        }
    updates = {
        "updates": selections.measure_updates([2048, 4096], sorts_up_to=2048, rounds=2),
        "updates/xla": selections.measure_updates(
            [2048, 4096], jit_compile=True, rounds=1
        ),
    }
    growth = {f"growth/{name.partition('/')[2]}": memory[name] for name in memory}
    run = {"total": 20.0, "parts": {"training steps": 12.0, "tests": 3.0}}
    parts = {
        "steps/lenet5": steps,
        "steps/resnet50-224": {**always, "setup": "resnet50-224"},
        "selection/1": selections.measure(4096, rounds=2),
        "selection/1/xla": selections.measure(4096, jit_compile=True, rounds=2),
        **updates,
        **memory,
        **growth,
        "initialization": {"weights": 10, **_clocks(initialization=[0.5, 0.6])},
        "import": {
            **_clocks(**{"import": [0.1, 0.2]}),
            "modules": ["rigl_keras", "gin"],
        },
        "command line/RigL": run,
    }
    environment = files.environment()
    return {name: {**part, "environment": environment} for name, part in parts.items()}


def _clocks(**times):
    return {"wall": times, "cpu": times}


def test_every_contestant_is_timed_and_its_updates_too(parts):
    part = parts["steps/lenet5"]
    names = ["dense", "static", "SET", "RigL", "RigL, always updating"]
    for key in ("wall", "cpu"):
        assert list(part[key]) == names
        assert all(len(times) == 2 and min(times) > 0 for times in part[key].values())
    updates = {name: np.median(times) for name, times in part["update"].items()}
    assert updates["dense"] == updates["static"] == 0
    assert updates["RigL, always updating"] > 0 and updates["RigL"] > 0


@pytest.mark.parametrize(
    ("name", "updates"), [("RigL", 0), ("SET", 0), ("RigL, always updating", 3)]
)
def test_masks_are_updated_in_every_step_or_in_none(name, updates, monkeypatch):
    small = setups.Setup("small", _small_mlp, (4, 4, 1), 4, steps=2, warm_up=1)
    contestant = trainings._contestants(small, jit_compile=False)[name]()
    steps = []
    monkeypatch.setattr(Attachment, "update", lambda *args: steps.append(args))
    contestant.turn()
    assert len(steps) == updates


def test_rigl_all_in_is_a_step_and_a_hundredth_of_what_an_update_adds():
    times = {"RigL": [1.0, 2.0], "RigL, always updating": [3.0, 2.5]}
    assert page.all_in({"wall": times}) == pytest.approx([1.02, 2.005])
    part = {
        "wall": {"RigL, always updating": [3.0, 3.0, 3.0]},
        "update": {"RigL, always updating": [1.0, 2.0, 1.0]},
        "cpu": {"RigL, always updating": [4.0]},
        "update_cpu": {"RigL, always updating": [3.0]},
    }
    assert page.update_to_step(part) == pytest.approx((0.5, 0.5, 2.0, 3))
    assert page.update_to_step(part, "cpu").median == pytest.approx(3)


def test_the_tables_say_what_was_measured(parts, tmp_path):
    (tmp_path / "results" / "performance").mkdir(parents=True)
    (tmp_path / "performance.md").write_text(
        "# Words\n\n<!-- steps -->\nold\n<!-- end of steps -->\n"
    )
    targets = page.write(tmp_path, parts)
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith("# Words") and targets in text
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (row.strip("| ").split("|") for row in targets.splitlines())
    }
    outside = rows["command line, RigL: outside the steps"]
    assert outside[1:3] == ["40%", "missed (1 round)"]
    assert rows["optional packages that it imports"][1:3] == ["gin", "missed"]
    measured = ["0.15 (0.10–0.20) s", "met (2 rounds)"]
    assert rows["`import rigl_keras`"][1:5] == measured * 2
    assert rows["`unit_scaled_init`, VGG-16, 80 % sparse"][2] == "met (2 rounds)"
    assert "exponent p of an update's time ~ weights^p, compiled" in rows
    figure = tmp_path / "results" / "performance" / "updates.png"
    assert figure.read_bytes()[:4] == b"\x89PNG"
    page.write(tmp_path, parts)
    assert (tmp_path / "performance.md").read_text() == text


def test_the_page_of_the_docs_has_the_tables_of_its_numbers(tmp_path):
    docs = Path(benchmark.ROOT) / "docs"
    (tmp_path / "results" / "performance").mkdir(parents=True)
    shutil.copy(docs / "performance.md", tmp_path)
    path = docs / "results" / "performance" / "benchmark.json"
    page.write(tmp_path, files.read_json(path)["parts"])
    left, right = (folder / "performance.md" for folder in (docs, tmp_path))
    assert left.read_text() == right.read_text()


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
    assert " ".join(page.origins(parts).split()) == " ".join(
        f"- m; revision {revision}; {listed}: {names}"
        for revision, names in expected.items()
    )


def test_training_steps_are_judged_by_cpu_time_too(parts):
    times = {"dense": [1.0] * 6, "static": [1.0] * 6, "RigL": [1.0] * 6}
    times["RigL, always updating"] = [2.0] * 6
    cpu = {**times, "static": [1.5] * 6}
    part = {**parts["steps/lenet5"], "wall": times, "cpu": cpu}
    static, rigl = page.target_rows({"steps/lenet5": part})
    assert static[-3:] == ["met", "1.50 (1.50–1.50)", "missed"]
    assert rigl[-3:] == ["met", "1.01 (1.01–1.01)", "met"]


def test_faster_than_asked_is_met(parts):
    def verdict(times):
        clocks = _clocks(argsort=[9.0] * 6, **times)
        part = {"size": 2**20, "jit_compile": False, **clocks}
        (row,) = page.target_rows({"selection/1": part})
        assert row[2:4] == row[4:6]
        return row[3]

    assert verdict({"radix": [1.0] * 6, "top_k": [6.0] * 6}) == "met"
    assert verdict({"radix": [1.0] * 6, "top_k": [4.0] * 6}) == "missed"
    assert verdict({"radix": [1.0] * 6, "top_k": [4.0, 6.0] * 3}) == "undecided"


def test_the_exponent_of_a_power_is_found():
    sizes = [1, 2, 4, 8]
    times = [3 * size**1.5 for size in sizes]
    assert page.exponent(sizes, times) == pytest.approx(1.5)


def test_memory_beyond_dense_is_that_of_masks_and_gradients():
    dense = {"weights": 1000, "variables": 8000}
    memory = {"dense": dense, "RigL": {"weights": 1000, "variables": 13000}}
    assert page.beyond_dense(memory, "RigL") == 5


def test_all_variables_that_exist_are_counted():
    before = footprint._bytes_of_variables()
    kept = tf.Variable(np.zeros((1000, 1000), np.float32)), tf.Variable([True] * 1000)
    assert footprint._bytes_of_variables() - before == 4_001_000
    assert len(kept) == 2


def test_what_is_allocated_is_seen():
    before = footprint._allocated()
    kept = np.zeros(10_000_000, np.uint8)
    assert footprint._allocated() - before == pytest.approx(kept.nbytes, rel=0.01)


def test_masks_cost_a_byte_a_weight_and_rigl_four_more(parts):
    memory = page._below("memory/", parts)
    assert page.beyond_dense(memory, "static") == pytest.approx(1, abs=0.01)
    assert page.beyond_dense(memory, "RigL") == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sorting_chooses_as_radix_does(jit_compile):
    # `measure` itself compares the masks.
    found = selections.measure(10_000, jit_compile, rounds=1)
    for clock in ("wall", "cpu"):
        assert all(len(found[clock][n]) == 1 for n in ("radix", "argsort", "top_k"))


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


@pytest.mark.slow
def test_the_command_writes_its_numbers_and_goes_on(tmp_path, monkeypatch, capsys):
    arguments = ["benchmark.py", "--quick", "--output", str(tmp_path), "--keep"]
    monkeypatch.setattr("sys.argv", [*arguments, "--only", "import"])
    assert benchmark.main() == 0
    record = files.read_json(tmp_path / "results" / "performance" / "benchmark.json")
    part = record["parts"]["import"]
    assert len(part["wall"]["import"]) == 3 and part["arguments"] == {"rounds": 3}
    assert not page.OPTIONAL & set(part["modules"])
    assert {"versions", "git_revision", "machine"} <= set(part["environment"])
    benchmark.main()
    assert "Nothing to measure" in capsys.readouterr().out


@pytest.mark.slow
def test_a_part_that_fails_is_told(tmp_path, monkeypatch, capsys):
    broken = benchmark.Part("footprint:measure_memory", {"method": "none"}, "quick")
    monkeypatch.setattr(benchmark, "PARTS", {"broken": broken})
    arguments = ["benchmark.py", "--quick", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    record = tmp_path / "results" / "performance" / "benchmark.json"
    record.parent.mkdir(parents=True)
    before = {"broken": {"seconds": [9.0]}, "of another version": {}}
    files.write_json(record, {"format": benchmark.FORMAT, "parts": before})
    assert benchmark.main() == 1
    assert "KeyError: 'none'" in capsys.readouterr().out
    assert files.read_json(record) == {"format": benchmark.FORMAT, "parts": {}}
    for wrong in (["--rounds", "0"], ["--only", "nothing"]):
        monkeypatch.setattr("sys.argv", [*arguments, *wrong])
        with pytest.raises(SystemExit):
            benchmark.main()
        assert wrong[0] in capsys.readouterr().err


def test_only_numbers_of_this_revision_and_these_arguments_are_kept(monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--rounds=9"])
    args, name = benchmark._arguments(), "selection/1"
    wanted = {**benchmark.PARTS[name].arguments, "rounds": 9}
    part = {"arguments": wanted, "environment": {"git_revision": "a"}}
    assert benchmark._is_known(name, {name: part}, args, "a")
    assert not benchmark._is_known(name, {name: part}, args, "b")
    assert not benchmark._is_known(name, {}, args, "a")
    others = {**part, "arguments": {**wanted, "rounds": 8}}
    assert not benchmark._is_known(name, {name: others}, args, "a")


def test_an_interrupted_benchmark_writes_its_page(tmp_path, monkeypatch, capsys):
    def interrupt(part, changes):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", interrupt)
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--output", str(tmp_path)])
    assert benchmark.main() == 130
    assert "--keep goes on" in capsys.readouterr().out
    text = (tmp_path / "performance.md").read_text()
    assert "## Memory\n\n<!-- memory -->\nNot measured.\n" in text


def test_memory_is_judged_where_the_system_tells_it(parts):
    without = {name: {**part, "growth": None} for name, part in parts.items()}
    assert page.growth(without, "static") is None
    known = {"growth/static": {"growth": 300, "growth_steps": 100}}
    assert page.growth(known, "static") == 3
    rows = page.target_rows({**parts, **known})
    assert ["growth of memory, bytes a step, static", "≤ 16", "3", "met"] in rows
