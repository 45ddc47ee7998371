"""Checks of arguments that several modules share."""

import math
from numbers import Integral, Real


def check_int(name, value, minimum):
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


def check_not_negative(name, value):
    """Returns a finite number >= 0 as a float.

    Args:
      name: what the caller knows the argument by.
      value: what came.

    Raises:
      ValueError: when it is no such number.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise ValueError(f"Expected {name} to be a number >= 0, got {value!r}.")
    return float(value)


def check_positive(name, value):
    """Returns a finite number > 0 as a float.

    Args:
      name: what the caller knows the argument by.
      value: what came.

    Raises:
      ValueError: when it is no such number.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"Expected {name} to be a number > 0, got {value!r}.")
    return float(value)
