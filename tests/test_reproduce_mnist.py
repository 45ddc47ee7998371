"""The runner of the MNIST experiments: what it runs, in what order, what it reports."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import mnist_cells  # noqa: E402
import reproduce_mnist  # noqa: E402

STUDIES = {
    study: [cell for table in tables.values() for cell in table]
    for study, tables in mnist_cells.STUDIES.items()
}
CELLS = {cell.name: cell for cells in STUDIES.values() for cell in cells}
PAPERS = {name: cell.paper for name, cell in CELLS.items() if cell.paper}


@pytest.mark.parametrize("name", sorted(n for n, p in PAPERS.items() if p.stuck))
def test_stuck_seeds_explain_the_papers_mean_and_deviation(name):
    paper = PAPERS[name]
    trained = [] if paper.trained is None else [paper.trained] * (5 - paper.stuck)
    seeds = [11.35] * paper.stuck + trained
    assert len(seeds) == 5
    assert np.mean(seeds) == pytest.approx(paper.mean, abs=1e-6)
    # The seeds that trained differ a little too.
    assert np.std(seeds) == pytest.approx(paper.std, abs=0.15)


def test_every_cell_is_there_once_and_names_files_and_parents_that_exist():
    for cells in STUDIES.values():
        names = [cell.name for cell in cells]
        assert len(names) == len(set(names))
        assert {cell.parent for cell in cells} - {None} <= set(names)
    for cell in CELLS.values():
        for config in cell.configs:
            assert (SCRIPTS.parent / "gin" / config).exists(), config


def test_a_child_takes_the_masks_of_its_seeds_parent_and_draws_by_another_seed(
    tmp_path,
):
    folder = tmp_path / "rigl95_unit" / "seed1"
    run = reproduce_mnist.Run(CELLS["rigl95_unit"], 1, folder)
    command = run.command("data")
    masks = tmp_path / "prune95" / "seed1" / "ckpt-11719"
    assert f"--gin_bindings=network.mask_init_path={str(masks)!r}" in command
    assert "--seed=101" in command
    assert "--gin_bindings=data.data_dir='data'" in command
    assert not run.is_ready()


@pytest.mark.parametrize("name", CELLS)
def test_only_lottery_tickets_and_restarts_take_weights(name, tmp_path):
    run = reproduce_mnist.Run(CELLS[name], 0, tmp_path / name / "seed0")
    taken = [part for part in run.command(None) if "weight_init_path" in part]
    weights = taken[0] if taken else "none"
    if "lottery" in name:
        assert weights.endswith("/ckpt-0'")
    elif "restart" in name:
        assert weights.endswith("/ckpt-11719'")
    else:
        assert weights == "none"


@pytest.mark.parametrize("name", ["lottery", "scratch", "scratch_other", "restart"])
def test_similar_networks_share_one_parent_and_differ_in_the_order_of_the_data(
    name, tmp_path
):
    commands = [
        reproduce_mnist.Run(
            CELLS[f"similar_{name}"], seed, tmp_path / f"similar_{name}" / f"seed{seed}"
        ).command(None)
        for seed in (0, 1)
    ]
    parent = str(tmp_path / "prune95" / "seed0" / "ckpt-11719")
    for seed, command in enumerate(commands):
        assert f"--gin_bindings=network.mask_init_path={parent!r}" in command
        assert f"--seed={200 + seed}" in command
        same_init = "--gin_bindings=seeds.init_seed=300" in command
        assert same_init == (name == "scratch")


@pytest.mark.parametrize(
    ("mean", "paper", "expected"),
    [
        (97.8, mnist_cells.Paper(97.7, 0.1), 0.0),
        (98.0, mnist_cells.Paper(97.7, 0.1), 0.2),
        (97.0, mnist_cells.Paper(97.7, 0.1), -0.6),
        # 3 of 5 trained, to 97.4167: the deviation says nothing about those.
        (97.0, mnist_cells.Paper(62.99, 42.16, 2), 97.0 - 97.41666667),
        (97.0, mnist_cells.Paper(11.35, 0.0, 5), None),
        (None, mnist_cells.Paper(97.7, 0.1), None),
        (97.0, None, None),
    ],
)
def test_distance_to_the_papers_interval(mean, paper, expected):
    distance = reproduce_mnist.distance(mean, paper)
    assert distance == (None if expected is None else pytest.approx(expected))


def write_result(folder, accuracy):
    folder.mkdir(parents=True)
    result = {
        "test_accuracy": accuracy,
        "sparsity": {"all": 0.95},
        "steps": 11719,
        "seeds": {"init_seed": 0},
        "versions": {},
        "git_revision": "abc",
        "machine": "here",
    }
    (folder / "results.json").write_text(json.dumps(result))


def test_tables_of_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce_mnist, "OUTPUT", tmp_path / "out")
    for seed, accuracy in enumerate([0.9741, 0.1135, 0.9743]):
        write_result(tmp_path / "scratch95_dense" / f"seed{seed}", accuracy)
    (tmp_path / "out").mkdir()
    page = tmp_path / "out" / "pilot.md"
    page.write_text("before\n<!-- pilot -->\nold\n<!-- end of pilot -->\nafter\n")
    reproduce_mnist.write_tables("pilot", tmp_path)
    [row] = json.loads((tmp_path / "out" / "pilot.json").read_text())["pilot"]
    assert (row["name"], row["seeds"], row["stuck"]) == (
        "scratch95_dense",
        [0, 1, 2],
        1,
    )
    assert row["mean_of_trained"] == pytest.approx(97.42)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "97.41, 11.35, 97.43 | 1 of 3 | 97.42" in text
    assert "old" not in text


SMALL = {
    "data.name": "digits",
    "training.total_steps": 4,
    "training.save_freq": 4,
    "training.log_freq": 4,
}


@pytest.mark.slow
def test_runs_are_made_after_their_parents_and_only_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce_mnist, "LAST_STEP", 4)
    pruning = {"begin_step": 1, "end_step": 3, "frequency": 1}
    parent = mnist_cells.Cell(
        "parent",
        "Parent",
        ("mnist/prune.gin",),
        {**SMALL, **{f"pruning.{name}": value for name, value in pruning.items()}},
    )
    child = mnist_cells.Cell(
        "child", "Child", ("mnist/scratch.gin",), SMALL, parent="parent"
    )
    broken = mnist_cells.Cell("broken", "Broken", ("no_such.gin",))
    runs = [
        reproduce_mnist.Run(cell, 0, tmp_path / cell.name / "seed0")
        for cell in (child, broken, parent)
    ]
    done = []
    runner = reproduce_mnist.Runner(runs, None)
    runner.run(
        when_done=lambda: done.append([run.result() is not None for run in runs])
    )
    assert [run.cell.name for run in runner.failed] == ["broken"]
    assert done == [[False, False, True], [True, False, True]]
    # 5 % of the weights, and the biases.
    assert runs[0].result()["active_weights"] == 2210 + 236
    assert "0 runs left" in capsys.readouterr().out
    again = reproduce_mnist.Runner([runs[0], runs[2]], None)
    again.run(when_done=lambda: pytest.fail("nothing was to do"))
    assert again.failed == []
