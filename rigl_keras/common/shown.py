"""What objects look like when they are printed: as the call that makes them."""

import inspect
import types
from collections.abc import Mapping
from typing import Any

_LONGEST = 200  # characters of an argument
_MOST = 4  # entries of a list, of which more are only counted


class ShowsArguments:
    """Has `repr` show the arguments of the constructor, such as "RigL(update_freq=50)".

    An argument is looked up in the attribute of its name, with or without a "_" before
    it, and left out where there is none. So are those by their default, where that says
    that something is not there: None, False, 0 or "".
    """

    def __repr__(self) -> str:
        """The call that makes such an object."""
        return self._shown({})

    def _shown(self, others: Mapping[str, Any]) -> str:
        """The call, with values of arguments that are no attributes."""
        known = {**vars(self), **others}
        texts = []
        for name, parameter in _parameters(type(self)).items():
            key = name if name in known else f"_{name}"
            if key not in known or _is_absent(known[key], parameter.default):
                continue
            texts.append(f"{name}={shown(known[key])}")
        return f"{type(self).__name__}({', '.join(texts)})"


def shown(value: Any) -> str:
    """A value as a short text: arrays by their shapes, functions by their names.

    Args:
      value: anything.
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<array of shape {tuple(value.shape)}>"
    if type(value) in (list, tuple):
        parts = [shown(part) for part in value[:_MOST]]
        if len(value) > _MOST:
            parts.append(f"... {len(value) - _MOST} more")
        text = ", ".join(parts)
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    if isinstance(value, types.FunctionType | types.MethodType | type):
        return value.__qualname__.rsplit("<locals>.", 1)[-1]
    text = _as_call(value) or repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _as_call(value: Any) -> str | None:
    """An object of TFMOT, such as its schedules, as the call that makes it."""
    if type(value).__repr__ is not object.__repr__ or not hasattr(value, "get_config"):
        return None
    config = value.get_config()
    arguments = config.get("config", config)
    texts = [f"{name}={shown(part)}" for name, part in arguments.items()]
    return f"{type(value).__name__}({', '.join(texts)})"


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a constructor, and of those that it hands all others on to."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = list(
            inspect.signature(vars(base)["__init__"]).parameters.values()
        )[1:]
        hands_on = False
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                hands_on = True
            else:
                found.setdefault(parameter.name, parameter)
        if not hands_on:
            break
    return found


def _is_absent(value: Any, default: Any) -> bool:
    """True for a default that says that something is not there."""
    if value is None:
        return default is None
    is_plain = isinstance(value, bool | int | float | str)
    return is_plain and not value and value == default
