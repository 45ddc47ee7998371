"""Drop fractions and sparsities over the training, and when an update is due."""

from rigl_keras.algorithms.schedules import (
    FOREVER,
    NAMES,
    NEVER,
    check_fraction,
    check_schedule,
    constant_sparsity,
    cosine,
    default_last_update_step,
    is_due,
    next_update,
    polynomial_decay,
    relative,
    update_inside_execution,
)

__all__ = [
    "FOREVER",
    "NAMES",
    "NEVER",
    "check_fraction",
    "check_schedule",
    "constant_sparsity",
    "cosine",
    "default_last_update_step",
    "is_due",
    "next_update",
    "polynomial_decay",
    "relative",
    "update_inside_execution",
]
