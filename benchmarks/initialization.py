"""Drawing the initial weights of a whole sparse network."""

import math

from benchmarks.turns import by_clock, take_turns, timed
from rigl_keras import networks
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core.initializers import unit_scaled_init
from rigl_keras.core.kernels import find_kernels
from rigl_keras.core.selection import random_mask

SPARSITY = 0.8


def measure(rounds=6):
    """Times `unit_scaled_init` of all kernels of VGG-16.

    Args:
      rounds: int >= 1, how often.

    Returns:
      A dict with the number of "weights" and, for "wall" and "cpu" time, a list of
      seconds of "initialization".
    """
    kernels = find_kernels(networks.build("vgg16", (224, 224, 3), 1000))
    masks = [_mask(kernel, index) for index, kernel in enumerate(kernels)]

    def draw():
        for seed, mask in enumerate(masks):
            unit_scaled_init(mask, "fanin_normal", 2.0, seed=seed).numpy()

    draw()
    results = take_turns({"initialization": timed(draw)}, rounds)
    return {"weights": sum(mask.size for mask in masks), **by_clock(results)}


def _mask(kernel, index):
    shape = tuple(kernel.variable.shape)
    active = round(math.prod(shape) * (1 - SPARSITY))
    return random_mask(shape, active, stateless_seed("benchmark", 0, index)).numpy()
