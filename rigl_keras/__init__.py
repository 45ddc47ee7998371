"""Sparse training for Keras: masks, SET, RigL and pruning as callbacks of `fit`."""

from rigl_keras.common.native_log import quieten_commands

quieten_commands()  # before TensorFlow is imported

from rigl_keras import (
    callbacks,
    cost,
    distributions,
    init_utils,
    mask_updaters,
    metainit,
    patterns,
    schedules,
    selection,
)
from rigl_keras.conversion.compress import compress, decompress
from rigl_keras.conversion.convert import sparsify, strip
from rigl_keras.conversion.from_tfmot import from_tfmot
from rigl_keras.core.masks import get_masks, set_masks, sparse_kernels
from rigl_keras.costs.counting import model_cost, training_flops
from rigl_keras.costs.summary import summary
from rigl_keras.layers.compressed import Compressed
from rigl_keras.layers.sparse import Sparse
from rigl_keras.layers.sparse_model import SparseModel
from rigl_keras.training.base import Static
from rigl_keras.training.dynamic import MaskUpdates
from rigl_keras.training.gradient_flow import FlowMeter, GradientFlow
from rigl_keras.training.gradient_penalty import regularize_gradient
from rigl_keras.training.metainit import meta_init
from rigl_keras.training.named import SET, SNFS, RigL, RigLInverted
from rigl_keras.training.observers import MaskUpdateObserver
from rigl_keras.training.one_shot import prune_once
from rigl_keras.training.pruning import Pruning
from rigl_keras.version import __version__

__all__ = [
    "SET",
    "SNFS",
    "Compressed",
    "FlowMeter",
    "GradientFlow",
    "MaskUpdateObserver",
    "MaskUpdates",
    "Pruning",
    "RigL",
    "RigLInverted",
    "Sparse",
    "SparseModel",
    "Static",
    "__version__",
    "callbacks",
    "compress",
    "cost",
    "decompress",
    "distributions",
    "from_tfmot",
    "get_masks",
    "init_utils",
    "mask_updaters",
    "meta_init",
    "metainit",
    "model_cost",
    "patterns",
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
