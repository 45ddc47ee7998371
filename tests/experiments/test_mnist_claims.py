"""The paper's claims, checked on numbers that are made up to hold them or not."""

import json

import numpy as np
import pytest

from experiments.mnist import cells as mnist_cells
from experiments.mnist import claims as mnist_claims
from experiments.mnist import figures as mnist_figures


def verdicts(rows):
    return [row[-1] for row in (rows if isinstance(rows[0], list) else [rows])]


@pytest.fixture
def histories(tmp_path):
    """Writes the test accuracies of the seeds of a cell, every 200 steps."""

    def write(cell, *seeds):
        for seed, accuracies in enumerate(seeds):
            folder = tmp_path / cell / f"seed{seed}"
            folder.mkdir(parents=True)
            lines = [{"step": 0, "gradient_norm": 1.0}]
            lines += [
                {"step": 200 * i + 200, "test_accuracy": accuracy}
                for i, accuracy in enumerate(accuracies)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "metrics.jsonl").write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("dense", "holds"),
    [([0.1135, 0.1135, 0.9], "yes"), ([0.9, 0.9, 0.9], "no"), ([0.1135] * 3, "yes")],
)
def test_the_plateau(histories, dense, holds):
    histories("scratch95_dense", dense, [0.1135, 0.1135, 0.5])
    runs = histories("scratch95_unit_fanavg", [0.8, 0.9, 0.9])
    row = mnist_claims.plateau(runs)
    assert row[-1] == holds
    assert "unit-scaled 200" in row[2]


@pytest.mark.parametrize(
    ("spread", "start", "holds"),
    [
        (0.1, 0.05, ["yes", "yes"]),
        (3.0, 0.05, ["yes", "no"]),
        (0.1, 1.0, ["no", "yes"]),
    ],
)
def test_gradient_flow_of_lottery_tickets(spread, start, holds):
    others = 10.0 ** np.linspace(-1, 1, 9)
    ticket = 10.0 ** (spread * np.linspace(-1, 1, 9))
    arrays = {
        f"{label}/gradient_norms": np.stack([others * 5] * 2)
        for label in ("Scratch+", "SET+", "RigL+", "Dense")
    }
    arrays["Scratch/gradient_norms"] = np.stack([others * 0.5] * 2)
    arrays["Lottery/gradient_norms"] = np.stack([ticket * start / ticket[0]] * 2)
    assert verdicts(mnist_claims.gradient_flows(arrays)) == holds


@pytest.mark.parametrize(
    ("rigl", "holds"),
    [
        ([3.0, 2.0, 1.0, 0.0], ["yes", "yes"]),
        ([0.0, 1.0, 2.0, 3.0], ["no", "yes"]),
        ([-1.0, -1.0, -2.0, -2.0], ["no", "no"]),
    ],
)
def test_changes_by_updates(rigl, holds):
    arrays = {}
    for label, changes in (
        ("RigL+", rigl),
        ("SET+", [0.1] * 4),
        ("RigL-Inverted+", [-0.1] * 4),
    ):
        arrays[f"{label}/steps"] = np.array([100, 200, 300, 400])
        arrays[f"{label}/changes"] = np.array([changes, changes])
    assert verdicts(mnist_claims.improvements(arrays)) == holds


@pytest.mark.parametrize(("end", "holds"), [(8.0, "yes"), (13.0, "no")])
def test_distances(end, holds):
    arrays = {
        "Lottery/l2_start": np.array([13.0, 14.0]),
        "Lottery/l2_end": np.array([end]),
        "Scratch/l2_start": np.array([17.0]),
        "Scratch/l2_end": np.array([25.0]),
    }
    assert verdicts(mnist_claims.distances(arrays)) == ["yes", holds]


@pytest.mark.parametrize(("lottery", "holds"), [(0.09, "yes"), (0.3, "no")])
def test_barriers(lottery, holds):
    arrays = {}
    for moment, measure in (("start", "climb"), ("end", "barrier")):
        arrays[f"Lottery, from its {moment}/{measure}"] = np.array([0.0, lottery])
        arrays[f"Scratch, from its {moment}/{measure}"] = np.array([1.0, 2.0])
    assert verdicts(mnist_claims.barriers(arrays)) == [holds, holds]


def test_ensembles():
    arrays = {
        "Lottery/disagreement": np.array([0.004, 0.006]),
        "Scratch/disagreement": np.array([0.02, 0.03]),
        "Scratch, different init/disagreement": np.array([0.015, 0.015]),
        "Lottery/accuracies": np.array([0.98, 0.98]),
        "Lottery/ensemble_accuracy": np.array(0.981),
        "Scratch/accuracies": np.array([0.97, 0.97]),
        "Scratch/ensemble_accuracy": np.array(0.9705),
        "Scratch, different init/accuracies": np.array([0.97, 0.96]),
        "Scratch, different init/ensemble_accuracy": np.array(0.98),
    }
    rows = mnist_claims.ensembles(arrays)
    assert verdicts(rows) == ["yes", "no", "no"]
    assert "5.0 times" in rows[0][2]
    assert "3.0 times" in rows[1][2]
    assert "+0.05, with different init +1.50, against +0.10 points" in rows[2][2]


@pytest.mark.parametrize(
    ("accuracies", "holds"), [([0.96, 0.97], "yes"), ([0.9, 0.97], "no")]
)
def test_rigl_at_98(tmp_path, accuracies, holds):
    for seed, accuracy in enumerate(accuracies):
        folder = tmp_path / "rigl98_unit_fanavg" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"test_accuracy": accuracy}))
    assert verdicts(mnist_claims.sparser_rigl(tmp_path)) == [holds]


@pytest.mark.parametrize(("after", "new", "holds"), [(-3.0, 1, "yes"), (-0.5, 0, "no")])
def test_new_negative_eigenvalues(after, new, holds):
    arrays = {
        "RigL, before/values": np.array([[-1.0, 0.0, 2.0]]),
        "RigL, before/weights": np.full((1, 3), 1 / 3),
        "RigL, after/values": np.array([[after, 0.0, 2.0]]),
        "RigL, after/weights": np.full((1, 3), 1 / 3),
    }
    row = mnist_claims.hessian(arrays)
    assert row[-1] == holds
    assert f"{new} lie below" in row[2]


def test_figures_are_of_experiments_that_there_are():
    names = {c.name for t in mnist_cells.STUDIES["paper"].values() for c in t}
    for arguments in mnist_figures.analyses("runs"):
        folders = [word for word in arguments if word.startswith("runs/")]
        assert {folder.split("/")[1] for folder in folders} <= names
    [logdir] = [word for word in mnist_figures.hessian("runs") if "logdir" in word]
    assert logdir.split("/")[1] in names
