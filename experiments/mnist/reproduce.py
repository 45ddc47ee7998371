"""Trains the paper's LeNet5 experiments on MNIST and compares the results with it.

Every run is a normal run of the command line in a folder of its own, two at a time, on
one thread each. Finished runs are skipped and broken-off runs go on, so the command may
be stopped and repeated. After each run its record is put in
docs/results/mnist/runs.jsonl, and the tables of the page are written from the records.

Example:
  TFDS_DATA_DIR=... python -m experiments.mnist.reproduce --runs=runs/mnist
  TFDS_DATA_DIR=... python -m experiments.mnist.reproduce --runs=runs/mnist --figures
  python -m experiments.mnist.reproduce --tables
"""

import argparse
import signal
import sys
from pathlib import Path

from experiments.mnist import figures, records
from experiments.mnist.cells import STUDIES
from experiments.mnist.tables import write_tables
from rigl_keras.program.sweep import Runner, all_runs

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "docs" / "results" / "mnist"


def make_parser():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", default="runs/mnist", help="folder of the runs")
    parser.add_argument("--data_dir", help="folder of TFDS's prepared data sets")
    parser.add_argument("--study", choices=STUDIES, default="paper")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: each cell's own")
    parser.add_argument("--only", nargs="+", help="names of cells; default: all")
    parser.add_argument(
        "--tables",
        action="store_true",
        help="only write the tables, of the runs there are, or else of the records",
    )
    parser.add_argument(
        "--figures",
        action="store_true",
        help="only make the figures and check the claims, of the runs there are",
    )
    return parser


def main(arguments=None, output=OUTPUT):
    """Runs the command line.

    Args:
      arguments: list of strings; None for those of the process.
      output: path of the folder of records and pages.

    Returns:
      The exit code: 1 when something failed.
    """
    options = make_parser().parse_args(arguments)
    folder = Path(options.runs).resolve()

    def write():
        write_tables(
            options.study, records.update(options.study, folder, output), output
        )

    if options.figures:
        return figures.make(options.runs, output)
    if options.tables:
        write()
        return 0
    # So that the runs end with this process, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cells = [cell for table in STUDIES[options.study].values() for cell in table]
    runs = all_runs(cells, folder, options.seeds)
    chosen = [run for run in runs if not options.only or run.cell.name in options.only]
    runner = Runner(chosen, options.data_dir)
    runner.run(when_done=write)
    for run in runner.failed:
        print(f"not finished: {run.cell.name}, seed {run.seed}", file=sys.stderr)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
