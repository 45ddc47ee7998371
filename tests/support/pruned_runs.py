"""Networks by gin bindings, and checkpoints of runs for them to start from."""

import gin
import numpy as np
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.program import files
from rigl_keras.program.algorithm import Seeds
from rigl_keras.program.checkpoints import Checkpoints
from rigl_keras.program.network import make_network

MLP = ("network.network_name = 'mlp'", "mlp.hidden_sizes = (8, 6, 6)")
LENET = ("network.network_name = 'lenet5'", "lenet5.hidden_sizes = (2, 3, 5, 4)")
PARENT_SEEDS = Seeds(init_seed=3, data_seed=3, mask_seed=3)
OTHER_SEEDS = Seeds(init_seed=4, data_seed=4, mask_seed=4)


def build(*bindings, seeds=OTHER_SEEDS, side=4, network=MLP, **options):
    """The network of these bindings, which later ones override, and no others."""
    try:
        gin.parse_config([*network, *bindings])
        return make_network((side, side, 1), 3, seeds, **options)
    finally:
        gin.clear_config()


def mask_path(checkpoint):
    return f"network.mask_init_path = '{checkpoint}'"


def weight_path(checkpoint):
    return f"network.weight_init_path = '{checkpoint}'"


def all_kernels(model):
    found = kernels.find_kernels(model)
    return {each.path: tiny.raw(each.variable).numpy() for each in found}


def biases(model):
    return [v.numpy() for v in model.trainable_variables if len(v.shape) == 1]


def assert_same(left, right):
    for ours, theirs in zip(left, right, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def save_run(folder, model, step, seeds=PARENT_SEEDS):
    """Writes a checkpoint as the command line does; returns its path."""
    folder.mkdir(exist_ok=True)
    model.compile(keras.optimizers.SGD(0.1))
    compat.build_optimizer(model.optimizer, list(model.trainable_variables))
    Checkpoints(folder, model, model.optimizer).save(step)
    files.write_json(folder / "run.json", {"seeds": vars(seeds)})
    return folder / f"ckpt-{step}"


class PrunedRun:
    """A pruned run: checkpoints of steps 0, 5 and 9, and what they hold."""

    def __init__(self, folder, **options):
        model = build(seeds=PARENT_SEEDS, is_pruned=True, **options)
        self.paths, self.kernels, self.biases, self.masks = {}, {}, {}, {}
        for step, density in {0: 1.0, 5: 0.6, 9: 0.3}.items():
            if step:
                self._train(model, step, density)
            self.paths[step] = save_run(folder, model, step)
            self.kernels[step] = all_kernels(model)
            self.biases[step] = biases(model)
            self.masks[step] = rigl_keras.get_masks(model)

    @staticmethod
    def _train(model, step, density):
        generator = np.random.RandomState(step)
        for variable in model.trainable_variables:
            variable.assign(generator.normal(size=variable.shape))
        masks = {}
        for path, mask in rigl_keras.get_masks(model).items():
            masks[path] = generator.rand(*mask.shape) < density
            masks[path].flat[0] = True
        rigl_keras.set_masks(model, masks)
