"""Sparse training for Keras: masks, SET, RigL and pruning as callbacks of `fit`."""

from rigl_keras import (
    cost,
    distributions,
    init_utils,
    mask_updaters,
    schedules,
    selection,
)
from rigl_keras.callbacks import SET, SNFS, RigL, RigLInverted, Static
from rigl_keras.conversion import sparsify, strip
from rigl_keras.cost import model_cost, training_flops
from rigl_keras.gradient_flow import FlowMeter, GradientFlow
from rigl_keras.gradient_regularization import regularize_gradient
from rigl_keras.layers import Sparse
from rigl_keras.masks import get_masks, set_masks, sparse_kernels
from rigl_keras.metainit import meta_init
from rigl_keras.observers import MaskUpdateObserver
from rigl_keras.oneshot import prune_once
from rigl_keras.pruning import Pruning
from rigl_keras.sparse_model import SparseModel
from rigl_keras.summary import summary
from rigl_keras.tfmot import from_tfmot
from rigl_keras.version import __version__

__all__ = [
    "SET",
    "SNFS",
    "FlowMeter",
    "GradientFlow",
    "MaskUpdateObserver",
    "Pruning",
    "RigL",
    "RigLInverted",
    "Sparse",
    "SparseModel",
    "Static",
    "__version__",
    "cost",
    "distributions",
    "from_tfmot",
    "get_masks",
    "init_utils",
    "mask_updaters",
    "meta_init",
    "model_cost",
    "prune_once",
    "regularize_gradient",
    "schedules",
    "selection",
    "set_masks",
    "sparse_kernels",
    "sparsify",
    "strip",
    "summary",
    "training_flops",
]
