"""Figures of gradient flow: over the training, and its change at mask updates."""

import numpy as np

from rigl_keras.plots import style


def gradient_norms(groups, path, *, looks=None):
    """Draws the norm of the loss gradient over the training.

    Args:
      groups: dict from labels to lists of runs, each the records of its
        `metrics.jsonl`: dicts with "step" and "gradient_norm".
      path: where to write the figure; the ending says the format.
      looks: dict from labels to colors and styles; None for those of `style.looks`.

    Source: Evci et al. 2022, Figure 2.
    """
    looks = style.looks(groups) if looks is None else looks
    with style.figure(path, width=6) as [axis]:
        for label, runs in groups.items():
            steps, norms = series(runs, "gradient_norm")
            style.curve(axis, steps, norms, label=label, look=looks[label], log=True)
        axis.set_yscale("log")
        axis.set_xlabel("training step")
        axis.set_ylabel("norm of the loss gradient")
        style.legend_beside(axis)


def update_changes(groups, path, *, looks=None):
    """Draws how mask updates change the norm of the loss gradient.

    Args:
      groups: dict from labels to lists of runs, each the records of its
        `mask_updates.jsonl`: dicts with "step" and "change".
      path: where to write the figure; the ending says the format.
      looks: dict from labels to colors and styles; None for those of `style.looks`.

    Source: Evci et al. 2022, Figure 3.
    """
    looks = style.looks(groups) if looks is None else looks
    with style.figure(path, width=6) as [axis]:
        axis.axhline(0, color="black", lw=0.8)
        for label, runs in groups.items():
            steps, changes = series(runs, "change")
            style.curve(axis, steps, changes, label=label, look=looks[label])
        axis.set_xlabel("training step")
        axis.set_ylabel("change of the gradient norm by an update")
        style.legend_beside(axis)


def series(runs, name):
    """The values of several runs at the steps that all of them have.

    Args:
      runs: list of lists of records, dicts with "step"; those without `name` are
        passed over.
      name: of the value.

    Returns:
      `(steps, values)`: arrays [points] and [runs, points].

    Raises:
      ValueError: when the runs have no step in common.
    """
    tables = [{r["step"]: r[name] for r in records if name in r} for records in runs]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    if not steps:
        raise ValueError(
            f"Expected runs with records of {name!r} at the same steps, got steps "
            f"{[sorted(table)[:3] for table in tables]} and so on."
        )
    return np.array(steps), np.array([[t[step] for step in steps] for t in tables])
