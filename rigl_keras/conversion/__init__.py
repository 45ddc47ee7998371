"""Between plain and sparse models."""

from rigl_keras.conversion.convert import sparsify, strip
from rigl_keras.conversion.from_tfmot import from_tfmot

__all__ = ["from_tfmot", "sparsify", "strip"]
