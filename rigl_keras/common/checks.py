"""Checks of arguments that several modules share.

Each says what was expected and what came.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any


def check_int(name: str, value: Any, minimum: int) -> int:
    """Returns a whole number as an int.

    Args:
      name: what the caller knows the argument by.
      value: what came.
      minimum: the least that is allowed.

    Raises:
      ValueError: when it is no int, or less than `minimum`.
    """
    is_int = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_int or value < minimum:
        raise ValueError(f"Expected {name} to be an int >= {minimum}, got {value!r}.")
    return int(value)


def is_number(value: Any) -> bool:
    """True for a real number; not for a bool, which Python counts among the ints."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_not_negative(name: str, value: Any) -> float:
    """Returns a finite number >= 0 as a float.

    Args:
      name: what the caller knows the argument by.
      value: what came.

    Raises:
      ValueError: when it is no such number.
    """
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"Expected {name} to be a number >= 0, got {value!r}.")
    return float(value)


def check_positive(name: str, value: Any) -> float:
    """Returns a finite number > 0 as a float.

    Args:
      name: what the caller knows the argument by.
      value: what came.

    Raises:
      ValueError: when it is no such number.
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"Expected {name} to be a number > 0, got {value!r}.")
    return float(value)


def check_choice(
    name: str, value: Any, choices: Collection, *, or_else: str | None = None
) -> None:
    """Refuses what is not one of several values.

    Args:
      name: what the caller knows the argument by.
      value: what came.
      choices: what is possible.
      or_else: what else is possible, as the message says it, such as "a function".

    Raises:
      ValueError: naming the choices.
    """
    if not any(value is choice or value == choice for choice in choices):
        other = "" if or_else is None else f" or {or_else}"
        raise ValueError(
            f"Expected {name} to be one of {list(choices)}{other}, got {value!r}."
        )


def choice(name: str, value: Any, choices: Mapping) -> Any:
    """Looks up what a name stands for.

    Args:
      name: what the caller knows the argument by.
      value: what came.
      choices: what is possible, and what each stands for.

    Raises:
      ValueError: naming the choices.
    """
    check_choice(name, value, choices)
    return choices[value]


def did_you_mean(number: float) -> str:
    """A question after the share that a number of percent stands for; or ""."""
    if not 2 <= number < 100:
        return ""
    return f"did you mean {number / 100:.12g}?"


def call_problem(function: Callable, *args: Any, **kwargs: Any) -> str | None:
    """Why a function cannot be called in a way, without calling it.

    Args:
      function: what is to be called.
      *args: stand-ins for the arguments.
      **kwargs: likewise.

    Returns:
      A text such as "it takes (shape, dtype=None): missing ...", or None where it can
      be called or hides what it takes.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some functions in C
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return f"it takes {signature}: {error}"
    return None


def check_has_loss(model: Any, what: str) -> None:
    """Refuses a model that has no loss to evaluate, because it is not compiled.

    Args:
      model: a Keras model.
      what: what needs the loss, such as "grow_data".

    Raises:
      ValueError: saying how to compile it.
    """
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"{what} needs the loss of model {model.name!r}, which is not compiled. "
            "Call model.compile(optimizer, loss) first, in a custom loop too."
        )
