"""Patterns of sparsity: single weights, blocks, n of m, constant fan-in."""

from rigl_keras.core.grouping import Grouping, Layout
from rigl_keras.core.pattern_kinds import Blocks, ConstantFanIn, NOfM, Unstructured
from rigl_keras.core.patterns import Pattern, from_text, named, register

__all__ = [
    "Blocks",
    "ConstantFanIn",
    "Grouping",
    "Layout",
    "NOfM",
    "Pattern",
    "Unstructured",
    "from_text",
    "named",
    "register",
]
