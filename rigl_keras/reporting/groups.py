"""Runs gathered into groups: the runs of one differ in seeds and paths only."""

import ast
import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rigl_keras.program.files import RESULTS_FILE, RUN_FILE
from rigl_keras.program.saved_runs import SavedRun, find_runs, run_of

# Where the data lie decides nothing about a run.
_PLACES = ("data.data_dir", "data.download")
_SEEDS = "seeds."
# Checkpoints of other runs: what matters is their step and what kind of run it was.
_PARENTS = ("network.mask_init_path", "network.weight_init_path")
_BINDING = re.compile(r"(\S+) = (.*)")


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that has a result.

    Attributes:
      label: the shortest end of its path that no other run's path has.
      saved: the `SavedRun`.
      result: the content of its results.json.
      settings: dict from gin parameters to their values in gin's notation.
    """

    label: str
    saved: SavedRun
    result: dict[str, Any]
    settings: dict[str, str]


@dataclasses.dataclass(frozen=True)
class RunGroup:
    """Runs that differ in seeds and paths only: an experiment, as reports call it.

    Attributes:
      label: the largest folder that holds these runs and no others, as much of its
        path as tells it apart; where there is no such folder, the settings in which
        the group differs from all others.
      runs: list of `FinishedRun`, at least one.
      settings: dict from gin parameters to values, without seeds and places of data;
        a checkpoint is "STEP of FOLDER".
    """

    label: str
    runs: list[FinishedRun]
    settings: dict[str, str]

    def values(self, name):
        """What the runs' results hold under a name, a list."""
        return [run.result[name] for run in self.runs]


def gather(folders):
    """Finds the runs of folders and groups them.

    Args:
      folders: paths of runs, or of folders that hold runs at any depth.

    Returns:
      The list of `RunGroup`, in the order of their first runs, and the list of the
      folders of runs that were found and are not finished.

    Raises:
      ValueError: for a folder that is not there or holds no run, a run that was named
        and is not finished, a result that cannot be read, and when no run is finished.
    """
    finished, unfinished = _find(folders)
    if not finished:
        raise ValueError(
            f"None of these runs is finished: {', '.join(unfinished)}. Repeat their "
            "commands to go on with them."
        )
    results = {path: _result(run) for path, run in finished.items()}
    kinds: dict[str, list[Path]] = {}
    for path, run in finished.items():
        kinds.setdefault(_kind(run, results[path]), []).append(path)
    labels = _shortest_tails([path.parts for path in finished])
    run_labels = dict(zip(finished, labels, strict=True))
    roots = [Path(folder).resolve() for folder in folders]
    own_folders = _own_folders(list(kinds.values()), roots)
    groups = []
    for label, paths in zip(own_folders, kinds.values(), strict=True):
        runs = [
            FinishedRun(
                run_labels[path],
                finished[path],
                results[path],
                parse_settings(finished[path].description["config"]),
            )
            for path in paths
        ]
        groups.append(RunGroup(label, runs, _group_settings(runs)))
    return _with_labels(groups), unfinished


def _find(folders):
    """Finished runs by their absolute path, and the folders of unfinished ones."""
    finished: dict[Path, SavedRun] = {}
    unfinished: list[str] = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise ValueError(f"There is no folder {folder}; give that of a run.")
        is_run = os.path.exists(os.path.join(folder, RUN_FILE))
        for run in [SavedRun(folder)] if is_run else find_runs(folder):
            path = Path(run.folder).resolve()
            if os.path.exists(os.path.join(run.folder, RESULTS_FILE)):
                finished.setdefault(path, run)
            elif is_run:
                _ = run.result  # Refuses it, and says what to do.
            elif run.folder not in unfinished:
                unfinished.append(run.folder)
    return finished, unfinished


def _result(run):
    names = ["data", "network", "method", "test_accuracy", "test_loss", "sparsity"]
    names += ["active_weights", "weights", "steps", "steps_per_second"]
    try:
        result = run.result
    except ValueError as error:
        raise ValueError(f"{run.folder}: {RESULTS_FILE} is no JSON: {error}") from error
    missing = [name for name in names if name not in result]
    if missing:
        raise ValueError(
            f"{run.folder} has a {RESULTS_FILE} without {', '.join(missing)}; it is no "
            "run of `python -m rigl_keras.train`. Leave it out."
        )
    return result


def parse_settings(config):
    """Reads the text of a gin configuration.

    Args:
      config: what `gin.config_str()` returned.

    Returns:
      Dict from the parameters' names to their values in gin's notation, on one line.
    """
    settings: dict[str, str] = {}
    name = None
    for line in config.splitlines():
        match = _BINDING.fullmatch(line)
        if match:
            name, value = match.groups()
            settings[name] = value.removesuffix("\\").strip()
        elif name and line[:1].isspace():
            # Gin breaks long values, and indents what follows.
            settings[name] = f"{settings[name]} {line.strip()}".strip()
    return settings


def _compared(settings):
    """The settings that say which experiment a run belongs to."""
    return {
        name: value
        for name, value in settings.items()
        if name not in _PLACES and not name.startswith(_SEEDS)
    }


def _checkpoint(value):
    """The path in the value of a parameter of `_PARENTS`, None for none."""
    return ast.literal_eval(value)


def _kind(run, result=None, children=()):
    """A text that is equal for runs that differ in seeds and paths only."""
    settings = _compared(parse_settings(run.description["config"]))
    for name in _PARENTS:
        path = _checkpoint(settings.get(name, "None"))
        if path is None:
            continue
        parent = os.path.dirname(os.path.abspath(path))
        try:
            # A folder may have been used again for a run of its own descendants.
            kind = (
                ""
                if parent in children
                else _kind(run_of(path), None, (*children, parent))
            )
        except ValueError:
            kind = ""  # Not there any more.
        if not kind and result:
            # Its masks are all that is left of it.
            kind = f"sparsity {result['sparsity']['all']:.3f}"
        settings[name] = f"{os.path.basename(path)} of ({kind})"
    return repr(sorted(settings.items()))


def _group_settings(runs):
    """The settings that runs share, with the origin of checkpoints for their paths."""
    settings = _compared(runs[0].settings)
    for name in _PARENTS:
        if _checkpoint(settings.get(name, "None")) is None:
            continue
        paths = [Path(_checkpoint(run.settings[name])).resolve() for run in runs]
        folder = os.path.commonpath([path.parent for path in paths])
        settings[name] = f"{paths[0].name} of {os.path.basename(folder)}"
    return settings


def differing(experiments: Sequence[RunGroup]) -> tuple[list[str], list[list[str]]]:
    """The settings in which experiments differ.

    Args:
      experiments: list of `RunGroup`.

    Returns:
      The names of the gin parameters that do not have one value in all experiments,
      and for each experiment the list of its values, "–" where it sets none.
    """
    everything = [experiment.settings for experiment in experiments]
    names = sorted({name for settings in everything for name in settings})
    names = [name for name in names if len({s.get(name) for s in everything}) > 1]
    return names, [[s.get(name, "–") for name in names] for s in everything]


def shared(experiments: Sequence[RunGroup]) -> dict[str, str]:
    """The settings, a dict by name, that all experiments have."""
    first, *others = [experiment.settings for experiment in experiments]
    return {
        name: value
        for name, value in sorted(first.items())
        if all(settings.get(name) == value for settings in others)
    }


def _own_folders(groups: Sequence[Sequence[Path]], roots: Sequence[Path]) -> list[str]:
    """For each group the largest folder that holds its runs and no others.

    Args:
      groups: the folders of each group's runs.
      roots: the folders that were given, beyond which nothing is looked at.

    Returns:
      As much of each folder's path as tells it apart; "" where there is no such folder.
    """
    own = []
    for paths in groups:
        others = {path for group in groups if group is not paths for path in group}
        common = Path(os.path.commonpath(paths))
        around = [
            folder
            for folder in common.parents
            if any(folder != root and folder.is_relative_to(root) for root in roots)
        ]
        alone = [
            folder
            for folder in (common, *around)
            if not any(path.is_relative_to(folder) for path in others)
        ]
        own.append(alone[-1].parts if alone else ())
    tails = iter(_shortest_tails([parts for parts in own if parts]))
    return [next(tails) if parts else "" for parts in own]


def _with_labels(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Labels the groups that have no folder of their own by what differs."""
    names, rows = differing(groups)
    labels: list[str] = []
    for group, row in zip(groups, rows, strict=True):
        settings = [f"{name}={v}" for name, v in zip(names, row, strict=True)]
        label = group.label or ", ".join(settings)
        if label in labels:  # Parents of one name, in other folders.
            label = f"{label}, {group.runs[0].label}"
        labels.append(label)
    return [
        dataclasses.replace(group, label=label)
        for group, label in zip(groups, labels, strict=True)
    ]


def _shortest_tails(paths: Iterable[tuple[str, ...]]) -> list[str]:
    """The shortest end of each path that no other has."""
    paths = list(paths)
    tails = []
    for path in paths:
        length = 1
        while length < len(path) and (
            sum(other[-length:] == path[-length:] for other in paths) > 1
        ):
            length += 1
        tails.append(os.path.join(*path[-length:]))
    return tails
