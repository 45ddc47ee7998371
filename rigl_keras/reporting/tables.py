"""The tables of a report: experiments and runs, as text and as CSV."""

import csv
from collections.abc import Callable
from typing import Any

import numpy as np

from rigl_keras.common.tables import spread

_NUMBERS = (
    "sparsity",
    "active_weights",
    "weights",
    "test_accuracy",
    "test_loss",
    "steps",
    "steps_per_second",
)
_STATISTICS: dict[str, Callable] = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
}
_LABELS = ("experiment", "run", "folder")


def _same(values, form=str):
    """The text of equal values, else those of the least and the greatest."""
    least, greatest = form(min(values)), form(max(values))
    return least if least == greatest else f"{least}–{greatest}"


def _percent(share):
    return f"{100 * share:.2f}"


def _numbers(experiment):
    """The runs' results that are numbers: dict from names to lists."""
    numbers = {name: experiment.values(name) for name in _NUMBERS}
    return {**numbers, "sparsity": [number["all"] for number in numbers["sparsity"]]}


_COLUMNS: dict[str, Callable[..., str]] = {
    "experiment": lambda e, n: e.label,
    "runs": lambda e, n: str(len(e.runs)),
    "data": lambda e, n: _same(e.values("data")),
    "network": lambda e, n: _same(e.values("network")),
    "method": lambda e, n: _same(e.values("method")),
    "sparsity (%)": lambda e, n: _same(n["sparsity"], _percent),
    "active / all weights": lambda e, n: (
        f"{_same(n['active_weights'])} / {_same(n['weights'])}"
    ),
    "test accuracy (%)": lambda e, n: spread(n["test_accuracy"], 2, 100),
    "test loss": lambda e, n: spread(n["test_loss"]),
    "steps": lambda e, n: _same(n["steps"]),
    "steps/s": lambda e, n: spread(n["steps_per_second"], 0),
}


def group_table(experiments):
    """The table of experiments.

    Args:
      experiments: list of `groups.RunGroup`.

    Returns:
      The names of its columns, and its rows of strings: means ± standard deviations
      (ddof 0) over the runs where there are several.
    """
    rows = []
    for experiment in experiments:
        numbers = _numbers(experiment)
        rows.append([cell(experiment, numbers) for cell in _COLUMNS.values()])
    return list(_COLUMNS), rows


def run_table(experiments):
    """The table of runs: the names of its columns, and its rows of strings."""
    rows = [
        [
            experiment.label,
            run.label,
            seeds_text(run.result["seeds"]),
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


def seeds_text(seeds):
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


def run_records(experiments):
    """Yields a dict for each run: its labels, its result, its settings."""
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
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def group_records(experiments):
    """Yields a dict for each experiment: statistics of its runs' results."""
    for experiment in experiments:
        record = {"experiment": experiment.label, "runs": len(experiment.runs)}
        for name in ("data", "network", "method"):
            record[name] = _same(experiment.values(name))
        for name, values in _numbers(experiment).items():
            for statistic, function in _STATISTICS.items():
                record[f"{name}_{statistic}"] = float(function(values))
        yield record
