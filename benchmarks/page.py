"""The tables and the figure of docs/performance.md, from what was measured."""

import functools
import itertools
import textwrap

import numpy as np

from benchmarks.setups import SETUPS
from benchmarks.turns import estimate, ratios
from experiments.mnist.tables import write_sections
from rigl_keras.common.tables import markdown

UPDATE_EVERY = 100
_CLOCKS = ("wall", "cpu")
_VERSIONS = ("python", "tensorflow", "keras", "numpy")
SELECTION_LIMITS = {False: 5, True: 10}  # plain and compiled
LIMITS = {"initialization": 3, "command line": 0.15, "import": 0.3}
BYTES_BEYOND_DENSE = {"static": 1, "SET": 1, "RigL": 5}
# What `import rigl_keras` must leave to those who need it.
OPTIONAL = {"tensorflow_model_optimization", "tensorflow_datasets", "gin"}
OPTIONAL |= {"matplotlib", "sklearn"}
EXPONENT_LIMIT = 1.05
BYTES_TOLERANCE = 0.01  # a weight: the optimizer's counters and the like
GROWTH_LIMIT = 16  # bytes a step: less than any object of Python takes
FIGURE = "results/performance/updates.png"


def write(output, parts):
    """Writes the figure, and the tables between the marks of the page.

    Args:
      output: folder of performance.md.
      parts: dict from names of parts to what was measured.

    Returns:
      The table of targets.
    """
    head = ["what", "target", "measured", "", "by CPU time", ""]
    # What is no time has no CPU time.
    rows = [row + [""] * (len(head) - len(row)) for row in target_rows(parts)]
    sections = {
        "targets": [head, *rows],
        "steps": step_rows(parts),
        "beside TFMOT": tfmot_rows(parts),
        "selection": selection_rows(parts),
        "updates": update_rows(parts),
        "memory": memory_rows(parts),
        "command line": command_line_rows(parts),
    }
    tables = {
        name: f"{markdown(rows)}\n" if len(rows) > 1 else "Not measured.\n"
        for name, rows in sections.items()
    }
    tables = {"origin": origins(parts), **tables}
    path = output / "performance.md"
    if not path.exists():
        path.write_text(_bare_page(tables))
    write_sections(path, tables)
    draw(parts, output / FIGURE)
    return tables["targets"]


def _bare_page(sections):
    """A page of headings, for the tables."""
    chapters = [
        f"## {name.capitalize()}\n\n<!-- {name} -->\n<!-- end of {name} -->\n"
        for name in sections
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
    return len(next(iter(part["wall"].values())))


def _mode(part):
    compiled = "compiled" if part["jit_compile"] else "plain"
    return f"{compiled}, Keras 2" if part.get("legacy_keras") else compiled


def _text(value, digits=2, unit="", factor=1.0):
    low, high = factor * value.low, factor * value.high
    numbers = f"{factor * value.median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
    return f"{numbers} {unit}".strip()


# Targets


def target_rows(parts):
    """Rows of what, target, measured and whether it is met; and by CPU time."""
    rows = []
    for part in _below("steps/", parts).values():
        if "dense" in part["wall"]:
            rows += _step_targets(part)
    update = parts.get("steps/resnet50-224")
    if update:
        ratio = functools.partial(update_to_step, update)
        what = "RigL update / step, ResNet-50 at 224×224"
        rows.append(_at_most(what, 1, ratio("wall"), ratio("cpu")))
    for part in _below("selection/", parts).values():
        rows.append(_selection_target(part))
    for part in _update_parts(parts):
        what = f"exponent p of an update's time ~ weights^p, {_mode(part)}"
        found = (estimate(_exponents(part, key)) for key in _CLOCKS)
        rows.append(_at_most(what, EXPONENT_LIMIT, *found))
    if "initialization" in parts:
        what = "`unit_scaled_init`, VGG-16, 80 % sparse"
        times = (parts["initialization"][key]["initialization"] for key in _CLOCKS)
        limit = LIMITS["initialization"]
        rows.append(_at_most(what, limit, *map(estimate, times), unit="s"))
    rows += _memory_targets(parts)
    for method, part in _below("command line/", parts).items():
        share = estimate([outside_steps(part)])
        limit = LIMITS["command line"]
        what = f"command line, {method}: outside the steps"
        verdict = share.meets(limit)
        rows.append([what, f"≤ {limit:.0%}", f"{share.median:.0%}", verdict])
    if "import" in parts:
        rows += _import_targets(parts["import"])
    return rows


def _update_parts(parts):
    return [parts[name] for name in ("updates", "updates/xla") if name in parts]


def _exponents(part, key):
    """For each round, the exponent of the times of radix for all sizes."""
    rounds = zip(*part[key]["radix"], strict=True)
    return [exponent(part["sizes"], times) for times in rounds]


def exponent(sizes, times):
    """The p of times that go as sizes**p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def _at_most(what, limit, wall, cpu, unit=""):
    """The row of a target for times, by the clock on the wall and by CPU time."""
    verdicts = [(_text(each, unit=unit), each.meets(limit)) for each in (wall, cpu)]
    return [what, f"≤ {limit} {unit}".strip(), *verdicts[0], *verdicts[1]]


def _selection_target(part):
    limit = SELECTION_LIMITS[part["jit_compile"]]
    what = f"sorting / radix, {_size(part['size'])}, {_mode(part)}"
    row = [what, f"≥ {limit}"]
    for key in _CLOCKS:
        found = speed_up(part, key)
        row += [_text(found, 1), found.exceeds(limit)]
    return row


def _step_targets(part):
    setup = SETUPS[part["setup"]]
    where = f"{setup.name}, {_mode(part)}"
    rows = []
    for what, limit, times in (
        ("static / dense step", setup.step_limit, lambda key: part[key]["static"]),
        ("RigL all in / dense", setup.rigl_limit, lambda key: all_in(part, key)),
    ):
        found = (ratios(times(key), part[key]["dense"]) for key in _CLOCKS)
        rows.append(_at_most(f"{what}, {where}", limit, *found))
    return rows


def all_in(part, key="wall", name="RigL"):
    """Seconds a step with its share of an update, round by round.

    The update is what a step with one takes longer than a step without: keeping the
    gradient, too.
    """
    times = part[key]
    pairs = zip(times[name], times[f"{name}, always updating"], strict=True)
    return [step + (both - step) / UPDATE_EVERY for step, both in pairs]


def update_to_step(part, key="wall"):
    """An update's time over that of the training step that it follows."""
    update = part[{"wall": "update", "cpu": "update_cpu"}[key]]
    both, update = (each["RigL, always updating"] for each in (part[key], update))
    return estimate([u / (b - u) for b, u in zip(both, update, strict=True)])


def speed_up(part, key="wall"):
    """The time of the faster way to sort over that of radix."""
    times = part[key]
    best = map(min, zip(times["argsort"], times["top_k"], strict=True))
    return ratios(list(best), times["radix"])


def _memory_targets(parts):
    memory = _below("memory/", parts)
    rows = []
    for method, limit in BYTES_BEYOND_DENSE.items():
        if method in memory and "dense" in memory:
            beyond = beyond_dense(memory, method)
            what = f"variables beyond dense, bytes a weight, {method}"
            most = limit + BYTES_TOLERANCE
            met = "met" if beyond <= most else "missed"
            rows.append([what, f"≤ {most}", f"{beyond:.3f}", met])
        grown = growth(parts, method)
        if grown is not None:
            met = "met" if grown <= GROWTH_LIMIT else "missed"
            what = f"growth of memory, bytes a step, {method}"
            rows.append([what, f"≤ {GROWTH_LIMIT}", f"{grown:.0f}", met])
    return rows


def growth(parts, method):
    """Bytes of memory that a training takes more with each step; None if not known."""
    part = parts.get(f"growth/{method}", {"growth": None})
    return None if part["growth"] is None else part["growth"] / part["growth_steps"]


def beyond_dense(memory, method):
    """Bytes of variables that a method has beyond a dense training's, a weight."""
    more = memory[method]["variables"] - memory["dense"]["variables"]
    return more / memory["dense"]["weights"]


def outside_steps(part):
    """Share of a run that is no training step."""
    return 1 - part["parts"]["training steps"] / part["total"]


def _import_targets(part):
    wall, cpu = (estimate(part[key]["import"]) for key in _CLOCKS)
    found = sorted(OPTIONAL & set(part["modules"]))
    return [
        _at_most("`import rigl_keras`", LIMITS["import"], wall, cpu, unit="s"),
        [
            "optional packages that it imports",
            "none",
            ", ".join(found) or "none",
            "missed" if found else "met",
        ],
    ]


# Tables


def origins(parts):
    """A list of machines, revisions and versions, and what was measured with each."""
    found: dict[str, list] = {}
    for name, part in parts.items():
        environment = part["environment"]
        versions = environment["versions"]
        listed = ", ".join(f"{key} {versions[key]}" for key in _VERSIONS)
        revision, dash, dirty = (environment["git_revision"] or "none").partition("-")
        revision = f"{revision[:12]}{dash}{dirty}"
        origin = f"{environment['machine']}; revision {revision}; {listed}"
        found.setdefault(origin, []).append(name)
    items = (f"- {origin}: {', '.join(names)}" for origin, names in found.items())
    return "".join(
        f"{textwrap.fill(item, 88, subsequent_indent='  ')}\n" for item in items
    )


def step_rows(parts):
    """Milliseconds of dense steps, and ratios of the sparse ones."""
    head = ["model", "", "dense, ms", "static", "SET", "RigL", "update, ms"]
    rows = [[*head, "RigL all in", "rounds"]]
    for part in _below("steps/", parts).values():
        wall = part["wall"]
        if "dense" not in wall:
            continue
        base = wall["dense"]
        rows.append(
            [
                f"{part['setup']}, batch {part['batch_size']}",
                _mode(part),
                f"{1e3 * estimate(base).median:.1f}",
                *(_text(ratios(wall[name], base)) for name in ("static", "SET")),
                _text(ratios(wall["RigL"], base)),
                f"{1e3 * estimate(part['update']['RigL, always updating']).median:.1f}",
                _text(ratios(all_in(part), base)),
                f"{_rounds(part)}",
            ]
        )
    return rows


def tfmot_rows(parts):
    """All contestants of the setups that TFMOT took part in, and both all in."""
    rows = [["model", "training", "ms a step", "CPU ms", "ratio", "CPU ratio"]]
    for part in _below("steps/", parts).values():
        wall, cpu = dict(part["wall"]), dict(part["cpu"])
        if "TFMOT" not in wall:
            continue
        for name in ("RigL", "TFMOT"):
            for times, key in ((wall, "wall"), (cpu, "cpu")):
                times[f"{name} all in"] = all_in(part, key, name)
        rows += [
            [
                f"{part['setup']}, {_mode(part)}",
                name,
                f"{1e3 * estimate(wall[name]).median:.1f}",
                f"{1e3 * estimate(cpu[name]).median:.1f}",
                _text(ratios(wall[name], wall["dense"])),
                _text(ratios(cpu[name], cpu["dense"])),
            ]
            for name in wall
        ]
    return rows


def selection_rows(parts):
    """Milliseconds of a selection by radix and by sorting."""
    head = ["scores", "", "radix, ms", "`top_k`, ms", "`argsort`, ms", "speed-up"]
    rows = [[*head, "rounds"]]
    for part in _below("selection/", parts).values():
        times = (part["wall"][name] for name in ("radix", "top_k", "argsort"))
        rows.append(
            [
                _size(part["size"]),
                _mode(part),
                *(f"{1e3 * estimate(each).median:.1f}" for each in times),
                _text(speed_up(part), 1),
                f"{_rounds(part)}",
            ]
        )
    return rows


def update_rows(parts):
    """Milliseconds a million weights of RigL's choice of masks, by size."""
    rows = [["weights", "", "radix, ms a million", "sorting, ms a million"]]
    for part in _update_parts(parts):
        ways = (part["wall"][way] for way in ("radix", "sorting"))
        for size, *times in itertools.zip_longest(part["sizes"], *ways):
            texts = [
                "not timed"
                if each is None
                else _text(estimate(each), 1, factor=1e9 / size)
                for each in times
            ]
            rows.append([_size(size), _mode(part), *texts])
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
    names = next(iter(runs.values()))["parts"] if runs else ()
    for name in names:
        seconds = [(run["parts"][name], run["total"]) for run in runs.values()]
        rows.append([name, *(f"{s:.1f} s, {s / total:.0%}" for s, total in seconds)])
    rest = [(r["total"] - sum(r["parts"].values()), r["total"]) for r in runs.values()]
    rows.append(["all else", *(f"{s:.1f} s, {s / t:.0%}" for s, t in rest)])
    rows.append(["the whole run", *(f"{run['total']:.1f} s" for run in runs.values())])
    return rows


def _size(size):
    return f"{size / 2**20:.0f} Mi"


# Figure


def draw(parts, path):
    """Draws seconds of an update over the number of weights."""
    from rigl_keras.plots import style

    with style.figure(path, width=6, height=4) as (axis,):
        for index, way in enumerate(("radix", "sorting")):
            for part in _update_parts(parts):
                marker = "s--" if part["jit_compile"] else "o-"
                found = part["wall"][way]
                sizes = part["sizes"][: len(found)]
                label = f"{way}, {_mode(part)}"
                color = style.line(index)["color"]
                times = [estimate(each) for each in found]
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
