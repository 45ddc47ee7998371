"""Layers and models whose kernels are sparse."""

from rigl_keras.layers.sparse import Sparse
from rigl_keras.layers.sparse_model import SparseModel

__all__ = ["Sparse", "SparseModel"]
