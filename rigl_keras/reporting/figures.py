"""The figures of a report, and the sections that show them.

They need matplotlib, which is optional.
"""

import math
import os

from rigl_keras.plots import flow, training
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
    training.training_curves(groups, path)


def figure_sections(experiments, folder):
    """Draws the figures, and yields the section of each."""
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
        groups=_curves(experiments),
        path=os.path.join(folder, "training_curves"),
    )
    yield from _parts(
        "Gradient norm",
        "The norm of the gradient of the loss, without regulariser, over all "
        "trainable parameters but masked weights, on one fixed batch of training "
        "records. Mean and standard deviation of its logarithm over the runs.",
        flow.gradient_norms,
        groups=_records(experiments, "gradient_norm", lambda saved: saved.records),
        path=os.path.join(folder, "gradient_norms"),
    )
    yield from _parts(
        "Gradient norm at mask updates",
        "The gradient norm after a mask update minus that before it, on the same "
        "batch. Mean and standard deviation over the runs.",
        flow.update_changes,
        groups=_records(experiments, "change", lambda saved: saved.mask_updates),
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
