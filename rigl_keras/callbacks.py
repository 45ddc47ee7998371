"""The callbacks that keep a model sparse while it trains."""

from rigl_keras.training.base import SparseTraining, Static
from rigl_keras.training.dynamic import MaskUpdates
from rigl_keras.training.named import SET, SNFS, RigL, RigLInverted

__all__ = [
    "SET",
    "SNFS",
    "MaskUpdates",
    "RigL",
    "RigLInverted",
    "SparseTraining",
    "Static",
]
