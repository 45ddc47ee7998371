"""Prints the tables of docs/cost.md: published costs of networks and this package's.

  python -m experiments.costs.published

The published counts differ from what the networks do in the shapes of a few layers and
in how sparsities are rounded: `as_published` puts those shapes in, `published_erk`
rounds so, and nothing else is changed.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

from rigl_keras import networks
from rigl_keras.common import tables
from rigl_keras.core import distributions, kernels
from rigl_keras.costs import counting

IMAGE = (224, 224, 3)
CLASSES = 1000
STEPS, BATCH_SIZE = 32_000, 4096
ERK_DENSE_CONV1 = "erk, conv1 dense"
# Evci et al. 2020 (RigL), Table 1 and appendix, and from 96.5 % on the README of its
# code: FLOPs in parts of the dense ones, megabytes, FLOPs of a training five times as
# long in parts of the dense training's. At 99 % the README leaves `conv1` dense.
RESNET50 = {
    ("dense", 0.0): ("1", "102.122", "1"),
    ("erk", 0.8): ("0.42", "23.683", "2.09"),
    ("erk", 0.9): ("0.24", "13.499", "1.23"),
    ("erk", 0.95): ("0.12", "8.399", "0.63"),
    ("erk", 0.965): ("0.09", "6.904", "0.45"),
    (ERK_DENSE_CONV1, 0.99): ("0.05", "4.354", "0.29"),
    ("uniform", 0.8): ("0.23", "23.685", "1.14"),
    ("uniform", 0.9): ("0.13", "13.532", "0.66"),
    ("uniform", 0.95): ("0.08", "8.433", "0.42"),
    ("uniform", 0.965): ("0.07", "6.904", "0.34"),
}
# The outputs of the RigL code's notebook: millions of FLOPs, and megabytes.
MOBILENET_V1 = {
    ("dense", 0.0): ("1141.544", "16.864"),
    ("erk", 0.75): ("599.144", "4.888"),
    ("erk", 0.85): ("439.152", "3.224"),
    ("erk", 0.9): ("334.134", "2.392"),
    ("erk", 0.95): ("205.281", "1.560"),
    ("uniform", 0.75): ("330.769", "4.894"),
    ("uniform", 0.85): ("222.666", "3.229"),
    ("uniform", 0.9): ("168.614", "2.396"),
    ("uniform", 0.95): ("114.563", "1.563"),
}
PUBLISHED = {"resnet50": RESNET50, "mobilenet_v1": MOBILENET_V1}


class Setting(NamedTuple):
    """A network's costs by one distribution.

    Attributes:
      distribution: "dense", "erk", `ERK_DENSE_CONV1` or "uniform"; the last one leaves
        `conv1` dense too.
      sparsity: share of zeros that the distribution is given.
      network: `ModelCost` of what the network does.
      published: `ModelCost` as the published count was made.
    """

    distribution: str
    sparsity: float
    network: counting.ModelCost
    published: counting.ModelCost


def as_published(counted):
    """The cost with the shapes that the published counts took.

    Both took the padded image for the input of a strided convolution that pads it once
    more, and in MobileNet all filters of a depthwise convolution for one.
    """
    rows = []
    is_resnet = any(row.path.startswith("stage1") for row in counted.rows)
    for row in counted.rows:
        if row.path == "conv1/kernel":
            side = 115 if is_resnet else 113  # For 112.
            row = with_outputs(row, side**2, row.units)
        elif "depthwise" in row.path:
            side = round(row.uses**0.5)
            if row.path.split("_")[0] in ("block2", "block4", "block6", "block12"):
                side += 1
            row = with_outputs(row, side**2, 1)
        rows.append(row)
    return dataclasses.replace(counted, rows=tuple(rows))


def with_outputs(row, pixels, units):
    """A convolution's cost for other numbers of pixels and filters of its output."""
    return dataclasses.replace(row, uses=pixels, outputs=pixels * units, units=units)


def _connection_shapes(model):
    return {
        kernel.path: kernel.connection_shape for kernel in kernels.find_kernels(model)
    }


def plan(model, distribution, sparsity):
    """The sparsities of a network's kernels."""
    shapes = _connection_shapes(model)
    if distribution == "dense":
        return {}
    if distribution == "uniform":
        return distributions.uniform(shapes, sparsity, {"conv1/*": 0.0})
    return distributions.erk(shapes, sparsity, _overrides(distribution))


def _overrides(distribution):
    return {"conv1/*": 0.0} if distribution == ERK_DENSE_CONV1 else {}


def published_erk(model, distribution, sparsity):
    """ERK's sparsities with the shapes and the budget of the published counts."""
    shapes = _connection_shapes(model)
    if model.name == "mobilenet_v1":
        # There the classifier is a 1x1 convolution, whose taps ERK counts.
        shapes["logits/kernel"] = (1, 1, *shapes["logits/kernel"])
    overrides = _overrides(distribution)
    fixed = distributions.overridden(shapes, overrides)
    sizes = [math.prod(shapes[path]) for path in shapes if path not in fixed]
    # Their budget is rounded down kernel by kernel, the package's once.
    budget = sum(int((1 - sparsity) * size) for size in sizes)
    return distributions.erk(shapes, 1 - (budget - 0.5) / sum(sizes), overrides)


@functools.cache
def settings(network):
    """Counts a network of `PUBLISHED` by every distribution that it has there.

    Returns:
      A dict from (distribution, sparsity) to `Setting`.
    """
    model = networks.build(network, IMAGE, CLASSES)
    return {key: _setting(model, *key) for key in PUBLISHED[network]}


def _setting(model, distribution, sparsity):
    network = counting.model_cost(model, plan(model, distribution, sparsity))
    published = network
    if distribution in ("erk", ERK_DENSE_CONV1):
        planned = published_erk(model, distribution, sparsity)
        published = counting.model_cost(model, planned)
    return Setting(distribution, sparsity, network, as_published(published))


def training_ratio(counted, dense):
    """FLOPs of RigL's training, five times as long, in parts of the dense one."""
    method = "dense" if counted == dense else "rigl"
    times = 1 if method == "dense" else 5
    flops = counting.training_flops(counted, method, times * STEPS, BATCH_SIZE)
    return flops / counting.training_flops(dense, "dense", STEPS, BATCH_SIZE)


def resnet50_table():
    """ResNet-50 beside what was published, as lists of strings."""
    rows = [
        [
            "distribution",
            "sparsity",
            "FLOPs, published",
            "counted alike",
            "as built",
            "MB, published",
            "counted alike",
            "5× training, published",
            "counted alike",
        ]
    ]
    counted = settings("resnet50")
    dense = counted["dense", 0.0]
    for key, (flops, size, training) in RESNET50.items():
        setting = counted[key]
        alike = setting.published.inference_flops / dense.published.inference_flops
        built = setting.network.inference_flops / dense.network.inference_flops
        ratio = training_ratio(setting.published, dense.published)
        rows.append(
            [
                setting.distribution,
                f"{100 * setting.sparsity:g}%",
                f"{flops}×",
                f"{alike:.4f}×",
                f"{built:.4f}×",
                size,
                f"{setting.published.size_bytes / 1e6:.3f}",
                f"{training}×",
                f"{ratio:.2f}×",
            ]
        )
    return rows


def mobilenet_v1_table():
    """MobileNet v1 beside the RigL code's notebook, as lists of strings."""
    rows = [
        [
            "distribution",
            "sparsity",
            "MFLOPs, notebook",
            "counted alike",
            "as built",
            "MB, notebook",
            "counted alike",
            "as built",
        ]
    ]
    counted = settings("mobilenet_v1")
    for key, (flops, size) in MOBILENET_V1.items():
        setting = counted[key]
        rows.append(
            [
                setting.distribution,
                f"{100 * setting.sparsity:g}%",
                flops,
                f"{setting.published.inference_flops / 1e6:.3f}",
                f"{setting.network.inference_flops / 1e6:.3f}",
                size,
                f"{setting.published.size_bytes / 1e6:.3f}",
                f"{setting.network.size_bytes / 1e6:.3f}",
            ]
        )
    return rows


if __name__ == "__main__":
    for table in (resnet50_table(), mobilenet_v1_table()):
        print(tables.markdown(table), end="\n\n")
