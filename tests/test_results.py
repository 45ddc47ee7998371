import os

import pytest

from rigl_keras import results


def test_json_comes_back_and_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "a.json"
    results.write_json(path, {"accuracy": 0.5})
    results.write_json(path, {"accuracy": 0.75})
    assert results.read_json(path) == {"accuracy": 0.75}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_missing_file_has_nothing(tmp_path):
    assert results.read_json(tmp_path / "a.json") is None
    assert results.read_jsonl(tmp_path / "a.jsonl") == []


def test_a_line_that_was_not_written_whole_does_not_count(tmp_path):
    path = tmp_path / "a.jsonl"
    results.append_jsonl(path, {"step": 1})
    results.append_jsonl(path, {"step": 2})
    with open(path, "a") as file:
        file.write('{"step": 3, "lo')
    assert [record["step"] for record in results.read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_records_after_a_step_are_dropped(tmp_path, step, kept):
    path = tmp_path / "a.jsonl"
    for each in (1, 2, 3):
        results.append_jsonl(path, {"step": each})
    results.drop_records_after(path, step)
    assert [record["step"] for record in results.read_jsonl(path)] == kept


def test_the_environment_names_versions():
    versions = results.environment()["versions"]
    assert versions["tensorflow"].startswith("2.")
    assert {"rigl_keras", "keras", "python", "numpy"} <= versions.keys()
