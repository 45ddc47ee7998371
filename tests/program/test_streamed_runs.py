"""Runs and analyses on a data set that is read from its files."""

import gin
import numpy as np
import pytest
import small_runs

from rigl_keras.findings import comparisons
from rigl_keras.program.saved_runs import SavedRun

pytestmark = [pytest.mark.release, pytest.mark.one_keras]

STEPS = small_runs.STEPS
NETWORK = [
    "network.network_name = 'mlp'",
    "mlp.hidden_sizes = (8,)",
    "data.name = 'imagenet2012'",
    "data.test_split = 'validation'",
    "data.image_size = (8, 8)",
    # Of 48 images, so that the last batch is filled up.
    "training.val_batch_size = 20",
]


@pytest.fixture(scope="module")
def runs(imagenet_dir, tmp_path_factory):
    """A pruned network and one from scratch with its masks."""
    folder = tmp_path_factory.mktemp("runs")
    data = [*NETWORK, f"data.data_dir = '{imagenet_dir}'"]
    parent = small_runs.train(folder / "prune", [*data, *small_runs.PRUNING])
    masks = f"network.mask_init_path = '{parent}/ckpt-{STEPS}'"
    child = small_runs.train(folder / "scratch", [*data, masks], seed=7)
    return SavedRun(parent), SavedRun(child)


@pytest.fixture(autouse=True)
def no_gin_left():
    yield
    gin.clear_config()


def test_a_run_is_resumed_where_it_was(runs, tmp_path, imagenet_dir):
    data = [*NETWORK, f"data.data_dir = '{imagenet_dir}'", *small_runs.PRUNING]
    folder = small_runs.train(tmp_path / "run", data)
    for path in [*folder.glob(f"ckpt-{STEPS}.*"), folder / "results.json"]:
        path.unlink()
    small_runs.train(folder, data)
    expected, found = runs[0].parameters(), SavedRun(folder).parameters()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_the_result_is_that_of_the_whole_test_set(runs):
    for run in runs:
        model, images = run.open()
        x, y = images.test_records(0, images.num_test)
        assert len(y) == 48
        found = model.evaluate(x, y, verbose=0, return_dict=True)
        assert run.result["test_accuracy"] == pytest.approx(found["accuracy"])
        assert run.result["test_loss"] == pytest.approx(found["cross_entropy"])


def test_lines_and_ensembles(runs, tmp_path):
    parent, child = runs
    line = comparisons.interpolations(
        {"scratch": [child]}, coefficients=[0.0, 0.5, 1.0], num_train=50
    ).arrays
    for end, run in ((0, child), (2, parent)):
        found = line["scratch, from its end/test_loss"][0, end]
        assert found == pytest.approx(run.result["test_loss"], rel=1e-4)
    found = comparisons.ensemble({"scratch": [child]}, parent, batch_size=30).arrays
    accuracy = found["scratch/accuracies"]
    np.testing.assert_allclose(accuracy, [child.result["test_accuracy"]], atol=1e-6)


def test_gradient_flow_is_recorded(runs):
    for run in runs:
        assert all(record["gradient_norm"] > 0 for record in run.records)
