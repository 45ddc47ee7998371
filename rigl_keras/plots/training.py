"""Figures of training runs and their results."""

import numpy as np

from rigl_keras.plots import style
from rigl_keras.plots.flow import series

# name in the records, title of the panel, of its axis, factor to its unit
_PANELS = (
    ("cross_entropy", "training", "cross-entropy (nats)", 1),
    ("accuracy", "training", "accuracy (%)", 100),
    ("test_cross_entropy", "test", "cross-entropy (nats)", 1),
    ("test_accuracy", "test", "accuracy (%)", 100),
)


def training_curves(groups, path):
    """Draws loss and accuracy over the training steps: mean and deviation of groups.

    Args:
      groups: dict from labels to lists of runs, each the records of its
        `metrics.jsonl`: dicts with "step", "cross_entropy", "accuracy" and, of the test
        set, "test_cross_entropy" and "test_accuracy".
      path: where to write the figure; the ending says the format.

    Raises:
      ValueError: for runs of a group that have no step in common.
    """
    with style.figure(path, columns=2, rows=2) as axes:
        for axis, (name, title, label, factor) in zip(axes, _PANELS, strict=True):
            is_loss = factor == 1
            for index, (group, runs) in enumerate(groups.items()):
                steps, values = series(runs, name)
                style.curve(axis, steps, factor * values, group, index, log=is_loss)
            axis.set_title(title)
            axis.set_xlabel("training step")
            axis.set_ylabel(label)
            if is_loss:
                axis.set_yscale("log")
        style.legend_beside(axes[0])


def final_errors(groups, path):
    """Draws the test error of every run, and the mean of each group.

    Args:
      groups: dict from labels to lists of the runs' test accuracies, in [0, 1].
      path: where to write the figure; the ending says the format.
    """
    errors = [100 * (1 - np.asarray(accuracies)) for accuracies in groups.values()]
    with style.figure(path, width=7.5, height=1 + 0.26 * len(groups)) as [axis]:
        for row, values in enumerate(errors):
            axis.plot(values, np.full(len(values), row), "o", color="C0", alpha=0.5)
            axis.plot(values.mean(), row, "|", color="black", ms=12, mew=2)
        axis.set_yticks(range(len(groups)), list(groups))
        axis.set_ylim(len(groups) - 0.5, -0.5)
        axis.set_xlabel("test error (%); the line is the mean of the runs")
        if min(values.min() for values in errors) > 0:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("{x:g}")
