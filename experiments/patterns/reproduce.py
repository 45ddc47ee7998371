"""Trains MNIST networks in every pattern of sparsity, and writes what came out.

Every run is a normal run of the command line in a folder of its own, two at a time, on
one thread each. Finished runs are skipped and broken-off runs go on, so the command may
be stopped and repeated. After each run its record is put in
docs/results/patterns/runs.jsonl, and the tables of the page are written from the
records.

Example:
  TFDS_DATA_DIR=... python -m experiments.patterns.reproduce --runs=runs/patterns
  python -m experiments.patterns.reproduce --tables
"""

import argparse
import signal
import sys
from pathlib import Path

from experiments.patterns import records
from experiments.patterns.cells import NETWORKS, settings
from experiments.patterns.tables import write_tables
from rigl_keras.program.sweep import Runner, all_runs

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "docs" / "results" / "patterns"


def make_parser():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", default="runs/patterns", help="folder of the runs")
    parser.add_argument("--data_dir", help="folder of TFDS's prepared data sets")
    parser.add_argument("--network", choices=NETWORKS, help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    parser.add_argument(
        "--tables", action="store_true", help="only write the tables of the records"
    )
    return parser


def main(arguments=None, output=OUTPUT):
    """Runs the command line.

    Args:
      arguments: list of strings; None for those of the process.
      output: path of the folder of records and page.

    Returns:
      The exit code: 1 when something failed.
    """
    options = make_parser().parse_args(arguments)
    folder = Path(options.runs).resolve()
    chosen = [s for s in settings() if options.network in (None, s.network)]

    def write():
        write_tables(records.update(chosen, folder, output), output)

    if options.tables:
        write()
        return 0
    # So that the runs end with this process, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    known = records.read(output)
    runs = [
        run
        for run in all_runs([s.cell() for s in chosen], folder, options.seeds)
        if (run.cell.name, run.seed) not in known or run.result() is not None
    ]
    runner = Runner(runs, options.data_dir)
    runner.run(when_done=write)
    for run in runner.failed:
        print(f"not finished: {run.cell.name}, seed {run.seed}", file=sys.stderr)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
