"""What an analysis found."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from rigl_keras.program import files


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

    def noted(self, note: str | None) -> "Finding":
        """The same with a sentence after its text, if there is one."""
        return dataclasses.replace(self, text=f"{self.text} {note}") if note else self

    def write(self, settings: dict, folder: str, name: str) -> None:
        """Writes NAME.json, NAME.npz and NAME.png.

        Args:
          settings: dict with the "analysis" and its arguments, for the files to carry.
          folder: where to.
          name: NAME.
        """
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name)
        self.draw(f"{path}.png")
        description = {
            "analysis": settings["analysis"],
            "title": self.title,
            "text": self.text,
            "table": {"columns": self.columns, "rows": self.rows},
            "config": settings,
            **files.environment(),
        }
        files.write_arrays(f"{path}.npz", self.arrays, description)
        # Last: where it is, all is.
        files.write_json(f"{path}.json", description)
