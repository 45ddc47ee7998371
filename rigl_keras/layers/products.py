"""Layers that multiply by a matrix: what their inputs, kernel and outputs look like."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow import keras

from rigl_keras.core.kernels import einsum_axes

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_ELEMENTWISE_REGULARIZERS = (
    keras.regularizers.L1,
    keras.regularizers.L2,
    keras.regularizers.L1L2,
)


class Product(NamedTuple):
    """The product of a layer's inputs with its kernel.

    The inputs become rows of `shape[in_axes]` numbers, flat, and each row of the result
    has `shape[out_axes]` numbers.

    Attributes:
      shape: the kernel's.
      in_axes: its axes that count inputs.
      out_axes: its axes that count outputs.
      bias_shape: tuple of ints.
      in_order: the axes of the inputs, those that are multiplied last.
      out_order: which axes of (those of the inputs that are kept, those of the outputs)
        the layer's outputs have, in their order.
      strides: of each axis of the inputs, 1 but for those of strided convolutions.
    """

    shape: tuple[int, ...]
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    bias_shape: tuple[int, ...]
    in_order: tuple[int, ...]
    out_order: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def outputs(self) -> int:
        """How many numbers a row of the result has."""
        return math.prod(self.shape[axis] for axis in self.out_axes)

    def rows(self, inputs: tf.Tensor) -> tf.Tensor:
        """The inputs as a matrix.

        Args:
          inputs: the layer's.

        Returns:
          A tensor of shape [rows, inputs].
        """
        if max(self.strides) > 1:
            inputs = inputs[tuple(slice(None, None, step) for step in self.strides)]
        inputs = _transposed(inputs, self.in_order)
        width = math.prod(self.shape[axis] for axis in self.in_axes)
        return tf.reshape(inputs, [-1, width])

    def outputs_of(self, rows: tf.Tensor, inputs: tf.Tensor) -> tf.Tensor:
        """The layer's outputs, before bias and activation.

        Args:
          rows: tensor of shape [rows, outputs].
          inputs: the layer's inputs.
        """
        sizes = [self.shape[axis] for axis in self.out_axes]
        static, dynamic = inputs.shape, tf.shape(inputs)
        kept = [
            -(-(dynamic[axis] if static[axis] is None else static[axis]) // step)
            for axis, step in self._kept()
        ]
        outputs = tf.reshape(rows, [*kept, *sizes])
        return _transposed(outputs, self.out_order)

    def output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of the layer's outputs; None where that of the inputs has it."""
        kept = [
            None if (size := input_shape[axis]) is None else -(-size // step)
            for axis, step in self._kept()
        ]
        sizes = [*kept, *(self.shape[axis] for axis in self.out_axes)]
        return tuple(sizes[axis] for axis in self.out_order)

    def _kept(self) -> list[tuple[int, int]]:
        """The axes of the inputs that the outputs keep, with their strides."""
        kept = self.in_order[: len(self.in_order) - len(self.in_axes)]
        return [(axis, self.strides[axis]) for axis in kept]


def product_of(layer: Any, input_shape: Sequence[int | None]) -> Product:
    """The product that a layer makes of inputs of a shape.

    Args:
      layer: one that `problem_of` has nothing against.
      input_shape: tuple of ints, or None, as the layer's `build` takes it.
    """
    shape = tuple(input_shape)
    if isinstance(layer, keras.layers.EinsumDense):
        return _einsum_product(layer, shape)
    if isinstance(layer, keras.layers.Dense):
        strides: tuple[int, ...] = (1,) * len(shape)
        taps, units = 0, layer.units
    else:
        strides = (1, *layer.strides, 1)
        taps, units = len(layer.kernel_size), layer.filters
    axes = tuple(range(len(shape)))
    kernel = (*(1,) * taps, shape[-1], units)
    return Product(kernel, (taps,), (taps + 1,), (units,), axes, axes, strides)


def _einsum_product(layer: Any, input_shape: tuple[int | None, ...]) -> Product:
    inputs, kernel, outputs = _letters(layer.equation, len(input_shape))
    in_axes, out_axes = einsum_axes(layer.equation)
    given = dict(zip(inputs, input_shape, strict=True))
    # The layer's `output_shape` leaves out the sizes of an ellipsis at the end.
    named = outputs.rstrip("".join(set(outputs) - set(layer.equation)))
    asked = _asked_shape(layer.get_config()["output_shape"], named)
    # Those of kernel and bias are known, or Keras could not build the layer.
    sizes = {
        letter: int(asked.get(letter) or given.get(letter) or 0)
        for letter in {*kernel, *outputs}
    }
    contracted = [kernel[axis] for axis in in_axes]
    kept = [letter for letter in inputs if letter not in contracted]
    result = [*kept, *(kernel[axis] for axis in out_axes)]
    bias: tuple[int, ...] = ()
    if layer.bias_axes:
        first = min(outputs.index(letter) for letter in layer.bias_axes)
        bias = tuple(
            sizes[letter] if letter in layer.bias_axes else 1
            for letter in outputs[first:]
        )
    return Product(
        tuple(sizes[letter] for letter in kernel),
        in_axes,
        out_axes,
        bias,
        tuple(inputs.index(letter) for letter in [*kept, *contracted]),
        tuple(result.index(letter) for letter in outputs),
        (1,) * len(inputs),
    )


def _letters(equation: str, rank: int) -> tuple[str, str, str]:
    """The letters of inputs, kernel and outputs; an ellipsis becomes capitals."""
    operands, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    count = rank - len(inputs.replace("...", ""))
    unused = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    ellipsis = "".join(c for c in unused if c not in equation)[:count]
    inputs, outputs = (part.replace("...", ellipsis) for part in (inputs, outputs))
    return inputs, kernel.replace("...", ""), outputs


def _asked_shape(asked: Any, outputs: str) -> dict[str, int | None]:
    """The sizes of the last letters of the outputs, as the layer's argument says."""
    sizes = [asked] if isinstance(asked, int) else list(asked)
    return dict(zip(reversed(outputs), reversed(sizes), strict=False))


def problem_of(layer: Any) -> str | None:
    """Why a layer's kernel cannot be stored without its zeros; None where it can.

    Args:
      layer: a layer, built or not.

    Returns:
      A text that follows on the name of the kernel.
    """
    if type(layer) not in (
        keras.layers.Dense,
        keras.layers.EinsumDense,
        *_CONVOLUTIONS,
    ):
        return (
            f"it belongs to {type(layer).__name__}, which is none of Keras's Dense, "
            "EinsumDense and convolutions"
        )
    if isinstance(layer, keras.layers.EinsumDense):
        problem = _einsum_problem(layer.equation)
    elif isinstance(layer, _CONVOLUTIONS):
        problem = _convolution_problem(layer)
    else:
        problem = None
    return problem or _kernel_options_problem(layer)


def _einsum_problem(equation: str) -> str | None:
    operands, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = (part.replace("...", "") for part in operands.split(","))
    # Keras takes the first letter of the outputs for the batch.
    is_batch_first = outputs.startswith("...") or outputs[0] not in kernel
    outputs = outputs.replace("...", "")
    is_product = (
        is_batch_first
        and all((letter in inputs) != (letter in outputs) for letter in kernel)
        and all((letter in kernel) != (letter in outputs) for letter in inputs)
        and all(len(set(part)) == len(part) for part in (inputs, kernel, outputs))
    )
    return None if is_product else f"its equation {equation!r} is no matrix product"


def _convolution_problem(layer: Any) -> str | None:
    if any(size > 1 for size in layer.kernel_size):
        return f"its convolution has taps, {tuple(layer.kernel_size)}"
    if layer.groups > 1:
        return f"its convolution has {layer.groups} groups of channels"
    if layer.data_format != "channels_last":
        return "its channels come first"
    return None


def _kernel_options_problem(layer: Any) -> str | None:
    """Refuses what looks at the whole kernel, and not at each weight."""
    regularizer, constraint = layer.kernel_regularizer, layer.kernel_constraint
    inner = getattr(constraint, "inner", constraint)  # of a mask's own constraint
    if inner is not None and type(inner) is not keras.constraints.NonNeg:
        return f"its constraint {type(inner).__name__} may need the whole kernel"
    if regularizer is not None and type(regularizer) not in _ELEMENTWISE_REGULARIZERS:
        return f"its regulariser {type(regularizer).__name__} may need the whole kernel"
    if getattr(layer, "lora_enabled", False) or getattr(
        layer, "quantization_mode", None
    ):
        return "its layer is quantised or adapted by LoRA"
    return None


def _transposed(values: tf.Tensor, order: Sequence[int]) -> tf.Tensor:
    return values if list(order) == sorted(order) else tf.transpose(values, order)
