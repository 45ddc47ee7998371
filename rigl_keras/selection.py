"""Exact selection of the highest scores."""

from rigl_keras.core.selection import (
    random_mask,
    top_k_mask,
)

__all__ = [
    "random_mask",
    "top_k_mask",
]
