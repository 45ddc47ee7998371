"""Mask dynamics: how masks change over a training, and what they connect."""

import collections.abc
from typing import NamedTuple

import numpy as np

# Axes of input and of output units in most kernels: (*taps, n_in, n_out).
_IN_AXES, _OUT_AXES = (-2,), (-1,)


class Fans(NamedTuple):
    """The active connections of each unit of a kernel.

    Attributes:
      fan_in: int array [n_out], how many enter each output unit.
      fan_out: int array [n_in], how many leave each input unit.
    """

    fan_in: np.ndarray
    fan_out: np.ndarray


class MaskDynamics(NamedTuple):
    """How the masks of one training change, at S steps, for K kernels.

    What is over all kernels counts every connection alike. `_asdict()` holds arrays
    alone.

    Attributes:
      steps: int array [S].
      kernels: string array [K], the kernels' paths.
      density: array [S], share of active connections.
      iou_first: array [S], overlap with the masks of the first step: the intersection
        over the union (Jaccard index) of the active connections, in [0, 1].
      iou_previous: array [S - 1], overlap of the masks of `steps[1:]` with those of the
        step before.
      ever_active: array [S], share of all connections that were active at this step or
        an earlier one of `steps`.
      dead_outputs: int array [S], output units without any active input.
      dead_inputs: int array [S], input units without any active output.
      kernel_density: as above, of each kernel: [S, K].
      kernel_iou_first: [S, K].
      kernel_iou_previous: [S - 1, K].
      kernel_ever_active: [S, K].
      kernel_dead_outputs: [S, K].
      kernel_dead_inputs: [S, K].
    """

    steps: np.ndarray
    kernels: np.ndarray
    density: np.ndarray
    iou_first: np.ndarray
    iou_previous: np.ndarray
    ever_active: np.ndarray
    dead_outputs: np.ndarray
    dead_inputs: np.ndarray
    kernel_density: np.ndarray
    kernel_iou_first: np.ndarray
    kernel_iou_previous: np.ndarray
    kernel_ever_active: np.ndarray
    kernel_dead_outputs: np.ndarray
    kernel_dead_inputs: np.ndarray


def dynamics(masks, axes=None):
    """Measures how masks change over a training.

    Args:
      masks: iterable of `(step, masks)` in the order of the steps, at least one; masks
        are a dict from the kernels' paths to bool arrays of rank 2 or more. It is gone
        through once, so a generator need not hold all of them.
      axes: see `kernel_fans`.

    Returns:
      `MaskDynamics`.

    Raises:
      ValueError: when steps do not increase, kernels or shapes differ between them, or
        a mask is not of bools.
    """
    steps, rows = [], []
    first = previous = ever = None
    for step, now in _checked(masks):
        if first is None or previous is None or ever is None:
            first = previous = now
            ever = {path: mask.copy() for path, mask in now.items()}
        for path, mask in now.items():
            ever[path] |= mask
        steps.append(step)
        rows.append(_row(now, first, previous, ever=ever, fans=kernel_fans(now, axes)))
        previous = now
    if first is None:
        raise ValueError("Expected the masks of at least one step, got none.")
    sizes = np.array([mask.size for mask in first.values()])
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    overlap_first, overlap_previous = table["first"], table["previous"][1:]
    return MaskDynamics(
        steps=np.array(steps),
        kernels=np.array(list(first)),
        density=table["active"].sum(1) / sizes.sum(),
        iou_first=_ratio(overlap_first.sum(1)),
        iou_previous=_ratio(overlap_previous.sum(1)),
        ever_active=table["ever"].sum(1) / sizes.sum(),
        dead_outputs=table["dead_outputs"].sum(1),
        dead_inputs=table["dead_inputs"].sum(1),
        kernel_density=table["active"] / sizes,
        kernel_iou_first=_ratio(overlap_first),
        kernel_iou_previous=_ratio(overlap_previous),
        kernel_ever_active=table["ever"] / sizes,
        kernel_dead_outputs=table["dead_outputs"],
        kernel_dead_inputs=table["dead_inputs"],
    )


def kernel_fans(masks, axes=None):
    """The active connections of each unit, kernel by kernel.

    Args:
      masks: dict from the kernels' paths to bool arrays of rank 2 or more.
      axes: None, or a dict from the paths of kernels that are not stored as
        (*taps, n_in, n_out) to `(in_axes, out_axes)`, such as `sparse_kernels(model)`
        gives: tuples of the axes that count input and output units jointly. Fans sum
        over the other axes, the taps of a convolution.

    Returns:
      A dict from the paths to `Fans`.

    Raises:
      ValueError: for axes of an unknown kernel, or that its mask does not have.
    """
    axes = axes or {}
    unknown = sorted(set(axes) - set(masks))
    if unknown:
        raise ValueError(f"Expected axes of some of {list(masks)}, got {unknown}.")
    return {
        path: _fans(path, mask, axes.get(path, (_IN_AXES, _OUT_AXES)))
        for path, mask in masks.items()
    }


def _fans(path, mask, axes):
    in_axes, out_axes = axes
    named = [*in_axes, *out_axes]
    if any(not -mask.ndim <= axis < mask.ndim for axis in named):
        raise ValueError(
            f"Expected axes of inputs and outputs within the {mask.ndim} of {path!r}, "
            f"got {in_axes} and {out_axes}."
        )
    return Fans(_sum_to(mask, out_axes), _sum_to(mask, in_axes))


def _sum_to(mask, axes):
    """Counts the active weights of each unit that the axes count jointly."""
    kept = {axis % mask.ndim for axis in axes}
    others = tuple(axis for axis in range(mask.ndim) if axis not in kept)
    return mask.sum(axis=others, dtype=np.int64).ravel()


def _row(now, first, previous, *, ever, fans):
    """What is measured at one step: lists over the kernels."""
    return {
        "active": [np.count_nonzero(mask) for mask in now.values()],
        "first": [_overlap(mask, first[path]) for path, mask in now.items()],
        "previous": [_overlap(mask, previous[path]) for path, mask in now.items()],
        "ever": [np.count_nonzero(ever[path]) for path in now],
        "dead_outputs": [np.count_nonzero(fans[path].fan_in == 0) for path in now],
        "dead_inputs": [np.count_nonzero(fans[path].fan_out == 0) for path in now],
    }


def _overlap(left, right):
    """Sizes of intersection and union."""
    return np.count_nonzero(left & right), np.count_nonzero(left | right)


def _ratio(overlaps):
    """Intersection over union of an array [..., 2]; 1 for two masks without any 1."""
    intersection, union = overlaps[..., 0], overlaps[..., 1]
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def _checked(masks):
    """Yields the steps and their masks, in the first one's order of kernels."""
    last, shapes = None, None
    for step, now in masks:
        if last is not None and step <= last:
            raise ValueError(f"Expected increasing steps, got {step} after {last}.")
        if not isinstance(now, collections.abc.Mapping) or not now:
            raise ValueError(
                f"Expected a dict from kernels' paths to masks at step {step}, got "
                f"{now!r:.60}. A dense network has none."
            )
        now = {path: _checked_mask(step, path, mask) for path, mask in now.items()}
        shapes_now = {path: mask.shape for path, mask in now.items()}
        shapes = shapes or shapes_now
        if shapes_now != shapes:
            raise ValueError(
                f"Expected the kernels and shapes of the first step, {shapes}, but got "
                f"{shapes_now} at step {step}: these masks are of another network."
            )
        yield step, {path: now[path] for path in shapes}
        last = step


def _checked_mask(step, path, mask):
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim < 2:
        raise ValueError(
            f"Expected a bool array of rank 2 or more for {path!r} at step {step}, got "
            f"{mask.dtype} of shape {mask.shape}."
        )
    return mask
