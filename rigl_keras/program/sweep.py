"""Sweeps: many runs of `rigl_keras.train`, every seed of every cell in its own folder.

A sweep may be stopped and started again: finished runs are skipped, and broken-off runs
go on from their last checkpoint. What the runs found is kept as records, one line of a
JSONL file for each run.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rigl_keras.program import files

AT_ONCE = 2  # Runs that train at the same time, on one thread each.
POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment: a cell of a table, trained with several seeds.

    Attributes:
      name: of the folder that holds its runs.
      title: of its row in the table.
      configs: gin files; later ones override earlier ones.
      bindings: gin name -> value, over the files.
      parent: name of the cell whose runs give the masks, or None.
      paper: what the paper reports, or None where it has no such experiment.
      parent_seed: seed of the parent's run, or None for the run's own seed.
      parent_weights: step of the parent's checkpoint that gives the weights, or None.
      seed_offset: added to a child's seed, so that its initial weights and its data
        order differ from the parent's.
      seeds: of its runs.
      steps: training steps of the parent; masks come from that checkpoint.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    bindings: dict[str, Any] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    paper: Any = None
    parent_seed: int | None = None
    parent_weights: int | None = None
    seed_offset: int = 100
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 11719


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run of a cell: a seed and a folder."""

    cell: Cell
    seed: int
    folder: Path

    @property
    def parent(self) -> Path | None:
        """Folder of the run that gives the masks, or None."""
        if self.cell.parent is None:
            return None
        seed = self.cell.parent_seed
        seed = self.seed if seed is None else seed
        return self.folder.parents[1] / self.cell.parent / f"seed{seed}"

    def result(self) -> dict[str, Any] | None:
        """The content of its results.json; None before it is finished."""
        return read_result(self.folder)

    def is_ready(self) -> bool:
        """Whether the run that gives the masks is finished."""
        return self.parent is None or read_result(self.parent) is not None

    def command(self, data_dir: str | None) -> list[str]:
        """The command line that makes the run, or goes on with it."""
        bindings = dict(self.cell.bindings)
        seed = self.seed
        parent = self.parent
        if parent:
            seed += self.cell.seed_offset
            bindings["network.mask_init_path"] = str(parent / f"ckpt-{self.cell.steps}")
            if self.cell.parent_weights is not None:
                weights = parent / f"ckpt-{self.cell.parent_weights}"
                bindings["network.weight_init_path"] = str(weights)
        if data_dir:
            bindings["data.data_dir"] = data_dir
        return [
            sys.executable,
            "-m",
            "rigl_keras.train",
            f"--logdir={self.folder}",
            f"--seed={seed}",
            *(f"--gin_config={file}" for file in self.cell.configs),
            *(f"--gin_bindings={name}={value!r}" for name, value in bindings.items()),
        ]


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a run's results.json; None before it is finished."""
    return files.read_json(folder / files.RESULTS_FILE)


def all_runs(
    cells: Iterable[Cell], folder: Path, seeds: Sequence[int] | None = None
) -> list[Run]:
    """The runs of some cells.

    Args:
      cells: the experiments.
      folder: path of the folder that holds a folder for each cell.
      seeds: ints in place of each cell's own seeds, or None.
    """
    return [
        Run(cell, seed, folder / cell.name / f"seed{seed}")
        for cell in cells
        for seed in seeds or cell.seeds
    ]


class Runner:
    """Trains runs, `AT_ONCE` at a time, each once the run it depends on is finished.

    Args:
      runs: list of `Run`.
      data_dir: folder of TFDS's prepared data sets, or None for TFDS's own default.

    Attributes:
      failed: runs that ended without a result, and those that depend on them.
    """

    def __init__(self, runs: Sequence[Run], data_dir: str | None):
        self._all = runs
        self._data_dir = data_dir
        self._waiting = [run for run in runs if run.result() is None]
        self._working: dict[Run, tuple[subprocess.Popen, float]] = {}
        self._seconds: list[float] = []
        self.failed: list[Run] = []

    def run(self, when_done: Callable[[], Any]) -> None:
        """Trains all runs; calls `when_done()` after each that is finished."""
        done = len(self._all) - len(self._waiting)
        print(f"{len(self._all)} runs, {done} of them finished before.", flush=True)
        try:
            while self._start_what_is_ready():
                time.sleep(POLL_SECONDS)
                if self._collect():
                    when_done()
        finally:
            for process, _ in self._working.values():
                process.terminate()
        # What still waits depends on a run that failed.
        self.failed += self._waiting

    def _start_what_is_ready(self) -> bool:
        for run in list(self._waiting):
            if len(self._working) == AT_ONCE:
                break
            if run.is_ready():
                self._waiting.remove(run)
                self._working[run] = self._start(run), time.monotonic()
        return bool(self._working)

    def _start(self, run: Run) -> subprocess.Popen:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        one_thread = dict.fromkeys(
            ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"
        )
        with open(run.folder.with_suffix(".log"), "a", encoding="utf-8") as log:
            return subprocess.Popen(
                run.command(self._data_dir),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **one_thread},
            )

    def _collect(self) -> bool:
        """Notes which processes have ended; True when a run is finished."""
        any_done = False
        for run, (process, began) in list(self._working.items()):
            if process.poll() is None:
                continue
            del self._working[run]
            result = run.result()
            if result is None:
                self.failed.append(run)
                log = run.folder.with_suffix(".log")
                print(f"FAILED: {run.cell.name}, seed {run.seed}; see {log}")
                continue
            any_done = True
            self._seconds.append(time.monotonic() - began)
            self._report(run, result)
        return any_done

    def _report(self, run: Run, result: dict[str, Any]) -> None:
        left = len(self._waiting) + len(self._working)
        mean = sum(self._seconds) / len(self._seconds)
        print(
            f"{run.cell.title}, seed {run.seed}: {result['test_accuracy']:.2%} in "
            f"{self._seconds[-1]:.0f} s; {left} runs left, about "
            f"{left * mean / AT_ONCE / 60:.0f} minutes",
            flush=True,
        )


def read_records(path: Path, identity: Sequence[str]) -> dict[tuple, dict[str, Any]]:
    """Reads what `write_records` wrote.

    Args:
      path: of the JSONL file; without one there are no records.
      identity: names of the values that tell records apart, such as cell and seed.

    Returns:
      A dict from tuples of these values to records.
    """
    records = files.read_jsonl(path)
    return {tuple(record[name] for name in identity): record for record in records}


def write_records(path: Path, records: dict[tuple, dict[str, Any]]) -> None:
    """Writes records as JSON lines, whole or not at all.

    The lines are sorted by identity, so the file does not depend on the order in which
    the runs were made. Keys of a record are sorted; those of the dicts in it are not,
    because they may be a network's layers in their order.

    Args:
      path: of the file.
      records: dict from identities to what JSON can hold.
    """
    lines = (
        json.dumps(dict(sorted(record.items())), separators=(",", ":")) + "\n"
        for _, record in sorted(records.items(), key=lambda item: item[0])
    )
    files.write_text(path, "".join(lines))
