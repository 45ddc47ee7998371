"""What gin adds to a checkpoint's masks and weights by chance: shuffling and noise."""

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned_runs import (
    MLP,
    OTHER_SEEDS,
    PrunedRun,
    assert_same,
    biases,
    build,
    mask_path,
    save_run,
    weight_path,
)

import rigl_keras
from rigl_keras.program.algorithm import Seeds


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return PrunedRun(tmp_path_factory.mktemp("runs") / "prune")


@settings(max_examples=6)
@given(st.integers(0, 2**31), st.sampled_from([5, 9]))
def test_shuffled_masks_keep_their_counts(parent, seed, step):
    def shuffled(**seeds):
        seeds = Seeds(**{"init_seed": 0, "data_seed": 0, "mask_seed": seed, **seeds})
        shuffle = "network.shuffle_mask = True"
        model = build(mask_path(parent.paths[step]), shuffle, seeds=seeds)
        tiny.assert_zero_off_masks(model)
        return rigl_keras.get_masks(model)

    masks = shuffled()
    for path, mask in parent.masks[step].items():
        assert masks[path].shape == mask.shape
        assert masks[path].sum() == mask.sum()
    # 128 weights, a third to two thirds of them active: never equal by chance.
    assert (masks["dense1/kernel"] != parent.masks[step]["dense1/kernel"]).any()
    tiny.assert_same_masks(masks, shuffled(init_seed=1, data_seed=2))
    other = shuffled(mask_seed=seed + 1)
    assert (masks["dense1/kernel"] != other["dense1/kernel"]).any()


def test_shuffling_reaches_the_arrangements_of_a_mask(tmp_path):
    """Of 2 ones among 3 x 2 places: 15 arrangements."""
    network = (*MLP, "mlp.hidden_sizes = (3, 2, 3)")
    model = build(network=network, is_pruned=True)
    ones = np.eye(3, 2)
    masks = {"dense2/kernel": ones, "dense3/kernel": ones.reshape(2, 3)}
    rigl_keras.set_masks(model, masks)
    checkpoint = save_run(tmp_path / "run", model, 0)
    bindings = [mask_path(checkpoint), "network.shuffle_mask = True"]
    drawn = [
        rigl_keras.get_masks(build(*bindings, network=network, seeds=Seeds(0, 0, seed)))
        for seed in range(40)
    ]
    seen = {each["dense2/kernel"].tobytes() for each in drawn}
    # 40 draws miss one of 15 at a time with (14 / 15) ** 40 = 0.06.
    assert 11 <= len(seen) <= 15
    # Kernels are shuffled apart from each other.
    same = [
        np.array_equal(each["dense2/kernel"].ravel(), each["dense3/kernel"].ravel())
        for each in drawn
    ]
    assert sum(same) < 15


WIDE = (*MLP, "mlp.hidden_sizes = (64, 64, 64)")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return PrunedRun(tmp_path_factory.mktemp("runs") / "wide", network=WIDE, side=8)


def noise_of(wide, stddev, seeds=OTHER_SEEDS):
    """The noise on kernels and on biases, on weights that do not depend on seeds."""
    bindings = [mask_path(wide.paths[9]), weight_path(wide.paths[5])]
    noise = f"network.noise_stddev = {stddev}"
    model = build(*bindings, noise, network=WIDE, side=8, seeds=seeds)
    tiny.assert_same_masks(rigl_keras.get_masks(model), wide.masks[9])
    on_kernels = {
        path: kernel - np.where(wide.masks[9][path], wide.kernels[5][path], 0)
        for path, kernel in tiny.weights(model).items()
    }
    pairs = zip(biases(model), wide.biases[5], strict=True)
    return on_kernels, [noisy - clean for noisy, clean in pairs]


@pytest.mark.parametrize("stddev", [0.01, 0.5])
def test_noise_has_its_standard_deviation_on_active_weights_and_biases(wide, stddev):
    on_kernels, on_biases = noise_of(wide, stddev)
    active = {path: noise[wide.masks[9][path]] for path, noise in on_kernels.items()}
    for path, noise in on_kernels.items():
        assert (noise[~wide.masks[9][path]] == 0).all()
        assert (active[path] != 0).all()
    values = np.concatenate([*active.values(), *on_biases]) / stddev
    # Of 3,900 draws: 5 standard errors of the mean and of the standard deviation.
    assert values.mean() == pytest.approx(0, abs=5 / np.sqrt(len(values)))
    assert values.std() == pytest.approx(1, abs=5 / np.sqrt(2 * len(values)))
    assert np.mean(np.abs(values) < 1) == pytest.approx(0.6827, abs=0.04)
    assert np.concatenate(on_biases).std() == pytest.approx(stddev, rel=0.3)


def test_noise_depends_on_the_init_seed_only(wide):
    on_kernels, on_biases = noise_of(wide, 0.5, Seeds(1, 2, 3))
    same_kernels, same_biases = noise_of(wide, 0.5, Seeds(1, 5, 6))
    tiny.assert_same_masks(on_kernels, same_kernels)
    assert_same(on_biases, same_biases)
    other_kernels, other_biases = noise_of(wide, 0.5, Seeds(2, 2, 3))
    for path, noise in on_kernels.items():
        assert (noise != other_kernels[path])[wide.masks[9][path]].all()
    for noise, other in zip(on_biases, other_biases, strict=True):
        assert (noise != other).all()
    # Nor do two variables of one shape share a draw.
    assert (on_biases[0] != on_biases[1]).all()


def test_noise_reaches_a_dense_network():
    noisy, clean = build("network.noise_stddev = 0.5"), build()
    for noisy_value, value in zip(noisy.weights, clean.weights, strict=True):
        assert (noisy_value.numpy() != value.numpy()).all()


def test_noise_leaves_the_averages_of_batch_norm():
    norm = "mlp.use_batch_norm = True"
    noisy, clean = build(norm, "network.noise_stddev = 0.5"), build(norm)
    assert_same(
        [each.numpy() for each in noisy.non_trainable_variables],
        [each.numpy() for each in clean.non_trainable_variables],
    )
