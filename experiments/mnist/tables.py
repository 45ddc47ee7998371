"""Tables of the MNIST experiments beside the paper's, with a verdict by a stated rule.

A seed is stuck when its test accuracy is within 1 % of that of naming the most frequent
digit. Stuck seeds are counted and the counts compared by Fisher's exact test; the means
of the others are compared by Welch's 95 % interval on their difference. "Agrees" means
that neither shows a difference.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from experiments.mnist.cells import PLATEAU, STUDIES
from experiments.pages import write_sections

PAPER_SEEDS = 5
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Our seeds against the paper's.

    Attributes:
      stuck: how many of ours never left the plateau.
      mean: of the others, %; None without any.
      std: their population standard deviation (ddof 0), %; None without any.
      difference: ours less the paper's mean of the seeds that trained; None where
        there is nothing to compare.
      interval: Welch's interval on it, (low, high), or None.
      verdict: "agrees", or what differs; "" without a number in the paper.
    """

    stuck: int
    mean: float | None
    std: float | None
    difference: float | None
    interval: tuple[float, float] | None
    verdict: str


def compare(accuracies, paper):
    """Compares test accuracies in % with the paper's.

    Args:
      accuracies: list of floats, one for each seed.
      paper: `cells.Paper`, or None.

    Returns:
      A `Comparison`.
    """
    trained = np.array([a for a in accuracies if a > 100 * PLATEAU + 1])
    stuck = len(accuracies) - len(trained)
    mean, std = (trained.mean(), trained.std()) if len(trained) else (None, None)
    if paper is None:
        return Comparison(stuck, mean, std, None, None, "")
    difference, interval = None, None
    if len(trained) and paper.trained is not None:
        difference = mean - paper.trained
        interval = welch(trained, paper)
    verdict = _verdict(
        stuck, len(accuracies), paper, difference=difference, interval=interval
    )
    return Comparison(stuck, mean, std, difference, interval, verdict)


def welch(ours, paper):
    """Welch's interval on the difference of our mean from the paper's.

    Where seeds of the paper were stuck, its deviation is not that of the others, which
    is taken to be ours.

    Args:
      ours: array of the seeds that trained.
      paper: `cells.Paper` with seeds that trained.

    Returns:
      (low, high), or None where one side has fewer than two seeds.
    """
    theirs = PAPER_SEEDS - paper.stuck
    if len(ours) < 2 or theirs < 2:
        return None
    our_variance = ours.var(ddof=1)
    if paper.stuck:
        their_variance = our_variance
    else:
        their_variance = paper.std**2 * theirs / (theirs - 1)
    parts = our_variance / len(ours), their_variance / theirs
    error = math.sqrt(sum(parts))
    if error == 0:
        return (ours.mean() - paper.trained,) * 2
    freedom = sum(parts) ** 2 / (
        parts[0] ** 2 / (len(ours) - 1) + parts[1] ** 2 / (theirs - 1)
    )
    room = stats.t.ppf((1 + LEVEL) / 2, freedom) * error
    difference = ours.mean() - paper.trained
    return difference - room, difference + room


def _verdict(stuck, seeds, paper, *, difference, interval):
    counts = [
        [stuck, seeds - stuck],
        [paper.stuck, PAPER_SEEDS - paper.stuck],
    ]
    if stats.fisher_exact(counts)[1] < 1 - LEVEL:
        return (
            "fewer stuck" if stuck / seeds < paper.stuck / PAPER_SEEDS else "more stuck"
        )
    if difference is None:
        return "agrees" if stuck == seeds and paper.trained is None else "no mean"
    if interval is None:
        return "too few seeds"
    low, high = interval
    if low <= 0 <= high:
        return "agrees"
    return "higher" if low > 0 else "lower"


HEAD = [
    "experiment",
    "paper, 5 seeds",
    "stuck there",
    "ours, by seed",
    "stuck",
    "mean ± std of the trained",
    "difference, 95 % interval",
    "verdict",
]


def rows(study, cells, records):
    """A table's rows, one for each cell that has records.

    Args:
      study: key of `STUDIES`.
      cells: list of `Cell`.
      records: dict from (study, cell, seed) to records.

    Returns:
      Lists of strings, as `HEAD`.
    """
    accuracies = {cell.name: [] for cell in cells}
    for (of_study, name, _), record in sorted(records.items()):
        if of_study == study and name in accuracies:
            accuracies[name].append(100 * record["test_accuracy"])
    return [row(cell, accuracies[cell.name]) for cell in cells if accuracies[cell.name]]


def row(cell, accuracies):
    """One cell's test accuracies in % beside the paper's."""
    paper, ours = cell.paper, compare(accuracies, cell.paper)
    difference = "" if ours.difference is None else f"{ours.difference:+.2f}"
    if ours.interval is not None:
        low, high = ours.interval
        difference += f" ({low:+.2f} to {high:+.2f})"
    return [
        cell.title,
        f"{paper.mean:.2f} ± {paper.std:.2f}" if paper else "",
        f"{paper.stuck} of {PAPER_SEEDS}" if paper else "",
        ", ".join(f"{accuracy:.2f}" for accuracy in accuracies),
        f"{ours.stuck} of {len(accuracies)}",
        "" if ours.mean is None else f"{ours.mean:.2f} ± {ours.std:.2f}",
        difference,
        ours.verdict,
    ]


def markdown(lines):
    """A head and rows as Markdown, not padded: the titles are long."""
    head, *rest = lines
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write_tables(study, records, output):
    """Writes a study's tables between the marks of its page.

    Args:
      study: key of `STUDIES`.
      records: dict from (study, cell, seed) to records.
      output: path of the folder of STUDY.md.
    """
    sections = {
        name: markdown([HEAD, *rows(study, cells, records)])
        for name, cells in STUDIES[study].items()
    }
    write_sections(output / f"{study}.md", sections)
