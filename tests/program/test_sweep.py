"""Sweeps: parents first, nothing twice, failures named; records as JSON lines."""

import sys

import pytest

from rigl_keras.program import sweep

pytestmark = pytest.mark.one_keras

# Stands in for the trainer: writes a result, of the files that the run had by then.
TRAINER = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
results = folder.parents[1].glob("*/*/results.json")
made = sorted(path.parents[1].name for path in results)
folder.mkdir(exist_ok=True)
result = {"test_accuracy": 0.5, "made_before": made}
(folder / "results.json").write_text(json.dumps(result))
"""


def command(run, data_dir):
    is_broken = run.cell.name == "broken"
    program = "import sys; sys.exit('no such file')" if is_broken else TRAINER
    return [sys.executable, "-Ic", program, str(run.folder)]


def test_runs_are_made_after_their_parents_and_only_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep.Run, "command", command)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.02)
    parent, broken = (
        sweep.Cell(name, name.title(), ()) for name in ("parent", "broken")
    )
    child = sweep.Cell("child", "Child", (), parent="parent")
    orphan = sweep.Cell("orphan", "Orphan", (), parent="broken")
    runs = sweep.all_runs([child, orphan, broken, parent], tmp_path, seeds=[0])
    done = []
    first = sweep.Runner(runs, None)
    first.run(when_done=lambda: done.append([run.result() is not None for run in runs]))
    assert [run.cell.name for run in first.failed] == ["broken", "orphan"]
    # A child may end while its parent's process, whose result is there, still does.
    assert done[-1] == [True, False, False, True]
    assert done[0] in (done[-1], [False, False, False, True])
    assert runs[0].result()["made_before"] == ["parent"]
    printed = capsys.readouterr().out
    assert (
        "FAILED: broken, seed 0; see" in printed and "Child, seed 0: 50.00%" in printed
    )
    assert "no such file" in runs[2].folder.with_suffix(".log").read_text()
    again = sweep.Runner([runs[0], runs[3]], None)
    again.run(when_done=lambda: pytest.fail("nothing was to do"))
    assert again.failed == []


def test_records_are_sorted_lines_that_lose_nothing(tmp_path):
    records = {
        ("b", 0): {"seed": 0, "cell": "b", "layers": {"z": 1.5, "a": 0.1}},
        ("a", 10): {"seed": 10, "cell": "a", "layers": {}},
        ("a", 9): {"cell": "a", "layers": {"z": 1e-12}, "seed": 9},
    }
    path = tmp_path / "runs.jsonl"
    sweep.write_records(path, records)
    # Keys of a record are sorted, layers keep their order.
    assert path.read_text().splitlines() == [
        '{"cell":"a","layers":{"z":1e-12},"seed":9}',
        '{"cell":"a","layers":{},"seed":10}',
        '{"cell":"b","layers":{"z":1.5,"a":0.1},"seed":0}',
    ]
    again = sweep.read_records(path, ("cell", "seed"))
    assert again == records
    sweep.write_records(tmp_path / "again.jsonl", again)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert sweep.read_records(tmp_path / "none.jsonl", ("cell",)) == {}
