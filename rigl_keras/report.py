"""Shows finished runs: a table, and a figure of their training.

Example:
  python -m rigl_keras.report runs/rigl runs/set --figure=runs/curves.png
"""

import argparse
import os
import sys

from rigl_keras import results
from rigl_keras.loggers import METRICS_FILE
from rigl_keras.results import RESULTS_FILE

_COLUMNS = (
    ("run", lambda name, r: name),
    ("data", lambda name, r: r["data"]),
    ("network", lambda name, r: r["network"]),
    ("method", lambda name, r: r["method"]),
    ("sparsity", lambda name, r: f"{r['sparsity']['all']:.2%}"),
    ("active / all weights", lambda name, r: f"{r['active_weights']} / {r['weights']}"),
    ("test accuracy", lambda name, r: f"{r['test_accuracy']:.2%}"),
    ("test loss", lambda name, r: f"{r['test_loss']:.4f}"),
    ("steps", lambda name, r: str(r["steps"])),
    ("steps/s", lambda name, r: f"{r['steps_per_second']:.0f}"),
)


def table(runs):
    """A Markdown table of runs.

    Args:
      runs: mapping from a run's label to the content of its results.json.

    Returns:
      The table as text.
    """
    rows = [[name for name, _ in _COLUMNS]]
    rows += [
        [cell(run, result) for _, cell in _COLUMNS] for run, result in runs.items()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        + " |"
        for row in rows
    )


def main(arguments=None):
    """Runs the command line.

    Returns:
      The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rigl_keras.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", nargs="+", help="folder of a finished run")
    parser.add_argument("--figure", help="file for a figure of the training curves")
    options = parser.parse_args(arguments)
    runs, histories = {}, {}
    for folder in options.run:
        label = os.path.basename(os.path.normpath(folder))
        result = results.read_json(os.path.join(folder, RESULTS_FILE))
        if result is None:
            print(
                f"error: {folder} holds no {RESULTS_FILE}; give the --logdir of a run "
                "that is finished.",
                file=sys.stderr,
            )
            return 2
        runs[label] = result
        histories[label] = results.read_jsonl(os.path.join(folder, METRICS_FILE))
    print(table(runs))
    if options.figure:
        from rigl_keras.plots import training

        training.training_curves(histories, options.figure)
        print(f"\nFigure: {options.figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
