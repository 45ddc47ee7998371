"""Tables of kernels stored without zeros, for the page that tells of them."""

from benchmarks import tables
from benchmarks.compressed import SPARSITY, compressed_name
from benchmarks.turns import estimate, ratios
from experiments.pages import write_sections
from rigl_keras.common.tables import markdown

PREFIX = "compressed/"
# What is read of a part: two threads' CPU time also counts their waiting.
_CLOCKS = {1: "cpu", 2: "wall"}
GIGA = 1e9


def write(output, parts):
    """Writes the tables into compressed.md, where it has marks for them.

    Args:
      output: path of the folder of compressed.md; made where it is not there.
      parts: dict from names of parts to what was measured.

    Returns:
      The path of the page.
    """
    page, of_page = output / "compressed.md", sections(parts)
    if page.exists():
        text = page.read_text()
        of_page = {name: of_page[name] for name in of_page if _mark(name) in text}
    write_sections(page, of_page)
    return page


def _mark(name):
    return f"<!-- {name} -->"


def sections(parts):
    """All tables as Markdown: a dict from names to texts."""
    parts = {name: part for name, part in parts.items() if name.startswith(PREFIX)}
    rows = {
        "targets": target_rows(parts),
        "fit": fit_rows(parts),
        "RigL": rigl_rows(parts),
        "layers": layer_rows(parts),
        "memory": memory_rows(parts),
        "large": large_rows(parts),
    }
    texts = {
        name: f"{markdown(lines)}\n" if len(lines) > 1 else "Not measured.\n"
        for name, lines in rows.items()
    }
    texts = {"origin": tables.origins(parts), **texts}
    return {f"compressed: {name}": text for name, text in texts.items()}


def _text(value, digits=2):
    return f"{value.median:.{digits}f} ({value.low:.{digits}f}–{value.high:.{digits}f})"


def _below(prefix, parts):
    return [part for name, part in parts.items() if name.startswith(PREFIX + prefix)]


def _mode(part):
    compiled = "compiled" if part["jit_compile"] else "plain"
    return f"{compiled}, {part['threads']} thread{'s' if part['threads'] > 1 else ''}"


def _times(part):
    return part[_CLOCKS[part["threads"]]]


def _percent(sparsity):
    return f"{100 * sparsity:g} %"


def _speed_up(part, sparsity):
    """How many times as fast as dense, round by round."""
    times = _times(part)
    return ratios(times["dense"], times[compressed_name(sparsity)])


def _speed_rows(parts, what):
    """Dense milliseconds, and how many times as fast everything else is."""
    names = sorted({sparsity for part in parts for sparsity in part["sparsities"]})
    head = [what, "", "dense, ms", "masked", *map(_percent, names), "rounds"]
    rows = [head]
    for part in parts:
        times = _times(part)
        rows.append(
            [
                _what(part),
                _mode(part),
                f"{1e3 * estimate(times['dense']).median:.2f}",
                _text(ratios(times["dense"], times["masked"])),
                *(
                    _text(_speed_up(part, name)) if name in part["sparsities"] else ""
                    for name in names
                ),
                str(len(times["dense"])),
            ]
        )
    return rows


def _what(part):
    if "optimizer" in part:
        return part["optimizer"]
    return f"{'-'.join(map(str, part['widths']))}, {part['rows']} rows"


def fit_rows(parts):
    """Training steps, how many times as fast as dense ones."""
    return _speed_rows(_below("fit/", parts), "optimizer")


def layer_rows(parts):
    """Layers, how many times as fast as dense ones."""
    of_layers = [*_below("layer/", parts), *_below("feed-forward/", parts)]
    return _speed_rows(of_layers, "layers")


def _with_rigl(parts):
    return [part for part in _below("fit/", parts) if "RigL" in part["wall"]]


def rigl_over_static(part):
    """RigL's steps with a hundredth of what an update adds, over static ones."""
    all_in = tables.all_in(part, _CLOCKS[part["threads"]])
    return ratios(all_in, _times(part)[compressed_name(SPARSITY)])


def rigl_rows(parts):
    """RigL over static masks, both compressed."""
    head = ["optimizer", "", "static, ms", "update, ms", "RigL all in / static"]
    rows = [[*head, "rounds"]]
    for part in _with_rigl(parts):
        static = _times(part)[compressed_name(SPARSITY)]
        key = {"cpu": "update_cpu", "wall": "update"}[_CLOCKS[part["threads"]]]
        update = part[key]["RigL, always updating"]
        rows.append(
            [
                _what(part),
                _mode(part),
                f"{1e3 * estimate(static).median:.2f}",
                f"{1e3 * estimate(update).median:.2f}",
                _text(rigl_over_static(part)),
                str(len(static)),
            ]
        )
    return rows


_MEMORY = {
    "variables": "all variables, Adam's slots too",
    "sparse layers": "those of the two sparse layers",
    "file": "`.keras` file with Adam's state",
}


def memory_rows(parts):
    """Bytes, and how many times less than dense."""
    part = parts.get("compressed/memory")
    if part is None:
        return [["what", "dense, bytes"]]
    names = [name for name in part["file"] if name != "dense"]
    rows = [["what", "dense, bytes", *map(_storage, names)]]
    for key, what in _MEMORY.items():
        dense = part[key]["dense"]
        less = (
            f"{part[key][name]} (1/{dense / part[key][name]:.1f})" for name in names
        )
        rows.append([what, str(dense), *less])
    return rows


def _storage(name):
    storage, _, sparsity = name.partition(" ")
    return f"{storage}, {_percent(float(sparsity))}"


def large_rows(parts):
    """The layer that does not fit when it is dense."""
    part = parts.get("compressed/large")
    rows = [["what", "measured"]]
    if part is None:
        return rows
    dense = 4 * part["dense_weights"] / GIGA
    return [
        *rows,
        ["inputs and outputs", str(part["width"])],
        ["weights that exist", str(part["weights"])],
        ["dense kernel alone, with Adam's slots", f"{3 * dense:.1f} GB"],
        ["peak of the process", f"{part['peak'] / GIGA:.2f} GB"],
        ["step without an update", f"{part['step']:.2f} s"],
        ["RigL's update", f"{part['update']:.1f} s"],
    ]


# Targets


def target_rows(parts):
    """What was to be reached, what was, and whether that is sure."""
    rows = [["what", "target", "measured", "", "by"]]
    for part in _below("fit/", parts):
        least = {"SGD": (2, 3, 4.5), "Adam": (2.5, 3.5, 5)}[part["optimizer"]]
        rows += _least(part, f"`fit`, {part['optimizer']}", least)
    for part in _with_rigl(parts):
        what = f"RigL all in / static, {_what(part)}, {_mode(part)}"
        value = rigl_over_static(part)
        rows.append(_row(what, "≤ 1.15", value, part=part, is_met=lambda x: x <= 1.15))
    for part in _below("layer/", parts):
        rows += _least(part, f"layer {_what(part)}", (None, 3, 5))
    for part in _below("feed-forward/", parts):
        rows += _least(part, "feed-forward part", (1.5,))
    return [*rows, *_byte_targets(parts)]


def _least(part, what, least):
    return [
        _row(
            f"{what}, {_percent(sparsity)}, {_mode(part)}",
            f"≥ {target:g}",
            _speed_up(part, sparsity),
            part=part,
            is_met=lambda value, target=target: value >= target,
        )
        for sparsity, target in zip(part["sparsities"], least, strict=True)
        if target is not None
    ]


def _row(what, target, value, *, part, is_met):
    ends = {is_met(value.low), is_met(value.high)}
    verdict = "undecided" if len(ends) > 1 else "met" if ends == {True} else "missed"
    clock = {"cpu": "CPU time", "wall": "wall time"}[_CLOCKS[part["threads"]]]
    return [what, target, _text(value), verdict, clock]


def _byte_targets(parts):
    rows = []
    memory, large = parts.get("compressed/memory"), parts.get("compressed/large")
    if memory is not None:
        wanted = [("variables", 0.95, 15), ("sparse layers", 0.95, 15)]
        wanted += [("variables", 0.99, 60), ("sparse layers", 0.99, 60)]
        for key, sparsity, factor in [*wanted, ("file", 0.95, 15)]:
            of_key = memory[key]
            less = of_key["dense"] / of_key[compressed_name(sparsity)]
            what = f"{_MEMORY[key]}, {_percent(sparsity)}"
            verdict = "met" if less >= factor else "missed"
            rows.append([what, f"≤ 1/{factor}", f"1/{less:.1f}", verdict, "bytes"])
    if large is not None:
        peak = large["peak"] / GIGA
        verdict = "met" if peak < 4 else "missed"
        what = f"peak of a layer of {large['width']}×{large['width']}"
        rows.append([what, "< 4 GB", f"{peak:.2f} GB", verdict, "bytes"])
    return rows
