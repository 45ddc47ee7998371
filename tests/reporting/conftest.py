"""Runs and analyses that were made up, for reports of them."""

import json

import made_up_runs
import pytest

RIGL = ["mask_updater.update_alg = 'rigl'"]
SET = ["mask_updater.update_alg = 'set'"]
ACCURACIES = [0.96, 0.97, 0.99]


@pytest.fixture
def runs(tmp_path):
    """Three seeds by RigL and one run by SET."""
    folder = tmp_path / "runs"
    for seed, accuracy in enumerate(ACCURACIES):
        path = folder / "rigl" / f"seed{seed}"
        made_up_runs.write(path, RIGL, seed, updates=True, test_accuracy=accuracy)
    made_up_runs.write(folder / "set <b>", SET, method="SET")
    return folder


@pytest.fixture
def analyses(tmp_path):
    """A folder with one analysis, and a file that is none."""
    folder = tmp_path / "analyses"
    folder.mkdir()
    found = {
        "analysis": "ensembles",
        "title": "Similar <solutions>",
        "text": "How alike they are.",
        "table": {"columns": ["group", "share"], "rows": [["a & b", "0.5 ± 0.1"]]},
    }
    (folder / "ensembles.json").write_text(json.dumps(found))
    (folder / "ensembles.png").write_bytes(PNG)
    (folder / "other.json").write_text("[]")
    return folder


# One white pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8ffff3f0005fe02fea72d1e5f0000000049454e44ae426082"
)
