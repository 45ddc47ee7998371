"""Runs gathered into experiments: the runs of one differ in seeds and paths only."""

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
# "rigl_seed3", "rigl-3" and "rigl3" begin with "rigl"; "seed3" and "3" with nothing.
_NUMBERED = re.compile(r"(.*?)[-_. ]*(?:seed|run)?[-_. ]*\d*")
_NAMES_SHOWN = 3


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
class Experiment:
    """Runs that differ in seeds and paths only.

    Attributes:
      label: the shortest end of their common path that tells experiments apart.
      runs: list of `FinishedRun`, at least one.
      settings: dict from gin parameters to values, without seeds and places of data;
        a checkpoint is "STEP of EXPERIMENT".
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
      The list of `Experiment`, in the order of their first runs, and the list of the
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
    groups: dict[str, list[Path]] = {}
    for path, run in finished.items():
        groups.setdefault(_kind(run, results[path]), []).append(path)
    run_labels = dict(
        zip(finished, _shortest_tails([path.parts for path in finished]), strict=True)
    )
    labels = _group_labels(list(groups.values()))
    owners = {
        path: label
        for label, group in zip(labels, groups.values(), strict=True)
        for path in group
    }
    experiments = []
    for label, group in zip(labels, groups.values(), strict=True):
        runs = [
            FinishedRun(
                run_labels[path],
                finished[path],
                results[path],
                parse_settings(finished[path].description["config"]),
            )
            for path in group
        ]
        experiments.append(Experiment(label, runs, _group_settings(runs, owners)))
    return experiments, unfinished


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


def _group_settings(runs, owners):
    """The settings that runs share, with the origin of checkpoints for their paths."""
    settings = _compared(runs[0].settings)
    for name in _PARENTS:
        if _checkpoint(settings.get(name, "None")) is None:
            continue
        paths = [Path(_checkpoint(run.settings[name])).resolve() for run in runs]
        parents = list(dict.fromkeys(path.parent for path in paths))
        known = list(dict.fromkeys(owners[p] for p in parents if p in owners))
        origin = ", ".join(known) or _base(parents)[-1]
        settings[name] = f"{paths[0].name} of {origin}"
    return settings


def differing(experiments: Sequence[Experiment]) -> tuple[list[str], list[list[str]]]:
    """The settings in which experiments differ.

    Args:
      experiments: list of `Experiment`.

    Returns:
      The names of the gin parameters that do not have one value in all experiments,
      and for each experiment the list of its values, "–" where it sets none.
    """
    everything = [experiment.settings for experiment in experiments]
    names = sorted({name for settings in everything for name in settings})
    names = [name for name in names if len({s.get(name) for s in everything}) > 1]
    return names, [[s.get(name, "–") for name in names] for s in everything]


def shared(experiments: Sequence[Experiment]) -> dict[str, str]:
    """The settings, a dict by name, that all experiments have."""
    first, *others = [experiment.settings for experiment in experiments]
    return {
        name: value
        for name, value in sorted(first.items())
        if all(settings.get(name) == value for settings in others)
    }


def _group_labels(groups: Sequence[Sequence[Path]]) -> list[str]:
    """A label for each group of folders, no two the same."""
    bases = [_base(folders) for folders in groups]
    paths = []
    for folders, base in zip(groups, bases, strict=True):
        others = [path for group in groups if group is not folders for path in group]
        if _covers(base, others) or bases.count(base) > 1:
            base = _named(folders, others)
        paths.append(base)
    return _shortest_tails(paths)


def _base(folders: Sequence[Path]) -> tuple[str, ...]:
    """What the paths of numbered runs have in common, as parts of a path."""
    parents = {folder.parent for folder in folders}
    stems = {_NUMBERED.fullmatch(folder.name).group(1) for folder in folders}  # type: ignore[union-attr]
    if stems == {""} and len(parents) == 1:
        return folders[0].parent.parts
    if len(folders) == 1:
        return folders[0].parts
    if len(stems) == len(parents) == 1:
        return (*folders[0].parent.parts, *stems)
    return Path(os.path.commonpath(folders)).parts


def _covers(base: tuple[str, ...], folders: Iterable[Path]) -> bool:
    """Whether one of the folders is, or lies in, the folder of that path."""
    return any(folder.parts[: len(base)] == base for folder in folders)


def _named(folders: Sequence[Path], others: Iterable[Path]) -> tuple[str, ...]:
    """The parts of a path that names folders where `_base` would name others too."""
    bases = list(dict.fromkeys(_base([folder]) for folder in folders))
    if any(_covers(base, others) for base in bases):
        bases = [folder.parts for folder in folders]
    # "seed0" alone says nothing: the name of the folder around it stays with it.
    common = Path(os.path.commonpath([Path(*base).parent for base in bases]))
    if all(_NUMBERED.fullmatch(base[-1]).group(1) == "" for base in bases):  # type: ignore[union-attr]
        around, common = common.name, common.parent
    else:
        around = ""
    names = [str(Path(*base).relative_to(common / around)) for base in bases]
    more = ["…"] if len(names) > _NAMES_SHOWN else []
    listed = ", ".join([*names[:_NAMES_SHOWN], *more])
    return (*common.parts, os.path.join(around, listed))


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
