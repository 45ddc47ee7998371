"""How the sparsity of a network is spread over its kernels."""

from rigl_keras.core.distributions import (
    active_count,
    check_sparsity,
    er,
    erk,
    from_name,
    overridden,
    uniform,
)

__all__ = [
    "active_count",
    "check_sparsity",
    "er",
    "erk",
    "from_name",
    "overridden",
    "uniform",
]
