"""Which connections an update drops, grows or keeps: one class per algorithm."""

from rigl_keras.algorithms.base import (
    RANKINGS,
    KernelState,
    MaskUpdater,
    Pruner,
    surviving,
)
from rigl_keras.algorithms.dynamic import SET, SNFS, RigL, RigLInverted
from rigl_keras.algorithms.pruners import SNIP, GraSP, Magnitude
from rigl_keras.algorithms.registry import named, register

ALGORITHMS = named(MaskUpdater)
PRUNERS = named(Pruner)

__all__ = [
    "ALGORITHMS",
    "PRUNERS",
    "RANKINGS",
    "SET",
    "SNFS",
    "SNIP",
    "GraSP",
    "KernelState",
    "Magnitude",
    "MaskUpdater",
    "Pruner",
    "RigL",
    "RigLInverted",
    "register",
    "surviving",
]
