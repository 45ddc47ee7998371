"""Networks from gin: masks and weights of checkpoints, refusals."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
import tiny
from pruned_runs import (
    LENET,
    MLP,
    OTHER_SEEDS,
    PARENT_SEEDS,
    PrunedRun,
    all_kernels,
    assert_same,
    biases,
    build,
    mask_path,
    save_run,
    weight_path,
)

import rigl_keras
from rigl_keras import networks
from rigl_keras.program import network
from rigl_keras.program.algorithm import Seeds


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return PrunedRun(tmp_path_factory.mktemp("runs") / "prune")


# The names and defaults of the paper's TF2 code, and one of this package's own.
DEFAULTS = {
    "activation": "relu",
    "network_name": "lenet5",
    "mask_init_path": None,
    "shuffle_mask": False,
    "weight_init_path": None,
    "weight_init_method": None,
    "weight_decay": 0.0,
    "noise_stddev": 0.0,
    "pruned_layer_types": ("Conv2D", "Dense"),
    "allow_same_init": False,
}


def test_defaults_are_those_of_the_paper():
    defaults = dataclasses.asdict(network.NetworkConfig())
    assert defaults == DEFAULTS


def test_a_network_is_dense_where_nothing_else_is_said():
    model = build()
    assert rigl_keras.sparse_kernels(model) == []
    shapes = {path: kernel.shape for path, kernel in all_kernels(model).items()}
    assert shapes == {
        "dense1/kernel": (16, 8),
        "dense2/kernel": (8, 6),
        "dense3/kernel": (6, 6),
        "logits/kernel": (6, 3),
    }


def test_what_will_be_pruned_starts_with_masks_of_ones():
    model = build(is_pruned=True)
    assert_same(all_kernels(model).values(), all_kernels(build()).values())
    masks = rigl_keras.get_masks(model)
    assert list(masks) == list(all_kernels(model))
    assert all(mask.all() for mask in masks.values())


def test_only_the_named_layer_types_are_pruned():
    bindings = ["masks.sparsity = 0.5", "masks.distribution = 'uniform'"]
    bindings += ["network.pruned_layer_types = ('Dense',)"]
    expected = ["dense1/kernel", "dense2/kernel", "logits/kernel"]
    for options in ({}, {"is_pruned": True}):
        model = build(*bindings, network=LENET, side=16, **options)
        assert [each.path for each in rigl_keras.sparse_kernels(model)] == expected


def test_seeds_are_separate():
    def made(init_seed, mask_seed):
        model = build(
            "masks.sparsity = 0.5",
            "network.weight_init_method = 'unit_scaled'",
            seeds=Seeds(init_seed, 0, mask_seed),
        )
        return tiny.weights(model)["dense1/kernel"], rigl_keras.get_masks(model)

    weights, masks = made(0, 0)
    other_weights, same_masks = made(1, 0)
    tiny.assert_same_masks(masks, same_masks)
    on = masks["dense1/kernel"]
    assert (weights != other_weights)[on].all()
    _, other_masks = made(0, 1)
    assert (masks["dense1/kernel"] != other_masks["dense1/kernel"]).any()


def test_gin_chooses_the_kernel_initializer():
    kernel = all_kernels(build("mlp.kernel_initializer = 'he_uniform'"))
    # He's limit is sqrt(6 / fan-in), Glorot's sqrt(6 / (16 + 8)) = 0.5.
    assert 0.5 < np.abs(kernel["dense1/kernel"]).max() <= np.sqrt(6 / 16)


@pytest.mark.parametrize(
    ("name", "bindings", "path", "shape"),
    [
        (
            "resnet50",
            ["resnet50.width_multiplier = 0.05", "resnet50.small_inputs = True"],
            "conv1/kernel",
            (3, 3, 1, 3),
        ),
        ("vgg16", ["vgg16.width_multiplier = 0.1"], "conv5_3/kernel", (3, 3, 51, 51)),
        (
            "mobilenet_v1",
            ["mobilenet_v1.width_multiplier = 0.1"],
            "logits/kernel",
            (102, 3),
        ),
        (
            "wide_resnet",
            ["wide_resnet.depth = 16", "wide_resnet.width = 1"],
            "stage3_block2_conv2/kernel",
            (3, 3, 64, 64),
        ),
    ],
)
def test_gin_chooses_the_network_and_what_it_has_of_its_own(
    name, bindings, path, shape
):
    network = [f"network.network_name = '{name}'", *bindings]
    masks = ["masks.sparsity = 0.5", "masks.distribution = 'uniform'"]
    model = build(*masks, network=network, side=32)
    assert rigl_keras.get_masks(model)[path].shape == shape
    # A depthwise convolution is no layer that is made sparse.
    assert not any("depthwise" in path for path in rigl_keras.get_masks(model))


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_what_the_network_gives_all_of_them_is_refused_in_their_own_name(name):
    for argument in ("seed", "weight_decay", "activation", "num_classes"):
        with pytest.raises(ValueError, match=argument):
            build(f"{name}.{argument} = 1")


def test_masks_of_a_checkpoint_are_taken_as_they_are(parent):
    for step in (0, 5, 9):
        model = build(mask_path(parent.paths[step]))
        tiny.assert_same_masks(rigl_keras.get_masks(model), parent.masks[step])
        # The weights are those that the init seed gives the dense network.
        for path, kernel in all_kernels(build()).items():
            expected = np.where(parent.masks[step][path], kernel, 0)
            np.testing.assert_array_equal(tiny.weights(model)[path], expected)


def test_weights_for_the_masks_of_a_checkpoint_follow_its_fans(tmp_path):
    large = (*MLP, "mlp.hidden_sizes = (300,)")
    parent = PrunedRun(tmp_path / "run", network=large, side=16)
    method = "network.weight_init_method = 'unit_scaled'"
    scale = ["unit_scaled_init.method = 'fanin_normal'", "unit_scaled_init.scale = 2.0"]
    model = build(mask_path(parent.paths[9]), method, *scale, network=large, side=16)
    kernel, mask = (
        tiny.weights(model)["dense1/kernel"],
        parent.masks[9]["dense1/kernel"],
    )
    standard = (kernel / np.sqrt(2 / np.maximum(1, mask.sum(0))))[mask]
    assert standard.std() == pytest.approx(1, abs=0.03)
    assert (kernel[~mask] == 0).all()


def test_a_lottery_ticket_is_the_initial_weights_on_the_final_masks(parent):
    # Whatever the seed: the parent's own is no reason to refuse.
    for seeds in (PARENT_SEEDS, OTHER_SEEDS):
        model = build(
            mask_path(parent.paths[9]), weight_path(parent.paths[0]), seeds=seeds
        )
        tiny.assert_same_masks(rigl_keras.get_masks(model), parent.masks[9])
        for path, kernel in tiny.weights(model).items():
            expected = np.where(parent.masks[9][path], parent.kernels[0][path], 0)
            assert kernel.tobytes() == expected.tobytes()
        assert_same(biases(model), parent.biases[0])


@pytest.mark.parametrize("step", [5, 9])
def test_weights_of_any_step_go_on_the_final_masks(parent, step):
    """5 is rewinding, 9 pruning and starting again."""
    model = build(mask_path(parent.paths[9]), weight_path(parent.paths[step]))
    tiny.assert_same_masks(rigl_keras.get_masks(model), parent.masks[9])
    for path, kernel in tiny.weights(model).items():
        expected = np.where(parent.masks[9][path], parent.kernels[step][path], 0)
        np.testing.assert_array_equal(kernel, expected)
    assert any(bias.any() for bias in parent.biases[step])
    assert_same(biases(model), parent.biases[step])


def test_weights_of_a_checkpoint_go_on_random_masks(parent):
    random = "masks.sparsity = 0.5"
    masks = rigl_keras.get_masks(build(random))
    model = build(random, weight_path(parent.paths[0]))
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    for path, mask in masks.items():
        expected = np.where(mask, parent.kernels[0][path], 0)
        np.testing.assert_array_equal(tiny.weights(model)[path], expected)


def test_weights_of_a_checkpoint_go_into_a_dense_network(parent):
    model = build(weight_path(parent.paths[9]))
    assert rigl_keras.sparse_kernels(model) == []
    expected = parent.kernels[9]
    assert_same(all_kernels(model).values(), [expected[p] for p in all_kernels(model)])
    assert_same(biases(model), parent.biases[9])


def test_averages_of_batch_norm_come_with_the_weights(tmp_path):
    norm = "mlp.use_batch_norm = True"
    before = build(norm, is_pruned=True)
    for index, variable in enumerate(before.non_trainable_variables):
        if variable.dtype != "bool":
            variable.assign(np.full(variable.shape, index + 1.0))
    checkpoint = save_run(tmp_path / "run", before, 1)
    model = build(norm, weight_path(checkpoint), mask_path(checkpoint))
    for name in ("dense1_bn", "dense2_bn", "dense3_bn"):
        assert_same(
            model.get_layer(name).get_weights(), before.get_layer(name).get_weights()
        )
    assert (model.get_layer("dense3_bn").get_weights()[3] > 1).all()


def test_scratch_with_the_weights_of_the_masks_own_run_is_refused(parent):
    bindings = [mask_path(parent.paths[9])]
    with pytest.raises(ValueError, match=r"init_seed 3.*network\.allow_same_init"):
        build(*bindings, seeds=PARENT_SEEDS)
    with pytest.raises(ValueError, match=re.escape(str(parent.paths[9].parent))):
        build(*bindings, seeds=Seeds(init_seed=3, data_seed=8, mask_seed=8))


@pytest.mark.parametrize(
    ("bindings", "options"),
    [
        (["network.allow_same_init = True"], {}),
        ([], {"seeds": Seeds(init_seed=5, data_seed=3, mask_seed=3)}),
        ([], {"is_scratch": False}),
    ],
    ids=["asked for", "another init seed", "masks evolve"],
)
def test_scratch_is_not_refused_where_it_is_none(parent, bindings, options):
    options = {"seeds": PARENT_SEEDS, **options}
    model = build(mask_path(parent.paths[9]), *bindings, **options)
    tiny.assert_same_masks(rigl_keras.get_masks(model), parent.masks[9])


def test_masks_without_the_record_of_their_run_are_taken(parent, tmp_path):
    for file in parent.paths[9].parent.glob("ckpt-9.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = build(mask_path(tmp_path / "ckpt-9"), seeds=PARENT_SEEDS)
    tiny.assert_same_masks(rigl_keras.get_masks(model), parent.masks[9])


def hidden(*sizes):
    return (*MLP, f"mlp.hidden_sizes = {sizes}")


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        (hidden(8, 6, 6), hidden(7, 6, 5), r"dense1/kernel is \(16, 8\).*\(16, 7\)"),
        (hidden(8, 6, 6), hidden(8, 5, 5), r"dense2/kernel is \(8, 6\).*\(8, 5\)"),
        (hidden(8, 6, 6, 6, 6), hidden(8, 6, 6), r"dense4/kernel is \(6, 6\).*missing"),
        (
            hidden(
                8,
            ),
            hidden(8, 8, 8),
            r"dense2/kernel is missing there.*\(8, 8\) here",
        ),
        (LENET, hidden(8, 6), r"dense1/kernel is \(3, 5\) there.*\(256, 8\) here"),
        (hidden(8, 6), LENET, r"conv1/kernel is missing there.*\(5, 5, 1, 2\) here"),
        (MLP, (*MLP, "mlp.use_batch_norm = True"), "_bn/.* is missing there"),
    ],
    ids=["first", "second", "more", "fewer", "lenet5", "mlp", "batch norm"],
)
def test_a_checkpoint_of_another_network_is_refused_by_its_first_kernel(
    tmp_path, there, here, message
):
    side = 16 if LENET in (there, here) else 4
    model = build(network=there, side=side, is_pruned=True)
    checkpoint = save_run(tmp_path / "run", model, 4)
    for binding in (mask_path(checkpoint), weight_path(checkpoint)):
        with pytest.raises(ValueError, match=f"run/ckpt-4.*{message}"):
            build(binding, network=here, side=side)


def test_a_dense_checkpoint_has_no_masks_to_take(tmp_path):
    checkpoint = save_run(tmp_path / "run", build(), 2)
    with pytest.raises(ValueError, match=r"ckpt-2 is of a dense network"):
        build(mask_path(checkpoint))


def test_masks_for_layers_that_are_to_stay_dense_are_refused(tmp_path):
    model = build(network=LENET, side=16, is_pruned=True)
    checkpoint = save_run(tmp_path / "run", model, 2)
    dense_only = "network.pruned_layer_types = ('Dense',)"
    with pytest.raises(ValueError, match=r"conv1/kernel.*network\.pruned_layer_types"):
        build(mask_path(checkpoint), dense_only, network=LENET, side=16)


def test_layers_without_a_mask_in_the_checkpoint_stay_dense(tmp_path):
    options = {"network": LENET, "side": 16}
    dense_only = "network.pruned_layer_types = ('Dense',)"
    checkpoint = save_run(
        tmp_path / "run", build(dense_only, is_pruned=True, **options), 2
    )
    for bindings in ([], [dense_only]):
        model = build(mask_path(checkpoint), *bindings, **options)
        paths = [each.path for each in rigl_keras.sparse_kernels(model)]
        assert paths == ["dense1/kernel", "dense2/kernel", "logits/kernel"]


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["network.network_name = 'lenet6'"], r"network\.network_name"),
        (["network.weight_init_method = 'unit_scaled'"], r"masks\.sparsity"),
        (["network.noise_stddev = -0.1"], r"network\.noise_stddev"),
        (["network.noise_stddev = 'much'"], r"network\.noise_stddev"),
        (["network.shuffle_mask = True"], r"network\.mask_init_path"),
        (
            ["masks.sparsity = 0.5", "network.weight_init_method = 'he'"],
            r"network\.weight_init_method",
        ),
        (["masks.sparsity = 0.5", "masks.distribution = 'erdos'"], "erdos"),
        (["masks.sparsity = 0.5", "masks.overrides = {'conv9/*': 0.1}"], "conv9"),
        (["masks.sparsity = 1.0"], r"\[0, 1\)"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(bindings, message):
    with pytest.raises(ValueError, match=message):
        build(*bindings)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("masks.sparsity = 0.5", r"masks\.sparsity=0\.5.*network\.mask_init_path"),
        ("masks.overrides = {'dense1/*': 0}", r"masks\.overrides.*mask_init_path"),
    ],
)
def test_masks_from_two_sources_are_refused(parent, binding, message):
    with pytest.raises(ValueError, match=message):
        build(mask_path(parent.paths[9]), binding)
    # What base files say for the case of random masks does not count.
    build(mask_path(parent.paths[9]), "masks.distribution = 'uniform'")


def test_weights_from_two_sources_are_refused(parent):
    bindings = [mask_path(parent.paths[9]), weight_path(parent.paths[0])]
    message = r"network\.weight_init_method='layer_scaled'.*network\.weight_init_path"
    with pytest.raises(ValueError, match=message):
        build(*bindings, "network.weight_init_method = 'layer_scaled'")


@pytest.mark.parametrize("path", [mask_path, weight_path])
def test_a_checkpoint_that_is_not_there_or_not_ours_is_refused(parent, tmp_path, path):
    missing = parent.paths[9].with_name("ckpt-10")
    with pytest.raises(ValueError, match="ckpt-10 cannot be read"):
        build(path(missing))
    foreign = tf.train.Checkpoint(model=build()).write(str(tmp_path / "foreign"))
    with pytest.raises(ValueError, match="foreign holds no model"):
        build(path(foreign))
