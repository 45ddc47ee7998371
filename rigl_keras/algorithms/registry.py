"""The algorithms by name: the one list of them.

A class registers itself where it is defined:

    @rigl_keras.mask_updaters.register
    class Mine(rigl_keras.mask_updaters.MaskUpdater):
        name = "mine"
        ...

and is then known by its name, to `MaskUpdates("mine")` and to the command line's
`mask_updater.update_alg`.
"""

from typing import TypeVar

from rigl_keras.algorithms.base import MaskUpdater, Pruner
from rigl_keras.common.checks import choice

Algorithm = TypeVar("Algorithm", bound=type[MaskUpdater] | type[Pruner])
Kind = TypeVar("Kind", MaskUpdater, Pruner)

_ALGORITHMS: dict[str, type[MaskUpdater] | type[Pruner]] = {}


def register(algorithm: Algorithm) -> Algorithm:
    """Makes an algorithm known by its `name`; a decorator of classes.

    Args:
      algorithm: a subclass of `MaskUpdater` or `Pruner` with a `name` of its own. A
        class that is defined again, as a notebook's cell does, replaces itself.

    Returns:
      The class.

    Raises:
      TypeError: for what is no such subclass.
      ValueError: when it has no name, or another algorithm has that name.
    """
    if not (
        isinstance(algorithm, type) and issubclass(algorithm, MaskUpdater | Pruner)
    ):
        raise TypeError(
            "Expected a subclass of MaskUpdater or Pruner to register, got "
            f"{algorithm!r}."
        )
    name = algorithm.name
    if not name:
        raise ValueError(
            f"{algorithm.__name__} has no name to be registered by: give the class "
            "the attribute `name`."
        )
    known = _ALGORITHMS.get(name, algorithm)
    if _identity(known) != _identity(algorithm):
        raise ValueError(
            f"{_identity(known)} is registered as {name!r} already, so "
            f"{_identity(algorithm)} needs another `name`."
        )
    _ALGORITHMS[name] = algorithm
    return algorithm


def named(base: type[Kind]) -> dict[str, type[Kind]]:
    """The registered algorithms of a kind.

    Args:
      base: `MaskUpdater` or `Pruner`.

    Returns:
      A dict from names to classes, in the order in which they were registered.
    """
    return {
        name: algorithm
        for name, algorithm in _ALGORITHMS.items()
        if issubclass(algorithm, base)
    }


def make_updater(
    algorithm: MaskUpdater | type[MaskUpdater] | str, drop_noise: float
) -> MaskUpdater:
    """The algorithm that was asked for, as an object.

    Args:
      algorithm: the object itself, its class or its registered name.
      drop_noise: float >= 0, what the class is made with.

    Raises:
      TypeError: for what is no algorithm.
      ValueError: for a name that is not registered, or noise beside an object, which
        brings its own.
    """
    if isinstance(algorithm, MaskUpdater):
        if drop_noise:
            raise ValueError(
                f"Expected drop_noise=0 beside an algorithm that is an object, got "
                f"{drop_noise!r}. Give the noise to it: "
                f"{type(algorithm).__name__}(drop_noise={drop_noise!r})."
            )
        return algorithm
    if isinstance(algorithm, type) and issubclass(algorithm, MaskUpdater):
        return algorithm(drop_noise)
    if isinstance(algorithm, str):
        return choice("`algorithm`", algorithm, named(MaskUpdater))(drop_noise)
    raise TypeError(
        "Expected `algorithm` to be a MaskUpdater, a subclass of it or one of "
        f"{list(named(MaskUpdater))}, got {algorithm!r}."
    )


def _identity(algorithm: type) -> str:
    return f"{algorithm.__module__}.{algorithm.__qualname__}"
