"""The figures of a report, and the sections that show them.

They need matplotlib, which is optional.
"""

import functools
import math
import os
from pathlib import Path

from rigl_keras.plots import flow, style, training
from rigl_keras.reporting.page import Section

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


def _new(experiments, name, of_run, *, shown):
    """`_records`, and none at all where all of their runs are shown elsewhere."""
    with_any = {
        Path(run.saved.folder).resolve()
        for experiment in experiments
        for run in experiment.runs
        if any(name in record for record in of_run(run.saved))
    }
    return {} if with_any <= shown else _records(experiments, name, of_run)


def _looks(experiments):
    """The colors and styles of all experiments, also where only some are drawn."""
    return style.looks([_drawn(experiment.label) for experiment in experiments])


def _curves(experiments):
    """What `plots.training.training_curves` draws of experiments."""
    return _records(experiments, "test_accuracy", lambda saved: saved.records)


def draw_curves(experiments, path):
    """Draws the training curves; see `plots.training.training_curves`.

    Raises:
      ValueError: when there is nothing to draw.
    """
    groups = _curves(experiments)
    if not groups:
        raise ValueError("These runs left no records of metrics to draw.")
    training.training_curves(groups, path, looks=_looks(experiments))


def figure_sections(experiments, folder, shown=None):
    """Draws the figures, and yields the section of each.

    Args:
      experiments: list of `groups.RunGroup`.
      folder: where the figures go.
      shown: dict from "gradient_flow" and "mask_updates" to the absolute paths of the
        runs whose analyses of these names the report shows, which are not drawn again.
    """
    shown, looks = shown or {}, _looks(experiments)
    path = os.path.join(folder, "test_errors.png")
    training.final_errors(
        {_drawn(e.label): e.values("test_accuracy") for e in experiments},
        path,
        looks=looks,
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
        functools.partial(training.training_curves, looks=looks),
        groups=_curves(experiments),
        path=os.path.join(folder, "training_curves"),
    )
    yield from _flow_sections(experiments, folder, shown=shown, looks=looks)


def _flow_sections(experiments, folder, *, shown, looks):
    """The part of `figure_sections` that analyses may show too."""
    yield from _parts(
        "Gradient norm",
        "The norm of the gradient of the loss, without regulariser, over all "
        "trainable parameters but masked weights, on one fixed batch of training "
        "records. Mean and standard deviation of its logarithm over the runs.",
        functools.partial(flow.gradient_norms, looks=looks),
        groups=_new(
            experiments,
            "gradient_norm",
            lambda saved: saved.records,
            shown=shown.get("gradient_flow", set()),
        ),
        path=os.path.join(folder, "gradient_norms"),
    )
    yield from _parts(
        "Gradient norm at mask updates",
        "The gradient norm after a mask update minus that before it, on the same "
        "batch. Mean and standard deviation over the runs.",
        functools.partial(flow.update_changes, looks=looks),
        groups=_new(
            experiments,
            "change",
            lambda saved: saved.mask_updates,
            shown=shown.get("mask_updates", set()),
        ),
        path=os.path.join(folder, "mask_updates"),
    )


def _parts(title, text, draw, *, groups, path):
    """Draws groups in as many figures as keep them readable; yields their sections."""
    labels = list(groups)
    count = math.ceil(len(labels) / _CURVES)
    for part in range(count):
        begin, end = (len(labels) * i // count for i in (part, part + 1))
        of_count = f" ({part + 1} of {count})" if count > 1 else ""
        file = f"{path}_{part + 1}.png" if count > 1 else f"{path}.png"
        draw({label: groups[label] for label in labels[begin:end]}, file)
        yield Section(title + of_count, "" if part else text, os.path.basename(file))
