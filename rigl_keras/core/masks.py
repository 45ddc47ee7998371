"""The masks below a model: which kernels have one, reading and setting them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.choosing import check_fits
from rigl_keras.core.compressed_kernel import CompressedKernel
from rigl_keras.core.kernels import Kernel, masked
from rigl_keras.core.masked_kernel import SparseKernel
from rigl_keras.core.pattern_kinds import UNSTRUCTURED
from rigl_keras.core.patterns import Pattern
from rigl_keras.core.tfmot_patterns import wrapper_pattern, wrappers_by_weight
from rigl_keras.core.tfmot_wrappers import pruned_weights


class MaskConstraint(keras.constraints.Constraint):
    """Keeps a kernel at exactly 0 off its mask, after the user's own constraint.

    It also holds the pattern that the mask has.
    """

    def __init__(
        self, mask: Any, inner: Any = None, pattern: Pattern = UNSTRUCTURED
    ) -> None:
        self.mask = mask
        self.inner = inner
        self.pattern = pattern

    def __repr__(self) -> str:
        """Of what shape the mask is, and the user's own constraint."""
        inner = "" if self.inner is None else f", inner={self.inner!r}"
        return f"MaskConstraint(shape={tuple(self.mask.shape)}{inner})"

    def __call__(self, w: Any) -> tf.Tensor:
        """Returns `w`, constrained, with zeros off the mask."""
        return masked(w if self.inner is None else self.inner(w), self.mask)


def sparse_kernels(model: Any) -> list[SparseKernel | CompressedKernel]:
    """The kernels of a model that are sparse.

    Args:
      model: a built model or layer that holds `Sparse` or `Compressed` layers, or those
        of TFMOT's `prune_low_magnitude`.

    Returns:
      A list of `SparseKernel`, which has a mask, and `CompressedKernel`, which is
      stored without its zeros; in the order of the layers, empty for a dense model.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when a kernel that had a mask was replaced or adapted by LoRA, so that
        the model is dense in spite of its masks.
    """
    compat.check_layer(model, "a model")
    maskable = kernels.find_maskable(model)
    with_mask, masks = _checked_masks(model, maskable)
    patterns = {
        id(kernel.variable): pattern
        for kernel, pattern in zip(with_mask, _patterns(model, with_mask), strict=True)
    }
    found: list[SparseKernel | CompressedKernel] = []
    for kernel in maskable:
        key = id(kernel.variable)
        compressed = kernels.compressed_kernel(kernel.owner)
        if compressed is not None and compressed.variable is kernel.variable:
            found.append(compressed._replace(path=kernel.path))
        elif key in masks:
            found.append(
                SparseKernel(
                    kernel.path,
                    kernel.variable,
                    masks[key],
                    kernel.in_axes,
                    kernel.out_axes,
                    patterns[key],
                )
            )
    return found


def _patterns(model: Any, with_mask: Sequence[Kernel]) -> list[Pattern]:
    """The patterns of kernels that have a mask."""
    if all(is_sparse(kernel.variable) for kernel in with_mask):
        return [kernel.variable.constraint.pattern for kernel in with_mask]
    wrappers = wrappers_by_weight(model)
    patterns = []
    for kernel in with_mask:
        if is_sparse(kernel.variable):
            patterns.append(kernel.variable.constraint.pattern)
            continue
        try:
            patterns.append(wrapper_pattern(wrappers[id(kernel.variable)], kernel))
        except ValueError:
            # Its masks can be read all the same; who trains or copies them refuses it.
            patterns.append(UNSTRUCTURED)
    return patterns


def trainable_kernels(model: Any) -> dict[int, SparseKernel | CompressedKernel]:
    """The sparse kernels of a model that are not frozen.

    Args:
      model: a built model or layer.

    Returns:
      A dict from each kernel's place in `sparse_kernels` to the kernel. Frozen kernels
      are counted, so that freezing one does not change what is drawn for another.
    """
    sparse = sparse_kernels(model)  # Refuses what is no model.
    trainable = {id(variable) for variable in model.trainable_variables}
    return {
        index: kernel
        for index, kernel in enumerate(sparse)
        if id(kernel.variable) in trainable
    }


def is_sparse(variable: Any) -> bool:
    """True for a weight that a mask keeps at 0."""
    return isinstance(getattr(variable, "constraint", None), MaskConstraint)


def masks_by_weight(model: Any) -> dict[int, Any]:
    """The mask variables below a model.

    Args:
      model: a built model or layer.

    Returns:
      A dict from the ids of weights to the masks that keep them at 0, or by which TFMOT
      multiplies them; of whatever rank.

    Raises:
      ValueError: as `sparse_kernels`.
    """
    return _checked_masks(model, kernels.find_maskable(model))[1]


def _checked_masks(
    model: Any, maskable: Sequence[Kernel]
) -> tuple[list[Kernel], dict[int, Any]]:
    """The kernels that have a mask, and all masks by the ids of their weights."""
    masks = {id(weight): mask for weight, mask in _weights_with_masks(model)}
    with_mask = [kernel for kernel in maskable if id(kernel.variable) in masks]
    _check_complete(model, with_mask, masks)
    return with_mask, masks


def _weights_with_masks(model: Any) -> Iterator[tuple[Any, Any]]:
    """Yields weights and their masks; a weight of a shared layer more than once."""
    for layer, _ in kernels.walk(model):
        yield from pruned_weights(layer)
        for weight in filter(is_sparse, kernels.own_weights(layer)):
            yield weight, weight.constraint.mask


def _check_complete(
    model: Any, with_mask: Sequence[Kernel], masks: Mapping[int, Any]
) -> None:
    """Refuses a model in which a mask has lost its kernel, which is then dense."""
    for kernel in with_mask:
        kernels.check_effective(kernel)
    in_use = {id(masks[id(kernel.variable)]) for kernel in with_mask}
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


def get_masks(model: Any) -> dict[str, np.ndarray]:
    """The masks of a model as arrays.

    Args:
      model: a built model or layer that holds `Sparse` or `Compressed` layers.

    Returns:
      A dict from the kernels' paths to bool arrays of their dense shapes.
    """
    return {
        kernel.path: kernel.mask.numpy().astype(bool)
        for kernel in sparse_kernels(model)
    }


def set_masks(model: Any, masks: Mapping[str, Any]) -> None:
    """Sets masks of a model, and the weights that they exclude to 0.

    Nothing is changed unless every mask is valid. With `get_masks(model)` as masks, it
    only sets to 0 what was put off them past Keras's files, such as by `assign`.

    Args:
      model: a built model or layer that holds `Sparse` layers.
      masks: mapping from kernels' paths to arrays of 0/1 or bool, of their shapes, each
        with at least one 1. Kernels it leaves out keep their mask.

    Raises:
      ValueError: for what is no mapping, an unknown path, another shape, other values,
        a mask that leaves a kernel no weight, or one that has not the pattern of its
        kernel.
    """
    by_path = {kernel.path: kernel for kernel in sparse_kernels(model)}
    if not isinstance(masks, Mapping):
        raise ValueError(
            f"Expected `masks` to map some of {list(by_path)} to arrays, but got a "
            f"{type(masks).__name__}."
        )
    unknown = sorted(set(masks) - set(by_path))
    if unknown:
        raise ValueError(
            f"Expected masks of the sparse kernels {list(by_path)}, got {unknown}."
        )
    valid = {
        path: check_mask(path, mask, by_path[path].shape)
        for path, mask in masks.items()
    }
    for path, mask in valid.items():
        kernel = by_path[path]
        check_fits(path, mask, kernel.pattern, grouping=kernel.grouping)
        if isinstance(kernel, CompressedKernel):
            _check_count(kernel, mask)
    for path, mask in valid.items():
        kernel = by_path[path]
        kernel.assign(mask, masked(kernel.weights(), mask))


def _check_count(kernel: CompressedKernel, mask: np.ndarray) -> None:
    """Refuses a mask of more or fewer weights than a compressed kernel has room for."""
    active = int(np.count_nonzero(mask))
    if active != kernel.active:
        raise ValueError(
            f"The kernel {kernel.path!r} is stored without its zeros, with room for "
            f"exactly {kernel.active} weights, but the mask has {active}. Set such a "
            "mask on the masked model, rigl_keras.decompress(model), and compress that."
        )


def apply_masks(model: Any) -> None:
    """Sets all weights that masks exclude to 0, after weights were assigned.

    Args:
      model: a built model or layer.
    """
    for weight, mask in _weights_with_masks(model):
        weight = compat.raw(weight)
        weight.assign(masked(weight, compat.raw(mask)))


def apply_loaded_masks(layer: Any) -> None:
    """Sets all weights that masks exclude to 0, after both were loaded from a file.

    Args:
      layer: a built layer or model.

    Raises:
      ValueError: when a mask leaves a weight no connection, or has not the pattern
        that its layer has.
    """
    paths = {id(found.variable): found.path for found in kernels.find_maskable(layer)}
    for weight, mask in _weights_with_masks(layer):
        if not tf.reduce_any(kernels.read_mask(compat.raw(mask))):
            path = paths.get(id(weight), compat.variable_name(weight))
            raise ValueError(
                f"The mask that was loaded or set for {path!r} leaves the kernel no "
                "weight, so nothing could pass it. Load an earlier file, in which each "
                "mask has at least one connection; or make a model with rigl_keras."
                "sparsify anew."
            )
    check_patterns(layer)
    apply_masks(layer)


def check_patterns(model: Any) -> None:
    """Refuses masks that have not the patterns of their kernels.

    Args:
      model: a built layer or model.

    Raises:
      ValueError: naming the first such kernel.
    """
    for kernel in sparse_kernels(model):
        if isinstance(kernel, CompressedKernel):
            kernel.check_indices()
        elif kernel.pattern != UNSTRUCTURED:
            mask = kernels.read_mask(compat.raw(kernel.mask)).numpy()
            check_fits(kernel.path, mask, kernel.pattern, grouping=kernel.grouping)


def check_mask(path: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
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
