"""Shows finished runs: tables over seeds, figures, and one page with all of it.

Example:
  python -m rigl_keras.report runs/ --analyses runs/analysis --out runs/report

Runs whose configurations differ only in seeds and paths are one experiment.
"""

import argparse
import csv
import os
import shlex
import shutil
import sys

import numpy as np

from rigl_keras import report_page, results, run_groups
from rigl_keras.report_page import Section
from rigl_keras.run import CONFIG_FILE
from rigl_keras.tables import spread

_NUMBERS = (
    "sparsity",
    "active_weights",
    "weights",
    "test_accuracy",
    "test_loss",
    "steps",
    "steps_per_second",
)
_STATISTICS = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
_LABELS = ("experiment", "run", "folder")


def _same(texts):
    """One text for equal ones, else the first and the last in order."""
    texts = sorted(set(texts))
    return texts[0] if len(texts) == 1 else f"{texts[0]}–{texts[-1]}"


def _numbers(experiment):
    """The runs' results that are numbers: dict from names to lists."""
    numbers = {name: experiment.values(name) for name in _NUMBERS}
    return {**numbers, "sparsity": [each["all"] for each in numbers["sparsity"]]}


_COLUMNS = {
    "experiment": lambda e, n: e.label,
    "runs": lambda e, n: str(len(e.runs)),
    "data": lambda e, n: _same(e.values("data")),
    "network": lambda e, n: _same(e.values("network")),
    "method": lambda e, n: _same(e.values("method")),
    "sparsity (%)": lambda e, n: _same(f"{100 * each:.2f}" for each in n["sparsity"]),
    "active / all weights": lambda e, n: (
        f"{_same(map(str, n['active_weights']))} / {_same(map(str, n['weights']))}"
    ),
    "test accuracy (%)": lambda e, n: spread(n["test_accuracy"], 2, 100),
    "test loss": lambda e, n: spread(n["test_loss"]),
    "steps": lambda e, n: _same(map(str, n["steps"])),
    "steps/s": lambda e, n: spread(n["steps_per_second"], 0),
}


def group_table(experiments):
    """The table of experiments.

    Args:
      experiments: list of `run_groups.Experiment`.

    Returns:
      The names of its columns, and its rows of strings: means ± standard deviations
      (ddof 0) over the runs where there are several.
    """
    rows = []
    for experiment in experiments:
        numbers = _numbers(experiment)
        rows.append([cell(experiment, numbers) for cell in _COLUMNS.values()])
    return list(_COLUMNS), rows


def _run_table(experiments):
    rows = [
        [
            experiment.label,
            run.label,
            _seeds_text(run.result["seeds"]),
            f"{100 * run.result['test_accuracy']:.2f}",
            f"{run.result['test_loss']:.4f}",
            f"{100 * run.result['sparsity']['all']:.2f}",
            f"{run.result['steps_per_second']:.0f}",
        ]
        for experiment in experiments
        for run in experiment.runs
    ]
    columns = ["experiment", "run", "seeds", "test accuracy (%)", "test loss"]
    return [*columns, "sparsity (%)", "steps/s"], rows


def _seeds_text(seeds):
    """The seeds of init, data and masks; one number where they are the same."""
    values = [str(seed) for seed in seeds.values()]
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def write_csv(path, records):
    """Writes dicts as the rows of a CSV file, numbers in full precision.

    Args:
      path: where to.
      records: list of dicts; a row is empty where it lacks another's name.
    """
    columns = list(dict.fromkeys(name for record in records for name in record))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


def _run_records(experiments):
    for experiment in experiments:
        for run in experiment.runs:
            # Its text; the settings are what it says.
            result = {k: v for k, v in run.result.items() if k != "config"}
            labels = (experiment.label, run.label, run.saved.folder)
            yield {
                **dict(zip(_LABELS, labels, strict=True)),
                **_flat(result),
                **run.settings,
            }


def _flat(values, prefix=""):
    """A dict of dicts as one, with "/" between the names."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def _group_records(experiments):
    for experiment in experiments:
        record = {"experiment": experiment.label, "runs": len(experiment.runs)}
        for name in ("data", "network", "method"):
            record[name] = _same(experiment.values(name))
        for name, values in _numbers(experiment).items():
            for statistic, function in _STATISTICS.items():
                record[f"{name}_{statistic}"] = float(function(values))
        yield record


def _records(experiments, name, of_run):
    """The runs' records that hold a value: dict from labels, without empty ones."""
    groups = {}
    for experiment in experiments:
        runs = [[r for r in of_run(run.saved) if name in r] for run in experiment.runs]
        if all(runs):
            groups[_drawn(experiment.label)] = runs
    return groups


def _drawn(label):
    """A label as matplotlib draws it letter by letter; it hides those that begin "_"."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def draw_curves(experiments, path):
    """Draws the training curves; see `plots.training.training_curves`.

    Returns:
      Whether there was anything to draw.
    """
    from rigl_keras.plots import training

    groups = _records(experiments, "test_accuracy", lambda saved: saved.records)
    if groups:
        training.training_curves(groups, path)
    return bool(groups)


def _figures(experiments, folder):
    """Draws the figures, and yields the section of each."""
    from rigl_keras.plots import flow, training

    path = os.path.join(folder, "test_errors.png")
    training.final_errors(
        {_drawn(e.label): e.values("test_accuracy") for e in experiments}, path
    )
    yield Section(
        "Test errors",
        "One point for the final test error of each run.",
        "test_errors.png",
    )
    if draw_curves(experiments, os.path.join(folder, "training_curves.png")):
        yield Section(
            "Training",
            "Line and band are mean and standard deviation over the runs of an "
            "experiment, for the loss those of its logarithm. Training values are "
            "means over the steps between two records; the loss is without regulariser.",
            "training_curves.png",
        )
    norms = _records(experiments, "gradient_norm", lambda saved: saved.records)
    if norms:
        flow.gradient_norms(norms, os.path.join(folder, "gradient_norms.png"))
        yield Section(
            "Gradient norm",
            "The norm of the gradient of the loss, without regulariser, over all "
            "trainable parameters but masked weights, on one fixed batch of training "
            "records. Mean and standard deviation of its logarithm over the runs.",
            "gradient_norms.png",
        )
    changes = _records(experiments, "change", lambda saved: saved.mask_updates)
    if changes:
        flow.update_changes(changes, os.path.join(folder, "mask_updates.png"))
        yield Section(
            "Gradient norm at mask updates",
            "The gradient norm after a mask update minus that before it, on the same "
            "batch. Mean and standard deviation over the runs.",
            "mask_updates.png",
        )


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
    sections, figures = [], {}
    for folder in folders:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        paths = [os.path.join(folder, name) for name in names if name.endswith(".json")]
        found = [(path, _analysis(path)) for path in paths]
        found = [(path, value) for path, value in found if value is not None]
        if not found:
            raise ValueError(
                f"{folder} holds no analysis; give a folder that `python -m "
                "rigl_keras.analyze --out=FOLDER` wrote into."
            )
        for path, value in found:
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
        value = results.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict) or "analysis" not in value:
        return None
    if not _is_sound(value):
        raise ValueError(
            f'{path} is no analysis of `python -m rigl_keras.analyze`: expected a "title" '
            'and, where there are any, a "text" and a "table" of "columns" and "rows" as '
            "long as these. Make it again, or take it out of the folder."
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


def _settings_sections(experiments):
    names, rows = run_groups.differing(experiments)
    if names:
        yield Section(
            "What differs",
            "The gin parameters that do not have one value in all experiments; – where "
            "one leaves a parameter at its default.",
            columns=["experiment", *names],
            rows=[[e.label, *row] for e, row in zip(experiments, rows, strict=True)],
        )
    common = run_groups.shared(experiments).items()
    yield Section(
        "What all experiments share",
        code="\n".join(f"{name} = {value}" for name, value in common),
        folded=True,
    )


def _origin_sections(experiments, command):
    runs = [run for experiment in experiments for run in experiment.runs]
    origins = {}
    for run in runs:
        versions = run.result.get("versions", {})
        others = {k: run.result.get(k) for k in ("git_revision", "machine")}
        key = tuple((k, str(v or "–")) for k, v in {**versions, **others}.items())
        origins[key] = origins.get(key, 0) + 1
    columns = list(dict.fromkeys(name for key in origins for name, _ in key))
    rows = [
        [str(count), *(dict(key).get(name, "–") for name in columns)]
        for key, count in origins.items()
    ]
    names = [name.replace("_", " ") for name in columns]
    yield Section("Versions", columns=["runs", *names], rows=rows)
    yield Section(
        "Commands",
        "What makes this report, and what repeats each run into another folder.",
        code="\n".join([shlex.join(command), "", *map(_repeat, runs)]),
        folded=True,
    )


def _repeat(run):
    command = ["python", "-m", "rigl_keras.train", "--logdir=..."]
    config = os.path.join(run.saved.folder, CONFIG_FILE)
    command.append(f"--preload_gin_config={config}")
    command += [f"--gin_bindings=seeds.{k}={v}" for k, v in run.result["seeds"].items()]
    return shlex.join(command)


def _notes(experiments, unfinished):
    """What a reader of the tables has to know, a list of sentences."""
    notes = []
    if unfinished:
        notes.append(f"Not finished, and left out: {', '.join(unfinished)}.")
    for experiment in experiments:
        first = {}
        for run in experiment.runs:
            twin = first.setdefault(_seeds_text(run.result["seeds"]), run)
            if twin is not run:
                notes.append(
                    f"{twin.label} and {run.label} are the same experiment with the "
                    "same seeds: the deviation is not one over seeds."
                )
    return notes


def write_report(experiments, notes, analyses, folder, command):
    """Writes tables, figures, report.md and report.html.

    Args:
      experiments: list of `run_groups.Experiment`.
      notes: list of sentences.
      analyses: what `read_analyses` returned.
      folder: where to, made when it is not there.
      command: list of strings, the one that makes the report.

    Raises:
      OSError: when it cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    write_csv(os.path.join(folder, "runs.csv"), list(_run_records(experiments)))
    write_csv(os.path.join(folder, "groups.csv"), list(_group_records(experiments)))
    sections, figures = analyses
    for name, path in figures.items():
        shutil.copyfile(path, os.path.join(folder, name))
    number = sum(len(experiment.runs) for experiment in experiments)
    title = f"{len(experiments)} experiments, {number} runs"
    columns, rows = group_table(experiments)
    text = "Mean ± standard deviation (ddof 0) over the runs of an experiment."
    run_columns, run_rows = _run_table(experiments)
    sections = [
        Section("Results", " ".join([text, *notes]), columns=columns, rows=rows),
        *_figures(experiments, folder),
        *sections,
        *_settings_sections(experiments),
        Section("Runs", columns=run_columns, rows=run_rows, folded=True),
        *_origin_sections(experiments, command),
    ]
    markdown = report_page.markdown(title, sections)
    results.write_text(os.path.join(folder, "report.md"), markdown)
    page = report_page.page(title, sections, folder)
    results.write_text(os.path.join(folder, "report.html"), page)


def _make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m rigl_keras.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "run", nargs="+", help="folder of a finished run, or of folders that hold runs"
    )
    parser.add_argument("--figure", help="file for a figure of the training curves")
    parser.add_argument(
        "--out", help="folder for report.html, report.md, runs.csv, groups.csv, figures"
    )
    parser.add_argument(
        "--analyses",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of `python -m rigl_keras.analyze`, to be shown in --out",
    )
    return parser


def _check(options):
    if options.out and os.path.exists(options.out) and not os.path.isdir(options.out):
        raise ValueError(f"--out={options.out} is a file; give a folder.")
    if options.analyses and not options.out:
        raise ValueError("--analyses are shown in the page of --out; give that too.")
    if options.figure and not os.path.isdir(os.path.dirname(options.figure) or "."):
        raise ValueError(f"--figure={options.figure} lies in no folder; make it first.")


def main(arguments=None):
    """Runs the command line.

    Returns:
      The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _make_parser().parse_args(arguments)
    try:
        _check(options)
        analyses = read_analyses(options.analyses)
        experiments, unfinished = run_groups.gather(options.run)
        notes = _notes(experiments, unfinished)
        if options.figure and not draw_curves(experiments, options.figure):
            raise ValueError("These runs left no records of metrics to draw.")
        if options.out:
            command = ["python", "-m", "rigl_keras.report", *arguments]
            write_report(experiments, notes, analyses, options.out, command)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(report_page.markdown_table(*group_table(experiments)))
    for note in notes:
        print(f"\n{note}")
    if options.figure:
        print(f"\nFigure: {options.figure}")
    if options.out:
        print(f"\nReport: {os.path.join(options.out, 'report.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
