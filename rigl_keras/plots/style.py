"""What all figures share: size, format, lines, bands.

They need matplotlib, which is optional, so that it is only imported to draw.
"""

import collections
import contextlib
import importlib
import itertools
import re

import numpy as np

PANEL_WIDTH, PANEL_HEIGHT = 4.5, 3.4  # inches
_STYLES = ("-", "--", ":", "-.")
_COLORS = 10  # of matplotlib's default cycle
# What the extra `plots` brings; the one comes with scikit-learn.
_NEEDED = ("matplotlib", "scipy")
# The numbers of lines of methods, by the letters of their names.
_METHODS = {
    "scratch": 0,
    "set": 1,
    "lottery": 2,
    "rigl": 3,
    "snip": 4,
    "prune": 5,
    "pruned": 5,
    "riglinverted": 6,
    "dense": 7,
    "static": 8,
    "snfs": 9,
    "grasp": 24,
    "prunerestart": 25,
    "smalldense": 27,
}


def check_installed():
    """Refuses to go on without the libraries that figures need.

    Raises:
      ImportError: saying what to install.
    """
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"Figures need {name}, which is not installed: pip install "
                "'rigl_keras[plots]', or '.[plots]' in a clone."
            ) from error


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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


def looks(labels, methods=None):
    """Colors and styles of lines, those of one method the same in every figure.

    A method that is known by its name has a color of its own, however the name is
    spelled; with a + after its name another style. Other names take what is left, in
    order. Lines of one method differ in style.

    Args:
      labels: strings, each once.
      methods: dict from labels to names of methods; those that it lacks, or all for
        None, are names themselves.

    Returns:
      Dict from labels to dicts of "color" and "linestyle".
    """
    names = {label: (methods or {}).get(label, label) for label in labels}
    numbers: dict[str, int] = {}
    for name in names.values():
        number = _method_number(name)
        if number is not None and number not in numbers.values():
            numbers.setdefault(name, number)
    taken = set(numbers.values())
    free = (number for number in itertools.count() if number not in taken)
    seen: collections.Counter[str] = collections.Counter()
    found = {}
    for label, name in names.items():
        if name not in numbers:
            numbers[name] = next(free)
        found[label] = line(numbers[name] + _COLORS * seen[name])
        seen[name] += 1
    return found


def _method_number(name):
    """The number of the line of a method that is known, else None."""
    letters = re.sub("[^a-z+]", "", name.lower())
    number = _METHODS.get(letters.removesuffix("+"))
    return number if number is None else number + _COLORS * letters.endswith("+")


def curve(axis, x, values, *, label, look, half_width=None, log=False):
    """Draws the mean of several curves and a band around it.

    Args:
      axis: matplotlib axes.
      x: array [points].
      values: array [runs, points].
      label: for the legend.
      look: dict of "color" and "linestyle".
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
