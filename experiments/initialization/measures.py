"""Signals and gradients of VGG-16 and ResNet-50 at initialisation: the measurements."""

import dataclasses
import itertools
import time

import numpy as np
from tensorflow import keras

import rigl_keras
from rigl_keras import networks
from rigl_keras.analysis import signal_propagation as signals
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core import distributions, kernels
from rigl_keras.core.selection import random_mask
from rigl_keras.program import files
from rigl_keras.training.gradient_flow import gradient_flow

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
    """Every setting, network by network, those first that are drawn layer by layer.

    A dense network has no masks to be of several kinds; those with uneven fan-in are
    compared at one sparsity.
    """
    sparsities = {"uniform": SPARSITIES, "erk": SPARSITIES[1:], "uneven": (SHOWN,)}
    settings = [
        Setting(network, masks, sparsity, seed)
        for network, seed, masks in itertools.product(NETWORKS, seeds, MASKS)
        for sparsity in sparsities[masks]
    ]

    def rank(setting):
        is_later = setting.sparsity not in (0.0, SHOWN)
        return list(NETWORKS).index(setting.network), is_later

    return sorted(settings, key=rank)


def measure(setting, scale):
    """Measures one setting.

    Returns:
      A dict of the setting, the scale, and for each init: the standard deviation of
      the logits in inference and in training mode ("output_std", "training_std") and
      of each layer's units ("layer_std", inference mode); the norm of the gradient over
      all parameters ("gradient_norm") and over each kernel ("kernel_norms").
    """
    started = time.monotonic()
    propagated = signals.signal_propagation(
        lambda seed: _network(setting, scale, seed),
        [setting.sparsity],
        num_networks=1,
        num_inputs=scale.inputs,
        masks=_masks_function(setting.masks),
        seed=setting.seed,
    )
    measured = {
        name: {
            "output_std": float(propagated.output_std[index, 0, 0]),
            "layer_std": dict(
                zip(
                    propagated.layers,
                    propagated.layer_std[index, 0, 0].tolist(),
                    strict=True,
                )
            ),
        }
        for index, name in enumerate(propagated.initializers)
    }
    for name, gradients in _gradients(setting, scale, signals.INITIALIZERS).items():
        measured[name] |= gradients
    keras.backend.clear_session()  # Else models stay in memory, 1 GB a setting.
    return {
        **dataclasses.asdict(setting),
        **dataclasses.asdict(scale),
        "inits": measured,
        "seconds": round(time.monotonic() - started, 1),
        **files.environment(),
    }


def _network(setting, scale, seed):
    """A dense network with the initialisation of He, as the sparse ones have it."""
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
    return {"uniform": None, "erk": erk_masks, "uneven": signals.uneven_masks}[masks]


def erk_masks(model, sparsity, seed):
    """Random masks by the Erdős-Rényi-Kernel distribution, of ones where it is dense.

    Args:
      model: a built model.
      sparsity: share of zeros among all its kernels' weights, in [0, 1).
      seed: int, of the masks.

    Returns:
      A dict from all kernels' paths to bool arrays.
    """
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
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)


def _random_batch(scale, seed):
    """Standard normal images and random labels."""
    generator = np.random.default_rng([seed, 1])
    shape = (scale.batch, scale.image_size, scale.image_size, 3)
    images = generator.standard_normal(shape, np.float32)
    return images, generator.integers(scale.classes, size=scale.batch)
