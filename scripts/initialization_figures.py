#!/usr/bin/env python3
"""Signals and gradients of VGG-16 and ResNet-50 at initialisation, behind sparse masks.

Full-width networks of 1000 classes with random masks get the dense initialisation, the
layer-scaled or the unit-scaled one. Measured are the size of the signals, on standard
normal images, and the gradient of the loss for random labels; no data set is needed.
Settings that are measured are not measured again, so the command may be stopped and
repeated. The numbers, the figures and the tables are in docs/results/initialization.

Example:
  python scripts/initialization_figures.py
  python scripts/initialization_figures.py --figures
"""

import argparse
import dataclasses
import itertools
import sys
import time
from pathlib import Path

import numpy as np
from mnist_tables import write_sections

from rigl_keras import results, tables

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "results" / "initialization"

NETWORKS = {"vgg16": "VGG-16", "resnet50": "ResNet-50"}
MASKS = {
    "uniform": "uniform masks",
    "erk": "ERK masks",
    "uneven": "uneven fan-in",
}
INITS = ("dense", "layer-scaled", "unit-scaled")
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)
SHOWN = 0.8  # the paper's sparsity, at which layers are drawn one by one
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One random network behind masks of one kind, whose inits are compared.

    Attributes:
      network: key of `NETWORKS`.
      masks: key of `MASKS`.
      sparsity: share of zeros among the kernels' weights, in [0, 1).
      seed: int >= 0, of weights, masks and inputs.
    """

    network: str
    masks: str
    sparsity: float
    seed: int

    def path(self, folder):
        """The JSON file of what was measured."""
        percent = f"{100 * self.sparsity:g}"
        return folder / f"{self.network}-{self.masks}-{percent}-seed{self.seed}.json"


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the experiment is.

    Attributes:
      image_size: height and width of the images.
      classes: number of logits.
      width_multiplier: of the networks.
      inputs: number of images that signals are measured on, at least 2.
      batch: number of images and labels that the gradient is measured on.
    """

    image_size: int = 64
    classes: int = 1000
    width_multiplier: float = 1.0
    inputs: int = 100
    batch: int = 32


def all_settings(seeds=SEEDS):
    """Every setting, in the order of their weight in the figures.

    A dense network has no masks to be of several kinds; those with uneven fan-in are
    compared at one sparsity.
    """
    sparsities = {"uniform": SPARSITIES, "erk": SPARSITIES[1:], "uneven": (SHOWN,)}
    settings = [
        Setting(network, masks, sparsity, seed)
        for network, seed, masks in itertools.product(NETWORKS, seeds, MASKS)
        for sparsity in sparsities[masks]
    ]
    return sorted(settings, key=lambda setting: setting.sparsity not in (0.0, SHOWN))


def measure(setting, scale):
    """Measures one setting.

    Returns:
      A dict of the setting, the scale, and for each init: the standard deviation of
      the logits in inference and in training mode ("output_std", "training_std") and
      of each layer's units ("layer_std", inference mode); the norm of the gradient over
      all parameters ("gradient_norm") and over each kernel ("kernel_norms").
    """
    # TensorFlow is not loaded before it is needed.
    from rigl_keras.analysis import signal_propagation as signals

    started = time.monotonic()
    found = signals.signal_propagation(
        lambda seed: _network(setting, scale, seed),
        [setting.sparsity],
        num_networks=1,
        num_inputs=scale.inputs,
        masks=_masks_function(setting.masks),
        seed=setting.seed,
    )
    measured = {
        name: {
            "output_std": float(found.output_std[index, 0, 0]),
            "layer_std": dict(
                zip(found.layers, found.layer_std[index, 0, 0].tolist(), strict=True)
            ),
        }
        for index, name in enumerate(found.initializers)
    }
    for name, gradients in _gradients(setting, scale, signals.INITIALIZERS).items():
        measured[name] |= gradients
    return {
        **dataclasses.asdict(setting),
        **dataclasses.asdict(scale),
        "inits": measured,
        "seconds": round(time.monotonic() - started, 1),
        **results.environment(),
    }


def _network(setting, scale, seed):
    """A dense network with the initialisation of He, as the sparse ones have it."""
    from rigl_keras import networks

    return networks.build(
        setting.network,
        (scale.image_size, scale.image_size, 3),
        scale.classes,
        width_multiplier=scale.width_multiplier,
        kernel_initializer="he_normal",
        seed=seed,
    )


def _masks_function(masks):
    """What `signal_propagation` takes as `masks`."""
    from rigl_keras.analysis.signal_propagation import uneven_masks

    return {"uniform": None, "erk": erk_masks, "uneven": uneven_masks}[masks]


def erk_masks(model, sparsity, seed):
    """Random masks by the Erdős-Rényi-Kernel distribution, of ones where it is dense.

    Args:
      model: a built model.
      sparsity: share of zeros among all its kernels' weights, in [0, 1).
      seed: int, of the masks.

    Returns:
      A dict from all kernels' paths to bool arrays.
    """
    from rigl_keras import distributions, kernels
    from rigl_keras.seeding import stateless_seed
    from rigl_keras.selection import random_mask

    shapes = {
        kernel.path: tuple(kernel.variable.shape)
        for kernel in kernels.find_kernels(model)
    }
    planned = distributions.erk(shapes, sparsity).items()
    return {
        path: random_mask(
            shapes[path],
            distributions.active_count(int(np.prod(shapes[path])), own),
            stateless_seed("mask", seed, index),
        ).numpy()
        for index, (path, own) in enumerate(planned)
    }


def _gradients(setting, scale, initializers):
    """The gradient's norms and the logits' size in training mode, for each init."""
    import rigl_keras
    from rigl_keras.gradient_flow import gradient_flow

    model = _network(setting, scale, setting.seed)
    drawn = _masks_function(setting.masks)
    masks = drawn and drawn(model, setting.sparsity, setting.seed)
    x, y = _random_batch(scale, setting.seed)
    measured = {}
    for name, initializer in initializers.items():
        sparse = rigl_keras.sparsify(
            model,
            setting.sparsity,
            distribution="uniform",
            initializer=initializer,
            masks=masks,
            seed=setting.seed,
            verbose=False,
        )
        _compile(sparse)
        flow = gradient_flow(sparse, (x, y))
        measured[name] = {
            "training_std": float(np.std(sparse(x, training=True))),
            "gradient_norm": flow.norm,
            "kernel_norms": flow.kernel_norms,
        }
    return measured


def _compile(model):
    from tensorflow import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)


def _random_batch(scale, seed):
    """Standard normal images and random labels."""
    generator = np.random.default_rng([seed, 1])
    shape = (scale.batch, scale.image_size, scale.image_size, 3)
    images = generator.standard_normal(shape, np.float32)
    return images, generator.integers(scale.classes, size=scale.batch)


def gather(settings, folder):
    """What was measured: dict from (network, masks, sparsity) to lists over seeds."""
    found = {}
    for setting in settings:
        record = results.read_json(setting.path(folder))
        if record is not None:
            key = setting.network, setting.masks, setting.sparsity
            found.setdefault(key, []).append(record)
    return found


def series(found, network, masks, init, name):
    """The numbers of one name by sparsity: dict from sparsities to lists over seeds."""
    values = {}
    for sparsity in SPARSITIES:
        records = found.get((network, masks if sparsity else "uniform", sparsity), [])
        if records:
            values[sparsity] = [record["inits"][init][name] for record in records]
    return values


def draw(found, network, path):
    """Draws a network's figure: over sparsity, and layer by layer at 80 %."""
    from rigl_keras.plots import style

    kinds = [masks for masks in MASKS if (network, masks, SHOWN) in found]
    with style.figure(path, columns=len(kinds), rows=4) as axes:
        for column, masks in enumerate(kinds):
            panels = axes[column :: len(kinds)]
            for index, init in enumerate(INITS):
                look = {"label": init, **style.line(index)}
                for panel, name in zip(panels[::2], _TOTALS, strict=True):
                    _draw_over_sparsity(
                        panel, series(found, network, masks, init, name), look
                    )
                if network == "resnet50":
                    training = series(found, network, masks, init, "training_std")
                    dotted = {"color": look["color"], "linestyle": ":"}
                    _draw_over_sparsity(panels[0], training, dotted)
                for panel, name in zip(panels[1::2], _BY_LAYER, strict=True):
                    _draw_by_layer(
                        panel, found[network, masks, SHOWN], init, name, look
                    )
            dense = found.get((network, "uniform", 0.0))
            for panel, name in zip(panels[1::2], _BY_LAYER, strict=True):
                if dense:
                    look = {"color": "black", "lw": 0.8, "label": "dense network"}
                    _draw_by_layer(panel, dense, "dense", name, look)
            _label(panels, MASKS[masks])
        for row in range(4):
            _share_limits(axes[row * len(kinds) : (row + 1) * len(kinds)])
        axes[0].legend(loc="lower left")
        axes[len(kinds)].legend(loc="lower left")


_TOTALS = {
    "output_std": "std of the logits",
    "gradient_norm": "norm of the gradient",
}
_BY_LAYER = {
    "layer_std": "std per unit",
    "kernel_norms": "norm of the kernel's gradient",
}


def _draw_over_sparsity(axis, values, look):
    """Draws the mean over the seeds, and a band from the least to the greatest."""
    if not values:
        return
    x = list(values)
    axis.plot(x, [np.mean(each) for each in values.values()], **look)
    least, greatest = map(list, zip(*((min(v), max(v)) for v in values.values())))
    axis.fill_between(x, least, greatest, color=look["color"], alpha=0.2, lw=0)


def _draw_by_layer(axis, records, init, name, look):
    """Draws the geometric mean over the seeds, layer by layer."""
    values = np.array(
        [list(record["inits"][init][name].values()) for record in records]
    )
    depth = np.arange(1, values.shape[1] + 1)
    axis.plot(depth, np.exp(np.log(values).mean(0)), **look)


def _label(panels, title):
    panels[0].set_title(title)
    labels = [
        label
        for pair in zip(_TOTALS.values(), _BY_LAYER.values(), strict=True)
        for label in pair
    ]
    for index, (panel, label) in enumerate(zip(panels, labels, strict=True)):
        panel.set_yscale("log")
        is_total = index % 2 == 0
        panel.set_ylabel(label if is_total else f"{label}, {SHOWN:.0%}")
        panel.set_xlabel("sparsity" if is_total else "kernel, from input to output")


def _share_limits(panels):
    limits = [panel.get_ylim() for panel in panels]
    for panel in panels:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def table_at(found, network, sparsity=SHOWN):
    """Rows of a Markdown table of one network at one sparsity."""
    dense = series(found, network, "uniform", "dense", "output_std").get(0.0)
    columns = ["masks", "init", "std of logits", "to dense", "in training", "gradient"]
    rows = [columns]
    if dense:
        whole = [
            series(found, network, "uniform", "dense", name)[0.0] for name in _COLUMNS
        ]
        rows.append(["none", "dense", *_cells(whole, dense)])
    for masks, init in itertools.product(MASKS, INITS):
        own = [
            series(found, network, masks, init, name).get(sparsity) for name in _COLUMNS
        ]
        if all(own):
            rows.append([MASKS[masks], init, *_cells(own, dense)])
    return rows


_COLUMNS = ("output_std", "training_std", "gradient_norm")


def _cells(values, dense):
    output, training, gradient = (
        [f"{np.mean(v):.3g} ± {np.std(v):.1g}"] for v in values
    )
    ratio = f"{np.mean(values[0]) / np.mean(dense):.3g}" if dense else ""
    return [*output, ratio, *training, *gradient]


def write(found, folder):
    """Writes figures and tables of what is there."""
    sections = {}
    for network, title in NETWORKS.items():
        if (network, "uniform", SHOWN) not in found:
            continue
        draw(found, network, folder / f"{network}.png")
        rows = table_at(found, network)
        sections[network] = f"{title}, {SHOWN:.0%} sparse:\n\n{tables.markdown(rows)}\n"
    write_sections(folder / "README.md", sections)


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
    for setting in settings:
        path = setting.path(folder)
        if options.figures or path.exists():
            continue
        record = measure(setting, Scale())
        results.write_json(path, record)
        print(f"{path.name}: {record['seconds']} s", flush=True)
    write(gather(settings, folder), folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
