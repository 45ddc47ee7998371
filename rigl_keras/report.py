"""Shows finished runs: tables over seeds, figures, and one page with all of it.

Example:
  python -m rigl_keras.report runs/ --analyses runs/analysis --out runs/report

Runs whose configurations differ only in seeds and paths are one experiment.
"""

import argparse
import os
import sys

from rigl_keras.plots import style
from rigl_keras.reporting import groups, page
from rigl_keras.reporting.analyses import read_analyses
from rigl_keras.reporting.figures import draw_curves
from rigl_keras.reporting.report import write_report
from rigl_keras.reporting.sections import notes_of
from rigl_keras.reporting.tables import group_table


def _make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m rigl_keras.report", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "run", nargs="+", help="folder of a finished run, or of folders that hold runs"
    )
    parser.add_argument("--figure", help="file for a figure of the training curves")
    parser.add_argument(
        "--out", help="folder for report.html, report.md, runs.csv, groups.csv, figures"
    )
    parser.add_argument(
        "--analyses",
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders of `python -m rigl_keras.analyze`, to be shown in --out",
    )
    parser.add_argument(
        "--note",
        action="append",
        default=[],
        metavar="TEXT",
        help="sentence that a reader of the results has to know; repeatable",
    )
    return parser


def _check(options):
    if options.out and os.path.exists(options.out) and not os.path.isdir(options.out):
        raise ValueError(f"--out={options.out} is a file; give a folder.")
    if options.analyses and not options.out:
        raise ValueError("--analyses are shown in the page of --out; give that too.")
    if options.figure and not os.path.isdir(os.path.dirname(options.figure) or "."):
        raise ValueError(f"--figure={options.figure} lies in no folder; make it first.")
    if options.figure or options.out:
        style.check_installed()  # A table alone needs no figures.


def main(arguments=None):
    """Runs the command line.

    Returns:
      The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _make_parser().parse_args(arguments)
    try:
        _check(options)
        analyses = read_analyses(options.analyses)
        experiments, unfinished = groups.gather(options.run)
        notes = [*options.note, *notes_of(experiments, unfinished)]
        if options.figure:
            draw_curves(experiments, options.figure)
        if options.out:
            command = ["python", "-m", "rigl_keras.report", *arguments]
            write_report(
                experiments, notes, analyses, folder=options.out, command=command
            )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(page.markdown_table(*group_table(experiments)))
    for note in notes:
        print(f"\n{note}")
    if options.figure:
        print(f"\nFigure: {options.figure}")
    if options.out:
        print(f"\nReport: {os.path.join(options.out, 'report.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
