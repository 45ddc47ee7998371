"""What a sparse model costs: parameters, FLOPs, bytes."""

from rigl_keras.costs.counting import (
    BYTES,
    METHODS,
    KernelCost,
    ModelCost,
    model_cost,
    training_flops,
)

__all__ = [
    "BYTES",
    "METHODS",
    "KernelCost",
    "ModelCost",
    "model_cost",
    "training_flops",
]
