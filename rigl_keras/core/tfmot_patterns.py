"""Which patterns the weights have that TFMOT's `prune_low_magnitude` prunes.

TFMOT 0.8.1 prunes in two patterns beside single weights:

- `block_size=(h, w)`, of weights of rank 2 only: blocks of h entries of the first axis
  × w of the second.
- `sparsity_m_by_n=(m, n)`: of every n consecutive entries of the last axis but one m
  are zeros, so that n - m are left. That axis counts the inputs of most kernels, but
  the outputs of transposed convolutions.
"""

from typing import Any

from rigl_keras.core import kernels
from rigl_keras.core.choosing import grouping_of
from rigl_keras.core.kernels import Kernel
from rigl_keras.core.pattern_kinds import UNSTRUCTURED, Blocks, NOfM
from rigl_keras.core.patterns import Pattern
from rigl_keras.core.tfmot_wrappers import pruned_weights


def wrappers_by_weight(model: Any) -> dict[int, Any]:
    """The pruning wrappers below a model, by the ids of the weights that they prune.

    Args:
      model: a built model or layer.
    """
    return {
        id(weight): layer
        for layer, _ in kernels.walk(model)
        for weight, _ in pruned_weights(layer)
    }


def wrapper_pattern(wrapper: Any, kernel: Kernel) -> Pattern:
    """The pattern in which a wrapper prunes a kernel.

    Args:
      wrapper: a built pruning wrapper.
      kernel: one that it prunes.

    Raises:
      ValueError: naming the layer, where it is none of the patterns here.
    """
    try:
        pattern = _pattern(wrapper, kernel)
        grouping_of(kernel, pattern)
    except ValueError as error:
        raise ValueError(
            f"TFMOT prunes {kernel.path!r} of layer {wrapper.layer.name!r} with "
            f"{_shown(wrapper)}, which is none of the patterns here: {error}. Wrap the "
            "layer with another; or give the pattern up, rigl_keras.from_tfmot(model, "
            "pattern='unstructured')."
        ) from None
    return pattern


def check_wrapper_patterns(model: Any) -> None:
    """Refuses a model in which TFMOT prunes in a pattern that is none of those here.

    Args:
      model: a built model or layer.

    Raises:
      ValueError: naming the layer.
    """
    wrappers = wrappers_by_weight(model)
    for kernel in kernels.find_maskable(model):
        if id(kernel.variable) in wrappers:
            wrapper_pattern(wrappers[id(kernel.variable)], kernel)


def _pattern(wrapper: Any, kernel: Kernel) -> Pattern:
    rank = len(kernel.shape)
    if wrapper.sparsity_m_by_n:
        zeros, size = wrapper.sparsity_m_by_n
        if kernel.in_axes != (rank - 2,):
            raise ValueError(f"axis {rank - 2} of the kernel does not count inputs")
        return NOfM(size - zeros, size)
    block = tuple(wrapper.block_size)
    if block == (1, 1):
        return UNSTRUCTURED
    if len(kernel.in_axes) != 1 or len(kernel.out_axes) != 1:
        raise ValueError("its axes are not one of inputs and one of outputs")
    return Blocks(block[kernel.in_axes[0]], block[kernel.out_axes[0]])


def _shown(wrapper: Any) -> str:
    if wrapper.sparsity_m_by_n:
        return f"sparsity_m_by_n={wrapper.sparsity_m_by_n}"
    return f"block_size={tuple(wrapper.block_size)}"
