"""Tables and a figure of what was measured: medians, ratios, intervals, rounds."""

import itertools
import textwrap

import numpy as np

from benchmarks.turns import estimate, ratios
from experiments.pages import write_sections
from rigl_keras.common.tables import markdown

UPDATE_EVERY = 100  # Steps between two mask updates, in what is "all in".
FIGURE = "results/performance/updates.png"
_VERSIONS = ("python", "tensorflow", "keras", "numpy")
# Of a part, where the seconds of updates are.
_UPDATE = {"wall": "update", "cpu": "update_cpu"}


def write(output, parts):
    """Writes the tables to performance.md, and the figure.

    A page that is there keeps its text; of the tables those are replaced that it has
    marks for.

    Args:
      output: path of the folder of performance.md.
      parts: dict from names of parts to what was measured.

    Returns:
      The path of the page.
    """
    page, tables = output / "performance.md", sections(parts)
    if not page.exists():
        page.write_text(_bare_page(tables))
    text = page.read_text()
    marked = {name: table for name, table in tables.items() if f"<!-- {name} " in text}
    write_sections(page, marked)
    draw(parts, output / FIGURE)
    return page


def sections(parts):
    """All tables as Markdown: a dict from names to texts.

    Those of compressed kernels are on a page of their own.
    """
    parts = {k: part for k, part in parts.items() if not k.startswith("compressed/")}
    rows = {
        "steps": step_rows(parts),
        "steps by CPU time": step_rows(parts, "cpu"),
        "beside TFMOT": tfmot_rows(parts),
        "selection": selection_rows(parts),
        "selection by CPU time": selection_rows(parts, "cpu"),
        "updates": update_rows(parts),
        "patterns": pattern_rows(parts),
        "memory": memory_rows(parts),
        "command line": command_line_rows(parts),
        "others": other_rows(parts),
    }
    tables = {
        name: f"{markdown(lines)}\n" if len(lines) > 1 else "Not measured.\n"
        for name, lines in rows.items()
    }
    return {"origin": origins(parts), **tables}


def _bare_page(tables):
    chapters = [
        f"## {name[0].upper()}{name[1:]}\n\n<!-- {name} -->\n<!-- end of {name} -->\n"
        for name in tables
    ]
    figure = f"![Seconds of an update over the number of weights]({FIGURE})\n"
    return "\n".join(["# What sparse training costs\n", *chapters, figure])


def _below(prefix, parts):
    """The parts whose names begin so: dict from the rest of the name."""
    return {
        name.removeprefix(prefix): part
        for name, part in parts.items()
        if name.startswith(prefix)
    }


def _rounds(part):
    return f"{len(next(iter(part['wall'].values())))}"


def _mode(part):
    compiled = "compiled" if part["jit_compile"] else "plain"
    return f"{compiled}, Keras 2" if part.get("legacy_keras") else compiled


def _size(size):
    return f"{size / 2**20:.0f} Mi"


def _text(value, digits=2, *, unit="", factor=1.0):
    low, high = factor * value.low, factor * value.high
    numbers = f"{factor * value.median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
    return f"{numbers} {unit}".strip()


def _milliseconds(times):
    return f"{1e3 * estimate(times).median:.1f}"


# What is worked out from the times


def all_in(part, clock="wall", name="RigL"):
    """Seconds a step with its share of an update, round by round.

    What an update adds is the difference between a step with one and a step without,
    so it includes keeping the gradient.
    """
    times = part[clock]
    pairs = zip(times[name], times[f"{name}, always updating"], strict=True)
    return [step + (both - step) / UPDATE_EVERY for step, both in pairs]


def update_to_step(part, clock):
    """An update's time over that of the training step before it."""
    name = "RigL, always updating"
    pairs = zip(part[clock][name], part[_UPDATE[clock]][name], strict=True)
    return estimate([update / (both - update) for both, update in pairs])


def speed_up(part, clock):
    """The time of the faster way to sort over that of radix selection."""
    times = part[clock]
    best = map(min, zip(times["argsort"], times["top_k"], strict=True))
    return ratios(list(best), times["radix"])


def exponent(part, clock):
    """The p of update times that go as weights**p, by least squares of logarithms."""
    logarithms = np.log(part["sizes"])
    rounds = zip(*part[clock]["radix"], strict=True)
    slopes = [np.polyfit(logarithms, np.log(times), 1)[0] for times in rounds]
    return estimate([float(slope) for slope in slopes])


def beyond_dense(memory, method):
    """Bytes of variables that a method has beyond dense training, per weight."""
    more = memory[method]["variables"] - memory["dense"]["variables"]
    return more / memory["dense"]["weights"]


def growth(parts, method):
    """Bytes that a training allocates with each step and keeps; None if not known."""
    part = parts.get(f"growth/{method}", {"growth": None})
    return None if part["growth"] is None else part["growth"] / part["growth_steps"]


# Tables


def origins(parts):
    """A list of machines, revisions and versions, and what was measured with each."""
    names: dict[str, list] = {}
    for name, part in parts.items():
        environment = part["environment"]
        versions = environment["versions"]
        listed = ", ".join(f"{key} {versions[key]}" for key in _VERSIONS)
        revision, dash, dirty = (environment["git_revision"] or "none").partition("-")
        revision = f"{revision[:12]}{dash}{dirty}"
        origin = f"{environment['machine']}; revision {revision}; {listed}"
        names.setdefault(origin, []).append(name)
    items = (f"- {origin}: {', '.join(those)}" for origin, those in names.items())
    return "".join(
        f"{textwrap.fill(item, 88, subsequent_indent='  ')}\n" for item in items
    )


def step_rows(parts, clock="wall"):
    """Milliseconds of dense steps, and ratios of sparse ones to them."""
    head = ["model", "", "dense, ms", "static", "SET", "RigL", "update, ms"]
    rows = [[*head, "RigL all in", "rounds"]]
    for part in _below("steps/", parts).values():
        times = part[clock]
        if "dense" not in times:
            continue
        dense = times["dense"]
        update = part[_UPDATE[clock]]["RigL, always updating"]
        rows.append(
            [
                f"{part['setup']}, batch {part['batch_size']}",
                _mode(part),
                _milliseconds(dense),
                *(_text(ratios(times[name], dense)) for name in head[3:6]),
                _milliseconds(update),
                _text(ratios(all_in(part, clock), dense)),
                _rounds(part),
            ]
        )
    return rows


def tfmot_rows(parts):
    """All contestants of the setups that TFMOT took part in, and both all in."""
    rows = [["model", "training", "ms a step", "CPU ms", "ratio", "CPU ratio"]]
    for part in _below("steps/", parts).values():
        if "TFMOT" not in part["wall"]:
            continue
        times = {
            clock: {
                **part[clock],
                **{
                    f"{name} all in": all_in(part, clock, name)
                    for name in ("RigL", "TFMOT")
                },
            }
            for clock in _UPDATE
        }
        rows += [
            [
                f"{part['setup']}, {_mode(part)}",
                name,
                *(_milliseconds(times[clock][name]) for clock in times),
                *(_text(ratios(of[name], of["dense"])) for of in times.values()),
            ]
            for name in times["wall"]
        ]
    return rows


def selection_rows(parts, clock="wall"):
    """Milliseconds of a selection by radix and by sorting."""
    head = ["scores", "", "radix, ms", "`top_k`, ms", "`argsort`, ms", "speed-up"]
    rows = [[*head, "rounds"]]
    for part in _below("selection/", parts).values():
        rows.append(
            [
                _size(part["size"]),
                _mode(part),
                *(
                    _milliseconds(part[clock][name])
                    for name in ("radix", "top_k", "argsort")
                ),
                _text(speed_up(part, clock), 1),
                _rounds(part),
            ]
        )
    return rows


def _update_parts(parts):
    return [parts[name] for name in ("updates", "updates/xla") if name in parts]


def update_rows(parts):
    """Milliseconds a million weights of RigL's choice of masks, by size."""
    rows = [["weights", "", "radix, ms a million", "sorting, ms a million"]]
    for part in _update_parts(parts):
        ways = (part["wall"][way] for way in ("radix", "sorting"))
        for size, *by_way in itertools.zip_longest(part["sizes"], *ways):
            texts = [
                "not timed"
                if times is None
                else _text(estimate(times), 1, factor=1e9 / size)
                for times in by_way
            ]
            rows.append([_size(size), _mode(part), *texts])
    return rows


def pattern_rows(parts):
    """An update of all kernels by the pattern of their masks, over single weights."""
    rows = [["pattern", "", "update, ms", "over unstructured", "rounds"]]
    for name in ("patterns", "patterns/xla"):
        part = parts.get(name)
        if part is None:
            continue
        times = part["wall"]
        base = times["unstructured"]
        rows += [
            [
                f"`{pattern}`",
                _mode(part),
                f"{1e3 * estimate(seconds).median:.0f}",
                _text(ratios(seconds, base), 2),
                str(len(seconds)),
            ]
            for pattern, seconds in times.items()
        ]
    return rows


def memory_rows(parts):
    """Bytes of variables and of the process."""
    head = ["training", "bytes a weight", "beyond dense", "peak, MiB"]
    rows = [[*head, "growth, bytes a step"]]
    memory = _below("memory/", parts)
    for method, part in memory.items():
        grown = growth(parts, method)
        rows.append(
            [
                method,
                f"{part['variables'] / part['weights']:.3f}",
                f"{beyond_dense(memory, method):.3f}" if "dense" in memory else "",
                f"{part['peak'] / 2**20:.0f}",
                "" if grown is None else f"{grown:.0f}",
            ]
        )
    return rows


def command_line_rows(parts):
    """Seconds of the parts of a run, and their shares."""
    runs = _below("command line/", parts)
    rows = [["part of the run", *runs]]
    if not runs:
        return rows
    for name in next(iter(runs.values()))["parts"]:
        seconds = [(run["parts"][name], run["total"]) for run in runs.values()]
        rows.append([name, *(f"{s:.1f} s, {s / total:.0%}" for s, total in seconds)])
    rest = [(r["total"] - sum(r["parts"].values()), r["total"]) for r in runs.values()]
    rows.append(["all else", *(f"{s:.1f} s, {s / t:.0%}" for s, t in rest)])
    rows.append(["the whole run", *(f"{run['total']:.1f} s" for run in runs.values())])
    for name in ("tests", "gradient norms", "checkpoints"):
        seconds = [run["beside"][name] for run in runs.values()]
        rows.append([f"{name}, in a second thread", *(f"{s:.1f} s" for s in seconds)])
    return rows


def other_rows(parts):
    """What has no table of its own: what, measured, by CPU time, rounds."""
    rows = [["what", "measured", "by CPU time", "rounds"]]
    if "steps/resnet50-224" in parts:
        part = parts["steps/resnet50-224"]
        texts = [_text(update_to_step(part, clock)) for clock in _UPDATE]
        what = "RigL update / step, ResNet-50 at 224×224"
        rows.append([what, *texts, _rounds(part)])
    for part in _update_parts(parts):
        texts = [_text(exponent(part, clock)) for clock in _UPDATE]
        what = f"exponent p of an update's time ~ weights^p, {_mode(part)}"
        rows.append([what, *texts, f"{len(part['wall']['radix'][0])}"])
    for name, what in (
        ("initialization", "`unit_scaled_init`, VGG-16, 80 % sparse"),
        ("import", "`import rigl_keras`"),
    ):
        if name in parts:
            times = [estimate(parts[name][clock][name]) for clock in _UPDATE]
            texts = [_text(seconds, unit="s") for seconds in times]
            rows.append([what, *texts, _rounds(parts[name])])
    return rows


# Figure


def draw(parts, path):
    """Draws seconds of an update over the number of weights."""
    from rigl_keras.plots import style  # Needs matplotlib, which is optional.

    with style.figure(path, width=6, height=4) as (axis,):
        for index, way in enumerate(("radix", "sorting")):
            for part in _update_parts(parts):
                marker = "s--" if part["jit_compile"] else "o-"
                times = [estimate(seconds) for seconds in part["wall"][way]]
                sizes = part["sizes"][: len(times)]
                label = f"{way}, {_mode(part)}"
                color = style.line(index)["color"]
                axis.plot(
                    sizes, [t.median for t in times], marker, label=label, color=color
                )
                low, high = [t.low for t in times], [t.high for t in times]
                axis.fill_between(sizes, low, high, color=color, alpha=0.2)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel("weights of the kernel")
        axis.set_ylabel("seconds of RigL's choice of a mask")
        if axis.lines:
            axis.legend()
