"""Runs experiments: every seed of every cell, each in a folder of its own.

Runs that are finished are skipped and those broken off go on, so that whatever uses
this may be stopped and repeated.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

AT_ONCE = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment.

    Attributes:
      name: of its runs' folder.
      title: for the table.
      configs: gin files, later ones over earlier ones.
      bindings: gin name -> value.
      parent: name of the cell whose run gives the masks, or None.
      paper: what the paper reports, or None where it has no such experiment.
      parent_seed: seed of the parent run; None for the run's own.
      parent_weights: step of the parent's checkpoint that gives the weights, or None.
      seed_offset: what the seed of a run with a parent is above its number, so that it
        has another init and another data order than the parent.
      seeds: the numbers of its runs.
      steps: how long its parent trained.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    bindings: dict = dataclasses.field(default_factory=dict)
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
    def parent(self):
        """Folder of the run that the masks come from, or None."""
        if self.cell.parent is None:
            return None
        seed = self.cell.parent_seed
        seed = self.seed if seed is None else seed
        return self.folder.parents[1] / self.cell.parent / f"seed{seed}"

    def result(self):
        """The content of its results.json; None when it is not finished."""
        return read_result(self.folder)

    def is_ready(self):
        """Whether the run that its masks come from is finished."""
        return self.parent is None or read_result(self.parent) is not None

    def command(self, data_dir):
        """The command line that makes the run, or goes on with it."""
        bindings = dict(self.cell.bindings)
        seed = self.seed
        if self.parent:
            seed += self.cell.seed_offset
            masks = self.parent / f"ckpt-{self.cell.steps}"
            bindings["network.mask_init_path"] = str(masks)
        if self.cell.parent_weights is not None:
            weights = self.parent / f"ckpt-{self.cell.parent_weights}"
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


def read_result(folder):
    """The content of a run's results.json; None when it is not finished."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


class Runner:
    """Makes runs, `AT_ONCE` at a time, each when the run it depends on is finished."""

    def __init__(self, runs, data_dir):
        self._all = runs
        self._data_dir = data_dir
        self._waiting = [run for run in runs if run.result() is None]
        self._working: dict[Run, tuple[subprocess.Popen, float]] = {}
        self._seconds: list[float] = []
        self.failed: list[Run] = []

    def run(self, when_done):
        """Makes all runs; calls `when_done()` after each that is finished."""
        done = len(self._all) - len(self._waiting)
        print(f"{len(self._all)} runs, {done} of them finished before.", flush=True)
        try:
            while self._start_what_is_ready():
                time.sleep(0.5)
                if self._collect():
                    when_done()
        finally:
            for process, _ in self._working.values():
                process.terminate()
        # Left over: runs whose parent failed.
        self.failed += self._waiting

    def _start_what_is_ready(self):
        for run in list(self._waiting):
            if len(self._working) == AT_ONCE:
                break
            if run.is_ready():
                self._waiting.remove(run)
                self._working[run] = self._start(run), time.monotonic()
        return bool(self._working)

    def _start(self, run):
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

    def _collect(self):
        """Takes account of the processes that have ended; True when a run is done."""
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

    def _report(self, run, result):
        left = len(self._waiting) + len(self._working)
        mean = sum(self._seconds) / len(self._seconds)
        print(
            f"{run.cell.title}, seed {run.seed}: {result['test_accuracy']:.2%} in "
            f"{self._seconds[-1]:.0f} s; {left} runs left, about "
            f"{left * mean / AT_ONCE / 60:.0f} minutes",
            flush=True,
        )


def all_runs(cells, folder, seeds=None):
    """The runs of some cells.

    Args:
      cells: list of `Cell`.
      folder: path of the folder that holds a folder for each cell.
      seeds: list of ints in place of each cell's own, or None.
    """
    return [
        Run(cell, seed, folder / cell.name / f"seed{seed}")
        for cell in cells
        for seed in seeds or cell.seeds
    ]
