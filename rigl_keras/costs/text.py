"""The table of `summary` as text."""

from rigl_keras.core import asked

_FOLDED = {
    "bias": "biases",
    "normalisation": "normalisation vectors",
    "other": "other vectors",
}
_SHOWN = 3  # Paths of one reason.
_NO_PATTERN = "unstructured"
_HEAD = (
    "weight",
    "shape",
    "pattern",
    "storage",
    "active",
    "size",
    "sparsity",
    "FLOPs",
    "bytes",
)
_PATTERN, _STORAGE = map(_HEAD.index, ("pattern", "storage"))
_BYTES = (
    "bytes: 4 for each active weight and bias; 1 bit for each weight of a sparse "
    "kernel or, in blocks, for each block"
)


def lines(name, data):
    """The lines that `summary` prints.

    Args:
      name: the model's.
      data: a `Summary`.

    Returns:
      A list of strings.
    """
    has_patterns = any(row.pattern not in (None, _NO_PATTERN) for row in data.rows)
    is_compressed = any(row.storage == "compressed" for row in data.rows)
    has_reasons = any(row.reason for row in data.rows)
    cells = [(*_HEAD, "why it has no zeros" if has_reasons else "")]
    cells += [_cells(row) for row in data.rows if row.masked or row.kind == "kernel"]
    cells += _folded(data.rows)
    shown = {_PATTERN: has_patterns, _STORAGE: is_compressed}
    left_out = {place for place, is_shown in shown.items() if not is_shown}
    cells, totals = (
        [_without(row, left_out) for row in rows]
        for rows in (cells, _totals(data.rows))
    )
    widths = [max(len(row[i]) for row in cells + totals) for i in range(len(cells[0]))]
    rule = "─" * (sum(widths[:-1]) + 2 * (len(widths) - 2))
    if has_reasons:
        rule += "─" * (widths[-1] + 2)
    left = _PATTERN + has_patterns + is_compressed
    body = [_line(row, widths, left) for row in cells]
    return [
        f"Sparsity of {name!r}",
        rule,
        body[0],
        rule,
        *body[1:],
        rule,
        *(_line(row, widths, left) for row in totals),
        rule,
        *_sparsities(data),
        *([_BYTES] if has_patterns and data.missing is None else []),
        *_not_paying(data.rows),
        *_why_costs_are_missing(data),
    ]


def _without(row, columns):
    return tuple(cell for place, cell in enumerate(row) if place not in columns)


def _not_paying(rows):
    """Which kernels are stored without their zeros and are not faster for it."""
    paths = [row.path for row in rows if row.storage == "compressed" and not row.pays]
    if not paths:
        return []
    return [
        "compressed, but too dense or too small to train faster for it: "
        f"{_listed(paths)}"
    ]


def _cells(row):
    return (
        row.path,
        "×".join(map(str, row.shape)) or "scalar",
        row.pattern or "",
        row.storage or "",
        f"{row.active:,}",
        f"{row.size:,}",
        f"{row.sparsity:.2%}" if row.masked else "dense",
        "" if row.bytes is None else _number(row.flops),
        "" if row.bytes is None else _number(row.bytes),
        row.reason or "",
    )


def _folded(rows):
    """A line for all biases, one for all vectors of normalisation, one for others."""
    cells = []
    for kind, label in _FOLDED.items():
        found = [row for row in rows if row.kind == kind and not row.masked]
        if not found:
            continue
        layers = len({row.path.rpartition("/")[0] for row in found})
        name = f"{label} of {layers} layer{'s' if layers > 1 else ''}"
        size = f"{sum(row.size for row in found):,}"
        cells.append((name, "", "", "", size, size, "dense", "", "", ""))
    return cells


def _totals(rows):
    kernels = [row for row in rows if row.kind == "kernel"]
    parts = {
        "masked kernels": [row for row in rows if row.masked],
        "all kernels": kernels,
        "all weights": rows,
    }
    return [
        (name, "", "", "", *_counts(part), *_costs(part), "")
        for name, part in parts.items()
    ]


def _counts(rows):
    active = sum(row.active for row in rows)
    size = sum(row.size for row in rows)
    return f"{active:,}", f"{size:,}", f"{1 - active / size if size else 0:.2%}"


def _costs(rows):
    """Sums of FLOPs and bytes as text, over the rows that have any."""
    counted = [row for row in rows if row.bytes is not None]
    if not counted:
        return "-", "-"
    known = [row.flops for row in counted if row.flops is not None]
    flops = _number(sum(known) if known else None)
    if 0 < len(known) < len(counted):
        flops = f"at least {flops}"
    return flops, _number(sum(row.bytes for row in counted))


def _sparsities(data):
    if data.asked is None:
        return []
    text = asked.described(data.asked, data.kernel_sparsity, data.all_kernels_sparsity)
    return [f"sparsify was {text}"]


def _why_costs_are_missing(data):
    if data.missing is not None:
        reason = [line for line in data.missing.splitlines() if line.strip()]
        return ["FLOPs and bytes are missing, since they cannot be counted:", *reason]
    by_reason: dict = {}
    for path, reason in data.cost.reasons.items():
        by_reason.setdefault(reason, []).append(path)
    if not by_reason:
        return []
    return [
        "FLOPs that cannot be counted, and why:",
        *(f"  {_listed(paths)}: {reason}" for reason, paths in by_reason.items()),
    ]


def _listed(paths):
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _number(value):
    return "-" if value is None else f"{value:,.0f}"


def _line(row, widths, left):
    """A row as text: `left` cells to the left, then numbers to the right, a reason."""
    *cells, reason = row
    aligned = [
        f"{cell:<{width}}" if place < left else f"{cell:>{width}}"
        for place, (cell, width) in enumerate(zip(cells, widths[:-1], strict=True))
    ]
    return "  ".join([*aligned, reason]).rstrip()
