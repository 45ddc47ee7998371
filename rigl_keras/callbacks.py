"""The callbacks that keep a model sparse while it trains."""

from rigl_keras.training.base import SparseTraining
from rigl_keras.training.dynamic import (
    SET,
    SNFS,
    RigL,
    RigLInverted,
    Static,
)

__all__ = [
    "SET",
    "SNFS",
    "RigL",
    "RigLInverted",
    "SparseTraining",
    "Static",
]
