"""Sparse training for Keras: masks, SET and RigL as callbacks of `model.fit`."""

from rigl_keras import distributions, init_utils, mask_updaters, schedules, selection
from rigl_keras.callbacks import SET, SNFS, RigL, RigLInverted, Static
from rigl_keras.conversion import sparsify, strip
from rigl_keras.layers import Sparse, get_masks, set_masks, sparse_kernels
from rigl_keras.pruning import Pruning
from rigl_keras.summary import summary
from rigl_keras.version import __version__

__all__ = [
    "SET",
    "SNFS",
    "Pruning",
    "RigL",
    "RigLInverted",
    "Sparse",
    "Static",
    "__version__",
    "distributions",
    "get_masks",
    "init_utils",
    "mask_updaters",
    "schedules",
    "selection",
    "set_masks",
    "sparse_kernels",
    "sparsify",
    "strip",
    "summary",
]
