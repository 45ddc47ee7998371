"""Figures of mask dynamics: overlap, connections tried, fans."""

import numpy as np

from rigl_keras.analysis.mask_dynamics import kernel_fans
from rigl_keras.plots import style

_BINS = 20
# field of `MaskDynamics`, title of the axis
_PANELS = {
    "iou_first": "overlap with the first masks (IoU)",
    "iou_previous": "overlap with the masks before (IoU)",
    "ever_active": "share of connections ever active",
    "dead_outputs": "units without active inputs",
}


def dynamics(groups, path):
    """Draws how masks change over the training.

    Lines are means over the runs of a group, bands standard deviations.

    Args:
      groups: dict from labels to lists of `MaskDynamics` of the analysis, those of a
        group at the same steps.
      path: where to write the figure; the ending says the format.

    Raises:
      ValueError: when runs of a group have other steps.
    """
    with style.figure(path, columns=2, rows=2) as axes:
        for index, (label, runs) in enumerate(groups.items()):
            steps = runs[0].steps
            if any(not np.array_equal(run.steps, steps) for run in runs):
                raise ValueError(
                    f"Expected the runs of {label!r} at the same steps, got "
                    f"{[run.steps.tolist() for run in runs]}."
                )
            for axis, name in zip(axes, _PANELS, strict=True):
                values = np.stack([getattr(run, name) for run in runs])
                # There is no overlap with a step before the first.
                at = steps[len(steps) - values.shape[1] :]
                style.curve(axis, at, values, label, index)
        for axis, label in zip(axes, _PANELS.values(), strict=True):
            axis.set_xlabel("training step")
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
        axes[0].legend()


def fan_histograms(moments, path):
    """Draws how the active connections of each kernel are spread over its units.

    Args:
      moments: dict from labels, such as "start" and "end", to masks: dicts from the
        kernels' paths to bool arrays (*taps, n_in, n_out).
      path: where to write the figure; the ending says the format.
    """
    fans = {label: kernel_fans(masks) for label, masks in moments.items()}
    kernels = list(next(iter(fans.values())))
    with style.figure(path, columns=2, rows=len(kernels), height=2.2) as axes:
        panels = iter(axes)
        for kernel in kernels:
            for name, title in (("fan_in", "fan-in"), ("fan_out", "fan-out")):
                axis = next(panels)
                values = {
                    label: getattr(each[kernel], name) for label, each in fans.items()
                }
                _histogram(axis, values)
                axis.set_xlabel(f"{title} (connections)")
                axis.set_ylabel("units")
                axis.set_title(kernel)
        axes[0].legend()


def _histogram(axis, values):
    """Draws how often integers occur: the first as an area, on it others as lines."""
    most = max(each.max() for each in values.values())
    width = max(1, -(-(most + 1) // _BINS))
    edges = np.arange(0, most + 1 + width, width) - 0.5
    for index, (label, counts) in enumerate(values.items()):
        heights, _ = np.histogram(counts, edges)
        shade = {"fill": True, "alpha": 0.4} if index == 0 else {"lw": 1.5}
        axis.stairs(heights, edges, label=label, **shade, **style.line(index))
    for side in (axis.xaxis, axis.yaxis):
        side.get_major_locator().set_params(integer=True)
