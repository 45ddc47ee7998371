"""The masks below a model: which kernels have one, reading and setting them."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.kernels import masked
from rigl_keras.core.tfmot_wrappers import pruned_weights


class SparseKernel(NamedTuple):
    """A kernel and the mask that decides which of its connections exist.

    Attributes:
      path: where it is in the model, such as "conv1/kernel"; the same in both Kerases.
      kernel: the kernel's variable, exactly 0 wherever the mask is False.
      mask: a variable of the kernel's shape, of bools; of 0.0 and 1.0 where it is
        TFMOT's.
      in_axes: axes that count input units.
      out_axes: axes that count output units.
    """

    path: str
    kernel: Any
    mask: Any
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]


class MaskConstraint(keras.constraints.Constraint):
    """Keeps a kernel at exactly 0 off its mask, after the user's own constraint."""

    def __init__(self, mask, inner=None):
        self.mask = mask
        self.inner = inner

    def __call__(self, w):
        """Returns `w`, constrained, with zeros off the mask."""
        return masked(w if self.inner is None else self.inner(w), self.mask)


def sparse_kernels(model):
    """The kernels of a model that have a mask.

    Args:
      model: a built model or layer that holds `Sparse` layers, or those of TFMOT's
        `prune_low_magnitude`.

    Returns:
      A list of `SparseKernel`, in the order of the layers, empty for a dense model.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when a kernel that had a mask was replaced or adapted by LoRA, so that
        the model is dense in spite of its masks.
    """
    compat.check_layer(model, "a model")
    masks = masks_by_weight(model)
    found = [
        each for each in kernels.find_maskable(model) if id(each.variable) in masks
    ]
    _check_complete(model, found, masks)
    return [
        SparseKernel(
            kernel.path,
            kernel.variable,
            masks[id(kernel.variable)],
            kernel.in_axes,
            kernel.out_axes,
        )
        for kernel in found
    ]


def is_sparse(variable):
    """True for a weight that a mask keeps at 0."""
    return isinstance(getattr(variable, "constraint", None), MaskConstraint)


def masks_by_weight(model):
    """The mask variables below a model.

    Args:
      model: a built model or layer.

    Returns:
      A dict from the ids of weights to the masks that keep them at 0, or by which TFMOT
      multiplies them; of whatever rank.
    """
    masks: dict[int, Any] = {}
    for layer, _ in kernels.walk(model):
        masks |= {id(weight): mask for weight, mask in pruned_weights(layer)}
        for weight in filter(is_sparse, kernels.own_weights(layer)):
            masks[id(weight)] = weight.constraint.mask
    return masks


def _check_complete(model, found, masks):
    """Refuses a model in which a mask has lost its kernel, which is then dense."""
    for kernel in found:
        kernels.check_effective(kernel)
    in_use = {id(masks[id(kernel.variable)]) for kernel in found}
    for layer, path in kernels.walk(model):
        lost = [
            compat.variable_name(mask)
            for mask in getattr(layer, "sparse_masks", ())
            if id(mask) not in in_use
        ]
        if lost:
            raise ValueError(
                f"The masks {lost} of layer {path or layer.name!r} have lost their "
                "kernels: the layer has others now, which no mask keeps sparse, or "
                "their constraint was replaced. Do what changes kernels, such as "
                "quantising, after rigl_keras.strip."
            )


def get_masks(model):
    """The masks of a model as arrays.

    Args:
      model: a built model or layer that holds `Sparse` layers.

    Returns:
      A dict from the kernels' paths to bool arrays of their shapes.
    """
    return {each.path: each.mask.numpy().astype(bool) for each in sparse_kernels(model)}


def set_masks(model, masks):
    """Sets masks of a model, and the weights that they exclude to 0.

    Nothing is changed unless every mask is valid.

    Args:
      model: a built model or layer that holds `Sparse` layers.
      masks: mapping from kernels' paths to arrays of 0/1 or bool, of their shapes, each
        with at least one 1. Kernels it leaves out keep their mask.

    Raises:
      ValueError: for an unknown path, another shape, other values, or a mask that
        leaves a kernel no weight.
    """
    by_path = {each.path: each for each in sparse_kernels(model)}
    unknown = sorted(set(masks) - set(by_path))
    if unknown:
        raise ValueError(
            f"Expected masks of the sparse kernels {list(by_path)}, got {unknown}."
        )
    valid = {
        path: check_mask(path, mask, tuple(by_path[path].kernel.shape))
        for path, mask in masks.items()
    }
    for path, mask in valid.items():
        kernel = by_path[path].kernel
        assign_mask(by_path[path].mask, mask)
        kernel.assign(masked(compat.raw(kernel), mask))


def assign_mask(mask, values):
    """Sets a mask variable, of whatever dtype, to a bool tensor or array."""
    mask = compat.raw(mask)
    mask.assign(tf.cast(values, mask.dtype))


def check_mask(path, mask, shape):
    """Returns a kernel's mask as a bool array.

    Args:
      path: the kernel's.
      mask: array of 0/1 or bool.
      shape: the kernel's.

    Raises:
      ValueError: for another shape, other values, or a mask without a 1.
    """
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(
            f"Expected a mask of shape {shape} for {path!r}, but got {mask.shape}."
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"Expected a mask of zeros and ones for {path!r}, but got other values. "
            "Compare with a threshold first."
        )
    if not mask.any():
        raise ValueError(
            f"The mask for {path!r} leaves the kernel no weight, so nothing could pass "
            "it. Keep at least one."
        )
    return mask.astype(bool)
