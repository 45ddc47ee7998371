"""Tables as text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def spread(values: ArrayLike, digits: int = 4, factor: float = 1.0) -> str:
    """Mean ± standard deviation (ddof 0) as text; one value alone has no ±.

    Args:
      values: numbers, at least one.
      digits: int, decimal places.
      factor: what the values are multiplied by, such as 100 for percent.
    """
    values = factor * np.asarray(values, float)
    mean = f"{values.mean():.{digits}f}"
    return mean if values.size < 2 else f"{mean} ± {values.std():.{digits}f}"


def significant(values: ArrayLike, digits: int = 3) -> str:
    """Mean ± standard deviation as `spread` writes them, the mean by its own digits.

    Args:
      values: numbers, at least one.
      digits: int >= 1, significant digits of the mean; the deviation has as many
        decimal places as the mean.
    """
    values = np.asarray(values, float)
    mean = abs(values.mean())
    if not np.isfinite(mean) or mean == 0:
        return spread(values, digits)
    exponent = int(f"{mean:.{digits - 1}e}".partition("e")[2])  # Of the rounded mean.
    if exponent >= -4:
        return spread(values, max(digits - 1 - exponent, 0))
    shown = (
        f"{part}e{exponent:03d}"
        for part in spread(values, digits - 1, 10.0**-exponent).split(" ± ")
    )
    return " ± ".join(shown)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source lines up too.

    Args:
      rows: lists of strings, equally long; the first is the head.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )
