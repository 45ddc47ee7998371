"""Patterns: which weights of a kernel exist or vanish together, and how they spread.

A pattern is a reshape. It arranges a kernel's weights in groups of units, each of some
elements: a unit exists as a whole or not at all, and a mask update leaves every group
the number of units that it has. Algorithms know nothing of it: the score of a unit is
the sum over its elements.
"""

import abc
import ast
import dataclasses
import inspect
import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from rigl_keras.core import distributions
from rigl_keras.core.grouping import Grouping, Layout

DENSE = "dense"  # in place of a pattern: no mask
_PATTERNS: dict[str, type["Pattern"]] = {}
_Class = TypeVar("_Class", bound=type["Pattern"])


class Pattern(abc.ABC):
    """How the weights of a kernel form units, and the units groups.

    A subclass defines `layout`. Make it a frozen dataclass, so that equal patterns
    compare equal and its arguments stand in files, and register it by a name:

        @rigl_keras.patterns.register
        @dataclasses.dataclass(frozen=True)
        class InputChannels(rigl_keras.patterns.Pattern):
            name = "input_channels"

            def layout(self, taps, inputs, outputs):
                return rigl_keras.patterns.Layout(
                    shape=(taps, inputs, outputs), groups=(), units=(1,)
                )

    Attributes of the class:
      name: what text and files call the pattern.
    """

    name = ""

    @abc.abstractmethod
    def layout(self, taps: int, inputs: int, outputs: int) -> Layout:
        """How a kernel of shape [taps, inputs, outputs] is grouped.

        Args:
          taps: positions of a convolution's kernel, such as 9 of a 3×3 one; 1 of Dense.
          inputs: input units or channels, joint where a kernel has several such axes.
          outputs: output units or channels, likewise.

        Returns:
          A `Layout`.

        Raises:
          ValueError: when the pattern does not suit such a kernel, saying why.
        """

    def grouping(
        self,
        shape: Sequence[int],
        in_axes: Sequence[int],
        out_axes: Sequence[int],
    ) -> Grouping:
        """The groups and units of a kernel.

        Args:
          shape: the kernel's.
          in_axes: its axes that count input units.
          out_axes: its axes that count output units. All others are taps.

        Returns:
          A `Grouping`.

        Raises:
          ValueError: when the pattern does not suit the kernel, saying why.
          TypeError: when `layout` returns what arranges no such kernel.
        """
        connected = (*in_axes, *out_axes)
        taps = [axis for axis in range(len(shape)) if axis not in connected]
        sizes = [
            int(np.prod([shape[axis] for axis in axes]))
            for axes in (taps, in_axes, out_axes)
        ]
        layout = self.layout(*sizes)
        _check_layout(self, layout, sizes)
        return Grouping(shape, [*taps, *connected], layout)

    @property
    def own_sparsity(self) -> float | None:
        """The sparsity that the pattern sets by itself; None where any may be asked."""
        return None

    def active_units(self, units: int, sparsity: float) -> int:
        """How many units of a group exist at a sparsity.

        Args:
          units: int, how many units a group has.
          sparsity: share of zeros, in [0, 1).

        Returns:
          An int in [1, units]: the density times units, rounded.
        """
        return distributions.active_count(units, sparsity)

    def least_units(self, units: int) -> int:
        """How many units of a group no pruning removes.

        Args:
          units: int, how many units a group has.

        Returns:
          An int in [1, units].
        """
        return 1

    def new_counts(
        self, counts: tf.Tensor, salient: tf.Tensor | None, units: int
    ) -> tf.Tensor:
        """How many units each group is to have after a mask update.

        It is traced, with and without XLA.

        Args:
          counts: integers of shape [groups], how many each has before it.
          salient: where `redistributes` is True, how many units of each group are among
            the best of the kernel; None elsewhere.
          units: int, how many units a group has.

        Returns:
          A tensor like `counts`, of the same sum.
        """
        return counts

    @property
    def redistributes(self) -> bool:
        """Whether `new_counts` changes the counts of groups."""
        return False

    def check_counts(self, counts: np.ndarray, units: int) -> None:
        """Refuses a mask whose groups have numbers of units that do not suit.

        Args:
          counts: array of shape [groups], how many units of each exist.
          units: int, how many units a group has.

        Raises:
          ValueError: saying what was expected.
        """
        if counts.min() != counts.max():
            raise ValueError(
                f"all {counts.size} groups of {units} to have equally many, but "
                f"they have {counts.min()} to {counts.max()}"
            )

    def __str__(self) -> str:
        """What `from_text` reads, such as "blocks(16, 1)"."""
        arguments = _arguments(self)
        values, defaults = list(arguments.values()), _defaults(self)
        for name in reversed(arguments):
            if values[-1] or values[-1] != defaults.get(name):
                break
            values.pop()
        text = ", ".join(map(repr, values))
        name = self.name or type(self).__name__
        return f"{name}({text})" if text else name


def register(pattern: _Class) -> _Class:
    """Makes a pattern known by its `name`; a decorator of classes.

    Args:
      pattern: a subclass of `Pattern`, a dataclass with a `name` of its own. A class
        that is defined again, as a notebook's cell does, replaces itself.

    Returns:
      The class.

    Raises:
      TypeError: for what is no such subclass.
      ValueError: when it has no name, a name that is "dense" or no identifier, or the
        name of another pattern.

    Example: see `Pattern`.
    """
    if not (isinstance(pattern, type) and issubclass(pattern, Pattern)):
        raise TypeError(f"Expected a subclass of Pattern to register, got {pattern!r}.")
    name: Any = pattern.name
    if not (isinstance(name, str) and name.isidentifier()) or name == DENSE:
        raise ValueError(
            f"{pattern.__name__} has no name to be registered by: give the class the "
            f"attribute `name`, such as 'my_pattern'; it is {name!r}."
        )
    known = _PATTERNS.get(name, pattern)
    if _identity(known) != _identity(pattern):
        raise ValueError(
            f"{_identity(known)} is registered as {name!r} already, so "
            f"{_identity(pattern)} needs another `name`."
        )
    _PATTERNS[name] = pattern
    return pattern


def named() -> dict[str, type[Pattern]]:
    """The registered patterns.

    Returns:
      A dict from names, as `from_text` reads them, to classes.
    """
    return dict(_PATTERNS)


def _identity(pattern: type[Pattern]) -> str:
    return f"{pattern.__module__}.{pattern.__qualname__}"


def to_text(pattern: Pattern) -> str:
    """The text by which `from_text` finds a pattern again.

    Args:
      pattern: a `Pattern` of a registered class.

    Returns:
      Such as "blocks(16, 1)".

    Raises:
      ValueError: when the class is not registered, or its text makes another pattern.
    """
    cls = type(pattern)
    known = _PATTERNS.get(pattern.name)
    if known is None or _identity(known) != _identity(cls):
        raise ValueError(
            f"{cls.__name__} is not registered, so no file could say which pattern it "
            "is. Put @rigl_keras.patterns.register before the class, and give it a "
            "`name` of its own."
        )
    text = str(pattern)
    if not _is_made_by(text, pattern):
        raise ValueError(
            f"No file could say which pattern {pattern!r} is, since {text!r} does not "
            f"make it again. Make {cls.__name__} a frozen dataclass whose arguments "
            "are numbers, texts, booleans, or tuples of them."
        )
    return text


def _is_made_by(text: str, pattern: Pattern) -> bool:
    try:
        again = from_text(text)
    except ValueError:
        return False
    return type(again) is type(pattern) and _arguments(again) == _arguments(pattern)


def from_text(text: str) -> Pattern:
    """The pattern that a text stands for.

    Args:
      text: the name of a registered pattern, with its arguments as in a call where it
        has some: "unstructured", "blocks(16, 1)", "blocks(16, balanced='inputs')",
        "n_of_m(2, 4)", "constant_fan_in".

    Returns:
      A `Pattern`.

    Raises:
      TypeError: for what is no text.
      ValueError: for any other text, and arguments that are out of range.

    Example:
      rigl_keras.patterns.from_text("n_of_m(2, 4)") == rigl_keras.patterns.NOfM(2, 4)
    """
    if not isinstance(text, str):
        raise TypeError(f"Expected a text such as 'blocks(16, 1)', got {text!r}.")
    name, positional, named_arguments = _parsed(text)
    if name not in _PATTERNS:
        raise ValueError(
            f"Expected the name of a pattern, one of {list(_PATTERNS)}, with its "
            f"arguments, such as 'blocks(16, 1)', got {text!r}. Import the module that "
            "defines a pattern of your own first: it registers the pattern."
        )
    signature = inspect.signature(_PATTERNS[name])
    try:
        signature.bind(*positional, **named_arguments)
    except TypeError as error:
        expected = ", ".join(map(str, signature.parameters.values()))
        raise ValueError(
            f"{text!r} makes no pattern: {error}. Expected {name}({expected})."
        ) from None
    return _PATTERNS[name](*positional, **named_arguments)


def _parsed(text: str) -> tuple[str | None, list[Any], dict[str, Any]]:
    """The name and the arguments of a call in a text; None for what is no call."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, [], {}
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            return None, [], {}
        positional = [ast.literal_eval(argument) for argument in call.args]
        named_arguments = {
            keyword.arg: ast.literal_eval(keyword.value)
            for keyword in call.keywords
            if keyword.arg is not None
        }
        if len(named_arguments) < len(call.keywords):  # **: no call that text makes
            return None, [], {}
    except (SyntaxError, ValueError):
        return None, [], {}
    return call.func.id, positional, named_arguments


def _arguments(pattern: Pattern) -> dict[str, Any]:
    if not dataclasses.is_dataclass(pattern):
        return {}
    return {
        field.name: getattr(pattern, field.name)
        for field in dataclasses.fields(pattern)
    }


def _defaults(pattern: Pattern) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(type(pattern)).parameters.items()
    }


def _check_layout(pattern: Pattern, layout: Any, sizes: Sequence[int]) -> None:
    """Refuses a layout that does not arrange the kernel.

    It is a fault of the pattern, so that no other pattern takes its place unnoticed.
    """
    if not _is_arranged(layout, sizes):
        raise TypeError(
            f"{type(pattern).__name__}.layout returns {layout!r}, which does not "
            f"arrange a kernel of [taps, inputs, outputs] = {list(sizes)}. Return a "
            "rigl_keras.patterns.Layout of three tuples of ints: `shape`, whose "
            "product is theirs, and `groups` and `units`, different axes of it, "
            "counted from 0."
        )


def _is_arranged(layout: Any, sizes: Sequence[int]) -> bool:
    if not (isinstance(layout, Layout) and all(map(_is_tuple_of_ints, layout))):
        return False
    axes = (*layout.groups, *layout.units)
    return (
        math.prod(layout.shape) == math.prod(sizes)
        and min(layout.shape, default=1) > 0
        and len(set(axes)) == len(axes)
        and all(0 <= axis < len(layout.shape) for axis in axes)
    )


def _is_tuple_of_ints(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, Integral) for one in value)
