"""Which connections an update drops, grows or keeps: one class per algorithm."""

from rigl_keras.algorithms.base import (
    ALGORITHMS,
    PRUNERS,
    RANKINGS,
    SET,
    SNFS,
    SNIP,
    GraSP,
    KernelState,
    Magnitude,
    MaskUpdater,
    Pruner,
    RigL,
    RigLInverted,
    surviving,
)

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
    "surviving",
]
