import gin
import numpy as np
import pytest
import small_runs

import rigl_keras
from rigl_keras import data
from rigl_keras.program import saved_runs
from rigl_keras.program.saved_runs import SavedRun


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    parent = small_runs.train(folder / "prune", small_runs.PRUNING)
    child = small_runs.train(
        folder / "rigl" / "seed1",
        [
            f"network.mask_init_path = '{parent}/ckpt-{small_runs.STEPS}'",
            "network.weight_init_method = 'unit_scaled'",
            "network.noise_stddev = 0.1",
            "network.shuffle_mask = True",
            *small_runs.RIGL,
        ],
        seed=1,
    )
    random = small_runs.train(
        folder / "random",
        [
            "masks.sparsity = 0.5",
            "masks.distribution = 'uniform'",
            "masks.overrides = {'conv1/kernel': 0}",
            "lenet5.use_batch_norm = True",
        ],
    )
    return {"prune": parent, "rigl": child, "random": random}


@pytest.mark.one_keras
@pytest.mark.slow
@pytest.mark.parametrize("name", ["prune", "rigl", "random"])
def test_an_opened_network_is_the_one_that_the_run_ended_with(folders, name):
    run = SavedRun(folders[name])
    model, images = run.open()
    test = data.evaluation_batches(images.test_images, images.test_labels, 100)
    found = model.evaluate(test, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(run.result["test_accuracy"])
    assert found["cross_entropy"] == pytest.approx(run.result["test_loss"], rel=1e-5)
    masks = rigl_keras.get_masks(model)
    assert masks.keys() == run.masks().keys() != set()
    for path, mask in run.masks().items():
        np.testing.assert_array_equal(masks[path], mask)


@pytest.mark.slow
def test_parameters_are_what_is_trained(folders):
    # The second with two vectors more for each hidden layer, and one dense kernel.
    for name, trained, masked in (("prune", 10, 5), ("random", 18, 4)):
        run = SavedRun(folders[name])
        model, _ = run.open(6)
        shapes = sorted(tuple(v.shape) for v in model.trainable_variables)
        parameters = run.parameters(6)
        assert sorted(value.shape for value in parameters.values()) == shapes
        assert (len(parameters), len(run.masks(6))) == (trained, masked)


@pytest.mark.slow
def test_a_runs_records_steps_and_parent(folders):
    run = SavedRun(folders["rigl"])
    assert run.name == "seed1"
    assert run.steps == [0, 6, 12, 18, 24]
    assert [record["step"] for record in run.records] == [0, 12, 24]
    assert [record["step"] for record in run.mask_updates] == [4, 8, 12, 16, 20, 24]
    assert run.parent.folder == str(folders["prune"])
    assert run.checkpoint(-8).endswith("ckpt--8")
    before, after = run.masks(-7), run.masks(-8)
    assert any((before[path] != after[path]).any() for path in before)


@pytest.mark.slow
def test_what_is_not_there_is_named(folders):
    run = SavedRun(folders["prune"])
    with pytest.raises(ValueError, match=r"no checkpoint of step 7.*\[0, 6, 12"):
        run.checkpoint(7)
    with pytest.raises(ValueError, match="come from no other run"):
        run.parent  # noqa: B018


@pytest.mark.slow
def test_runs_are_found_below_a_folder(folders):
    root = folders["prune"].parent
    names = [run.name for run in saved_runs.find_runs(root)]
    assert names == ["prune", "random", "seed1"]
    assert [run.name for run in saved_runs.find_runs(folders["rigl"])] == ["seed1"]


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(folders):
    run = SavedRun(folders["prune"])
    _, images = run.open()
    gin.parse_config("lenet5.hidden_sizes = (3, 4, 12, 9)")
    with pytest.raises(ValueError, match="is of another network"):
        saved_runs.network_at(run.checkpoint(), images)


def test_a_folder_whose_name_looks_like_a_pattern_is_searched(tmp_path):
    (tmp_path / "x[1]").mkdir()
    (tmp_path / "x[1]" / "run.json").write_text('{"config": "", "seeds": {}}')
    assert [run.name for run in saved_runs.find_runs(tmp_path / "x[1]")] == ["x[1]"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run\.json"):
        SavedRun(tmp_path)
    with pytest.raises(ValueError, match="There is no run in"):
        saved_runs.find_runs(tmp_path)


def test_an_unfinished_run_has_no_result(tmp_path):
    (tmp_path / "run.json").write_text('{"config": "", "seeds": {}}')
    run = SavedRun(tmp_path)
    assert run.steps == []
    assert run.records == []
    with pytest.raises(ValueError, match="not finished"):
        run.result  # noqa: B018
