"""Initial weights that suit a sparse kernel."""

from rigl_keras.core.initializers import (
    METHODS,
    layer_scaled_init,
    unit_scaled_init,
)

__all__ = [
    "METHODS",
    "layer_scaled_init",
    "unit_scaled_init",
]
