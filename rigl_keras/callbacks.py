"""The callbacks that keep a model sparse while it trains."""

from rigl_keras.training.base import SparseTraining, Static
from rigl_keras.training.dynamic import SET, SNFS, MaskUpdates, RigL, RigLInverted

__all__ = [
    "SET",
    "SNFS",
    "MaskUpdates",
    "RigL",
    "RigLInverted",
    "SparseTraining",
    "Static",
]
