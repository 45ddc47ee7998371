"""A report of runs: tables, figures, and one page with all of it."""

import os
import shutil

from rigl_keras.program import files
from rigl_keras.reporting import page
from rigl_keras.reporting.figures import figure_sections
from rigl_keras.reporting.page import Section
from rigl_keras.reporting.sections import origin_sections, settings_sections
from rigl_keras.reporting.tables import (
    group_records,
    group_table,
    run_records,
    run_table,
    write_csv,
)


def write_report(experiments, notes, analyses, *, folder, command):
    """Writes tables, figures, report.md and report.html.

    Args:
      experiments: list of `groups.RunGroup`.
      notes: list of sentences.
      analyses: list of `analyses.Analysis`.
      folder: where to, made when it is not there.
      command: list of strings, the one that makes the report.

    Raises:
      OSError: when it cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    write_csv(os.path.join(folder, "runs.csv"), list(run_records(experiments)))
    write_csv(os.path.join(folder, "groups.csv"), list(group_records(experiments)))
    shown: dict[str, set] = {}
    for analysis in analyses:
        shutil.copyfile(analysis.figure, os.path.join(folder, analysis.section.figure))
        shown.setdefault(analysis.name, set()).update(analysis.runs)
    number = sum(len(experiment.runs) for experiment in experiments)
    title = f"{len(experiments)} experiments, {number} runs"
    columns, rows = group_table(experiments)
    text = "Mean ± standard deviation (ddof 0) over the runs of an experiment."
    run_columns, run_rows = run_table(experiments)
    sections = [
        Section("Results", " ".join([text, *notes]), columns=columns, rows=rows),
        *figure_sections(experiments, folder, shown),
        *(analysis.section for analysis in analyses),
        *settings_sections(experiments),
        Section("Runs", columns=run_columns, rows=run_rows, folded=True),
        *origin_sections(experiments, command),
    ]
    markdown = page.markdown(title, sections)
    files.write_text(os.path.join(folder, "report.md"), markdown)
    html = page.page(title, sections, folder)
    files.write_text(os.path.join(folder, "report.html"), html)
