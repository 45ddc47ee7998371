"""What all figures share: size, format, bands."""

import contextlib

import matplotlib

matplotlib.use("Agg")  # Files only; there may be no screen.

import numpy as np
from matplotlib import pyplot as plt

PANEL_WIDTH, PANEL_HEIGHT = 4.5, 3.4  # inches


@contextlib.contextmanager
def figure(path, columns=1, rows=1, width=PANEL_WIDTH, height=PANEL_HEIGHT):
    """Makes a figure of panels and writes it to a file when the block ends.

    Args:
      path: where to; the ending says the format.
      columns: panels beside each other.
      rows: panels below each other.
      width: of one panel, in inches.
      height: of one panel, in inches.

    Yields:
      The list of axes, row by row.
    """
    drawn, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * width, rows * height),
        layout="constrained",
        squeeze=False,
    )
    try:
        for axis in axes.flat:
            axis.grid(alpha=0.3)
        yield list(axes.flat)
        drawn.savefig(path, dpi=150)
    finally:
        plt.close(drawn)


def curve(axis, x, values, label, color, half_width=None):
    """Draws the mean of several curves and a band around it.

    Args:
      axis: matplotlib axes.
      x: array [points].
      values: array [runs, points].
      label: for the legend.
      color: of the line and the band.
      half_width: array [points], half the height of the band; None for the standard
        deviation over the runs (ddof 0).
    """
    values = np.asarray(values, float)
    mean = values.mean(0)
    half_width = values.std(0) if half_width is None else half_width
    axis.plot(x, mean, color=color, label=label)
    if len(values) > 1:
        axis.fill_between(
            x, mean - half_width, mean + half_width, color=color, alpha=0.2, lw=0
        )
