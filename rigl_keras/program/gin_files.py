"""Gin files that come with the package, and what is wrong with a user's."""

import difflib
import functools
import inspect
import os
import re
import tokenize
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gin


def gin_search_paths() -> list[str]:
    """Folders in which a gin file such as `mnist/rigl.gin` is looked up by name.

    Returns:
      Absolute paths, for `gin.add_config_file_search_path`: the installed package's
      `configs` folder, or in a source checkout the `gin` folder beside the package.

    Raises:
      FileNotFoundError: the gin files were not installed with the package.
    """
    package = Path(__file__).resolve().parents[1]
    # In site-packages a folder `gin` beside this package is the gin library itself, so
    # the installed copy is looked for first.
    for folder in (package / "configs", package.parent / "gin"):
        if any(folder.glob("*/*.gin")):
            return [str(folder)]
    raise FileNotFoundError(
        f"expected the package's gin files in {package / 'configs'} or, in a source "
        f"checkout, in {package.parent / 'gin'}, but found none; reinstall rigl_keras"
    )


def packaged() -> list[str]:
    """The names of the gin files that come with the package, such as mnist/rigl.gin."""
    return sorted(
        path.relative_to(folder).as_posix()
        for folder in map(Path, gin_search_paths())
        for path in folder.glob("*/*.gin")
    )


def read(files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads gin files, then bindings, later ones winning; does not finalise.

    Args:
      files: paths, or names of packaged files.
      bindings: texts NAME=VALUE.

    Raises:
      OSError: for a file that is not there or cannot be read.
      ValueError: for one that gin does not understand, or a name that nothing has.
    """
    for folder in gin_search_paths():
        gin.add_config_file_search_path(folder)
    for name in files:
        _check_is_there(name)
        _explained(functools.partial(gin.parse_config_file, name), f"Gin file {name}")
    for binding in bindings:
        _explained(functools.partial(gin.parse_config, binding), f"Binding {binding!r}")


def _check_is_there(name: str) -> None:
    places = [name, *(os.path.join(folder, name) for folder in gin_search_paths())]
    if any(map(os.path.isfile, places)):
        return
    raise FileNotFoundError(
        f"There is no gin file {name!r}, neither as a path nor in the package."
        f"{_did_you_mean(name, packaged())} --help lists those of the package."
    )


def _explained(parse: Callable[[], Any], source: str) -> None:
    """Calls a function of gin's; says more than gin does where that fails."""
    try:
        parse()
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(
            f"{source} cannot be read: {_first_line(error)}. Write NAME=VALUE with a "
            "Python value; a text needs quotes, such as data.name='mnist'."
        ) from error
    except TypeError as error:
        # Gin-config 0.5.0 takes a folder of the name's first part for a package.
        raise ValueError(
            f"{source} cannot be looked up by gin, because a folder of the same name "
            "lies in the current one or on PYTHONPATH. Start from another folder."
        ) from error
    except ValueError as error:
        raise ValueError(f"{_first_line(error)}{_suggestion(error)}") from error


def _first_line(error: Exception) -> str:
    """Gin's words, without the memory addresses that follow."""
    if isinstance(error, tokenize.TokenError):
        return str(error.args[0])
    text = str(error).split("\n  In call to configurable")[0]
    text = re.sub(r"malformed node or string[^\n]*\n\s*", "", text)
    return " ".join(text.split())


def _suggestion(error: ValueError) -> str:
    text = str(error)
    unknown = re.search(r"No configurable matching '([\w./]+)'", text)
    if unknown:
        return "." + _did_you_mean(unknown[1], _configurables())
    unknown = re.search(
        r"Configurable '([\w./]+)' doesn't have a parameter named '(\w+)'", text
    )
    if unknown:
        parameters = inspect.signature(gin.get_configurable(unknown[1])).parameters
        names = [name for name in parameters if name not in ("args", "kwargs")]
        close = _did_you_mean(unknown[2], names)
        return f".{close or f' It has {sorted(names)}.'}"
    return ""


def _configurables() -> list[str]:
    # Gin-config 0.5.0 has no public list of what is configurable.
    registered = [name for name, _ in gin.config._REGISTRY.items()]
    return [name.split(".")[-1] for name in registered if "rigl_keras" in name]


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
