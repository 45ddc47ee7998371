"""Which connections an update drops, grows or keeps, and when.

Importing the package registers its algorithms.
"""

from rigl_keras.algorithms.base import CompressedState, KernelState, MaskUpdater, Pruner
from rigl_keras.algorithms.dynamic import SET, SNFS, RigL, RigLInverted
from rigl_keras.algorithms.pruners import SNIP, GraSP, Magnitude
from rigl_keras.algorithms.registry import named, register

__all__ = [
    "SET",
    "SNFS",
    "SNIP",
    "CompressedState",
    "GraSP",
    "KernelState",
    "Magnitude",
    "MaskUpdater",
    "Pruner",
    "RigL",
    "RigLInverted",
    "named",
    "register",
]
