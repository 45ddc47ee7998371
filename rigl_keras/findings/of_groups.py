"""The analyses of groups of saved runs, by name."""

from collections.abc import Callable, Sequence
from typing import Any

from rigl_keras.findings import comparisons, of_runs
from rigl_keras.findings.finding import Finding
from rigl_keras.program.saved_runs import SavedRun, find_runs

ANALYSES: dict[str, Callable[..., Finding]] = {
    "gradient_flow": of_runs.gradient_flow,
    "mask_updates": of_runs.mask_updates,
    "distances": comparisons.distance_to_reference,
    "map": comparisons.solution_map,
    "interpolation": comparisons.interpolations,
    "ensembles": comparisons.ensemble,
    "masks": of_runs.masks_over_time,
    "hessian": of_runs.hessian,
}
_PARENT = "run to compare with; default: the one that each run's masks come from"
_ONE = "run to compare with"
# What those compare with that compare runs with one more; the map cannot do without.
REFERENCES = {
    "distances": _PARENT,
    "map": _ONE,
    "interpolation": _PARENT,
    "ensembles": _ONE,
}


def analyse(
    name: str, groups: Sequence[Sequence[str]], reference: str | None, **options: Any
) -> Finding:
    """Makes an analysis.

    Args:
      name: a key of `ANALYSES`.
      groups: lists of a label and folders.
      reference: folder of a run to compare with, or None.
      **options: of the analysis.

    Raises:
      ValueError: for a label that comes twice, or without a run; or for runs that lack
        what the analysis needs.
    """
    if name in REFERENCES:
        options["reference"] = None if reference is None else SavedRun(reference)
    return ANALYSES[name](open_groups(groups), **options)


def open_groups(groups: Sequence[Sequence[str]]) -> dict[str, list[SavedRun]]:
    """Opens the runs of the groups of a command line.

    Args:
      groups: lists of a label and folders.

    Returns:
      A dict from labels to lists of `SavedRun`.

    Raises:
      ValueError: for a label that comes twice, or without a run.
    """
    opened: dict[str, list[SavedRun]] = {}
    for label, *folders in groups:
        if label in opened or not folders:
            raise ValueError(
                f"Expected --group LABEL RUN..., each label once; got {label!r} "
                f"{'again' if label in opened else 'without a run'}."
            )
        opened[label] = [run for folder in folders for run in find_runs(folder)]
    return opened
