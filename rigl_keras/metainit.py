"""MetaInit: initial weights whose gradient changes little along a step."""

from rigl_keras.training.metainit import (
    meta_init,
)

__all__ = [
    "meta_init",
]
