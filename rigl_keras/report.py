"""Shows finished runs: tables over seeds, figures, and one page with all of it.

Example:
  python -m rigl_keras.report runs/ --analyses runs/analysis --out runs/report

Runs whose configurations differ only in seeds and paths are one experiment.
"""

import argparse
import math
import os
import shlex
import shutil
import sys

from rigl_keras.program import files
from rigl_keras.program.run import CONFIG_FILE
from rigl_keras.reporting import groups, page
from rigl_keras.reporting.analyses import read_analyses
from rigl_keras.reporting.page import Section
from rigl_keras.reporting.tables import (
    group_records,
    group_table,
    run_records,
    run_table,
    seeds_text,
    write_csv,
)

# More in one figure hide each other, and need more colors than there are.
_CURVES = 10


def _records(experiments, name, of_run):
    """The records that hold a value, of the runs that have any: dict from labels."""
    groups = {}
    for experiment in experiments:
        runs = [[r for r in of_run(run.saved) if name in r] for run in experiment.runs]
        if any(runs):
            groups[_drawn(experiment.label)] = [records for records in runs if records]
    return groups


def _drawn(label):
    """A label as matplotlib draws it, letter by letter; it hides those that begin _."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def _curves(experiments):
    """What `plots.training.training_curves` draws of experiments."""
    return _records(experiments, "test_accuracy", lambda saved: saved.records)


def draw_curves(experiments, path):
    """Draws the training curves; see `plots.training.training_curves`.

    Raises:
      ValueError: when there is nothing to draw.
    """
    from rigl_keras.plots import training

    groups = _curves(experiments)
    if not groups:
        raise ValueError("These runs left no records of metrics to draw.")
    training.training_curves(groups, path)


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
    yield from _parts(
        "Training",
        "Line and band are mean and standard deviation over the runs of an experiment, "
        "of the logarithms of loss and error: accuracies are spread by their distance "
        "from 100 %. Training values are means over the steps between two records; no "
        "loss has the regulariser.",
        training.training_curves,
        _curves(experiments),
        os.path.join(folder, "training_curves"),
    )
    yield from _parts(
        "Gradient norm",
        "The norm of the gradient of the loss, without regulariser, over all "
        "trainable parameters but masked weights, on one fixed batch of training "
        "records. Mean and standard deviation of its logarithm over the runs.",
        flow.gradient_norms,
        _records(experiments, "gradient_norm", lambda saved: saved.records),
        os.path.join(folder, "gradient_norms"),
    )
    yield from _parts(
        "Gradient norm at mask updates",
        "The gradient norm after a mask update minus that before it, on the same "
        "batch. Mean and standard deviation over the runs.",
        flow.update_changes,
        _records(experiments, "change", lambda saved: saved.mask_updates),
        os.path.join(folder, "mask_updates"),
    )


def _parts(title, text, draw, groups, path):
    """Draws groups in as many figures as keep them readable; yields their sections."""
    labels = list(groups)
    count = math.ceil(len(labels) / _CURVES)
    for part in range(count):
        begin, end = (len(labels) * i // count for i in (part, part + 1))
        of_count = f" ({part + 1} of {count})" if count > 1 else ""
        file = f"{path}_{part + 1}.png" if count > 1 else f"{path}.png"
        draw({label: groups[label] for label in labels[begin:end]}, file)
        yield Section(title + of_count, "" if part else text, os.path.basename(file))


def _settings_sections(experiments):
    names, rows = groups.differing(experiments)
    if names:
        yield Section(
            "What differs",
            "The gin parameters that do not have one value in all experiments; – where "
            "one leaves a parameter at its default.",
            columns=["experiment", *names],
            rows=[[e.label, *row] for e, row in zip(experiments, rows, strict=True)],
        )
    common = groups.shared(experiments).items()
    yield Section(
        "What all experiments share",
        code="\n".join(f"{name} = {value}" for name, value in common),
        folded=True,
    )


def _origin_sections(experiments, command):
    runs = [run for experiment in experiments for run in experiment.runs]
    origins: dict[tuple, int] = {}
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
        first: dict[str, groups.FinishedRun] = {}
        for run in experiment.runs:
            twin = first.setdefault(seeds_text(run.result["seeds"]), run)
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
    write_csv(os.path.join(folder, "runs.csv"), list(run_records(experiments)))
    write_csv(os.path.join(folder, "groups.csv"), list(group_records(experiments)))
    sections, figures = analyses
    for name, path in figures.items():
        shutil.copyfile(path, os.path.join(folder, name))
    number = sum(len(experiment.runs) for experiment in experiments)
    title = f"{len(experiments)} experiments, {number} runs"
    columns, rows = group_table(experiments)
    text = "Mean ± standard deviation (ddof 0) over the runs of an experiment."
    run_columns, run_rows = run_table(experiments)
    sections = [
        Section("Results", " ".join([text, *notes]), columns=columns, rows=rows),
        *_figures(experiments, folder),
        *sections,
        *_settings_sections(experiments),
        Section("Runs", columns=run_columns, rows=run_rows, folded=True),
        *_origin_sections(experiments, command),
    ]
    markdown = page.markdown(title, sections)
    files.write_text(os.path.join(folder, "report.md"), markdown)
    html = page.page(title, sections, folder)
    files.write_text(os.path.join(folder, "report.html"), html)


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
        experiments, unfinished = groups.gather(options.run)
        notes = _notes(experiments, unfinished)
        if options.figure:
            draw_curves(experiments, options.figure)
        if options.out:
            command = ["python", "-m", "rigl_keras.report", *arguments]
            write_report(experiments, notes, analyses, options.out, command)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(page.markdown_table(*group_table(experiments)))
    for note in notes:
        print(f"\n{note}")
    if options.figure:
        print(f"\nFigure: {options.figure}")
    if options.out:
        print(f"\nReport: {os.path.join(options.out, 'report.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
