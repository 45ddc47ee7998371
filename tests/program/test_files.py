import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rigl_keras.program import files


def test_json_comes_back_and_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"accuracy": 0.5})
    files.write_json(path, {"accuracy": 0.75})
    assert files.read_json(path) == {"accuracy": 0.75}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_missing_file_has_nothing(tmp_path):
    assert files.read_json(tmp_path / "a.json") is None
    assert files.read_jsonl(tmp_path / "a.jsonl") == []


def test_a_line_that_was_not_written_whole_does_not_count(tmp_path):
    path = tmp_path / "a.jsonl"
    files.append_jsonl(path, {"step": 1})
    files.append_jsonl(path, {"step": 2})
    with open(path, "a") as file:
        file.write('{"step": 3, "lo')
    assert [record["step"] for record in files.read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_records_after_a_step_are_dropped(tmp_path, step, kept):
    path = tmp_path / "a.jsonl"
    for each in (1, 2, 3):
        files.append_jsonl(path, {"step": each})
    files.drop_records_after(path, step)
    assert [record["step"] for record in files.read_jsonl(path)] == kept


def test_arrays_come_back_with_their_description_and_without_pickle(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {
        "group/losses": np.arange(6.0).reshape(2, 3),
        "masks": np.array([True, False]),
        "names": np.array(["lottery", "scratch"]),
    }
    files.write_arrays(path, arrays, {"config": {"seed": 1}, "title": "é"})
    found, description = files.read_arrays(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert description == {"config": {"seed": 1}, "title": "é"}
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize(
    "arrays", [{"a": np.array([{}])}, {"a": [[1], None]}, {"description": [1]}]
)
def test_what_would_need_pickle_is_refused_and_nothing_written(arrays, tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError):  # noqa: PT011 - NumPy refuses ragged lists
        files.write_arrays(path, arrays, {})
    assert os.listdir(tmp_path) == []


def test_arrays_of_another_program_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones(2))
    with pytest.raises(ValueError, match="no description"):
        files.read_arrays(path)


def test_the_environment_names_versions():
    versions = files.environment()["versions"]
    assert versions["tensorflow"].startswith("2.")
    assert {"rigl_keras", "keras", "python", "numpy"} <= versions.keys()


def test_the_revision_is_that_of_the_checkout():
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=True)
    revision = files.environment()["git_revision"]
    assert revision.removesuffix("-dirty") == head.stdout.strip()
