"""Two workers, each a process of its own, hold the same masks: those of one device."""

import json

import histories
import multi_worker
import numpy as np
import pytest
import tensorflow as tf
import tiny
from histories import of_kind
from multi_worker import CASES, CHECKPOINT_STEP, history

import rigl_keras

TRAININGS = multi_worker.trainings()
LOOPS = [name for how, name in TRAININGS if how == "loop"]
# Others have targets that are no numbers, or sums that depend on their order.
EXACT = [each for each in TRAININGS if each[1] not in ("not finite", "rounding")]
# A training of each kind, for the default tier: gradients and averages that the workers
# sum, and an update that both leave out.
SOME = [(how, name) for how, name in TRAININGS if name in ("SNFS", "not finite")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The folders of two workers that have trained every case together."""
    folder = tmp_path_factory.mktemp("cluster")
    return multi_worker.on_two_workers(folder, TRAININGS)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, array in left.items():
        np.testing.assert_array_equal(array, right[key], err_msg=key)


def assert_workers_agree(folders, how, name):
    """At every step, on masks, weights and slots; and on what they warn of."""
    for left, right in zip(*histories_of(folders, how, name), strict=True):
        assert_same(left, right)
    first, second = (
        json.loads((folder / how / name / "warnings.json").read_text())
        for folder in folders
    )
    assert first == second
    reason = "weights or gradients are not finite"
    expected = [f"RigL: no mask update at step {step}: {reason}." for step in (2, 4)]
    assert first == (expected if name == "not finite" else [])


def histories_of(folders, how, name):
    return [history(folder, how, name) for folder in folders]


def assert_0_off_masks(folders, how, name):
    for snapshot in history(folders[1], how, name)[1:]:
        masks = of_kind(snapshot, "mask")
        assert of_kind(snapshot, "slot0").keys() == masks.keys()
        for kind in ("kernel", "slot0", "slot1"):
            for path, array in of_kind(snapshot, kind).items():
                assert (array[~masks[path]] == 0).all(), (kind, path)


def assert_masks_change(folders, how, name):
    """At the steps where the algorithm changes them."""
    masks = [of_kind(step, "mask") for step in history(folders[0], how, name)]
    changes = [
        step
        for step in range(1, len(masks))
        if any((masks[step][path] != masks[step - 1][path]).any() for path in masks[0])
    ]
    expected = {"Static": [], "not finite": [], "Pruning": [2, 3, 4]}
    assert changes == expected.get(name, [2, 4])


def assert_as_on_one_device(folders, how, name):
    one_device = multi_worker.train(how, name, tf.distribute.get_strategy())
    for ours, theirs in zip(history(folders[0], how, name), one_device, strict=True):
        assert_same(of_kind(ours, "mask"), of_kind(theirs, "mask"))
        # After the first steps the weights have more digits than sums keep.
        for key, array in theirs.items():
            np.testing.assert_allclose(ours[key], array, 1e-5, 1e-6, err_msg=key)


def check(folders, how, name):
    assert_workers_agree(folders, how, name)
    assert_0_off_masks(folders, how, name)
    assert_masks_change(folders, how, name)
    if (how, name) in EXACT:
        assert_as_on_one_device(folders, how, name)


def check_refusal(folders):
    """That Keras 3 says that its `fit` does not work there, and what does."""
    if tiny.IS_KERAS_3:
        for folder in folders:
            message = (folder / "refusal.txt").read_text()
            assert "TF_USE_LEGACY_KERAS=1" in message and "attached" in message


@pytest.mark.slow
@pytest.mark.both_kerases
def test_two_workers_train_as_one_device(tmp_path):
    folders = multi_worker.on_two_workers(tmp_path, SOME)
    for how, name in SOME:
        check(folders, how, name)
    check_refusal(folders)


@pytest.mark.release
@pytest.mark.parametrize(("how", "name"), TRAININGS)
def test_a_training_of_two_workers(cluster, how, name):
    check(cluster, how, name)


@pytest.mark.release
@pytest.mark.parametrize("name", LOOPS)
def test_weights_that_the_chief_saved_have_the_same_masks_on_one_device(cluster, name):
    step = history(cluster[0], "loop", name)[CHECKPOINT_STEP]
    model = CASES[name].model()
    model.load_weights(cluster[0] / "loop" / name / "model.weights.h5")
    assert_same(rigl_keras.get_masks(model), of_kind(step, "mask"))
    assert_same(tiny.weights(model), of_kind(step, "kernel"))


@pytest.mark.release
@pytest.mark.parametrize("name", LOOPS)
def test_a_plain_model_that_the_chief_alone_saved_has_its_weights(cluster, name):
    step = history(cluster[0], "loop", name)[CHECKPOINT_STEP]
    model = tf.keras.models.load_model(cluster[0] / "loop" / name / "plain.keras")
    kernels = {f"{each.name}/kernel": each for each in model.layers if each.weights}
    for path, kernel in of_kind(step, "kernel").items():
        np.testing.assert_array_equal(kernels[path].kernel.numpy(), kernel)


@pytest.mark.release
@pytest.mark.parametrize("name", [name for how, name in EXACT if how == "loop"])
def test_a_training_goes_on_on_one_device_as_the_workers_would(cluster, name):
    case, strategy = CASES[name], tf.distribute.get_strategy()
    model, optimizer = multi_worker.for_loop(case, strategy)
    callback = case.callback()
    callback.prepare(model, optimizer)
    checkpoint = histories.checkpoint(model, optimizer, callback)
    status = checkpoint.read(str(cluster[0] / "loop" / name / "ckpt"))
    status.assert_existing_objects_matched()
    steps = history(cluster[0], "loop", name)
    assert_same(rigl_keras.get_masks(model), of_kind(steps[CHECKPOINT_STEP], "mask"))
    first = CHECKPOINT_STEP
    for number in histories.loop(model, optimizer, callback, case.y, first):
        assert_same(rigl_keras.get_masks(model), of_kind(steps[number], "mask"))
    assert number == histories.STEPS
