"""The sections of a report that are neither tables of results nor figures."""

import os
import shlex

from rigl_keras.program.run import CONFIG_FILE
from rigl_keras.reporting.groups import FinishedRun, differing, shared
from rigl_keras.reporting.page import Section
from rigl_keras.reporting.tables import seeds_text


def settings_sections(experiments):
    """Yields what differs between experiments, and what they share."""
    names, rows = differing(experiments)
    if names:
        yield Section(
            "What differs",
            "The gin parameters that do not have one value in all experiments; – where "
            "one leaves a parameter at its default.",
            columns=["experiment", *names],
            rows=[[e.label, *row] for e, row in zip(experiments, rows, strict=True)],
        )
    common = shared(experiments).items()
    yield Section(
        "What all experiments share",
        code="\n".join(f"{name} = {value}" for name, value in common),
        folded=True,
    )


def origin_sections(experiments, command):
    """Yields the versions that made the runs, and the commands that repeat them."""
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


def notes_of(experiments, unfinished):
    """What a reader of the tables has to know, a list of sentences."""
    notes = []
    if unfinished:
        notes.append(f"Not finished, and left out: {', '.join(unfinished)}.")
    for experiment in experiments:
        first: dict[str, FinishedRun] = {}
        for run in experiment.runs:
            twin = first.setdefault(seeds_text(run.result["seeds"]), run)
            if twin is not run:
                notes.append(
                    f"{twin.label} and {run.label} are the same experiment with the "
                    "same seeds: the deviation is not one over seeds."
                )
    return notes
