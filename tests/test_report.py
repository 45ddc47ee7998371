import json

import pytest

from rigl_keras import report

RESULT = {
    "data": "digits",
    "network": "lenet5",
    "method": "RigL",
    "sparsity": {"all": 0.95},
    "active_weights": 2446,
    "weights": 44426,
    "test_accuracy": 0.9749,
    "test_loss": 0.0821,
    "steps": 20,
    "steps_per_second": 150.4,
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a_run"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(RESULT))
    record = {"cross_entropy": 1.0, "accuracy": 0.5}
    record |= {"test_cross_entropy": 2.0, "test_accuracy": 0.25}
    lines = [json.dumps({"step": step, **record}) + "\n" for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def test_a_run_is_a_row_of_the_table(folder, capsys):
    assert report.main([str(folder)]) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    cells = dict(
        zip(
            [cell.strip() for cell in head.split("|")],
            [cell.strip() for cell in row.split("|")],
            strict=True,
        )
    )
    assert cells["run"] == "a_run"
    assert cells["method"] == "RigL"
    assert cells["sparsity"] == "95.00%"
    assert cells["active / all weights"] == "2446 / 44426"
    assert cells["test accuracy"] == "97.49%"


def test_the_figure_is_written(folder, tmp_path):
    figure = tmp_path / "curves.png"
    assert report.main([str(folder), f"--figure={figure}"]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_result_is_refused(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "results.json" in capsys.readouterr().err
