#!/usr/bin/env python3
"""Trains the paper's LeNet5 experiments on MNIST and compares the results with it.

Every run is a normal run of the command line in a folder of its own, two at a time, on
one thread each. Runs that are finished are skipped and those broken off go on, so the
command may be stopped and repeated. After each run the tables are written anew.

Example:
  TFDS_DATA_DIR=... python scripts/reproduce_mnist.py --runs=runs/mnist
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mnist_cells import LAST_STEP, PLATEAU, STUDIES, Cell

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "results" / "mnist"
AT_ONCE = 2


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
            masks = self.parent / f"ckpt-{LAST_STEP}"
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


def gather(cells, folder):
    """The finished runs of each cell as a list of dicts, for JSON and the table."""
    rows = []
    for cell in cells:
        runs = [run for run in runs_there(cell, folder) if run.result()]
        if runs:
            rows.append(row(cell, runs))
    return rows


def runs_there(cell, folder):
    """All runs of a cell that have a folder, by seed."""
    seeds = sorted(
        int(path.name.removeprefix("seed"))
        for path in (folder / cell.name).glob("seed*")
        if path.is_dir()
    )
    return [Run(cell, seed, folder / cell.name / f"seed{seed}") for seed in seeds]


def row(cell, runs):
    """One cell's results beside the paper's."""
    results = [run.result() for run in runs]
    accuracies = [100 * result["test_accuracy"] for result in results]
    trained = [a for a in accuracies if a > 100 * PLATEAU + 1]
    mean = sum(trained) / len(trained) if trained else None
    return {
        "name": cell.name,
        "title": cell.title,
        "seeds": [run.seed for run in runs],
        "test_accuracy": accuracies,
        "stuck": len(accuracies) - len(trained),
        "mean_of_trained": mean,
        "paper": cell.paper and dataclasses.asdict(cell.paper),
        "distance": distance(mean, cell.paper),
        "sparsity": results[0]["sparsity"],
        "steps": results[0]["steps"],
        "gin_config": cell.configs,
        "gin_bindings": cell.bindings,
        "run_seeds": [result["seeds"] for result in results],
        "versions": results[0]["versions"],
        "git_revision": sorted({str(result["git_revision"]) for result in results}),
        "machine": results[0]["machine"],
    }


def distance(mean, paper):
    """How far a mean lies outside the paper's mean ± std of the seeds that trained.

    0 inside; None where there is nothing to compare. Where seeds were stuck, the
    paper's ± says nothing about the others, and their mean alone is compared.
    """
    if mean is None or paper is None or paper.trained is None:
        return None
    beyond = mean - paper.trained
    room = 0.0 if paper.stuck else paper.std
    return 0.0 if abs(beyond) <= room else beyond - room * (1 if beyond > 0 else -1)


def markdown(rows):
    """The table as Markdown."""
    head = [
        "experiment",
        "paper, 5 seeds",
        "stuck there",
        "ours, by seed",
        "stuck",
        "mean of trained",
        "outside the paper's interval by",
    ]
    lines = [head, ["---"] * len(head)]
    for each in rows:
        paper = each["paper"]
        mean, away = each["mean_of_trained"], each["distance"]
        lines.append(
            [
                each["title"],
                f"{paper['mean']:.2f} ± {paper['std']:.2f}" if paper else "",
                f"{paper['stuck']} of 5" if paper else "",
                ", ".join(f"{a:.2f}" for a in each["test_accuracy"]),
                f"{each['stuck']} of {len(each['seeds'])}",
                "" if mean is None else f"{mean:.2f}",
                "" if away is None else f"{away:+.2f}" if away else "inside",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_tables(study, folder):
    """Writes a study's results as JSON and its tables between the marks of a page."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    tables = {name: gather(cells, folder) for name, cells in STUDIES[study].items()}
    (OUTPUT / f"{study}.json").write_text(json.dumps(tables, indent=1) + "\n")
    path = OUTPUT / f"{study}.md"
    text = path.read_text() if path.exists() else ""
    for name, rows in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, mark, rest = text.partition(begin)
        after = rest.partition(end)[2]
        separator = "" if mark or not text else "\n"
        text = f"{before}{separator}{begin}{markdown(rows)}{end}{after}"
    path.write_text(text)


def main():
    """Runs the command line.

    Returns:
      The exit code: 1 when a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", default="runs/mnist", help="folder of the runs")
    parser.add_argument("--data_dir", help="folder of TFDS's prepared data sets")
    parser.add_argument("--study", choices=STUDIES, default="paper")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: each cell's own")
    parser.add_argument("--only", nargs="+", help="names of cells; default: all")
    parser.add_argument(
        "--tables", action="store_true", help="write the tables of what is there, only"
    )
    options = parser.parse_args()
    # So that the runs end with this process, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(options.runs).resolve()
    cells = [cell for table in STUDIES[options.study].values() for cell in table]
    runs = [
        Run(cell, seed, folder / cell.name / f"seed{seed}")
        for cell in cells
        for seed in options.seeds or cell.seeds
    ]
    if options.tables:
        write_tables(options.study, folder)
        return 0
    chosen = [run for run in runs if not options.only or run.cell.name in options.only]
    runner = Runner(chosen, options.data_dir)
    runner.run(when_done=lambda: write_tables(options.study, folder))
    for run in runner.failed:
        print(f"not finished: {run.cell.name}, seed {run.seed}", file=sys.stderr)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
