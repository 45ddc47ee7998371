#!/usr/bin/env python3
"""Trains the paper's LeNet5 experiments on MNIST and compares the results with it.

Every run is a normal run of the command line in a folder of its own, two at a time, on
one thread each. Runs that are finished are skipped and those broken off go on, so the
command may be stopped and repeated. After each run the tables are written anew.

Example:
  TFDS_DATA_DIR=... python scripts/reproduce_mnist.py --runs=runs/mnist
"""

import argparse
import signal
import sys
from pathlib import Path

from mnist_cells import STUDIES
from mnist_tables import write_tables
from runner import Runner, all_runs

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "results" / "mnist"


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
    runs = all_runs(cells, folder, options.seeds)
    if options.tables:
        write_tables(options.study, folder, OUTPUT)
        return 0
    chosen = [run for run in runs if not options.only or run.cell.name in options.only]
    runner = Runner(chosen, options.data_dir)
    runner.run(when_done=lambda: write_tables(options.study, folder, OUTPUT))
    for run in runner.failed:
        print(f"not finished: {run.cell.name}, seed {run.seed}", file=sys.stderr)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
