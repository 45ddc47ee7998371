"""What an analysis found."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Finding:
    """What an analysis found.

    Attributes:
      title: one line.
      text: a paragraph that says how to read figure and table.
      columns: names of the table's columns.
      rows: the table's rows, strings.
      arrays: the numbers, dict from names to arrays.
      draw: function that draws the figure into a file.
    """

    title: str
    text: str
    columns: list[str]
    rows: list[list[str]]
    arrays: dict[str, np.ndarray]
    draw: Callable[[str], None]
