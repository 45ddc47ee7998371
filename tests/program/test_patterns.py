"""Patterns in gin: masks drawn, taken from a checkpoint, shuffled."""

import numpy as np
import pytest
import tiny
from pruned_runs import LENET, PARENT_SEEDS, build, mask_path, save_run

import rigl_keras
from rigl_keras.program import files

BLOCKS = "masks.pattern = 'blocks(2, 1)'"
HALF = ["masks.sparsity = 0.5", "masks.distribution = 'uniform'"]


def patterns_of(model):
    return {
        kernel.path: str(kernel.pattern) for kernel in rigl_keras.sparse_kernels(model)
    }


def are_blocks(mask):
    """Whether inputs 0 and 1, 2 and 3, ... of each output exist together."""
    return (mask[0::2] == mask[1::2]).all()


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """The checkpoint of a run in blocks."""
    folder = tmp_path_factory.mktemp("runs") / "blocks"
    path = save_run(folder, build(*HALF, BLOCKS, seeds=PARENT_SEEDS), 5)
    description = files.read_json(folder / "run.json")
    files.write_json(folder / "run.json", description | {"config": f"{BLOCKS}\n"})
    return path


@pytest.mark.parametrize("is_pruned", [False, True])
def test_masks_have_the_pattern(is_pruned):
    model = build(*([] if is_pruned else HALF), BLOCKS, is_pruned=is_pruned)
    assert set(patterns_of(model).values()) == {"blocks(2, 1)"}
    masks = rigl_keras.get_masks(model)
    assert all(mask.all() == is_pruned for mask in masks.values())
    assert all(are_blocks(mask) for mask in masks.values())


def test_patterns_by_path_and_with_a_fallback():
    pattern = "masks.pattern = {'conv*': 'dense', '*': ['blocks(3, 1)', 'dense']}"
    model = build(*HALF, pattern, network=LENET, side=16)
    assert patterns_of(model) == {"dense1/kernel": "blocks(3, 1)"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("'bloks(2)'", ValueError, "one of .*'blocks'"),
        ("'blocks(5, 1)'", ValueError, "dense1/kernel.* no multiple of 5"),
        ("3", TypeError, "Expected `pattern`"),
        ("'n_of_m(1, 2)'", None, ""),
    ],
)
def test_settings_that_do_not_fit_are_refused(text, error, message):
    settings = [*HALF, f"masks.pattern = {text}"]
    if error is None:
        assert set(patterns_of(build(*settings)).values()) == {"n_of_m(1, 2)"}
        return
    with pytest.raises(error, match=message):
        build(*settings)


def test_masks_of_a_checkpoint_keep_their_pattern(parent):
    path = mask_path(parent)
    with pytest.raises(ValueError, match="masks would lose theirs"):
        build(path)
    model = build(path, BLOCKS)
    assert set(patterns_of(model).values()) == {"blocks(2, 1)"}
    given_up = build(path, "masks.pattern = 'unstructured'")
    assert set(patterns_of(given_up).values()) == {"unstructured"}
    tiny.assert_same_masks(rigl_keras.get_masks(model), rigl_keras.get_masks(given_up))


def test_shuffled_masks_shuffle_units(parent):
    path, shuffle = mask_path(parent), "network.shuffle_mask = True"
    before = rigl_keras.get_masks(build(path, BLOCKS))
    after = rigl_keras.get_masks(build(path, BLOCKS, shuffle))
    assert any((mask != after[name]).any() for name, mask in before.items())
    for name, mask in after.items():
        assert are_blocks(mask)
        assert np.count_nonzero(mask) == np.count_nonzero(before[name])
