"""Figures of training runs and their results."""

import numpy as np

from rigl_keras.plots import style
from rigl_keras.plots.flow import series

# name in the records, title of the panel
_LOSSES = (("cross_entropy", "training"), ("test_cross_entropy", "test"))
_ACCURACIES = (("accuracy", "training"), ("test_accuracy", "test"))
# Drawn for none at all, in percent: one image of the 10,000 of MNIST's test set.
_LEAST_ERROR = 0.01
_LETTER = 0.085  # the width of one in inches, with room to spare


def training_curves(groups, path, *, looks=None):
    """Draws loss and accuracy over the training steps: mean and deviation of groups.

    Both are those of logarithms: of the loss, and of the error, 100 % minus accuracy,
    so that 98 % and 99 % lie as far apart as 80 % and 90 %. No error at all is drawn
    as one of 0.01 %.

    Args:
      groups: dict from labels to lists of runs, each the records of its
        `metrics.jsonl`: dicts with "step", "cross_entropy", "accuracy" and, of the test
        set, "test_cross_entropy" and "test_accuracy".
      path: where to write the figure; the ending says the format.
      looks: dict from labels to colors and styles; None for those of `style.looks`.

    Raises:
      ValueError: for runs of a group that have no step in common.
    """
    looks = style.looks(groups) if looks is None else looks
    with style.figure(path, columns=2, rows=2) as axes:
        for axis, (name, title) in zip(axes[::2], _LOSSES, strict=True):
            for group, runs in groups.items():
                steps, losses = series(runs, name)
                style.curve(
                    axis, steps, losses, label=group, look=looks[group], log=True
                )
            _finish(axis, title, "cross-entropy (nats)")
        for axis, (name, title) in zip(axes[1::2], _ACCURACIES, strict=True):
            for group, runs in groups.items():
                steps, accuracies = series(runs, name)
                errors = np.maximum(100 * (1 - accuracies), _LEAST_ERROR)
                style.curve(
                    axis, steps, errors, label=group, look=looks[group], log=True
                )
            _finish(axis, title, "accuracy (%)")
            _label_by_accuracy(axis)
        style.legend_beside(axes[0])


def _finish(axis, title, label):
    axis.set_title(title)
    axis.set_xlabel("training step")
    axis.set_ylabel(label)
    axis.set_yscale("log")


def _label_by_accuracy(axis):
    """Makes an axis of errors in percent one of accuracies, the best on top."""
    from matplotlib import ticker

    axis.set_ylim(top=min(100, axis.get_ylim()[1]))
    axis.invert_yaxis()
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
    axis.yaxis.set_major_formatter(_accuracy)
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def _accuracy(error, _):
    """The label of an error: it is the least that is drawn, for none at all too."""
    text = f"{100 - error:.5g}"
    return f"≥ {text}" if error <= _LEAST_ERROR else text


def final_errors(groups, path, *, looks=None):
    """Draws the test error of every run, and the mean of each group.

    Args:
      groups: dict from labels to lists of the runs' test accuracies, in [0, 1].
      path: where to write the figure; the ending says the format.
      looks: dict from labels to colors and styles; None for those of `style.looks`.
    """
    from matplotlib import ticker

    looks = style.looks(groups) if looks is None else looks
    colors = [looks[label]["color"] for label in groups]
    errors = [100 * (1 - np.asarray(accuracies)) for accuracies in groups.values()]
    width = 6 + _LETTER * max(map(len, groups))
    with style.figure(path, width=width, height=1 + 0.26 * len(groups)) as [axis]:
        for row, (values, color) in enumerate(zip(errors, colors, strict=True)):
            axis.plot(values, np.full(len(values), row), "o", color=color, alpha=0.5)
            axis.plot(values.mean(), row, "|", color="black", ms=12, mew=2)
        axis.set_yticks(range(len(groups)), list(groups))
        axis.set_ylim(len(groups) - 0.5, -0.5)
        axis.set_xlabel("test error (%); the line is the mean of the runs")
        if min(values.min() for values in errors) > 0:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(ticker.NullLocator())
