"""Compressed kernels in checkpoints, which are read as kernels with masks.

A checkpoint holds of such a kernel the weights that exist by its path, their places as
"<path>/indices", and as "<path>/layout" the dense shape and what its axes count.
"""

import numpy as np
import tensorflow as tf

from rigl_keras.core.compressed_units import spread_units
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.core.pattern_kinds import Blocks

INDICES, LAYOUT, MASK = "/indices", "/layout", "/mask"
_INPUT, _OUTPUT = 1, 2  # what an axis counts; 0 for taps


def layouts(model):
    """What tells the dense shapes of a model's compressed kernels.

    Args:
      model: a built model.

    Returns:
      A dict from "<path>/layout" to int variables [2, rank]: the shape and, for each
      axis, what it counts.
    """
    return {
        f"{kernel.path}{LAYOUT}": tf.Variable(_layout(kernel), trainable=False)
        for kernel in sparse_kernels(model)
        if kernel.is_compressed
    }


def _layout(kernel):
    counts = [0] * len(kernel.shape)
    for axis in kernel.in_axes:
        counts[axis] = _INPUT
    for axis in kernel.out_axes:
        counts[axis] = _OUTPUT
    return np.array([kernel.shape, counts], np.int32)


def in_full(values):
    """The values of a checkpoint with kernels and masks of the dense shape.

    Args:
      values: dict from names to arrays.

    Returns:
      A dict in which no kernel is compressed.
    """
    full = dict(values)
    for name in values:
        if not name.endswith(LAYOUT):
            continue
        path = name.removesuffix(LAYOUT)
        shape, counts = full.pop(name)
        indices = tf.constant(full.pop(f"{path}{INDICES}"))
        weights = tf.constant(full[path])
        grouping = Blocks(weights.shape[2], balanced="inputs").grouping(
            tuple(map(int, shape)),
            *(tuple(map(int, np.flatnonzero(counts == c))) for c in (_INPUT, _OUTPUT)),
        )
        exists = spread_units(tf.ones_like(indices), indices, grouping.units)
        full[f"{path}{MASK}"] = grouping.spread(tf.cast(exists, tf.bool)).numpy()
        spread = spread_units(weights, indices, grouping.units)
        full[path] = grouping.joined(spread).numpy()
    return full
