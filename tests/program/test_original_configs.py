"""The configurations of the paper's TF2 code, by the settings that its files make.

Runs them by the command's `main`, as they are but for data, length and folders. The
four files of the perceptron that set neither network nor optimizer follow the pruned
run's operative configuration, as there.
"""

import json
import os

import gin
import pytest
from absl import flags
from absl.testing import flagsaver

import rigl_keras.train

pytestmark = pytest.mark.one_keras

TRAINING = {
    "training.total_steps": 11719,
    "training.batch_size": 128,
    "training.save_freq": 500,
    "training.log_freq": 200,
    "optimizer.name": "momentum",
    "optimizer.learning_rate": 0.05,
    "optimizer.momentum": 0.9,
    "optimizer.clipvalue": None,
    "optimizer.clipnorm": None,
}
NO_PRUNING = {
    "pruning.mode": "constant",
    "pruning.final_sparsity": 0.0,
    "pruning.begin_step": 100000000,
}
PRUNING = {
    "pruning.mode": "prune",
    "pruning.initial_sparsity": 0.0,
    "pruning.begin_step": 3000,
    "pruning.end_step": 7000,
    "pruning.frequency": 100,
    "network.mask_init_path": None,
}
MASKS = {"network.mask_init_path": "/tmp/sparse_spectrum/ckpt-11719"}
TICKET = {**MASKS, "network.weight_init_path": "/tmp/sparse_spectrum/ckpt-0"}
SCRATCH = {
    **MASKS,
    **NO_PRUNING,
    "training.use_metainit": False,
    "network.weight_init_method": None,
}
PLAIN = {"training.gradient_regularization": 0, "network.weight_decay": 0.0005}


def evolving(algorithm, update_freq):
    return {
        **SCRATCH,
        "unit_scaled_init.method": "fanin_normal",
        "mask_updater.update_alg": algorithm,
        "mask_updater.schedule_alg": "lr",
        "mask_updater.update_freq": update_freq,
        "mask_updater.init_drop_fraction": 0.3,
        "mask_updater.last_update_step": -1,
    }


def one_shot(algorithm):
    return {
        **TRAINING,
        **NO_PRUNING,
        "training.use_metainit": False,
        "training.gradient_regularization": 0,
        "optimizer.learning_rate": 0.1,
        "network.weight_decay": 0.0002,
        "training.oneshot_prune_fraction": 0.95,
        "training.val_batch_size": 5000,
        "mask_updater.update_alg": algorithm,
        "mask_updater.last_update_step": 0,
    }


def lenet5(*hidden_sizes):
    return {
        **TRAINING,
        "network.network_name": "lenet5",
        "network.weight_decay": 0.0005,
        "lenet5.hidden_sizes": hidden_sizes,
        "lenet5.use_batch_norm": False,
    }


def mlp(**more):
    settings = {
        **TRAINING,
        "network.network_name": "mlp",
        "network.weight_decay": 0.0001,
        "optimizer.learning_rate": 0.2,
    }
    return {**settings, **more}


# Name -> settings, and how many of the weights without biases are active at the end.
LENET5 = {
    "prune": (
        {**lenet5(6, 16, 120, 84), **PRUNING, "pruning.final_sparsity": 0.95},
        2210,
    ),
    "dense": ({**lenet5(6, 16, 120, 84), **NO_PRUNING}, 44190),
    "small_dense": ({**lenet5(3, 3, 27, 20), **NO_PRUNING}, 2336),
    "lottery": ({**TRAINING, **TICKET, **NO_PRUNING}, 2210),
    "scratch": ({**TRAINING, **PLAIN, **SCRATCH, "network.shuffle_mask": False}, 2210),
    "set": ({**TRAINING, **PLAIN, **evolving("set", 100)}, 2210),
    "rigl": ({**TRAINING, **PLAIN, **evolving("rigl", 100)}, 2210),
    "snip": (one_shot("rigl_s"), 2210),
    "grasp": (one_shot("rigl_grasp"), 2210),
}
MLP = {
    "prune": (mlp(**PRUNING, **{"pruning.final_sparsity": 0.98}), 5324),
    "dense": (mlp(**NO_PRUNING), 266200),
    "small_dense": (mlp(**NO_PRUNING, **{"mlp.hidden_sizes": (8, 8)}), 6416),
    # The others follow the pruned run's configuration.
    "lottery": ({**TICKET, **NO_PRUNING}, 5324),
    "scratch": ({**SCRATCH, "network.shuffle_mask": False}, 5324),
    "set": (evolving("set", 500), 5324),
    "rigl": (evolving("rigl", 500), 5324),
}
AFTER_PRUNING = ("lottery", "scratch", "set", "rigl")
STEPS = 24
# What a short run on a small data set changes, and nothing else.
SHORT = {
    "data.name": "digits",
    "training.total_steps": STEPS,
    "training.save_freq": 12,
    "training.log_freq": 12,
}
SHORT_PRUNING = {
    "pruning.begin_step": 5,
    "pruning.end_step": 15,
    "pruning.frequency": 5,
}


def text(settings):
    return "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def train(folder, name, settings, seed=0, more=(), **changes):
    """Trains by a file of settings, with changes as bindings; returns the result."""
    file = folder / f"{name}.gin"
    file.write_text(text(settings))
    arguments = [
        "train",
        f"--logdir={folder / name}",
        f"--seed={seed}",
        f"--gin_config={file}",
        *more,
        *(f"--gin_bindings={key}={value!r}" for key, value in changes.items()),
    ]
    with flagsaver.flagsaver():
        gin.clear_config()
        assert rigl_keras.train.main(flags.FLAGS(arguments)) == 0
    gin.clear_config()
    return json.loads((folder / name / "results.json").read_text())


def train_short(folder, files, name, is_mlp=False):
    settings, _ = files[name]
    changes = dict(SHORT)
    more = []
    if name == "prune":
        changes |= SHORT_PRUNING
    if "network.mask_init_path" in settings and name != "prune":
        changes["network.mask_init_path"] = str(folder / "prune" / f"ckpt-{STEPS}")
        if is_mlp:
            config = folder / "prune" / "operative_config.gin"
            more.append(f"--preload_gin_config={config}")
    if "network.weight_init_path" in settings:
        changes["network.weight_init_path"] = str(folder / "prune" / "ckpt-0")
    if "mask_updater.update_freq" in settings:
        changes["mask_updater.update_freq"] = 6
    seed = 1 if name in AFTER_PRUNING else 0
    return train(folder, name, settings, seed, more, **changes)


@pytest.fixture(scope="module", params=["lenet5", "mlp"])
def runs(request, tmp_path_factory):
    """All runs of one network: their expected active weights and their results."""
    is_mlp = request.param == "mlp"
    files = MLP if is_mlp else LENET5
    folder = tmp_path_factory.mktemp(request.param)
    done = {name: train_short(folder, files, name, is_mlp) for name in files}
    return folder, {name: (files[name][1], done[name]) for name in files}, request.param


@pytest.mark.release
def test_the_originals_configurations_run_as_they_are_written(runs):
    folder, results, network = runs
    for name, (active, result) in results.items():
        biases = result["active_weights"] - active
        assert result["network"] == network, name
        expected = sum(
            count
            for path, count in biases_of(folder / name).items()
            if path.endswith("bias")
        )
        assert biases == expected, name
        assert result["steps"] == STEPS


def biases_of(logdir):
    from rigl_keras.program.checkpoints import SavedModel

    values = SavedModel(str(logdir / f"ckpt-{STEPS}")).values
    return {path: value.size for path, value in values.items()}


@pytest.mark.release
def test_tickets_and_scratch_runs_have_the_masks_of_the_pruned_one(runs):
    from rigl_keras.program.checkpoints import SavedModel

    folder, _, _ = runs
    pruned = SavedModel(str(folder / "prune" / f"ckpt-{STEPS}")).values
    masks = [path for path in pruned if path.endswith("/mask")]
    assert masks
    first = SavedModel(str(folder / "prune" / "ckpt-0")).values
    for name in AFTER_PRUNING:
        begin = SavedModel(str(folder / name / "ckpt-0")).values
        end = SavedModel(str(folder / name / f"ckpt-{STEPS}")).values
        same = [(pruned[path] == end[path]).all() for path in masks]
        assert all((pruned[path] == begin[path]).all() for path in masks), name
        assert all(same) == (name in ("lottery", "scratch")), name
        if name == "lottery":
            for path in masks:
                kernel = path.removesuffix("/mask")
                assert (begin[kernel] == first[kernel] * pruned[path]).all()


@pytest.mark.release
def test_what_the_files_do_is_what_they_are_named_for(runs):
    folder, results, network = runs
    methods = {name: result["method"] for name, (_, result) in results.items()}
    expected = {
        "prune": "Pruning",
        "dense": "Dense",
        "small_dense": "Dense",
        "lottery": "Static",
        "scratch": "Static",
        "set": "SET",
        "rigl": "RigL",
    }
    if network == "lenet5":
        expected |= {"snip": "SNIP", "grasp": "GraSP"}
    assert methods == expected
    around = {name for name in os.listdir(folder / "rigl") if name.startswith("ckpt--")}
    assert {f"ckpt--{step}.index" for step in (5, 6, 11, 12)} <= around
