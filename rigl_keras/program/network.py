"""The network of a training run as gin describes it: shape, masks, initial weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat, networks
from rigl_keras.common.checks import check_choice, check_not_negative, choice
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.conversion import convert
from rigl_keras.conversion.compress import compress
from rigl_keras.core import distributions, initializers, kernels
from rigl_keras.core.choosing import checked_pattern
from rigl_keras.core.masks import apply_masks
from rigl_keras.program.checkpoints import MASK, SavedModel, named_variables
from rigl_keras.program.given_masks import (
    check_match,
    check_other_init,
    check_pattern_is_said,
    masks_of,
    shuffled,
)

_NETWORKS = {
    name: gin.external_configurable(
        build,
        name,
        # Set by `make_network`; gin may bind the other parameters.
        denylist=["input_shape", "num_classes", "activation", "weight_decay", "seed"],
    )
    for name, build in networks.NETWORKS.items()
}
_INITIALIZERS = {
    name: gin.external_configurable(
        initialize,
        f"{name}_init",
        module="rigl_keras.init_utils",
        allowlist=["method", "scale"],
    )
    for name, initialize in {
        "unit_scaled": initializers.unit_scaled_init,
        "layer_scaled": initializers.layer_scaled_init,
    }.items()
}


@gin.configurable("masks", module="rigl_keras.experiment_network")
@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """Random masks.

    Attributes:
      sparsity: float in [0, 1), share of zeros among all weights of the kernels that no
        override matches, those that ER and ERK leave dense included; None for a dense
        network.
      distribution: "uniform", "er", "erk", or a dict from kernels' paths to sparsities.
      overrides: dict from glob patterns on paths to sparsities, 0 for dense, or None.
      pattern: how the weights that exist lie in each kernel, of pruned masks and those
        of `network.mask_init_path` too; a text such as "blocks(16, 1)", or lists and
        dicts of them, see `sparsify`; None for anywhere.
      storage: "masked", or "compressed" for kernels without their zeros, see
        `rigl_keras.compress`.
    """

    sparsity: float | None = None
    distribution: Any = "erk"
    overrides: dict | None = None
    pattern: Any = None
    storage: str = "masked"

    def __post_init__(self):
        """Refuses what is out of range.

        Raises:
          TypeError: for what is no number or no dict.
          ValueError: for a sparsity out of range, or another storage.
        """
        check_choice("masks.storage", self.storage, convert.STORAGES)
        if self.sparsity is not None:
            distributions.check_sparsity(self.sparsity, "masks.sparsity")
        checked_pattern(self.pattern)
        if self.overrides is not None:
            distributions.check_overrides(self.overrides, "masks.overrides")
            for pattern, sparsity in self.overrides.items():
                distributions.check_sparsity(
                    sparsity, f"masks.overrides of {pattern!r}"
                )


@gin.configurable("network", module="rigl_keras.experiment_network")
@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The network: its shape, where its masks and its first weights come from.

    Attributes:
      activation: name of a Keras activation.
      network_name: a key of `networks.NETWORKS`, such as "lenet5" or "resnet50".
      mask_init_path: None, or a checkpoint of this command line, such as
        "runs/prune/ckpt-11719", whose masks are taken. Outside of gin it may be a
        `SavedModel`, as may `weight_init_path`.
      shuffle_mask: whether each mask of `mask_init_path` is shuffled at random.
      weight_init_path: None, or a checkpoint whose weights, biases included, are taken.
      weight_init_method: None keeps the dense initial weights on the masks;
        "unit_scaled" or "layer_scaled" draws them for the masks.
      weight_decay: float >= 0, factor c of the L2 term c * sum(w^2) on kernels.
      noise_stddev: float >= 0, standard deviation of normal noise that is added to all
        initial weights and biases.
      pruned_layer_types: class names of the layers that are made sparse.
      allow_same_init: whether a scratch run may draw its weights by the init seed of
        the run that its masks come from.
    """

    activation: str = "relu"
    network_name: str = "lenet5"
    mask_init_path: Any = None
    shuffle_mask: bool = False
    weight_init_path: Any = None
    weight_init_method: str | None = None
    weight_decay: float = 0.0
    noise_stddev: float = 0.0
    pruned_layer_types: Sequence[str] = ("Conv2D", "Dense")
    allow_same_init: bool = False


def make_network(
    input_shape, num_classes, seeds, *, is_pruned=False, is_scratch=True, config=None
):
    """Builds the network and, where masks are configured, makes it sparse.

    Args:
      input_shape: (height, width, channels).
      num_classes: int.
      seeds: `Seeds`.
      is_pruned: whether something will be pruned, so that a network without other masks
        gets masks of ones.
      is_scratch: whether the masks will stay as they are.
      config: `NetworkConfig`; None for gin's.

    Returns:
      A Keras model that ends in logits, not compiled.

    Raises:
      ValueError: for an unknown name, a value out of range, settings that contradict
        each other, or a checkpoint that does not match the network.
    """
    config = NetworkConfig() if config is None else config
    build = choice("network.network_name", config.network_name, _NETWORKS)
    dense = build(
        input_shape,
        num_classes,
        activation=config.activation,
        weight_decay=config.weight_decay,
        seed=seeds.init_seed,
    )
    check_not_negative("network.noise_stddev", config.noise_stddev)
    model = _masked(dense, config, seeds, is_pruned=is_pruned, is_scratch=is_scratch)
    if config.weight_init_path is not None:
        _load_weights(SavedModel.of(config.weight_init_path), model)
    if config.noise_stddev > 0:
        _add_noise(model, config.noise_stddev, seeds.init_seed)
    if MaskConfig().storage == "compressed":
        return compress(model, verbose=False)
    return model


def _masked(model, config, seeds, *, is_pruned, is_scratch):
    """The network with the masks that are configured; itself where there are none."""
    masks = MaskConfig()
    _check_mask_settings(masks, config.mask_init_path, config.shuffle_mask)
    options = {
        "initializer": _initializer(config),
        "pattern": masks.pattern,
        "seed": seeds.mask_seed,
        "init_seed": seeds.init_seed,
        "verbose": False,
    }
    left_dense = _left_dense(model, config.pruned_layer_types)
    if config.mask_init_path is not None:
        saved = SavedModel.of(config.mask_init_path)
        is_new = config.weight_init_path is None and not config.allow_same_init
        if is_new and is_scratch:
            check_other_init(saved.path, seeds)
        check_pattern_is_said(masks.pattern, saved.path)
        given = masks_of(saved, model, left_dense)
        if config.shuffle_mask:
            given = shuffled(given, model, masks.pattern, seed=seeds.mask_seed)
        return convert.sparsify(model, masks=given, **options)
    if masks.sparsity is not None or is_pruned:
        return convert.sparsify(
            model,
            masks.sparsity or 0.0,
            masks.distribution,
            overrides={**(masks.overrides or {}), **dict.fromkeys(left_dense, 0.0)},
            **options,
        )
    if config.weight_init_method is not None:
        raise ValueError(
            f"network.weight_init_method={config.weight_init_method!r} needs masks, "
            "and there are none. Set masks.sparsity or network.mask_init_path."
        )
    return model


def compile_network(
    model, optimizer, *, label_smoothing=0.0, top_k=None, jit_compile=None
):
    """Compiles a network that ends in logits.

    Its metrics are "accuracy" and "cross_entropy", the loss without regulariser and
    smoothing, and with `top_k` "top<k>_accuracy".

    Args:
      model: the network.
      optimizer: a Keras optimizer.
      label_smoothing: float in [0, 1), the share of each label that is spread over all
        classes.
      top_k: int in 2 ... classes - 1, or None.
      jit_compile: bool, or None for Keras's own choice.

    Raises:
      ValueError: when `top_k` is too large for the network.
    """
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras.metrics.SparseCategoricalCrossentropy(
            from_logits=True, name="cross_entropy"
        ),
    ]
    classes = model.output_shape[-1]
    if top_k is not None:
        if top_k >= classes:
            raise ValueError(
                f"training.top_k={top_k} of {classes} classes would always be right: "
                "use a smaller one, or None."
            )
        metrics.append(
            keras.metrics.SparseTopKCategoricalAccuracy(
                top_k, name=f"top{top_k}_accuracy"
            )
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if label_smoothing:
        loss = _smoothed(label_smoothing, classes)
    options = {} if jit_compile is None else {"jit_compile": jit_compile}
    # Test batches of one size are filled up with examples of weight 0.
    model.compile(optimizer, loss, weighted_metrics=metrics, **options)
    compat.report_metrics_once(model)


def _smoothed(label_smoothing, classes):
    """Cross-entropy with smoothed labels, which Keras has of one-hot labels only."""

    def smoothed_cross_entropy(labels, logits):
        labels = tf.reshape(tf.cast(labels, tf.int32), [-1])
        return keras.losses.categorical_crossentropy(
            tf.one_hot(labels, classes),
            logits,
            from_logits=True,
            label_smoothing=label_smoothing,
        )

    return smoothed_cross_entropy


def _initializer(config):
    method, path = config.weight_init_method, config.weight_init_path
    if method is None:
        return None
    if path is not None:
        raise ValueError(
            f"network.weight_init_method={method!r} draws the weights that "
            f"network.weight_init_path={path!r} loads. Set one of them to None."
        )
    return choice("network.weight_init_method", method, _INITIALIZERS)


def _check_mask_settings(config, mask_init_path, shuffle_mask):
    drawn = {"sparsity": config.sparsity, "overrides": config.overrides}
    drawn = {key: value for key, value in drawn.items() if value is not None}
    if mask_init_path is not None and drawn:
        settings = ", ".join(f"masks.{key}={value}" for key, value in drawn.items())
        raise ValueError(
            f"{settings} and network.mask_init_path={mask_init_path!r} would both "
            "choose the masks. Set the one or the other to None."
        )
    if shuffle_mask and mask_init_path is None:
        raise ValueError(
            "network.shuffle_mask=True shuffles the masks of network.mask_init_path, "
            "which is None. Random masks need no shuffling."
        )


def _left_dense(model, pruned_layer_types):
    """Paths of the kernels of all layers of other types."""
    return [
        path
        for path, layer, weight in kernels.named_weights(model)
        if kernels.is_kernel(layer, weight)
        and type(layer).__name__ not in pruned_layer_types
    ]


def _load_weights(checkpoint, model):
    """Sets all variables but masks to a checkpoint's, under this model's masks."""
    check_match(checkpoint, model)
    for name, variable in named_variables(model).items():
        if not name.endswith(MASK):
            variable.assign(checkpoint.values[name])
    apply_masks(model)


def _add_noise(model, stddev, seed):
    for index, variable in enumerate(model.trainable_variables):
        draw = stateless_seed("initial noise", seed, index)
        noise = tf.random.stateless_normal(variable.shape, draw, alg=ALGORITHM)
        raw = compat.raw(variable)
        raw.assign_add(tf.cast(stddev * noise, raw.dtype))
    apply_masks(model)
