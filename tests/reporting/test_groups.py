import made_up_runs
import pytest

from rigl_keras.reporting import groups

RIGL = ["mask_updater.update_alg = 'rigl'", "training.total_steps = 20"]
SET = ["mask_updater.update_alg = 'set'", "training.total_steps = 20"]


def labels(folders):
    experiments, unfinished = groups.gather(folders)
    assert unfinished == []
    return {group.label: [run.label for run in group.runs] for group in experiments}


def test_runs_that_differ_in_seeds_and_places_are_one_experiment(tmp_path):
    for seed in (0, 1):
        more = [f"seeds.init_seed = {seed}", f"data.data_dir = '/data{seed}'"]
        folder = tmp_path / "rigl" / f"seed{seed}"
        made_up_runs.write(folder, [*RIGL, *more], seed)
    made_up_runs.write(tmp_path / "set" / "seed0", SET)
    assert labels([tmp_path]) == {
        "rigl": ["rigl/seed0", "seed1"],
        "set": ["set/seed0"],
    }


def test_runs_beside_those_of_others_are_named_by_their_settings(tmp_path):
    for seed in (0, 1):
        made_up_runs.write(tmp_path / f"rigl_seed{seed}", RIGL, seed)
    made_up_runs.write(tmp_path / "other", SET)
    rigl = "mask_updater.update_alg='rigl'"
    assert list(labels([tmp_path])) == ["other", rigl]


def test_one_group_is_named_by_its_folder(tmp_path):
    for seed in (0, 1):
        made_up_runs.write(tmp_path / "mine" / f"rigl_seed{seed}", RIGL, seed)
    assert list(labels([tmp_path / "mine"])) == ["mine"]
    assert list(labels([tmp_path / "mine" / "rigl_seed1"])) == ["rigl_seed1"]


def test_experiments_of_equal_names_are_told_apart(tmp_path):
    made_up_runs.write(tmp_path / "a" / "rigl" / "seed0", RIGL)
    made_up_runs.write(tmp_path / "b" / "rigl" / "seed0", SET)
    assert list(labels([tmp_path])) == ["a", "b"]
    made_up_runs.write(tmp_path / "a" / "rigl" / "seed1", SET)
    assert len(set(labels([tmp_path]))) == 2


def family(tmp_path, name, config):
    """A pruned run of two seeds, and a child of each."""
    for seed in (0, 1):
        parent = tmp_path / name / f"seed{seed}"
        made_up_runs.write(parent, config, seed)
        child = [f"network.mask_init_path = '{parent}/ckpt-20'"]
        folder = tmp_path / f"{name}_child" / f"seed{seed}"
        made_up_runs.write(folder, child, 100 + seed)


def test_other_parents_of_one_kind_are_one_experiment(tmp_path):
    family(tmp_path, "prune", ["pruning.final_sparsity = 0.95"])
    family(tmp_path, "prune98", ["pruning.final_sparsity = 0.98"])
    found = labels([tmp_path])
    assert set(found) == {"prune", "prune_child", "prune98", "prune98_child"}
    assert {len(runs) for runs in found.values()} == {2}
    experiments, _ = groups.gather([tmp_path])
    settings = {group.label: group.settings for group in experiments}
    assert settings["prune_child"]["network.mask_init_path"] == "ckpt-20 of prune"


def test_what_differs_and_what_is_shared(tmp_path):
    made_up_runs.write(tmp_path / "rigl", RIGL)
    made_up_runs.write(tmp_path / "set", [*SET, "optimizer.momentum = 0.9"])
    experiments, _ = groups.gather([tmp_path])
    assert groups.differing(experiments) == (
        ["mask_updater.update_alg", "optimizer.momentum"],
        [["'rigl'", "–"], ["'set'", "0.9"]],
    )
    assert groups.shared(experiments) == {"training.total_steps": "20"}


def test_values_that_gin_breaks_over_lines_are_read_whole():
    text = (
        "# Parameters for network:\n"
        "network.mask_init_path = \\\n    'runs/prune/ckpt-1'\n"
        "lenet5.hidden_sizes = \\\n    (3, 4,\n     12, 8)\n"
        "a.b = 1\n"
    )
    assert groups.parse_settings(text) == {
        "network.mask_init_path": "'runs/prune/ckpt-1'",
        "lenet5.hidden_sizes": "(3, 4, 12, 8)",
        "a.b": "1",
    }


def test_unfinished_runs_are_listed_or_where_named_refused(tmp_path):
    made_up_runs.write(tmp_path / "done", RIGL)
    broken = made_up_runs.write(tmp_path / "broken", SET, is_finished=False)
    experiments, unfinished = groups.gather([str(tmp_path)])
    assert [group.label for group in experiments] == ["done"]
    assert unfinished == [str(broken)]
    with pytest.raises(ValueError, match="not finished"):
        groups.gather([str(broken)])
    (tmp_path / "done" / "results.json").unlink()
    with pytest.raises(ValueError, match="None of these runs is finished"):
        groups.gather([str(tmp_path)])


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no folder"):
        groups.gather([str(tmp_path / "nowhere")])


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_broken_result_is_refused(tmp_path, content):
    folder = made_up_runs.write(tmp_path / "run", RIGL)
    (folder / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results\.json"):
        groups.gather([str(folder)])
