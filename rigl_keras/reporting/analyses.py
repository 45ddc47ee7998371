"""The analyses that a report shows beside its runs."""

import os

from rigl_keras.program import files
from rigl_keras.reporting.page import Section


def read_analyses(folders):
    """Reads what `python -m rigl_keras.analyze` wrote.

    Args:
      folders: paths of folders with pairs NAME.json and NAME.png.

    Returns:
      A list of sections, and a dict from the names of their figures to the paths of the
      files to copy there.

    Raises:
      ValueError: for a folder without an analysis, and a file that is a broken one.
    """
    sections: list[Section] = []
    figures: dict[str, str] = {}
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
            copy = f"analysis_{len(sections) + 1}_{os.path.basename(figure)}"
            figures[copy] = figure
            table = value.get("table") or {"columns": [], "rows": []}
            rows = [[str(cell) for cell in row] for row in table["rows"]]
            text = value.get("text") or ""
            sections.append(Section(value["title"], text, copy, table["columns"], rows))
    return sections, figures


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
