"""The analyses that a report shows beside its runs."""

import dataclasses
import os
from pathlib import Path

from rigl_keras.program import files
from rigl_keras.program.saved_runs import find_runs
from rigl_keras.reporting.page import Section


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What `python -m rigl_keras.analyze` wrote.

    Attributes:
      name: which analysis it is, such as "gradient_flow".
      section: the section that shows it.
      figure: path of the file to copy to the name of the section's figure.
      runs: the absolute paths of the runs that it shows, as far as they are there.
    """

    name: str
    section: Section
    figure: str
    runs: frozenset[Path]


def read_analyses(folders):
    """Reads what `python -m rigl_keras.analyze` wrote.

    Args:
      folders: paths of folders with pairs NAME.json and NAME.png.

    Returns:
      A list of `Analysis`.

    Raises:
      ValueError: for a folder without an analysis, and a file that is a broken one.
    """
    read: list[Analysis] = []
    for folder in folders:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        paths = [os.path.join(folder, name) for name in names if name.endswith(".json")]
        analyses = [(path, _analysis(path)) for path in paths]
        analyses = [(path, value) for path, value in analyses if value is not None]
        if not analyses:
            raise ValueError(
                f"{folder} holds no analysis; give a folder that `python -m "
                "rigl_keras.analyze --out=FOLDER` wrote into."
            )
        for path, value in analyses:
            figure = f"{path.removesuffix('.json')}.png"
            copy = f"analysis_{len(read) + 1}_{os.path.basename(figure)}"
            table = value.get("table") or {"columns": [], "rows": []}
            rows = [[str(cell) for cell in row] for row in table["rows"]]
            text = value.get("text") or ""
            section = Section(value["title"], text, copy, table["columns"], rows)
            read.append(Analysis(value["analysis"], section, figure, _runs(value)))
    return read


def _runs(value):
    """The runs of the groups of an analysis, those that are there."""
    try:
        groups = value["config"]["group"]
        folders = [folder for _, *folders in groups for folder in folders]
        runs = [run for folder in folders for run in find_runs(folder)]
    except (KeyError, TypeError, ValueError):
        return frozenset()  # Of another version, or moved: what it shows is not known.
    return frozenset(Path(run.folder).resolve() for run in runs)


def _analysis(path):
    """The analysis in a file; None when the file is something else's."""
    try:
        value = files.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict) or "analysis" not in value:
        return None
    if not _is_sound(value):
        raise ValueError(
            f"{path} is no analysis of `python -m rigl_keras.analyze`: expected a "
            '"title" and, where there are any, a "text" and a "table" of "columns" and '
            '"rows" as long as these. Make it again, or take it out of the folder.'
        )
    if not os.path.exists(f"{path.removesuffix('.json')}.png"):
        raise ValueError(f"{path} lacks its figure, the .png beside it; make it again.")
    return value


def _is_sound(value):
    if not isinstance(value.get("title"), str):
        return False
    if not isinstance(value.get("text") or "", str):
        return False
    table = value.get("table") or {"columns": [], "rows": []}
    try:
        columns, rows = table["columns"], table["rows"]
        return all(isinstance(name, str) for name in columns) and all(
            isinstance(row, list) and len(row) == len(columns) for row in rows
        )
    except (TypeError, KeyError):
        return False
