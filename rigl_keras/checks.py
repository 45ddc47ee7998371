"""Checks of arguments that several modules share."""

from numbers import Integral


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
