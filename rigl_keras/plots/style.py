"""What all figures share: size, format, lines, bands."""

import contextlib

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANEL_WIDTH, PANEL_HEIGHT = 4.5, 3.4  # inches
_STYLES = ("-", "--", ":", "-.")
_COLORS = 10  # of matplotlib's default cycle


@contextlib.contextmanager
def figure(path, columns=1, rows=1, *, width=PANEL_WIDTH, height=PANEL_HEIGHT):
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
    # Not by pyplot, which would choose a backend for the whole process and keep the
    # figure open beside the user's own.
    drawn = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(drawn)  # To measure texts before the file is written.
    axes = drawn.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    yield list(axes.flat)
    drawn.savefig(path, dpi=150)


def line(index):
    """Color and style of the line with a number, other for the first 40."""
    return {
        "color": f"C{index % _COLORS}",
        "linestyle": _STYLES[index // _COLORS % len(_STYLES)],
    }


def curve(axis, x, values, *, label, index, half_width=None, log=False):
    """Draws the mean of several curves and a band around it.

    Args:
      axis: matplotlib axes.
      x: array [points].
      values: array [runs, points].
      label: for the legend.
      index: int, which of the curves it is, for its color and style.
      half_width: array [points], half the height of the band; None for the standard
        deviation over the runs (ddof 0).
      log: whether mean and band are those of the values' logarithms, for an axis with
        a logarithmic scale: no outlier decides them, and they stay above 0.
    """
    values = np.asarray(values, float)
    if log:
        values = np.log10(np.maximum(values, np.finfo(np.float32).tiny))
    mean = values.mean(0)
    half_width = values.std(0) if half_width is None else half_width
    middle, lower, upper = mean, mean - half_width, mean + half_width
    if log:
        middle, lower, upper = 10**middle, 10**lower, 10**upper
    look = line(index)
    axis.plot(x, middle, label=label, **look)
    if len(values) > 1:
        axis.fill_between(x, lower, upper, color=look["color"], alpha=0.2, lw=0)


def legend_beside(axis, **options):
    """Puts an axis's legend to the right of the panels; the figure grows by it.

    Args:
      axis: matplotlib axes, whose labelled lines it names.
      **options: of matplotlib's legend, such as `title`.
    """
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    drawn = axis.figure
    legend = drawn.legend(
        handles, labels, loc="outside right center", frameon=False, **options
    )
    beside, tall = legend.get_window_extent().size / drawn.dpi
    width, height = drawn.get_size_inches()
    drawn.set_size_inches(width + beside, max(height, tall + 0.2))
