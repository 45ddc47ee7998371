"""Kernels: which weights they are, where, how their axes connect; applying a mask."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.core.tfmot_wrappers import is_pruning_wrapper

# Their kernels have one weight per channel and tap: there is no fan-in to make sparse.
_DEPTHWISE_LAYERS = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED_LAYERS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


class Kernel(NamedTuple):
    """A kernel, or another weight that can have a mask, found in a layer.

    Attributes:
      path: names of the layers on the way to it and its own, such as "conv1/kernel".
      variable: the kernel's variable; of a compressed kernel, the weights that exist.
      in_axes: axes that count input units, as non-negative ints.
      out_axes: axes that count output units; the others are taps of a convolution.
      owner: the layer whose weight it is.
      shape: the kernel's, that of the dense one where it is compressed.
    """

    path: str
    variable: Any
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    owner: Any
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        """Where it is, instead of all its weights."""
        return f"Kernel(path={self.path!r}, shape={self.shape})"

    @property
    def is_kernel(self) -> bool:
        """True for what is made sparse without being asked for."""
        return is_kernel(self.owner, self.variable)

    @property
    def is_depthwise(self) -> bool:
        """True for the kernel of a convolution of each channel by itself."""
        return _is_depthwise(self.owner, self.variable)

    @property
    def is_embedding(self) -> bool:
        """True for a table whose rows are looked up, so that there is no fan-in."""
        return isinstance(self.owner, keras.layers.Embedding)

    @property
    def connection_shape(self) -> tuple[int, ...]:
        """Shape with one axis of inputs and one of outputs: (*taps, n_in, n_out)."""
        taps = [
            size
            for axis, size in enumerate(self.shape)
            if axis not in self.in_axes + self.out_axes
        ]
        n_in = int(np.prod([self.shape[axis] for axis in self.in_axes]))
        n_out = int(np.prod([self.shape[axis] for axis in self.out_axes]))
        return (*taps, n_in, n_out)


def is_kernel(layer: Any, variable: Any) -> bool:
    """True for a weight that connects input units to output units.

    That is a weight whose name ends in "kernel", of rank 2 or more, except depthwise
    kernels. Biases, normalisation and embeddings have other names.
    """
    name = compat.variable_name(variable)
    return (
        name.endswith("kernel")
        and is_maskable(variable)
        and not _is_depthwise(layer, variable)
    )


def _is_depthwise(layer: Any, variable: Any) -> bool:
    name = compat.variable_name(variable)
    return name == "depthwise_kernel" or isinstance(layer, _DEPTHWISE_LAYERS)


def is_maskable(variable: Any) -> bool:
    """True for a weight that can have a mask: of floats, rank 2 or more, no bias."""
    return (
        len(variable.shape) >= 2
        and tf.as_dtype(variable.dtype).is_floating
        and not compat.variable_name(variable).endswith("bias")
    )


def find_maskable(layer: Any, path: str = "") -> list[Kernel]:
    """All weights of a layer or model that can have a mask, each once.

    Args:
      layer: a built layer or model.
      path: path of the layer, to which the weights' paths are appended.

    Returns:
      A list of `Kernel`, in the order of the layers.
    """
    return [
        _kernel(weight_path, weight, owner)
        for weight_path, owner, weight in named_weights(layer, path)
        if is_maskable(weight)
    ]


def _kernel(path: str, variable: Any, owner: Any) -> Kernel:
    compressed = compressed_kernel(owner)
    if compressed is not None and compressed.variable is variable:
        axes, shape = (compressed.in_axes, compressed.out_axes), compressed.shape
    else:
        axes, shape = kernel_axes(owner, variable), tuple(variable.shape)
    return Kernel(path, variable, *axes, owner, shape)


def compressed_kernel(layer: Any) -> Any:
    """The `CompressedKernel` of a layer; None of one whose kernels are all in full."""
    return getattr(layer, "compressed_kernel", None)


def find_kernels(layer: Any, path: str = "") -> list[Kernel]:
    """The kernels among `find_maskable`: what is made sparse without being asked for.

    Args:
      layer: a built layer or model.
      path: path of the layer, to which the kernels' paths are appended.

    Returns:
      A list of `Kernel`, in the order of the layers.
    """
    return [kernel for kernel in find_maskable(layer, path) if kernel.is_kernel]


def check_effective(kernel: Kernel) -> None:
    """Refuses a kernel whose layer computes with another one than it holds.

    Args:
      kernel: a `Kernel`.

    Raises:
      ValueError: when its layer is quantised or adapted by LoRA.
    """
    if getattr(kernel.owner, "lora_enabled", False):
        raise ValueError(
            f"The layer of {kernel.path!r} is adapted by LoRA: to its kernel it adds a "
            "dense product, so that a mask would not make it sparse. Merge the "
            "adaptation into the kernel, or leave this kernel dense."
        )
    mode = getattr(kernel.owner, "quantization_mode", None)
    if mode:
        raise ValueError(
            f"The layer of {kernel.path!r} is quantised ({mode}), so its kernel can "
            "neither be masked nor trained. Make the model sparse and train it first, "
            "then `strip` it, then quantise."
        )


def matching(
    paths: Sequence[str], patterns: str | Sequence[str], name: str
) -> set[str]:
    """The paths that glob patterns match.

    Args:
      paths: list of str.
      patterns: a pattern, or a list of them, as for `fnmatch.fnmatchcase`.
      name: what the caller knows the patterns by.

    Returns:
      A set of paths.

    Raises:
      ValueError: for what is no pattern, or a pattern that matches no path.
    """
    check_patterns(patterns, name)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    matched: set[str] = set()
    if not patterns:
        raise ValueError(
            f"Expected `{name}` to be glob patterns that match some of {paths}, but "
            "got none."
        )
    for pattern in patterns:
        matches = isinstance(pattern, str) and [
            path for path in paths if fnmatch.fnmatchcase(path, pattern)
        ]
        if not matches:
            raise ValueError(
                f"Expected `{name}` to be glob patterns that match some of {paths}, "
                f"but {pattern!r} matches none."
            )
        matched |= set(matches)
    return matched


def check_patterns(patterns: Any, name: str) -> None:
    """Refuses what is neither a pattern nor several.

    Args:
      patterns: what came.
      name: what the caller knows it by.

    Raises:
      ValueError: saying what was expected.
    """
    is_several = isinstance(patterns, Iterable) and not isinstance(patterns, Mapping)
    if not is_several:
        raise ValueError(
            f"Expected `{name}` to be a glob pattern on paths, such as 'conv*', or a "
            f"list of them, but got {patterns!r}."
        )


def walk(layer: Any, path: str = "") -> Iterator[tuple[Any, str]]:
    """Yields `(layer, path)` for a layer and everything below it, depth first."""
    yield layer, path
    for child in compat.sublayers(layer):
        yield from walk(child, join(path, _path_name(child)))


def _path_name(layer: Any) -> str:
    # A wrapper may leave itself out of the paths of what it wraps.
    own_name = "" if is_pruning_wrapper(layer) else layer.name
    return getattr(layer, "path_name", own_name)


def join(*names: str) -> str:
    """Joins the parts of a path, leaving out empty ones."""
    return "/".join(name for name in names if name)


def own_weights(layer: Any) -> list[Any]:
    """The weights of a layer that belong to none of its sublayers."""
    below = {
        id(weight)
        for child in compat.sublayers(layer)
        for weight in compat.weights(child)
    }
    return [weight for weight in compat.weights(layer) if id(weight) not in below]


def named_weights(layer: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every weight below a layer or model with its path, once, where it is first found.

    What TFMOT's pruning wrappers add, masks, thresholds and step counts, is left out.

    Args:
      layer: a built layer or model.
      path: path of the layer, to which the weights' paths are appended.

    Yields:
      `(path, owner, weight)`: such as "conv1/kernel", the layer that holds the weight,
      and its variable.
    """
    seen = set()
    for owner, owner_path in walk(layer, path):
        if is_pruning_wrapper(owner):
            continue
        for weight in own_weights(owner):
            if id(weight) not in seen:
                seen.add(id(weight))
                yield join(owner_path, compat.variable_name(weight)), owner, weight


def kernel_axes(layer: Any, variable: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a kernel that count input units and those that count output units.

    Returns:
      Two tuples of non-negative ints. Most layers store `(*taps, n_in, n_out)`;
      transposed convolutions store `(*taps, n_out, n_in)`, and EinsumDense says it in
      its equation. Depthwise kernels have no input axis: each channel sees only itself.
    """
    rank = len(variable.shape)
    if _is_depthwise(layer, variable):
        return (), (rank - 2, rank - 1)
    if isinstance(layer, _TRANSPOSED_LAYERS):
        return (rank - 1,), (rank - 2,)
    is_kernel = compat.variable_name(variable) == "kernel"
    if isinstance(layer, keras.layers.EinsumDense) and is_kernel:
        return einsum_axes(layer.equation)
    return (rank - 2,), (rank - 1,)


def einsum_axes(equation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """An axis of the kernel that is summed away counts inputs, another one outputs."""
    operands, output = equation.replace(" ", "").split("->")
    letters = operands.split(",")[1].replace("...", "")
    in_axes = tuple(i for i, letter in enumerate(letters) if letter not in output)
    out_axes = tuple(i for i, letter in enumerate(letters) if letter in output)
    return in_axes, out_axes


def masked(values: Any, mask: Any) -> tf.Tensor:
    """`values` where `mask` is True and exactly 0 elsewhere, whatever stood there."""
    values = tf.convert_to_tensor(values)
    # Version 1's, which works in place where it may. That of version 2 can broadcast
    # and takes half as long again: docs/performance.md.
    return tf.compat.v1.where(read_mask(mask), values, tf.zeros_like(values))


def read_mask(mask: Any) -> tf.Tensor:
    """A mask, variable or tensor, as a bool tensor."""
    # TensorFlow Model Optimization keeps its masks as floats.
    return tf.cast(tf.convert_to_tensor(mask), tf.bool)
