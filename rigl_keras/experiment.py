"""A training run as gin describes it: data, network, masks, optimizer, algorithm.

Every function here that carries `@gin.configurable` is a name in gin files. The names
and defaults are those of the paper's TF2 code; `masks`, `seeds`, `data` and
`mask_updater.grow_gradient` are this package's.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import numpy as np
from tensorflow import keras

from rigl_keras import (
    callbacks,
    compat,
    conversion,
    data,
    init_utils,
    kernels,
    networks,
)
from rigl_keras.checks import check_int
from rigl_keras.layers import sparse_kernels

load_data = gin.external_configurable(data.load, "data")

_NETWORKS = {
    name: gin.external_configurable(
        build, name, allowlist=["hidden_sizes", "use_batch_norm"]
    )
    for name, build in networks.NETWORKS.items()
}
_INITIALIZERS = {
    name: gin.external_configurable(
        initialize, f"{name}_init", allowlist=["method", "scale"]
    )
    for name, initialize in {
        "unit_scaled": init_utils.unit_scaled_init,
        "layer_scaled": init_utils.layer_scaled_init,
    }.items()
}
_ALGORITHMS = {
    "set": callbacks.SET,
    "rigl": callbacks.RigL,
    "rigl_inverted": callbacks.RigLInverted,
}
# The paper's code grows from these records of the training set.
_GROW_RECORDS = (1000, 2000)


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Seeds of a run; separate, so that no two experiments share a draw by accident.

    Attributes:
      init_seed: int, for initial weights.
      data_seed: int, for the order of the training data.
      mask_seed: int, for random masks and random growth.
    """

    init_seed: int
    data_seed: int
    mask_seed: int


@gin.configurable("seeds", denylist=["seed"])
def make_seeds(seed, init_seed=None, data_seed=None, mask_seed=None):
    """The run's seeds: `seed`, the command line's, where gin sets no other.

    Returns:
      `Seeds`.

    Raises:
      ValueError: when one is no int >= 0.
    """
    chosen = {
        name: seed if value is None else value
        for name, value in {
            "init_seed": init_seed,
            "data_seed": data_seed,
            "mask_seed": mask_seed,
        }.items()
    }
    for name, value in chosen.items():
        check_int(f"seeds.{name}", value, minimum=0)
    return Seeds(**chosen)


@gin.configurable("masks")
@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """Random masks.

    Attributes:
      sparsity: float in [0, 1), share of zeros; None for a dense network.
      distribution: "uniform", "er", "erk", or a dict from kernels' paths to sparsities.
      overrides: dict from glob patterns on paths to sparsities, 0 for dense, or None.
    """

    sparsity: float | None = None
    distribution: Any = "erk"
    overrides: dict | None = None


@gin.configurable("network", denylist=["input_shape", "num_classes", "seeds"])
def make_network(
    input_shape,
    num_classes,
    seeds,
    activation="relu",
    network_name="lenet5",
    mask_init_path=None,
    shuffle_mask=False,
    weight_init_path=None,
    weight_init_method=None,
    weight_decay=0.0,
    noise_stddev=0.0,
    pruned_layer_types=("Conv2D", "Dense"),
):
    """Builds the network and, where masks are configured, makes it sparse.

    Args:
      input_shape: (height, width, channels).
      num_classes: int.
      seeds: `Seeds`.
      activation: name of a Keras activation.
      network_name: "lenet5" or "mlp".
      mask_init_path: not available yet.
      shuffle_mask: not available yet.
      weight_init_path: not available yet.
      weight_init_method: None keeps the dense initial weights on the masks;
        "unit_scaled" or "layer_scaled" draws them for the masks.
      weight_decay: float >= 0, factor c of the L2 term c * sum(w^2) on kernels.
      noise_stddev: not available yet.
      pruned_layer_types: class names of the layers that are made sparse.

    Returns:
      A Keras model that ends in logits, not compiled.

    Raises:
      ValueError: for an unknown name, a value out of range, or one not available yet.
    """
    refuse_unavailable(
        {
            "network.mask_init_path": (mask_init_path, None),
            "network.shuffle_mask": (shuffle_mask, False),
            "network.weight_init_path": (weight_init_path, None),
            "network.noise_stddev": (noise_stddev, 0),
        }
    )
    build = _choice("network.network_name", network_name, _NETWORKS)
    model = build(
        input_shape,
        num_classes,
        activation=activation,
        weight_decay=weight_decay,
        seed=seeds.init_seed,
    )
    masks = MaskConfig()
    initializer = None
    if weight_init_method is not None:
        initializer = _choice(
            "network.weight_init_method", weight_init_method, _INITIALIZERS
        )
    if masks.sparsity is None:
        if initializer is not None:
            raise ValueError(
                f"network.weight_init_method={weight_init_method!r} needs masks, and "
                "there are none. Set masks.sparsity."
            )
        return model
    return conversion.sparsify(
        model,
        masks.sparsity,
        masks.distribution,
        initializer,
        {**(masks.overrides or {}), **_left_dense(model, pruned_layer_types)},
        seed=seeds.mask_seed,
        init_seed=seeds.init_seed,
        verbose=False,
    )


def _left_dense(model, pruned_layer_types):
    """Overrides that keep the kernels of all other layers dense."""
    return {
        kernels.join(path, compat.variable_name(weight)): 0.0
        for layer, path in kernels.walk(model)
        for weight in kernels.own_weights(layer)
        if kernels.is_kernel(layer, weight)
        and type(layer).__name__ not in pruned_layer_types
    }


@gin.configurable("optimizer", denylist=["total_steps"])
def make_optimizer(
    total_steps,
    name="adam",
    learning_rate=0.001,
    clipnorm=None,
    clipvalue=None,
    momentum=None,
):
    """Makes the optimizer, with a learning rate that falls to 0 by a half cosine.

    Args:
      total_steps: int, the length of the training.
      name: "adam", "momentum", "sgd" or "rmsprop".
      learning_rate: float > 0, the learning rate at the start.
      clipnorm: float, the largest norm of each gradient, or None.
      clipvalue: float, the largest magnitude of each gradient's entries, or None.
      momentum: float in (0, 1), needed by "momentum", an option of "rmsprop".

    Returns:
      A Keras optimizer.

    Raises:
      ValueError: for an unknown name, or a momentum that is missing or has no use.
    """
    classes = {
        "adam": keras.optimizers.Adam,
        "momentum": keras.optimizers.SGD,
        "sgd": keras.optimizers.SGD,
        "rmsprop": keras.optimizers.RMSprop,
    }
    optimizer_class = _choice("optimizer.name", name, classes)
    options = {"clipnorm": clipnorm, "clipvalue": clipvalue, "momentum": momentum}
    options = {key: value for key, value in options.items() if value is not None}
    for key, value in {"learning_rate": learning_rate, **options}.items():
        _check_positive(f"optimizer.{key}", value)
    if (name == "momentum" and momentum is None) or (
        name in ("adam", "sgd") and momentum is not None
    ):
        raise ValueError(
            "optimizer.momentum belongs to optimizer.name='momentum', which needs it, "
            f"and 'rmsprop'; got momentum={momentum!r} with name={name!r}."
        )
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, total_steps)
    return optimizer_class(schedule, **options)


@gin.configurable("mask_updater", denylist=["model", "images", "seeds"])
def make_mask_updater(
    model,
    images,
    seeds,
    update_alg="",
    schedule_alg="lr",
    update_freq=100,
    init_drop_fraction=0.3,
    last_update_step=-1,
    use_stateless=True,
    grow_gradient="fixed_batch",
):
    """Makes the callback that trains the masks.

    Args:
      model: the network.
      images: `data.ImageData`.
      seeds: `Seeds`.
      update_alg: "" for masks that stay, "set", "rigl" or "rigl_inverted".
      schedule_alg: "lr", "cosine" or "constant", how the drop fraction changes.
      update_freq: int >= 1, steps between two updates.
      init_drop_fraction: float in [0, 1], the drop fraction at the start.
      last_update_step: int; -1 never stops, 0 never starts.
      use_stateless: True; all random draws are stateless.
      grow_gradient: "fixed_batch" grows by the gradient of training records 1000-1999,
        summed over them, after the step; "step" by that of the step's own batch.

    Returns:
      A callback, or None for a dense network.

    Raises:
      ValueError: for an unknown name or a value out of range; for an algorithm without
        masks.
    """
    refuse_unavailable({"mask_updater.use_stateless": (use_stateless, True)})
    sources = {"fixed_batch": _grow_data, "step": lambda images: None}
    grow_data = _choice("mask_updater.grow_gradient", grow_gradient, sources)
    algorithms: dict[str, Callable] = {"": callbacks.Static, **_ALGORITHMS}
    algorithm = _choice("mask_updater.update_alg", update_alg, algorithms)
    if not sparse_kernels(model):
        if update_alg:
            raise ValueError(
                f"mask_updater.update_alg={update_alg!r} updates masks, and there are "
                "none: the network would train densely. Set masks.sparsity."
            )
        return None
    if not update_alg:
        return callbacks.Static()
    options = {
        "update_freq": update_freq,
        "drop_fraction": init_drop_fraction,
        "schedule": schedule_alg,
        "last_update_step": last_update_step,
        "seed": seeds.mask_seed,
    }
    if update_alg != "set":
        options["grow_data"] = grow_data(images)
    return algorithm(**options)


def _grow_data(images):
    x, y = data.fixed_batch(images.train_images, images.train_labels, *_GROW_RECORDS)
    # As many times the mean over the examples is their sum.
    return x, y, np.full(len(x), len(x), np.float32)


@gin.configurable("pruning")
@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """Gradual pruning; only mode "constant" that never begins is available yet.

    Attributes:
      mode: "prune" or "constant".
      initial_sparsity: float in [0, 1).
      final_sparsity: float in [0, 1).
      begin_step: int.
      end_step: int.
      frequency: int.
    """

    mode: str = "prune"
    initial_sparsity: float = 0.0
    final_sparsity: float = 0.8
    begin_step: int = 2000
    end_step: int = 4000
    frequency: int = 200


_PRUNING_FIELDS = dataclasses.fields(PruningConfig)


def _is_bound(name):
    try:
        gin.query_parameter(name)
    except ValueError:
        return False
    return True


def check_pruning(total_steps):
    """Refuses a configuration that asks for pruning, which is not available yet.

    Nothing is asked for where the configuration does not mention `pruning`.

    Raises:
      ValueError: when weights would be pruned.
    """
    if not any(_is_bound(f"pruning.{each.name}") for each in _PRUNING_FIELDS):
        return
    config = PruningConfig()
    _choice("pruning.mode", config.mode, {"prune": None, "constant": None})
    never = config.begin_step >= total_steps or config.final_sparsity == 0
    if config.mode == "prune" or not never:
        raise ValueError(
            f"pruning.mode={config.mode!r} with final_sparsity="
            f"{config.final_sparsity} from step {config.begin_step} would prune, which "
            "is not available yet. For random masks set pruning.mode='constant', "
            "pruning.final_sparsity=0. and masks.sparsity."
        )


def refuse_unavailable(settings):
    """Refuses settings that are known but not available yet.

    Args:
      settings: mapping from gin names to (value, the only value available).

    Raises:
      ValueError: naming the first that differs.
    """
    for name, (value, available) in settings.items():
        if value != available:
            raise ValueError(
                f"{name}={value!r} is not available yet; leave it at {available!r}."
            )


def _check_positive(name, value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < float("inf"):
        raise ValueError(f"Expected {name} to be a number > 0, got {value!r}.")


def _choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"Expected {name} to be one of {list(choices)}, got {value!r}."
        )
    return choices[value]
