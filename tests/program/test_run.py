"""Runs of every method in one process: broken off and gone on with, bit for bit."""

import gin
import numpy as np
import pytest
import tensorflow as tf
from small_runs import PRUNING, STEPS, make
from tensorflow import keras

from rigl_keras.program import loggers, run
from rigl_keras.program.checkpoints import SavedModel
from rigl_keras.training import metainit

SPARSE = "masks.sparsity = 0.5"
ONE_SHOT = "training.oneshot_prune_fraction = 0.75"
METHODS = {
    "pruning": PRUNING,
    "global pruning": [*PRUNING, "pruning.ranking = 'global'"],
    "snfs": [SPARSE, "mask_updater.update_alg = 'snfs'"],
    "rigl, skipping": [
        SPARSE,
        "mask_updater.update_alg = 'rigl'",
        "mask_updater.skip_weight_step = True",
        "mask_updater.drop_noise = 0.01",
    ],
    "rigl, compressed": [
        SPARSE,
        "mask_updater.update_alg = 'rigl'",
        "masks.pattern = {'dense*': \"blocks(4, 1, 'inputs')\"}",
        "masks.storage = 'compressed'",
        "mask_updater.grow_gradient = 'step'",
    ],
    "snip, gradient penalty": [
        ONE_SHOT,
        "mask_updater.update_alg = 'snip'",
        "training.gradient_regularization = 0.1",
    ],
    "grasp, metainit": [
        ONE_SHOT,
        "mask_updater.update_alg = 'grasp'",
        "training.use_metainit = True",
    ],
    "magnitude, then set": [ONE_SHOT, "mask_updater.update_alg = 'set'"],
}


def marked(method):
    in_both = {"pruning", "rigl, skipping", "rigl, compressed", "magnitude, then set"}
    marks = [pytest.mark.both_kerases if method in in_both else pytest.mark.one_keras]
    # As others, but for what ranks; or trained in a test of its own.
    if method in (
        "snfs",
        "global pruning",
        "snip, gradient penalty",
        "grasp, metainit",
    ):
        marks.append(pytest.mark.release)
    return pytest.param(method, marks=marks)


class BrokenOffError(Exception):
    """What a test breaks a run off with."""


@pytest.fixture(autouse=True)
def small_and_clean(monkeypatch):
    monkeypatch.setattr(run, "meta_init", short_meta_init)
    yield
    gin.clear_config()


def short_meta_init(model, seed):
    return metainit.meta_init(model, steps=3, seed=seed)


def break_off_after(monkeypatch, step):
    original = loggers.CheckpointSaver.on_train_batch_end

    def saved_then_broken(self, batch, logs=None):
        original(self, batch, logs)
        if self._clock.step(batch) == step:
            raise BrokenOffError

    monkeypatch.setattr(
        loggers.CheckpointSaver, "on_train_batch_end", saved_then_broken
    )


def everything(folder, step):
    """All numbers of a checkpoint."""
    reader = tf.train.load_checkpoint(str(folder / f"ckpt-{step}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.endswith("VALUE")}


@pytest.mark.slow
@pytest.mark.parametrize("method", [marked(method) for method in METHODS])
def test_a_run_that_broke_off_ends_as_one_that_did_not(method, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = make(whole, METHODS[method]).train()
    with pytest.MonkeyPatch.context() as patch:
        break_off_after(patch, 13)
        with pytest.raises(BrokenOffError):
            make(broken, METHODS[method]).train()
    keras.backend.clear_session()
    result = make(broken, METHODS[method]).train()
    assert result["test_accuracy"] == expected["test_accuracy"]
    assert result["method"] == expected["method"]
    theirs, ours = everything(whole, STEPS), everything(broken, STEPS)
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    for file in (loggers.METRICS_FILE, run.MASK_UPDATES_FILE):
        assert (broken / file).read_text() == (whole / file).read_text()


@pytest.mark.slow
def test_one_shot_pruning_happens_once_before_the_first_step(tmp_path):
    result = make(tmp_path / "snip", METHODS["snip, gradient penalty"]).train()
    first = SavedModel(str(tmp_path / "snip" / "ckpt-0")).values
    last = SavedModel(str(tmp_path / "snip" / f"ckpt-{STEPS}")).values
    masks = [name for name in first if name.endswith("/mask")]
    for name in masks:
        np.testing.assert_array_equal(first[name], last[name])
    size = sum(first[name].size for name in masks)
    active = sum(int(first[name].sum()) for name in masks)
    assert active == round(0.25 * size)
    assert result["method"] == "SNIP"
    assert result["sparsity"]["all"] == pytest.approx(1 - active / size)


@pytest.mark.slow
def test_metainit_is_recorded(tmp_path):
    make(tmp_path / "run", METHODS["grasp, metainit"]).train()
    lines = (tmp_path / "run" / "meta_loss.jsonl").read_text().splitlines()
    assert len(lines) == 3
    [events] = (tmp_path / "run").glob("events.*")
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert "meta_loss" in tags


@pytest.mark.slow
def test_a_pruned_runs_thresholds_are_logged(tmp_path):
    folder = tmp_path / "run"
    make(folder, METHODS["pruning"]).train()
    [path] = folder.glob("events.*")
    logged = {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag.startswith("threshold/")
    }
    # The smallest weight that the last pruning, at step 20, kept: before that step.
    before = SavedModel(str(folder / "ckpt--20")).values
    kernel, mask = before["dense1/kernel"], before["dense1/kernel/mask"]
    expected = np.abs(kernel[mask]).min()
    assert logged[STEPS, "threshold/dense1/kernel"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ([*PRUNING, SPARSE, "mask_updater.update_alg = 'rigl'"], "would both change"),
        ([ONE_SHOT], "needs a criterion"),
        (["mask_updater.update_alg = 'snip'"], "no pruning"),
        (["mask_updater.update_alg = 'rigl_s'", ONE_SHOT], "before training only"),
        (["training.oneshot_prune_fraction = 1.5"], "oneshot_prune_fraction"),
        (["training.gradient_regularization = -1"], "gradient_regularization"),
        (["training.oneshot_ranking = 'all'", SPARSE, ONE_SHOT,
          "mask_updater.update_alg = 'snip'"], "ranking"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(bindings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "run", bindings)
    assert not (tmp_path / "run").exists()
