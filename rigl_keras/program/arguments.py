"""Reading the arguments of command lines that need no gin."""

import argparse
import ast
from collections.abc import Sequence
from typing import Any


def ints(text: str) -> tuple[int, ...]:
    """Reads ints with commas between them, as a `type` of argparse.

    Raises:
      argparse.ArgumentTypeError: for other text.
    """
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected ints such as 224,224,3, got {text!r}"
        ) from None


def named_values(flag: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Reads arguments for a function.

    Args:
      flag: the flag that they came by.
      pairs: texts NAME=VALUE, each with a Python literal.

    Returns:
      A dict from names to values.

    Raises:
      ValueError: for what is no such text.
    """
    values = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise ValueError(
                f"expected {flag}=NAME=VALUE with a Python value such as "
                f"width_multiplier=0.5 or kernel_initializer='he_normal', got {pair!r}"
            ) from None
    return values
