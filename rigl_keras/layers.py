"""The `Sparse` wrapper, and reading and setting the masks below a model."""

import collections.abc
import inspect
import types
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat, distributions, init_utils, kernels
from rigl_keras.kernels import masked
from rigl_keras.seeding import stateless_seed
from rigl_keras.selection import random_mask

INITIALIZERS = {
    # He's variance 2/fan-in, as the paper's text says, for each neuron's own fan-in ...
    "unit_scaled": init_utils.unit_scaled_init,
    # ... or for the layer's mean fan-in, as Liu et al. do.
    "layer_scaled": init_utils.layer_scaled_init,
}


class SparseKernel(NamedTuple):
    """A kernel and the mask that decides which of its connections exist.

    Attributes:
      path: where it is in the model, such as "conv1/kernel"; the same in both Kerases.
      kernel: the kernel's variable, exactly 0 wherever the mask is False.
      mask: a bool variable of the kernel's shape.
      in_axes: axes that count input units.
      out_axes: axes that count output units.
    """

    path: str
    kernel: Any
    mask: Any
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]


class MaskConstraint(keras.constraints.Constraint):
    """Keeps a kernel at exactly 0 off its mask, after the user's own constraint."""

    def __init__(self, mask, inner=None):
        self.mask = mask
        self.inner = inner

    def __call__(self, w):
        """Returns `w`, constrained, with zeros off the mask."""
        return masked(w if self.inner is None else self.inner(w), self.mask)


def check_initializer(initializer):
    """Refuses what is neither None, a known name nor a function.

    Raises:
      ValueError: naming the choices.
    """
    known = initializer is None or callable(initializer)
    if not known and initializer not in INITIALIZERS:
        raise ValueError(
            f"Expected `initializer` to be None, one of {sorted(INITIALIZERS)} or a "
            "function (mask, in_axes, out_axes, seed) -> values, but got "
            f"{initializer!r}."
        )


def initial_values(initializer, mask, kernel, seed, dtype):
    """Draws a kernel's initial weights for a mask.

    Args:
      initializer: a name in `INITIALIZERS`, or a function `(mask, in_axes=...,
        out_axes=..., seed=...) -> values`.
      mask: bool array of the kernel's shape.
      kernel: has `in_axes` and `out_axes`.
      seed: stateless seed, int64 of shape [2].
      dtype: the kernel's dtype.

    Returns:
      A tensor of the kernel's shape, 0 off the mask.
    """
    axes = {"in_axes": kernel.in_axes, "out_axes": kernel.out_axes}
    if isinstance(initializer, str):
        values = INITIALIZERS[initializer](
            mask, method="fanin_normal", scale=2.0, seed=seed, **axes
        )
    else:
        values = initializer(mask, seed=seed, **axes)
    return masked(tf.cast(values, dtype), mask)


@compat.register_serializable
class Sparse(keras.layers.Wrapper):
    """Makes the kernels of a layer sparse: each gets a mask and is 0 off it.

    The forward pass is the wrapped layer's own. A constraint on the kernel keeps
    inactive weights at 0, so nothing is multiplied at every call, and the gradient that
    reaches a kernel is the dense one, which RigL needs.

    Args:
      layer: a layer or model, not yet sparse, with at least one kernel (a weight whose
        name ends in "kernel", of rank 2 or more; depthwise kernels stay dense).
      sparsity: share of zeros, in [0, 1). A float for every kernel, or a mapping from
        paths below the layer ("kernel" for a Dense layer) to the sparsity of each
        kernel; kernels it leaves out stay dense.
      initializer: None keeps the layer's own values on the mask; "unit_scaled" (He for
        each neuron's own fan-in) or "layer_scaled" (He for the layer's mean fan-in); or
        a function `(mask, in_axes, out_axes, seed) -> values`. A function is not part
        of the config: a saved layer keeps its values, not the way they were drawn.
      seed: int, for the random mask and the initializer. None draws one from NumPy's
        global generator, which `keras.utils.set_random_seed` sets.
      **kwargs: of `keras.layers.Layer`, such as `name`.

    Raises:
      TypeError: when `layer` is no layer of the Keras in use.
      ValueError: when an argument is out of range; when the layer, once built, has no
        kernel, or one that is already sparse.

    Source: Evci et al. 2022, section 3.
    """

    # Masks are addressed as if the wrapper were not there.
    path_name = ""

    def __init__(self, layer, sparsity=0.9, initializer=None, seed=None, **kwargs):
        compat.check_layer(layer, "a layer or model for Sparse to wrap")
        if any(isinstance(child, Sparse) for child, _ in kernels.walk(layer)):
            raise ValueError(
                f"Layer {layer.name!r} is or holds a Sparse layer already. Wrap the "
                "plain layer, or change the masks with rigl_keras.set_masks."
            )
        check_initializer(initializer)
        kwargs.setdefault("name", f"sparse_{layer.name}")
        # The wrapped layer casts its inputs as its own dtype policy says.
        super().__init__(layer, autocast=False, **kwargs)
        self.sparsity = _checked_sparsity(sparsity)
        self.initializer = initializer
        self.seed = int(np.random.randint(2**31) if seed is None else seed)
        self.supports_masking = layer.supports_masking
        self._first_call: Any = None
        self._built_by_call = False
        self._planned_masks: Any = types.MappingProxyType({})

    def plan_masks(self, masks):
        """Gives the masks that `build` is to use instead of random ones.

        Args:
          masks: mapping from paths below the layer to bool arrays.
        """
        # A proxy, because Keras would track the arrays of a plain dict.
        self._planned_masks = types.MappingProxyType(dict(masks))

    def build(self, input_shape=None):
        """Builds the wrapped layer, adds the masks and zeroes what they exclude."""
        self._build_layer(input_shape)
        found = kernels.find_kernels(self.layer)
        sparsities = self._sparsity_by_path([kernel.path for kernel in found])
        chosen = [kernel for kernel in found if kernel.path in sparsities]
        for index, kernel in enumerate(chosen):
            mask = self._first_mask(index, kernel, sparsities[kernel.path])
            self._add_mask(index, kernel, mask)
            self._mask_initial_value(index, kernel, mask)
        self.built = True

    def _build_layer(self, input_shape):
        build = inspect.signature(self.layer.build).parameters.values()
        needed = [each for each in build if each.default is each.empty]
        if len(needed) <= 1:
            super().build(input_shape)
        built = all(child.built for child, _ in kernels.walk(self.layer))
        if built and kernels.find_kernels(self.layer):
            return
        # Several inputs, or sublayers that are made or built in `call` only.
        if self._first_call is None:
            inputs = tf.TensorSpec(input_shape, self.layer.compute_dtype)
            compat.trace(self.layer, inputs)
        else:
            args, kwargs = self._first_call()
            compat.trace(self.layer, *args, **kwargs)
            self._built_by_call = True

    def _sparsity_by_path(self, paths):
        if not paths:
            raise ValueError(
                f"Layer {self.layer.name!r} ({type(self.layer).__name__}) has nothing "
                "to make sparse: no weight named '...kernel' of rank 2 or more. Wrap "
                "layers such as Dense or Conv2D, and leave this one as it is."
            )
        if isinstance(self.sparsity, float):
            return dict.fromkeys(paths, self.sparsity)
        unknown = sorted(set(self.sparsity) - set(paths))
        if unknown:
            raise ValueError(
                f"`sparsity` names kernels that layer {self.layer.name!r} does not "
                f"have: {unknown}. It has {paths}."
            )
        return self.sparsity

    def _first_mask(self, index, kernel, sparsity):
        if kernel.path in self._planned_masks:
            return self._planned_masks[kernel.path]
        shape = tuple(kernel.variable.shape)
        count = distributions.active_count(int(np.prod(shape)), sparsity)
        with tf.init_scope():  # `build` may run while a graph is being traced.
            seed = stateless_seed("mask", self.seed, index)
            return random_mask(shape, count, seed).numpy()

    def _add_mask(self, index, kernel, values):
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
        compat.set_constraint(variable, MaskConstraint(mask, variable.constraint))

    def _mask_initial_value(self, index, kernel, mask):
        def first_value(value):
            if self.initializer is None:
                return masked(value, mask)
            seed = stateless_seed("init", self.seed, index)
            return initial_values(self.initializer, mask, kernel, seed, value.dtype)

        if compat.has_value(kernel.variable):
            with tf.init_scope():
                kernel.variable.assign(first_value(compat.raw(kernel.variable)))
        else:
            compat.map_initial_value(kernel.variable, first_value)

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

    def get_build_config(self):
        """What `build` needs when a file is loaded; None where only a call builds."""
        return None if self._built_by_call else super().get_build_config()

    def get_config(self):
        """The layer's config; a function as initializer is not part of it."""
        sparsity = self.sparsity
        if not isinstance(sparsity, float):
            sparsity = dict(sparsity)
        name = self.initializer if isinstance(self.initializer, str) else None
        config = {"sparsity": sparsity, "initializer": name, "seed": self.seed}
        return {**super().get_config(), **config}


def _checked_sparsity(sparsity):
    if isinstance(sparsity, collections.abc.Mapping):
        return types.MappingProxyType(
            {
                path: distributions.check_sparsity(value, f"`sparsity` of {path!r}")
                for path, value in sparsity.items()
            }
        )
    return distributions.check_sparsity(sparsity)


def sparse_kernels(model):
    """The kernels of a model that have a mask.

    Args:
      model: a built model or layer that holds `Sparse` layers.

    Returns:
      A list of `SparseKernel`, in the order of the layers, empty for a dense model.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
    """
    compat.check_layer(model, "a model")
    return [
        SparseKernel(
            kernel.path,
            kernel.variable,
            kernel.variable.constraint.mask,
            kernel.in_axes,
            kernel.out_axes,
        )
        for kernel in kernels.find_kernels(model)
        if isinstance(kernel.variable.constraint, MaskConstraint)
    ]


def get_masks(model):
    """The masks of a model as arrays.

    Args:
      model: a built model or layer that holds `Sparse` layers.

    Returns:
      A dict from the kernels' paths to bool arrays of their shapes.
    """
    return {each.path: each.mask.numpy() for each in sparse_kernels(model)}


def set_masks(model, masks):
    """Sets masks of a model, and the weights that they exclude to 0.

    Nothing is changed unless every mask is valid.

    Args:
      model: a built model or layer that holds `Sparse` layers.
      masks: mapping from kernels' paths to arrays of 0/1 or bool, of their shapes, each
        with at least one 1. Kernels it leaves out keep their mask.

    Raises:
      ValueError: for an unknown path, another shape, other values, or a mask that
        leaves a kernel no weight.
    """
    by_path = {each.path: each for each in sparse_kernels(model)}
    unknown = sorted(set(masks) - set(by_path))
    if unknown:
        raise ValueError(
            f"Expected masks of the sparse kernels {list(by_path)}, got {unknown}."
        )
    valid = {
        path: check_mask(path, mask, tuple(by_path[path].kernel.shape))
        for path, mask in masks.items()
    }
    for path, mask in valid.items():
        kernel = by_path[path].kernel
        by_path[path].mask.assign(mask)
        kernel.assign(masked(compat.raw(kernel), mask))


def check_mask(path, mask, shape):
    """Returns a kernel's mask as a bool array.

    Args:
      path: the kernel's.
      mask: array of 0/1 or bool.
      shape: the kernel's.

    Raises:
      ValueError: for another shape, other values, or a mask without a 1.
    """
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(
            f"Expected a mask of shape {shape} for {path!r}, but got {mask.shape}."
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"Expected a mask of zeros and ones for {path!r}, but got other values. "
            "Compare with a threshold first."
        )
    if not mask.any():
        raise ValueError(
            f"The mask for {path!r} leaves the kernel no weight, so nothing could pass "
            "it. Keep at least one."
        )
    return mask.astype(bool)
