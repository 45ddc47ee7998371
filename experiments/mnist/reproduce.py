"""Trains the paper's LeNet5 experiments on MNIST and compares the results with it.

Every run is a normal run of the command line in a folder of its own, two at a time, on
one thread each. Runs that are finished are skipped and those broken off go on, so the
command may be stopped and repeated. After each run the tables are written anew.

Example:
  TFDS_DATA_DIR=... python -m experiments.mnist.reproduce --runs=runs/mnist
  TFDS_DATA_DIR=... python -m experiments.mnist.reproduce --runs=runs/mnist --figures
"""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

from experiments.mnist import figures as mnist_figures
from experiments.mnist.cells import STUDIES
from experiments.mnist.tables import write_runs, write_sections, write_tables
from rigl_keras.program.sweep import Runner, all_runs

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "docs" / "results" / "mnist"


def make_figures(runs):
    """Makes all figures of the paper, and checks its claims.

    Args:
      runs: path of the folder of the runs.

    Returns:
      The exit code: 1 when an analysis failed.
    """
    # TensorFlow is not loaded before it is needed.
    from experiments.mnist.claims import HEAD, claims
    from rigl_keras import analyze
    from rigl_keras.common import tables

    command = [sys.executable, "-m", "rigl_keras.train", *mnist_figures.hessian(runs)]
    subprocess.run(command, check=True)
    figures, sections = OUTPUT / "figures", {}
    for arguments in mnist_figures.analyses(runs):
        if analyze.main([*arguments, f"--out={figures}"]):
            return 1
        name = arguments[1].removeprefix("--name=")
        found = json.loads((figures / f"{name}.json").read_text())["table"]
        sections[name] = tables.markdown([found["columns"], *found["rows"]]) + "\n"
    sections["claims"] = tables.markdown([HEAD, *claims(Path(runs), figures)]) + "\n"
    write_sections(OUTPUT / "paper.md", sections)
    return 0


def make_parser():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", default="runs/mnist", help="folder of the runs")
    parser.add_argument("--data_dir", help="folder of TFDS's prepared data sets")
    parser.add_argument("--study", choices=STUDIES, default="paper")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: each cell's own")
    parser.add_argument("--only", nargs="+", help="names of cells; default: all")
    parser.add_argument(
        "--tables", action="store_true", help="write the tables of what is there, only"
    )
    parser.add_argument(
        "--figures", action="store_true", help="make the figures of what is there, only"
    )
    return parser


def main():
    """Runs the command line.

    Returns:
      The exit code: 1 when something failed.
    """
    options = make_parser().parse_args()
    # So that the runs end with this process, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(options.runs).resolve()
    cells = [cell for table in STUDIES[options.study].values() for cell in table]

    def write():
        write_tables(options.study, folder, OUTPUT)
        if options.study == "paper":
            write_runs(cells, folder, OUTPUT / "runs")

    if options.figures:
        return make_figures(options.runs)
    if options.tables:
        write()
        return 0
    runs = all_runs(cells, folder, options.seeds)
    chosen = [run for run in runs if not options.only or run.cell.name in options.only]
    runner = Runner(chosen, options.data_dir)
    runner.run(when_done=write)
    for run in runner.failed:
        print(f"not finished: {run.cell.name}, seed {run.seed}", file=sys.stderr)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
