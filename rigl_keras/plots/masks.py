"""Figures of mask dynamics: overlap, connections tried, fans."""

import numpy as np

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
    looks = style.looks(groups)
    with style.figure(path, columns=2, rows=2) as axes:
        for label, runs in groups.items():
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
                style.curve(axis, at, values, label=label, look=looks[label])
        for axis, label in zip(axes, _PANELS.values(), strict=True):
            axis.set_xlabel("training step")
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
        axes[0].legend()
