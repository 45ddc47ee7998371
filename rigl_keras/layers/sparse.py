"""The `Sparse` wrapper, which makes the kernels of a layer sparse."""

import collections.abc
import copy
import inspect
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core import distributions, kernels
from rigl_keras.core.choosing import (
    DEFAULT_SPARSITY,
    as_text,
    check_own_sparsity,
    checked_pattern,
    choose_patterns,
)
from rigl_keras.core.initial_masks import first_mask
from rigl_keras.core.initializers import check_initializer, initial_values
from rigl_keras.core.kernels import masked
from rigl_keras.core.masks import MaskConstraint, apply_loaded_masks, is_sparse
from rigl_keras.core.pattern_kinds import UNSTRUCTURED
from rigl_keras.core.tfmot_wrappers import is_pruning_wrapper
from rigl_keras.layers.untracked import Untracked

# Of the layer's config. Raise it when a config changes its meaning, and let
# `Sparse.from_config` read the older ones; files without it are of version 0.
CONFIG_VERSION = 2


@compat.register_serializable
class Sparse(keras.layers.Wrapper):
    """Makes the kernels of a layer sparse: each gets a mask and is 0 off it.

    The forward pass is the wrapped layer's own. A constraint on the kernel keeps
    inactive weights at 0, so nothing is multiplied at every call, and the gradient that
    reaches a kernel is the dense one, which RigL needs.

    Weights that Keras loads from a file, or the layer's `set_weights` sets, become 0
    off the masks. Others that are put there count until the next training step: those
    of `assign`, of `tf.train.Checkpoint`, of a model's `set_weights` in Keras 3, and in
    a model inside a model those of files other than ".keras" and ".weights.h5".
    `set_masks(model, get_masks(model))` sets them to 0.

    A file is loaded where `rigl_keras` is imported: Keras imports no other package.
    `keras.models.clone_model` draws weights and masks anew; `copy.deepcopy` keeps them.

    Args:
      layer: a layer or model, not yet sparse, with at least one kernel (a weight whose
        name ends in "kernel", of rank 2 or more; depthwise kernels stay dense). A
        subclassed model trains sparsely inside a `SparseModel`.
      sparsity: share of zeros, in [0, 1). A float for every kernel, or a mapping from
        paths below the layer ("kernel" for a Dense layer) to the sparsity of each
        kernel; kernels it leaves out stay dense. It may also name other weights of rank
        2 or more, such as "embeddings" or "depthwise_kernel", but no biases. None for
        0.9, or what the pattern sets.
      initializer: None keeps the layer's own values on the mask; "unit_scaled" (He for
        each neuron's own fan-in) or "layer_scaled" (He for the layer's mean fan-in); or
        a function `(mask, in_axes, out_axes, seed) -> values`. A function is not part
        of the config: a saved layer keeps its values, not the way they were drawn.
        Embeddings, which have no fan-in, keep theirs.
      seed: int, for the random mask and the initializer. None draws one from NumPy's
        global generator, which `keras.utils.set_random_seed` sets.
      pattern: how the weights that exist lie in each kernel, see `sparsify`; paths are
        those below the layer.
      **kwargs: of `keras.layers.Layer`, such as `name`.

    Raises:
      TypeError: when `layer` is no layer of the Keras in use.
      ValueError: when an argument is out of range; when the layer, once built, has no
        kernel, one that is already sparse, or one that the pattern does not suit.

    Source: Evci et al. 2022, section 3.
    """

    # Masks are addressed as if the wrapper were not there.
    path_name = ""

    def __init__(
        self,
        layer,
        sparsity=None,
        initializer=None,
        seed=None,
        *,
        pattern=None,
        **kwargs,
    ):
        compat.check_layer(layer, "a layer or model for Sparse to wrap")
        if any(isinstance(child, Sparse) for child, _ in kernels.walk(layer)):
            raise ValueError(
                f"Layer {layer.name!r} is or holds a Sparse layer already. Wrap the "
                "plain layer, or change the masks with rigl_keras.set_masks."
            )
        if any(kernels.compressed_kernel(child) for child, _ in kernels.walk(layer)):
            raise ValueError(f"Layer {layer.name!r} is or holds a Compressed layer.")
        if any(is_pruning_wrapper(child) for child, _ in kernels.walk(layer)):
            raise ValueError(
                f"Layer {layer.name!r} is or holds a wrapper of TFMOT's "
                "prune_low_magnitude, with a mask of its own. Wrap the plain layer; or "
                "take TFMOT's masks over, rigl_keras.from_tfmot(model)."
            )
        check_initializer(initializer)
        kwargs.setdefault("name", f"sparse_{layer.name}")
        # Else unfreezing the wrapper of a frozen layer would change nothing in Keras 3.
        kwargs.setdefault("trainable", layer.trainable)
        # The wrapped layer casts its inputs as its own dtype policy says.
        super().__init__(layer, autocast=False, **kwargs)
        self._pattern = Untracked({"pattern": as_text(checked_pattern(pattern))})
        if sparsity is None and pattern is None:
            sparsity = DEFAULT_SPARSITY
        self.sparsity = _checked_sparsity(sparsity)
        self.initializer = initializer
        self.seed = int(np.random.randint(2**31) if seed is None else seed)
        self.supports_masking = layer.supports_masking
        self._first_call: Any = None
        self._built_by_call = False
        self._planned_masks: Any = Untracked({})
        self._mask_count = 0
        self._after_loading = compat.AfterLoading(self.finalize_state)

    def __repr__(self):
        """The layer within, how sparse it is to be, and its pattern if it has one."""
        given = self.pattern
        texts = list(given.values()) if isinstance(given, dict) else [given]
        is_plain = all(text == str(UNSTRUCTURED) for text in texts)
        pattern = "" if is_plain else f"pattern={given!r}, "
        return (
            f"<Sparse name={self.name}, layer={type(self.layer).__name__} "
            f"{self.layer.name!r}, sparsity={self.sparsity!r}, {pattern}"
            f"built={self.built}>"
        )

    @property
    def pattern(self):
        """How the weights that exist lie in each kernel: a text, or lists and a dict.

        See `rigl_keras.patterns.from_text`.
        """
        return self._pattern["pattern"]

    @property
    def sparse_masks(self):
        """The mask variables, in the order of their kernels."""
        return [getattr(self, f"mask_{index}") for index in range(self._mask_count)]

    def plan_masks(self, masks):
        """Gives the masks that `build` is to use instead of random ones.

        Args:
          masks: mapping from paths below the layer to bool arrays.
        """
        self._planned_masks = Untracked(masks)

    def build(self, input_shape=None):
        """Builds the wrapped layer, adds the masks and zeroes what they exclude."""
        self._build_layer(input_shape)
        chosen = self._chosen(kernels.find_maskable(self.layer))
        choice = choose_patterns(chosen, self.pattern)
        sparsities = self._sparsity_by_path(choice)
        patterns = choice.of(sparsities)
        for path, sparsity in sparsities.items():
            # What is given for masks on the way of pruning is less.
            if sparsity > (patterns[path].own_sparsity or 1):
                check_own_sparsity(path, patterns[path], sparsity)
        sparse = [kernel for kernel in chosen if kernel.path in sparsities]
        for index, kernel in enumerate(sparse):
            kernels.check_effective(kernel)
            pattern = patterns[kernel.path]
            mask = self._planned_masks.get(kernel.path)
            if mask is None:
                sparsity = sparsities[kernel.path]
                mask = first_mask(
                    kernel, sparsity, pattern, seed=self.seed, index=index
                )
            self._add_mask(index, kernel, mask, pattern=pattern)
            self._mask_initial_value(index, kernel, mask)
        self._mask_count = len(sparse)
        self.built = True

    def _build_layer(self, input_shape):
        if self._is_layer_built():
            return
        build = inspect.signature(self.layer.build).parameters.values()
        needed = [argument for argument in build if argument.default is argument.empty]
        if len(needed) <= 1:
            super().build(input_shape)
        if self._is_layer_built():
            return
        # Several inputs, or sublayers that are made or built in `call` only.
        if self._first_call is None:
            inputs = tf.TensorSpec(input_shape, self.layer.compute_dtype)
            compat.trace(self.layer, inputs)
        else:
            args, kwargs = self._first_call()
            compat.trace(self.layer, *args, **kwargs)
            self._built_by_call = True

    def _is_layer_built(self):
        built = all(child.built for child, _ in kernels.walk(self.layer))
        return built and bool(kernels.find_maskable(self.layer))

    def _chosen(self, maskable):
        """The weights that are to be sparse, if their pattern does not leave them."""
        if isinstance(self.sparsity, Untracked):
            known = [kernel.path for kernel in maskable]
            unknown = sorted(set(self.sparsity) - set(known))
            if unknown:
                raise ValueError(
                    f"`sparsity` names weights that layer {self.layer.name!r} does not "
                    f"have: {unknown}. Those that can be sparse are {known}."
                )
            return [kernel for kernel in maskable if kernel.path in self.sparsity]
        chosen = [kernel for kernel in maskable if kernel.is_kernel]
        if not chosen:
            raise ValueError(
                f"Layer {self.layer.name!r} ({type(self.layer).__name__}) has nothing "
                "to make sparse: no weight named '...kernel' of rank 2 or more. Wrap "
                "layers such as Dense or Conv2D, and leave this one as it is; or, as "
                "`sparsity`, name other weights of rank 2 or more, such as "
                "{'embeddings': 0.9}."
            )
        return chosen

    def _sparsity_by_path(self, choice):
        if isinstance(self.sparsity, Untracked):
            return self.sparsity
        sparsity = choice.checked_sparsity(self.sparsity)
        own = choice.own_sparsities() if sparsity > 0 else {}
        sparsities = {path: own.get(path, sparsity) for path in choice.patterns}
        sparse = {k: v for k, v in sparsities.items() if k not in choice.dense()}
        if not sparse:
            raise ValueError(
                f"The pattern {self.pattern!r} leaves every kernel of layer "
                f"{self.layer.name!r} dense. Leave the layer as it is."
            )
        return sparse

    def _add_mask(self, index, kernel, values, *, pattern):
        variable = kernel.variable
        if isinstance(variable.constraint, MaskConstraint):
            raise ValueError(
                f"Kernel {kernel.path!r} of layer {self.layer.name!r} is shared with a "
                "layer that is already sparse. Wrap only one of the two."
            )
        mask = self.add_weight(
            name=f"mask_{index}",
            shape=tuple(variable.shape),
            dtype="bool",
            initializer=lambda *args, **kwargs: tf.constant(values),
            trainable=False,
        )
        # An attribute each: Keras 3 leaves lists out of tf.train.Checkpoint.
        setattr(self, f"mask_{index}", mask)
        constraint = MaskConstraint(mask, variable.constraint, pattern)
        compat.set_constraint(variable, constraint)

    def _mask_initial_value(self, index, kernel, mask):
        def first_value(value):
            if self.initializer is None or kernel.is_embedding:
                return masked(value, mask)
            seed = stateless_seed("init", self.seed, index)
            return initial_values(
                self.initializer, mask, kernel, seed=seed, dtype=value.dtype
            )

        if compat.has_value(kernel.variable):
            with tf.init_scope():
                kernel.variable.assign(first_value(compat.raw(kernel.variable)))
        else:
            compat.map_initial_value(kernel.variable, first_value)

    def set_weights(self, weights):
        """Sets weights and masks; weights off their masks become 0.

        Raises:
          ValueError: for other shapes, and for a mask without a connection.
        """
        super().set_weights(weights)
        self.finalize_state()

    def finalize_state(self):
        """Sets weights off their masks to 0, after they were loaded or set.

        Keras calls it. Raises a ValueError for a mask without a connection.
        """
        if self.built:
            apply_loaded_masks(self)

    def __call__(self, *args, **kwargs):
        """Calls the wrapped layer, building it first if need be."""
        if not self.built:
            # A function, because Keras would track a tuple.
            self._first_call = lambda: (args, kwargs)
        outputs = super().__call__(*args, **kwargs)
        self._first_call = None
        return outputs

    def call(self, inputs, *args, **kwargs):
        """Calls the wrapped layer."""
        # Keras 2 hands both to a `call` with **kwargs.
        accepted = inspect.signature(self.layer.call).parameters
        for name in ("mask", "training"):
            if name not in accepted:
                kwargs.pop(name, None)
        return self.layer(inputs, *args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        """The wrapped layer's symbolic outputs (Keras 3)."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, input_shape):
        """The wrapped layer's output shape."""
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs, mask=None):
        """The wrapped layer's mask of timesteps (not a sparse mask)."""
        return self.layer.compute_mask(inputs, mask)

    @property
    def metrics(self):
        """The wrapped layer's; not those that a model was compiled with."""
        return [] if isinstance(self.layer, keras.Model) else self.layer.metrics

    def __deepcopy__(self, memo):
        """A layer with kernels and masks of its own."""
        reduced: Any = self.__reduce_ex__(4)
        make, arguments, *state = reduced
        copied = make(*arguments)
        memo[id(self)] = copied
        if state:  # In Keras 2; Keras 3 has made a file and loaded it.
            copied.__setstate__(copy.deepcopy(state[0], memo))
            copied._constrain_to_own_masks(self.sparse_masks)
        return copied

    def _constrain_to_own_masks(self, masks):
        """Has the masks of this copy keep its kernels sparse, not the layer's own."""
        old_masks = [id(mask) for mask in masks]
        own = dict(zip(old_masks, self.sparse_masks, strict=True))
        for weight in filter(is_sparse, compat.weights(self.layer)):
            old = weight.constraint
            if id(old.mask) in own:
                constraint = MaskConstraint(own[id(old.mask)], old.inner, old.pattern)
                compat.set_constraint(weight, constraint)

    def get_build_config(self):
        """What `build` needs when a file is loaded; None where only a call builds."""
        by_call = self._built_by_call or compat.is_subclassed_model(self.layer)
        return None if by_call else super().get_build_config()

    def get_config(self):
        """The layer's config; a function as initializer is not part of it."""
        sparsity = self.sparsity
        if isinstance(sparsity, Untracked):
            sparsity = dict(sparsity)
        config = {
            "sparsity": sparsity,
            "initializer": self.initializer
            if isinstance(self.initializer, str)
            else None,
            "seed": self.seed,
            "pattern": self.pattern,
        }
        return {**super().get_config(), **config, "version": CONFIG_VERSION}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The layer of a config, also of one that an older version wrote.

        Raises:
          ValueError: for a config of a version to come.
        """
        config = dict(config)
        version = config.pop("version", 0)
        if version > CONFIG_VERSION:
            raise ValueError(
                f"The Sparse layer {config.get('name')!r} was saved by a newer "
                f"rigl_keras: its config has version {version}, and this one reads "
                f"versions up to {CONFIG_VERSION}. Install a newer rigl_keras."
            )
        layer = compat.deserialized(config.pop("layer"), custom_objects)
        return cls(layer, **config)


def _checked_sparsity(sparsity):
    if sparsity is None:  # what the pattern sets
        return None
    if isinstance(sparsity, collections.abc.Mapping):
        return Untracked(
            {
                path: distributions.check_sparsity(value, f"`sparsity` of {path!r}")
                for path, value in sparsity.items()
            }
        )
    return distributions.check_sparsity(sparsity)
