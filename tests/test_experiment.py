"""What gin names mean: defaults, refusals, and the files that come along."""

import inspect
import os
from pathlib import Path

import gin
import numpy as np
import pytest
from tensorflow import keras

import rigl_keras
from rigl_keras import config_path, experiment, run

SEEDS = experiment.Seeds(0, 0, 0)
SHAPE = (28, 28, 1)
[GIN_FOLDER] = config_path.gin_search_paths()
FILES = sorted(
    str(path.relative_to(GIN_FOLDER)) for path in Path(GIN_FOLDER).glob("*/*.gin")
)


@pytest.fixture(autouse=True)
def no_gin_left():
    yield
    gin.clear_config()


def bind(*bindings):
    gin.parse_config(bindings)


# The names and defaults of the paper's TF2 code.
DEFAULTS = {
    run.TrainingConfig: {
        "total_steps": 5000,
        "batch_size": 128,
        "val_batch_size": 1000,
        "save_freq": 5,
        "log_freq": 250,
        "use_metainit": False,
        "oneshot_prune_fraction": 0.0,
        "gradient_regularization": 0,
    },
    experiment.make_network: {
        "activation": "relu",
        "network_name": "lenet5",
        "mask_init_path": None,
        "shuffle_mask": False,
        "weight_init_path": None,
        "weight_init_method": None,
        "weight_decay": 0.0,
        "noise_stddev": 0.0,
        "pruned_layer_types": ("Conv2D", "Dense"),
    },
    experiment.PruningConfig: {
        "mode": "prune",
        "initial_sparsity": 0.0,
        "final_sparsity": 0.8,
        "begin_step": 2000,
        "end_step": 4000,
        "frequency": 200,
    },
    experiment.make_optimizer: {
        "name": "adam",
        "learning_rate": 0.001,
        "clipnorm": None,
        "clipvalue": None,
        "momentum": None,
    },
    experiment.make_mask_updater: {
        "update_alg": "",
        "schedule_alg": "lr",
        "update_freq": 100,
        "init_drop_fraction": 0.3,
        "last_update_step": -1,
        "use_stateless": True,
        "grow_gradient": "fixed_batch",
    },
}


@pytest.mark.parametrize("configurable", DEFAULTS, ids=lambda each: each.__name__)
def test_defaults_are_those_of_the_paper(configurable):
    parameters = inspect.signature(configurable).parameters
    defaults = {
        name: each.default
        for name, each in parameters.items()
        if each.default is not each.empty
    }
    assert defaults == DEFAULTS[configurable]


@pytest.mark.parametrize(
    ("bindings", "setting"),
    [
        (["network.network_name = 'lenet6'"], "network.network_name"),
        (["network.mask_init_path = '/x'"], "network.mask_init_path"),
        (["network.weight_init_method = 'unit_scaled'"], "masks.sparsity"),
        (
            ["masks.sparsity = 0.5", "network.weight_init_method = 'he'"],
            "network.weight_init_method",
        ),
        (["masks.sparsity = 0.5", "masks.distribution = 'erdos'"], "erdos"),
        (["masks.sparsity = 0.5", "masks.overrides = {'conv9/*': 0.1}"], "conv9"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(bindings, setting):
    bind(*bindings)
    with pytest.raises(ValueError, match=setting.replace(".", r"\.")):
        experiment.make_network(SHAPE, 10, SEEDS)


@pytest.mark.parametrize(
    ("bindings", "setting"),
    [
        (["optimizer.name = 'lion'"], "optimizer.name"),
        (["optimizer.name = 'momentum'"], "optimizer.momentum"),
        (["optimizer.momentum = 0.9"], "optimizer.momentum"),
        (["optimizer.learning_rate = -0.1"], "optimizer.learning_rate"),
        (["optimizer.learning_rate = 'fast'"], "optimizer.learning_rate"),
        (["optimizer.clipnorm = 0"], "optimizer.clipnorm"),
    ],
)
def test_an_optimizer_that_makes_no_sense_is_refused(bindings, setting):
    bind(*bindings)
    with pytest.raises(ValueError, match=setting.replace(".", r"\.")):
        experiment.make_optimizer(100)


def test_the_learning_rate_falls_to_0_by_a_half_cosine():
    bind("optimizer.name = 'momentum'", "optimizer.momentum = 0.9")
    bind("optimizer.learning_rate = 0.05")
    optimizer = experiment.make_optimizer(200)
    for step in (0, 50, 100, 200):
        expected = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 200))
        rate = float(rigl_keras.compat.learning_rate(optimizer, step))
        assert rate == pytest.approx(expected, abs=1e-8)
    assert optimizer.momentum == 0.9


def test_only_the_named_layer_types_are_pruned():
    bind("masks.sparsity = 0.5", "masks.distribution = 'uniform'")
    bind("network.pruned_layer_types = ('Dense',)")
    model = experiment.make_network(SHAPE, 10, SEEDS)
    paths = [kernel.path for kernel in rigl_keras.sparse_kernels(model)]
    assert paths == ["dense1/kernel", "dense2/kernel", "logits/kernel"]


def test_seeds_are_separate():
    bind("masks.sparsity = 0.5", "network.weight_init_method = 'unit_scaled'")

    def weights_and_masks(init, mask):
        keras.backend.clear_session()
        model = experiment.make_network(SHAPE, 10, experiment.Seeds(init, 0, mask))
        dense = model.get_layer("sparse_dense1").layer
        return dense.kernel.numpy(), rigl_keras.get_masks(model)["dense1/kernel"]

    weights, mask = weights_and_masks(0, 0)
    other_weights, same_mask = weights_and_masks(1, 0)
    np.testing.assert_array_equal(mask, same_mask)
    assert not np.array_equal(weights, other_weights)
    _, other_mask = weights_and_masks(0, 1)
    assert not np.array_equal(mask, other_mask)


def test_gin_takes_the_seeds_apart():
    bind("seeds.data_seed = 7")
    assert experiment.make_seeds(3) == experiment.Seeds(3, 7, 3)
    bind("seeds.mask_seed = -1")
    with pytest.raises(ValueError, match=r"seeds\.mask_seed"):
        experiment.make_seeds(3)


def test_an_algorithm_without_masks_is_refused():
    bind("mask_updater.update_alg = 'rigl'")
    model = experiment.make_network(SHAPE, 10, SEEDS)
    with pytest.raises(ValueError, match=r"masks\.sparsity"):
        experiment.make_mask_updater(model, None, SEEDS)


def test_pruning_is_refused_only_where_it_is_asked_for():
    experiment.check_pruning(100)
    bind("pruning.mode = 'constant'", "pruning.final_sparsity = 0.")
    bind("pruning.begin_step = 100000000")
    experiment.check_pruning(100)
    bind("pruning.final_sparsity = 0.5", "pruning.begin_step = 10")
    with pytest.raises(ValueError, match="would prune"):
        experiment.check_pruning(100)
    bind("pruning.mode = 'prune'", "pruning.final_sparsity = 0.")
    with pytest.raises(ValueError, match="would prune"):
        experiment.check_pruning(100)


def test_the_growing_batch_sums_over_records_1000_to_1999():
    images = np.arange(2500, dtype=np.int32)
    data = type("Images", (), {})()
    data.train_images = np.zeros((2500, 2, 2, 1), np.uint8)
    data.train_images[:, 0, 0, 0] = images % 251
    data.train_labels = images
    x, y, weight = experiment._grow_data(data)
    np.testing.assert_array_equal(y, np.arange(1000, 2000))
    np.testing.assert_allclose(x[:, 0, 0, 0], (np.arange(1000, 2000) % 251) / 255, 1e-6)
    # A mean over n examples that weigh n each is their sum.
    assert (weight * 1000 / 1000 == 1000).all()


EXPECTED = {
    "dense": (0.0, "NoneType"),
    "small_dense": (0.0, "NoneType"),
    "static": (1, "Static"),
    "set": (1, "SET"),
    "rigl": (1, "RigL"),
    "rigl_inverted": (1, "RigLInverted"),
}


@pytest.mark.parametrize("file", [f for f in FILES if not f.endswith("base.gin")])
def test_a_file_describes_what_its_name_says(file, tmp_path):
    folder, name = os.path.split(file)
    gin.add_config_file_search_path(GIN_FOLDER)
    gin.parse_config_files_and_bindings([file], ["data.name = 'digits'"])
    described = run.Run(tmp_path / "run", seed=0)
    sparse, updater = EXPECTED[name.removesuffix(".gin")]
    assert type(described._updater).__name__ == updater
    table = rigl_keras.summary(described._model, print_fn=None)
    sparsity = 0.98 if folder == "mnist_mlp" else 0.95
    assert table.kernel_sparsity == pytest.approx(sparse * sparsity, abs=2e-3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", FILES)
def test_a_file_says_its_source_and_command(file):
    text = (Path(GIN_FOLDER) / file).read_text()
    assert "# Source:" in text
    assert "# Command:" in text
    if not file.endswith("base.gin"):
        assert f"--gin_config={file}" in text
        assert "# Time:" in text
        assert "# Expected:" in text
