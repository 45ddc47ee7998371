"""How the sparsity of a network is spread over its kernels."""

from rigl_keras.core.distributions import (
    Shapes,
    Sparsities,
    active_count,
    check_sparsity,
    er,
    erk,
    from_name,
    overridden,
    uniform,
)

__all__ = [
    "Shapes",
    "Sparsities",
    "active_count",
    "check_sparsity",
    "er",
    "erk",
    "from_name",
    "overridden",
    "uniform",
]
