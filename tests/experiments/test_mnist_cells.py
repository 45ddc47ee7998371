"""The MNIST experiments: their files, parents and seeds."""

from pathlib import Path

import numpy as np
import pytest

from experiments.mnist import cells as mnist_cells
from rigl_keras.program import sweep

GIN = Path(__file__).resolve().parents[2] / "gin"

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
            assert (GIN / config).exists(), config


def test_a_child_takes_the_masks_of_its_seeds_parent_and_draws_by_another_seed(
    tmp_path,
):
    folder = tmp_path / "rigl95_unit" / "seed1"
    run = sweep.Run(CELLS["rigl95_unit"], 1, folder)
    command = run.command("data")
    masks = tmp_path / "prune95" / "seed1" / "ckpt-11719"
    assert f"--gin_bindings=network.mask_init_path={str(masks)!r}" in command
    assert "--seed=101" in command
    assert "--gin_bindings=data.data_dir='data'" in command
    assert not run.is_ready()


@pytest.mark.parametrize("name", CELLS)
def test_only_lottery_tickets_and_restarts_take_weights(name, tmp_path):
    run = sweep.Run(CELLS[name], 0, tmp_path / name / "seed0")
    taken = [part for part in run.command(None) if "weight_init_path" in part]
    weights = taken[0] if taken else "none"
    if "lottery" in name:
        assert weights.endswith("/ckpt-0'")
    elif "restart" in name:
        assert weights.endswith("/ckpt-11719'")
    else:
        assert weights == "none"


@pytest.mark.parametrize(
    "name", ["lottery", "scratch", "scratch_layer", "scratch_other", "restart"]
)
def test_similar_networks_share_one_parent_and_differ_in_the_order_of_the_data(
    name, tmp_path
):
    commands = [
        sweep.Run(
            CELLS[f"similar_{name}"], seed, tmp_path / f"similar_{name}" / f"seed{seed}"
        ).command(None)
        for seed in (0, 1)
    ]
    parent = str(tmp_path / "prune95" / "seed0" / "ckpt-11719")
    for seed, command in enumerate(commands):
        assert f"--gin_bindings=network.mask_init_path={parent!r}" in command
        assert f"--seed={200 + seed}" in command
        same_init = "--gin_bindings=seeds.init_seed=300" in command
        assert same_init == (name in ("scratch", "scratch_layer"))
