"""Checks of the batches on which a model's loss is evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_PARTS = ("x", "y", "sample_weight")


def check_batch(name: str, data: Any) -> None:
    """Refuses what is no batch.

    Args:
      name: what the caller knows the argument by.
      data: what came.

    Raises:
      ValueError: when `data` is neither (x, y) nor (x, y, sample_weight), of arrays
        with as many examples each, and one at least.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        length = f" of length {len(data)}" if hasattr(data, "__len__") else ""
        advice = ""
        if isinstance(data, tf.data.Dataset):
            advice = " A batch of a data set is next(iter(dataset))."
        raise ValueError(
            f"Expected `{name}` to be (x, y) or (x, y, sample_weight), but got "
            f"{type(data).__name__}{length}.{advice}"
        )
    sizes: dict[str, int] = {}
    for part, values in zip(_PARTS, data, strict=False):
        for array in tf.nest.flatten(values):
            shape = _shape(array)
            if array is None or shape == ():
                raise ValueError(
                    f"Expected {part} of `{name}` to be an array with an entry for "
                    f"each example, or a list or dict of them, but got {array!r} "
                    f"{'' if values is array else 'in it'}".rstrip()
                    + "."
                )
            if shape is not None and shape[0] is not None:
                sizes[_text(part, values, shape)] = shape[0]
    _check_sizes(name, sizes)


def check_fits(name: str, data: Sequence[Any], model: Any) -> None:
    """Refuses a batch whose x a Sequential or Functional model does not take.

    Args:
      name: what the caller knows the argument by.
      data: a batch, as of `check_batch`.
      model: the model. One that only its own code can call says nothing of its inputs.

    Raises:
      ValueError: for x of another number of arrays or of other shapes.
    """
    inputs = getattr(model, "inputs", None)
    if not inputs or isinstance(data[0], Mapping):
        return
    expected = [tuple(tensor.shape) for tensor in inputs]
    got = [_shape(array) for array in tf.nest.flatten(data[0])]
    if len(got) == len(expected) and all(map(_is_taken, got, expected)):
        return
    raise ValueError(
        f"Expected x of `{name}` to be {_shapes(expected)}, as model {model.name!r} "
        f"takes it, but got {_shapes(got)}."
    )


def described(data: Sequence[Any]) -> str:
    """The shapes of a batch as a text, such as "x of shape (10, 6), y of shape (10,)".

    Args:
      data: a batch, as of `check_batch`.
    """
    return ", ".join(
        f"{part} of shape {_shapes([_shape(array) for array in arrays])}"
        for part, arrays in zip(_PARTS, map(tf.nest.flatten, data), strict=False)
    )


def _check_sizes(name: str, sizes: Mapping[str, int]) -> None:
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"Expected all parts of `{name}` to have as many examples, their first "
            f"axis, but got {', '.join(sizes)}."
        )
    if 0 in sizes.values():
        raise ValueError(
            f"Expected `{name}` to hold an example at least, but it is empty: "
            f"{', '.join(sizes)}."
        )


def _shape(array: Any) -> tuple[int | None, ...] | None:
    """The shape as a tuple, with None for what is not known."""
    shape = getattr(array, "shape", None)
    if isinstance(shape, tf.TensorShape):
        return None if shape.rank is None else tuple(shape)
    return tuple(np.shape(array) if shape is None else shape)


def _is_taken(
    shape: tuple[int | None, ...] | None, expected: tuple[int | None, ...]
) -> bool:
    """True where Keras takes an array of a shape for an input of another."""
    if shape is None:
        return True
    one, other = shape[1:], expected[1:]
    # Keras adds a last axis of 1, or leaves it out.
    if len(one) == len(other) + 1 and one[-1] == 1:
        one = one[:-1]
    elif len(other) == len(one) + 1 and other[-1] == 1:
        other = other[:-1]
    return len(one) == len(other) and all(
        left == right or None in (left, right)
        for left, right in zip(one, other, strict=True)
    )


def _shapes(shapes: Sequence[tuple[int | None, ...] | None]) -> str:
    texts = [
        "?" if shape is None else str(shape).replace("None", "?") for shape in shapes
    ]
    return texts[0] if len(texts) == 1 else f"{len(texts)} arrays {', '.join(texts)}"


def _text(part: str, values: Any, shape: tuple[int | None, ...]) -> str:
    one_of_several = "" if hasattr(values, "shape") else "an array in "
    return f"{one_of_several}{part} of shape {_shapes([shape])}"
