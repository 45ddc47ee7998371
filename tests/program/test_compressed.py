"""Compressed kernels on the command line: networks, checkpoints, other runs of them."""

import types

import gin
import numpy as np
import pytest
import tiny
from pruned_runs import PARENT_SEEDS, build, mask_path, save_run, weight_path

import rigl_keras
from rigl_keras.program import files
from rigl_keras.program.checkpoints import SavedModel
from rigl_keras.program.saved_runs import network_at

PATTERN = "masks.pattern = \"blocks(2, 1, 'inputs')\""
SETTINGS = (
    "masks.sparsity = 0.5",
    "masks.distribution = 'uniform'",
    "masks.overrides = {'logits/*': 0}",
    PATTERN,
)
COMPRESSED = "masks.storage = 'compressed'"


def storage_of(model):
    return {
        kernel.path: kernel.is_compressed for kernel in rigl_keras.sparse_kernels(model)
    }


def images(samples=5):
    return np.random.RandomState(0).normal(size=(samples, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def compressed():
    return build(*SETTINGS, COMPRESSED, seeds=PARENT_SEEDS)


@pytest.fixture(scope="module")
def masked():
    return build(*SETTINGS, seeds=PARENT_SEEDS)


@pytest.fixture(scope="module")
def parent(compressed, tmp_path_factory):
    """The checkpoint of a run with compressed kernels."""
    folder = tmp_path_factory.mktemp("runs") / "compressed"
    path = save_run(folder, compressed, 5)
    description = files.read_json(folder / "run.json")
    files.write_json(folder / "run.json", description | {"config": f"{PATTERN}\n"})
    return path


def test_a_network_is_the_masked_one_without_its_zeros(compressed, masked):
    assert set(storage_of(compressed).values()) == {True}
    assert storage_of(compressed).keys() == storage_of(masked).keys()
    tiny.assert_same_masks(*map(rigl_keras.get_masks, (compressed, masked)))
    np.testing.assert_allclose(compressed(images()), masked(images()), 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("masks.storage = 'packed'", *SETTINGS), "masks.storage"),
        ((COMPRESSED,), "no sparse kernel"),
        ((COMPRESSED, "masks.sparsity = 0.5"), "its pattern is unstructured"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(*settings)


def test_a_checkpoint_is_read_as_one_of_masked_kernels(parent, masked):
    saved = SavedModel(str(parent))
    tiny.assert_same_masks(saved.masks, rigl_keras.get_masks(masked))
    for kernel in rigl_keras.sparse_kernels(masked):
        np.testing.assert_array_equal(saved.values[kernel.path], kernel.kernel.numpy())
    assert not any(name.endswith(("indices", "layout")) for name in saved.values)


def test_a_run_is_opened_with_masks(parent, compressed):
    data = types.SimpleNamespace(input_shape=(4, 4, 1), num_classes=3)
    try:
        network = ("network.network_name = 'mlp'", "mlp.hidden_sizes = (8, 6, 6)")
        gin.parse_config([*network, PATTERN, COMPRESSED])
        model = network_at(str(parent), data)
    finally:
        gin.clear_config()
    assert set(storage_of(model).values()) == {False}
    np.testing.assert_allclose(model(images()), compressed(images()), 1e-5, 1e-6)


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_a_lottery_ticket_of_a_compressed_run(parent, masked, storage):
    child = build(
        mask_path(parent), weight_path(parent), PATTERN, f"masks.storage = {storage!r}"
    )
    assert set(storage_of(child).values()) == {storage == "compressed"}
    tiny.assert_same_masks(*map(rigl_keras.get_masks, (child, masked)))
    np.testing.assert_allclose(child(images()), masked(images()), 1e-5, 1e-6)
