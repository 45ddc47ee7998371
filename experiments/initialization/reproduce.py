"""Signals and gradients of VGG-16 and ResNet-50 at initialisation, behind sparse masks.

Full-width networks of 1000 classes with random masks get the dense initialisation, the
layer-scaled or the unit-scaled one. Measured are the size of the signals, on standard
normal images, and the gradient of the loss for random labels; no data set is needed.
Settings that have been measured are skipped, so the command may be stopped and
repeated. Records, figures and tables are in docs/results/initialization.

Example:
  python -m experiments.initialization.reproduce
  python -m experiments.initialization.reproduce --figures
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np

from experiments.initialization.measures import (
    INITS,
    MASKS,
    NETWORKS,
    SEEDS,
    SHOWN,
    SPARSITIES,
    Scale,
    all_settings,
    measure,
)
from experiments.pages import write_sections
from rigl_keras.common import tables
from rigl_keras.plots import style
from rigl_keras.program import sweep

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "docs" / "results" / "initialization"
FILE = "runs.jsonl"
IDENTITY = ("network", "masks", "sparsity", "seed")
NORMALIZED = {"resnet50"}  # in training mode their signals are others
_TINY = np.finfo(np.float32).tiny  # A signal of 0 has no logarithm.


def gather(settings, records):
    """The records of some settings: dict from (network, masks, sparsity) to lists.

    Args:
      settings: list of `Setting`.
      records: dict from (network, masks, sparsity, seed) to records.
    """
    gathered = {}
    for setting in settings:
        network, masks, sparsity, seed = dataclasses.astuple(setting)
        if (network, masks, sparsity, seed) in records:
            by_seed = gathered.setdefault((network, masks, sparsity), [])
            by_seed.append(records[network, masks, sparsity, seed])
    return gathered


def series(gathered, network, masks, *, init, name):
    """The numbers of one name by sparsity: dict from sparsities to lists over seeds."""
    values = {}
    for sparsity in SPARSITIES:
        records = gathered.get(
            (network, masks if sparsity else "uniform", sparsity), []
        )
        if records:
            values[sparsity] = [record["inits"][init][name] for record in records]
    return values


# A row of panels each: what is drawn over sparsity, then layer by layer.
_ROWS = {
    "output_std": "std of the logits",
    "layer_std": "std per unit",
    "gradient_norm": "norm of the gradient",
    "kernel_norms": "norm of a kernel's gradient",
}
_BY_LAYER = ("layer_std", "kernel_norms")


def draw(gathered, network, path):
    """Draws a network's figure: over sparsity, and layer by layer at 80 %.

    Args:
      gathered: what `gather` returns.
      network: key of `NETWORKS`.
      path: where to write the figure; the ending says the format.
    """
    kinds = [masks for masks in MASKS if (network, masks, SHOWN) in gathered]
    with style.figure(path, columns=len(kinds), rows=len(_ROWS)) as axes:
        for row, name in enumerate(_ROWS):
            panels = axes[row * len(kinds) : (row + 1) * len(kinds)]
            for panel, masks in zip(panels, kinds, strict=True):
                fill = _draw_by_layer if name in _BY_LAYER else _draw_over_sparsity
                fill(panel, gathered, network=network, masks=masks, name=name)
                panel.set_yscale("log")
                panel.set_ylabel(_ROWS[name])
                panel.set_title(MASKS[masks])
            _share_limits(panels)
        by_layer = axes[len(kinds)]
        if network in NORMALIZED:
            by_layer.plot([], [], ":", color="black", label="in training mode")
        style.legend_beside(by_layer)


def _draw_over_sparsity(axis, gathered, *, network, masks, name):
    """Draws means over the seeds, and bands from the least to the greatest."""
    lines = [(init, name, look) for init, look in _looks().items()]
    if name == "output_std" and network in NORMALIZED:
        dotted = {"lw": 1.5, "linestyle": ":"}
        lines += [(init, "training_std", {**look, **dotted}) for init, _, look in lines]
    for init, measured, look in lines:
        values = series(gathered, network, masks, init=init, name=measured)
        x = [f"{sparsity:.0%}" for sparsity in values]
        seeds = values.values()
        axis.plot(x, list(map(np.mean, seeds)), marker=".", **look)
        band = list(map(min, seeds)), list(map(max, seeds))
        axis.fill_between(x, *band, color=look["color"], alpha=0.2, lw=0)
    axis.set_xlabel("sparsity")


def _draw_by_layer(axis, gathered, *, network, masks, name):
    """Draws geometric means over the seeds, layer by layer."""
    lines = [(masks, SHOWN, init, look) for init, look in _looks().items()]
    reference = {"color": "black", "lw": 0.8}
    lines.append(("uniform", 0.0, "dense", reference))
    for kind, sparsity, init, look in lines:
        records = gathered.get((network, kind, sparsity), [])
        values = [list(record["inits"][init][name].values()) for record in records]
        if values:
            means = np.exp(np.log(np.maximum(values, _TINY)).mean(0))
            label = init if sparsity else "without masks"
            axis.plot(range(1, len(means) + 1), means, label=label, **look)
    axis.set_xlabel(f"kernel, from input to output, at {SHOWN:.0%}")


def _looks():
    """How each init is drawn: the unit-scaled within the layer-scaled, often equal."""
    widths = {"dense": 1.5, "layer-scaled": 4, "unit-scaled": 1.5}
    return {
        init: {**style.line(index), "lw": widths[init]}
        for index, init in enumerate(INITS)
    }


def _share_limits(panels):
    limits = np.array([panel.get_ylim() for panel in panels])
    for panel in panels:
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())


_COLUMNS = {
    "output_std": "std of the logits",
    "training_std": "in training mode",
    "gradient_norm": "gradient norm",
}


def table(gathered, network):
    """The rows of a network's table: without masks, then masks and inits at 80 %."""
    cells = [("uniform", 0.0, "dense")]
    cells += [(masks, SHOWN, init) for masks in MASKS for init in INITS]
    rows = [["masks", "initialisation", *_COLUMNS.values()]]
    for masks, sparsity, init in cells:
        values = [
            series(gathered, network, masks, init=init, name=name).get(sparsity)
            for name in _COLUMNS
        ]
        if all(values):
            kind = MASKS[masks] if sparsity else "none"
            rows.append([kind, init, *map(_spread, values)])
    return rows


def table_over_sparsity(gathered, network, name="output_std"):
    """The rows of one measure over sparsity, for each kind of masks and init."""
    rows = [
        ["masks", "initialisation", *(f"{sparsity:.0%}" for sparsity in SPARSITIES)]
    ]
    for masks, init in itertools.product(MASKS, INITS):
        values = series(gathered, network, masks, init=init, name=name)
        if SHOWN in values:
            cells = [_spread(values[s]) if s in values else "" for s in SPARSITIES]
            rows.append([MASKS[masks], init, *cells])
    return rows


def _spread(values):
    """Mean ± standard deviation (ddof 0), of numbers of very different sizes."""
    mean = _number(np.mean(values), 2)
    return mean if len(values) < 2 else f"{mean} ± {_number(np.std(values), 1)}"


def _number(value, digits):
    """With so many significant digits; by a power of ten where it is tiny."""
    if 0 < value < 0.001:
        return f"{value:.{digits - 1}e}"
    return np.format_float_positional(
        value, digits, unique=False, fractional=False, trim="-"
    )


def sections(gathered):
    """The tables of the networks that were measured: dict from names to Markdown."""
    rows = {}
    for network in measured_networks(gathered):
        rows[network] = table(gathered, network)
        for name in ("output_std", "gradient_norm"):
            rows[f"{network} {name}"] = table_over_sparsity(gathered, network, name)
    return {name: tables.markdown(lines) + "\n" for name, lines in rows.items()}


def measured_networks(gathered):
    """The networks that were measured at the sparsity of the layer-by-layer panels."""
    return [name for name in NETWORKS if (name, "uniform", SHOWN) in gathered]


def write(gathered, folder):
    """Writes figures and tables of what was measured."""
    for network in measured_networks(gathered):
        draw(gathered, network, folder / f"{network}.png")
    write_sections(folder / "README.md", sections(gathered))


def main(arguments=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=str(OUTPUT), help="folder of the results")
    parser.add_argument("--figures", action="store_true", help="measure nothing more")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args(arguments)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    settings = all_settings(options.seeds)
    records = sweep.read_records(folder / FILE, IDENTITY)
    for setting in [] if options.figures else settings:
        identity = dataclasses.astuple(setting)
        if identity not in records:
            records[identity] = measure(setting, Scale())
            sweep.write_records(folder / FILE, records)
            print(f"{setting}: {records[identity]['seconds']} s", flush=True)
    write(gather(settings, records), folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
