"""Values out of range in gin files are refused by the names that they have there."""

import gin
import pytest

from rigl_keras.program import algorithm
from rigl_keras.program.network import MaskConfig


@pytest.fixture(autouse=True)
def no_gin_left():
    yield
    gin.clear_config()


def bind(*bindings):
    gin.parse_config(bindings)


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["final_sparsity = 90"], r"pruning\.final_sparsity.*did you mean 0\.9\?"),
        (["initial_sparsity = 5"], r"pruning\.initial_sparsity.*0\.05\?"),
        (["frequency = -1"], r"pruning\.frequency to be an int >= 1"),
        (["begin_step = 5000"], r"pruning\.end_step=4000 and pruning\.begin_step=5000"),
        (["begin_step = 4000"], r"pruning\.end_step > .*pruning\.mode='constant'"),
        (
            ["mode = 'constant'", "final_sparsity = 90"],
            r"pruning\.final_sparsity.*0\.9",
        ),
    ],
)
def test_pruning_out_of_range_is_refused_by_its_names_in_gin(bindings, message):
    bind(*(f"pruning.{binding}" for binding in bindings))
    with pytest.raises(ValueError, match=message):
        algorithm.make_pruning()


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("init_drop_fraction = 30", r"mask_updater\.init_drop_fraction.*0\.3\?"),
        ("update_freq = 0", r"mask_updater\.update_freq to be an int >= 1"),
        ("last_update_step = -2", r"mask_updater\.last_update_step"),
        ("drop_noise = -1", r"mask_updater\.drop_noise"),
    ],
)
def test_mask_updates_out_of_range_are_refused_by_their_names_in_gin(binding, message):
    bind("mask_updater.update_alg = 'rigl'", f"mask_updater.{binding}")
    with pytest.raises(ValueError, match=message):
        algorithm.MaskUpdaterConfig()


@pytest.mark.parametrize(
    ("binding", "error", "message"),
    [
        ("sparsity = 80", ValueError, r"masks\.sparsity.*did you mean 0\.8\?"),
        ("sparsity = '0.8'", TypeError, r"masks\.sparsity must be a number"),
        ("overrides = {'conv1/*': 50}", ValueError, r"masks\.overrides of 'conv1/\*'"),
        ("overrides = ['conv1/*']", TypeError, r"masks\.overrides to map.*got list"),
    ],
)
def test_masks_out_of_range(binding, error, message):
    bind(f"masks.{binding}")
    with pytest.raises(error, match=message):
        MaskConfig()
