"""The table of `summary` as text."""

from rigl_keras.core import asked

_FOLDED = {
    "bias": "biases",
    "normalisation": "normalisation vectors",
    "other": "other vectors",
}
_SHOWN = 3  # Paths of one reason.


def lines(name, data):
    """The lines that `summary` prints.

    Args:
      name: the model's.
      data: a `Summary`.

    Returns:
      A list of strings.
    """
    head = ("weight", "shape", "active", "size", "sparsity", "FLOPs", "bytes")
    has_reasons = any(row.reason for row in data.rows)
    cells = [(*head, "why it has no zeros" if has_reasons else "")]
    cells += [_cells(row) for row in data.rows if row.masked or row.kind == "kernel"]
    cells += _folded(data.rows)
    totals = _totals(data.rows)
    widths = [max(len(row[i]) for row in cells + totals) for i in range(len(cells[0]))]
    rule = "─" * (sum(widths[:-1]) + 2 * (len(head) - 1))
    if has_reasons:
        rule += "─" * (widths[-1] + 2)
    body = [_line(row, widths) for row in cells]
    return [
        f"Sparsity of {name!r}",
        rule,
        body[0],
        rule,
        *body[1:],
        rule,
        *(_line(row, widths) for row in totals),
        rule,
        *_sparsities(data),
        *_why_costs_are_missing(data),
    ]


def _cells(row):
    return (
        row.path,
        "×".join(map(str, row.shape)) or "scalar",
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
        cells.append((name, "", size, size, "dense", "", "", ""))
    return cells


def _totals(rows):
    kernels = [row for row in rows if row.kind == "kernel"]
    parts = {
        "masked kernels": [row for row in rows if row.masked],
        "all kernels": kernels,
        "all weights": rows,
    }
    return [
        (name, "", *_counts(part), *_costs(part), "") for name, part in parts.items()
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


def _line(row, widths):
    path, shape, *numbers, reason = row
    left = f"{path:<{widths[0]}}  {shape:<{widths[1]}}"
    right = "  ".join(f"{n:>{w}}" for n, w in zip(numbers, widths[2:-1], strict=True))
    return f"{left}  {right}  {reason}".rstrip()
