"""Tables of the MNIST experiments beside the paper's, with a verdict by a stated rule.

A seed is stuck when its test accuracy is within 1 % of that of naming the most frequent
digit. Stuck seeds are counted and the counts compared by Fisher's exact test; the means
of the others are compared by Welch's 95 % interval on their difference. "Agrees" means
that neither shows a difference.
"""

import dataclasses
import json
import math
import shlex

import numpy as np
from scipy import stats

from experiments.mnist.cells import PLATEAU, STUDIES
from rigl_keras.program.sweep import all_runs

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
    verdict = _verdict(stuck, len(accuracies), paper, difference, interval)
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


def _verdict(stuck, seeds, paper, difference, interval):
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


def gather(cells, folder):
    """The finished runs of each cell as a list of dicts, for JSON and the table.

    Args:
      cells: list of `Cell`.
      folder: of the runs.
    """
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
    return all_runs([cell], folder, seeds) if seeds else []


def row(cell, runs):
    """One cell's results beside the paper's."""
    results = [run.result() for run in runs]
    accuracies = [100 * result["test_accuracy"] for result in results]
    return {
        "name": cell.name,
        "title": cell.title,
        "seeds": [run.seed for run in runs],
        "test_accuracy": accuracies,
        **dataclasses.asdict(compare(accuracies, cell.paper)),
        "paper": cell.paper and dataclasses.asdict(cell.paper),
        "sparsity": results[0]["sparsity"],
        "steps": results[0]["steps"],
        "gin_config": cell.configs,
        "gin_bindings": cell.bindings,
        "run_seeds": [result["seeds"] for result in results],
        "versions": results[0]["versions"],
        "git_revision": sorted({str(result["git_revision"]) for result in results}),
        "machine": results[0]["machine"],
    }


def markdown(rows):
    """The table as Markdown."""
    head = [
        "experiment",
        "paper, 5 seeds",
        "stuck there",
        "ours, by seed",
        "stuck",
        "mean ± std of the trained",
        "difference, 95 % interval",
        "verdict",
    ]
    lines = [head, ["---"] * len(head), *(_cells(each) for each in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cells(each):
    paper, interval = each["paper"], each["interval"]
    mean, difference = each["mean"], each["difference"]
    compared = "" if difference is None else f"{difference:+.2f}"
    if interval is not None:
        compared += f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
    return [
        each["title"],
        f"{paper['mean']:.2f} ± {paper['std']:.2f}" if paper else "",
        f"{paper['stuck']} of {PAPER_SEEDS}" if paper else "",
        ", ".join(f"{a:.2f}" for a in each["test_accuracy"]),
        f"{each['stuck']} of {len(each['seeds'])}",
        "" if mean is None else f"{mean:.2f} ± {each['std']:.2f}",
        compared,
        each["verdict"],
    ]


def write_runs(cells, folder, output):
    """Writes a small JSON file for every finished run: its result and its command.

    Args:
      cells: list of `Cell`.
      folder: of the runs.
      output: folder for CELL/seedN.json.
    """
    for cell in cells:
        for run in runs_there(cell, folder):
            result = run.result()
            if result is None:
                continue
            command = ["python", *run.command(None)[1:]]
            text = json.dumps({"command": shlex.join(command), **result}, indent=1)
            path = output / cell.name / f"seed{run.seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Where they lay says nothing, and is not for others to read.
            path.write_text(text.replace(str(folder), "runs/mnist") + "\n")


def write_tables(study, folder, output):
    """Writes a study's results as JSON and its tables between the marks of a page.

    Args:
      study: name in `STUDIES`.
      folder: of the runs.
      output: folder for STUDY.json and STUDY.md.
    """
    output.mkdir(parents=True, exist_ok=True)
    tables = {name: gather(cells, folder) for name, cells in STUDIES[study].items()}
    (output / f"{study}.json").write_text(json.dumps(tables, indent=1) + "\n")
    sections = {name: markdown(rows) for name, rows in tables.items()}
    write_sections(output / f"{study}.md", sections)


def write_sections(page, sections):
    """Replaces what stands between the marks of names in a page.

    Args:
      page: its path; made where it is not there.
      sections: dict from names to texts.
    """
    text = page.read_text() if page.exists() else ""
    for name, content in sections.items():
        text = with_section(text, name, content)
    page.write_text(text)


def with_section(text, name, content):
    """A page's text with what stands between the marks of a name replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, mark, rest = text.partition(begin)
    after = rest.partition(end)[2]
    separator = "" if mark or not text else "\n"
    return f"{before}{separator}{begin}{content}{end}{after}"
