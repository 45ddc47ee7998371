"""Tables of the comparison of patterns: test accuracies with 95 % intervals."""

import numpy as np
from scipy import stats

from experiments.pages import write_sections
from experiments.patterns.cells import (
    COMPRESSED,
    COMPRESSED_CELLS,
    METHODS,
    N_OF_M,
    NETWORKS,
    SPARSITIES,
    Setting,
)

LEVEL = 0.95
PAGE = "README.md"


def write_tables(records, output):
    """Writes the tables between the marks of the page.

    Args:
      records: dict from (cell, seed) to records.
      output: path of the folder of the page.
    """
    sections = {
        f"{network}_{method}": markdown(table(network, method, records))
        for network in NETWORKS
        for method in METHODS
    }
    sections["storage"] = markdown(storage_table(records))
    write_sections(output / PAGE, sections)


def storage_table(records):
    """The accuracies of one pattern by how its kernels are stored, with a head."""
    columns = sorted(SPARSITIES)
    rows = [["RigL, kernels stored", *(f"{sparsity} %" for sparsity in columns)]]
    for method, text in (("rigl", "with masks"), (COMPRESSED, "without zeros")):
        cells = []
        for sparsity in columns:
            own, other = (
                accuracies(Setting(*COMPRESSED_CELLS, sparsity, one), records)
                for one in (method, "rigl")
            )
            gap = None if method == "rigl" else difference(own, other)
            more = "" if gap is None else f" ({gap[0]:+.2f} to {gap[1]:+.2f})"
            cells.append(mean_text(own) + more)
        rows.append([text, *cells])
    return rows


def table(network, method, records):
    """The rows of a network's patterns by one method, with a head."""
    columns = sorted(SPARSITIES)
    head = ["pattern", *(f"{sparsity} %" for sparsity in columns)]
    rows = []
    for pattern in NETWORKS[network].patterns:
        sparsities = [50] if pattern == N_OF_M else columns
        texts = [
            _text(network, method, pattern, sparsity=sparsity, records=records)
            for sparsity in sparsities
        ]
        if pattern == N_OF_M:
            texts = [f"at 50 %: {texts[0]}"] + [""] * (len(columns) - 1)
        rows.append([f"`{pattern}`", *texts])
    dense = accuracies(Setting(network, None, 0, "dense"), records)
    rows.append(["dense", mean_text(dense), *[""] * (len(columns) - 1)])
    return [head, *rows]


def _text(network, method, pattern, *, sparsity, records):
    """The mean, and how far it is from that of single weights."""
    own = accuracies(Setting(network, pattern, sparsity, method), records)
    text = mean_text(own)
    if pattern in ("unstructured", N_OF_M):
        return text
    other = accuracies(Setting(network, "unstructured", sparsity, method), records)
    gap = difference(own, other)
    if gap is None:
        return text
    low, high = gap
    return f"{text} ({low:+.2f} to {high:+.2f})"


def accuracies(setting, records):
    """Test accuracies of a setting's runs in %, by seed."""
    own = [
        (seed, 100 * record["test_accuracy"])
        for (name, seed), record in records.items()
        if name == setting.name
    ]
    return [accuracy for _, accuracy in sorted(own)]


def mean_text(values):
    """Their mean with its 95 % interval, by Student's t, or what can be said."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    room = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
    room *= np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.2f} ± {room:.2f}"


def difference(values, others):
    """Welch's 95 % interval on the difference of two means, or None."""
    if min(len(values), len(others)) < 2:
        return None
    interval = stats.ttest_ind(values, others, equal_var=False).confidence_interval(
        LEVEL
    )
    return interval.low, interval.high


def markdown(lines):
    """A head and rows as Markdown."""
    head, *rest = lines
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
