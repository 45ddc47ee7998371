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

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "results" / "mnist"
LAST = "ckpt-11719"
AT_ONCE = 2
# Test accuracy of a network that calls everything the most frequent digit.
PLATEAU = 0.1135
# What a run's seed is above that of the pruned run its masks come from: another init
# and another data order.
CHILD_SEED = 100


@dataclasses.dataclass(frozen=True)
class Paper:
    """The paper's cell of 5 seeds, test accuracies in %.

    Attributes:
      mean: of all seeds.
      std: their population standard deviation.
      stuck: how many seeds never left the plateau, worked out from the two.
    """

    mean: float
    std: float
    stuck: int = 0

    @property
    def trained(self):
        """Mean of the seeds that left the plateau, None where none did."""
        rest = 5 - self.stuck
        return (5 * self.mean - 100 * PLATEAU * self.stuck) / rest if rest else None


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment.

    Attributes:
      name: of its runs' folder.
      title: for the table.
      configs: gin files, later ones over earlier ones.
      bindings: gin name -> value.
      parent: name of the cell whose run gives the masks, or None.
      paper: `Paper`, or None where the paper has no such cell.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    bindings: dict = dataclasses.field(default_factory=dict)
    parent: str | None = None
    paper: Paper | None = None


INITS = {
    "dense": ("dense init, Glorot", {}),
    "dense_he": ("dense init, He", {"lenet5.kernel_initializer": "he_normal"}),
    "layer": ("layer-scaled, He", {"network.weight_init_method": "layer_scaled"}),
    "layer_fanavg": (
        "layer-scaled, mean fan, scale 1",
        {
            "network.weight_init_method": "layer_scaled",
            "layer_scaled_init.method": "fanavg_uniform",
            "layer_scaled_init.scale": 1.0,
        },
    ),
    "unit": ("unit-scaled, He", {"network.weight_init_method": "unit_scaled"}),
    "unit_fanavg": (
        "unit-scaled, mean fan, scale 1",
        {
            "network.weight_init_method": "unit_scaled",
            "unit_scaled_init.method": "fanavg_uniform",
            "unit_scaled_init.scale": 1.0,
        },
    ),
    "unit_fanin": (
        "unit-scaled, fan-in, scale 1",
        {"network.weight_init_method": "unit_scaled", "unit_scaled_init.scale": 1.0},
    ),
}
# Where not all are tried: Keras's dense init, and what the files of the paper's code
# for SET and RigL make of the other two.
MAIN = ("dense", "layer_fanavg", "unit_fanin")

# Which of the paper's columns a cell belongs to.
_COLUMN = {init: init.split("_")[0] for init in INITS}
TABLE_1 = {
    "scratch": {
        "dense": Paper(62.99, 42.16, 2),
        "layer": Paper(96.64, 0.83),
        "unit": Paper(97.70, 0.09),
    },
    "set": {
        "dense": Paper(63.33, 42.44, 2),
        "layer": Paper(97.77, 0.31),
        "unit": Paper(98.16, 0.06),
    },
    "rigl": {
        "dense": Paper(80.82, 34.74, 1),
        "layer": Paper(98.14, 0.17),
        "unit": Paper(98.13, 0.09),
    },
}
TABLE_2 = {
    "scratch": {
        "dense": Paper(11.35, 0.0, 5),
        "layer": Paper(56.51, 36.90, 2),
        "unit": Paper(90.00, 4.04),
    },
    "rigl": {
        "dense": Paper(11.35, 0.0, 5),
        "layer": Paper(62.34, 41.63, 2),
        "unit": Paper(96.72, 0.23),
    },
}
METHODS = {"scratch": "Scratch", "set": "SET", "rigl": "RigL"}
FILES = {
    "scratch": "mnist/static.gin",
    "set": "mnist/set.gin",
    "rigl": "mnist/rigl.gin",
}


def sparse_cell(method, init, sparsity):
    """The cell of a method and an initialisation on the masks of a pruned network."""
    table = TABLE_1 if sparsity == 95 else TABLE_2
    text, bindings = INITS[init]
    return Cell(
        f"{method}{sparsity}_{init}",
        f"{METHODS[method]} {sparsity} %, {text}",
        (FILES[method], "mnist/pruned_masks.gin"),
        {"network.weight_init_method": None, **bindings},
        parent=f"prune{sparsity}",
        paper=table[method][_COLUMN[init]],
    )


def lottery_cell(name, title, weight_decay):
    """The cell of the lottery ticket, whose released recipe has no weight decay."""
    return Cell(
        name,
        title,
        ("mnist/lottery.gin",),
        {"network.weight_decay": weight_decay},
        parent="prune95",
        paper=Paper(98.26, 0.27),
    )


def pilot():
    """The cells of the pilot, the most telling first."""
    baseline = Paper(99.21, 0.07)
    return [
        Cell("prune95", "Pruned 95 %", ("mnist/prune.gin",)),
        Cell(
            "prune98",
            "Pruned 98 %",
            ("mnist/prune.gin",),
            {"pruning.final_sparsity": 0.98},
            paper=Paper(96.50, 0.31),
        ),
        Cell("dense", "Dense, Glorot", ("mnist/dense.gin",), paper=baseline),
        lottery_cell("lottery95", "Lottery 95 %, weight decay 5e-4", 5e-4),
        lottery_cell("lottery95_nodecay", "Lottery 95 %, weight decay 0", 0.0),
        *(sparse_cell("scratch", init, 95) for init in INITS),
        *(sparse_cell("scratch", init, 98) for init in INITS),
        *(sparse_cell("rigl", init, 95) for init in MAIN),
        *(sparse_cell("set", init, 95) for init in MAIN),
        Cell(
            "rigl_inverted95_unit_fanin",
            "RigL-Inverted 95 %, unit-scaled, fan-in, scale 1",
            ("mnist/rigl_inverted.gin", "mnist/pruned_masks.gin"),
            INITS["unit_fanin"][1],
            parent="prune95",
            paper=Paper(92.71, 7.67),
        ),
        *(sparse_cell("rigl", init, 98) for init in MAIN),
        *(sparse_cell("rigl", init, 95) for init in INITS if init not in MAIN),
        Cell(
            "dense_he",
            "Dense, He",
            ("mnist/dense.gin",),
            INITS["dense_he"][1],
            paper=baseline,
        ),
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run of a cell: a seed and a folder."""

    cell: Cell
    seed: int
    folder: Path

    @property
    def parent(self):
        """Folder of the run that the masks come from, or None."""
        name = self.cell.parent
        return self.folder.parents[1] / name / self.folder.name if name else None

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
            seed += CHILD_SEED
            bindings["network.mask_init_path"] = str(self.parent / LAST)
        if self.cell.configs[0] == "mnist/lottery.gin":
            bindings["network.weight_init_path"] = str(self.parent / "ckpt-0")
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


def gather(runs):
    """The finished runs of each cell as a list of dicts, for JSON and the table."""
    rows = []
    for cell in dict.fromkeys(run.cell.name for run in runs):
        mine = [run for run in runs if run.cell.name == cell and run.result()]
        if mine:
            rows.append(row(mine[0].cell, mine))
    return rows


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


def write_tables(runs):
    """Writes pilot.json, and the table between the marks in pilot.md."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    rows = gather(runs)
    (OUTPUT / "pilot.json").write_text(json.dumps(rows, indent=1) + "\n")
    path = OUTPUT / "pilot.md"
    begin, end = "<!-- table -->\n", "<!-- end of table -->\n"
    text = path.read_text() if path.exists() else f"{begin}{end}"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}{markdown(rows)}{end}{after}")


def main():
    """Runs the command line.

    Returns:
      The exit code: 1 when a run failed.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", default="runs/mnist", help="folder of the runs")
    parser.add_argument("--data_dir", help="folder of TFDS's prepared data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", help="names of cells; default: all")
    parser.add_argument(
        "--tables", action="store_true", help="write the tables of what is there, only"
    )
    options = parser.parse_args()
    # So that the runs end with this process, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(options.runs).resolve()
    runs = [
        Run(cell, seed, folder / cell.name / f"seed{seed}")
        for cell in pilot()
        for seed in options.seeds
    ]
    if options.tables:
        write_tables(runs)
        return 0
    chosen = [run for run in runs if not options.only or run.cell.name in options.only]
    runner = Runner(chosen, options.data_dir)
    runner.run(when_done=lambda: write_tables(runs))
    for run in runner.failed:
        print(f"not finished: {run.cell.name}, seed {run.seed}", file=sys.stderr)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
