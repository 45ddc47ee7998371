"""Which pattern each kernel of a model has."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from rigl_keras.core import distributions
from rigl_keras.core.grouping import Grouping
from rigl_keras.core.kernels import Kernel
from rigl_keras.core.pattern_kinds import UNSTRUCTURED
from rigl_keras.core.patterns import DENSE, Pattern, from_text, to_text

DEFAULT_SPARSITY = 0.9
_EXPECTED = (
    "a rigl_keras.patterns.Pattern, a text such as 'blocks(16, 1)', a list of them of "
    "which each kernel takes the first that suits it ('dense' for none), or a mapping "
    "from glob patterns on paths to these"
)


def checked_pattern(pattern: Any) -> Any:
    """Returns what was given as `pattern` with objects in place of texts.

    Args:
      pattern: see `choose_patterns`.

    Raises:
      TypeError: for what is none of these.
      ValueError: for an unknown text.
    """
    if isinstance(pattern, Mapping):
        if not all(isinstance(path, str) for path in pattern):
            raise _refusal(pattern)
        return {path: _one_or_list(one, pattern) for path, one in pattern.items()}
    return _one_or_list(pattern, pattern)


def _one_or_list(pattern: Any, given: Any) -> Any:
    """A list of patterns, or one, with objects in place of texts."""
    if isinstance(pattern, list | tuple) and pattern:
        return [_one(entry, given) for entry in pattern]
    return _one(pattern, given)


def _one(pattern: Any, given: Any) -> Any:
    if pattern is None:
        return UNSTRUCTURED
    if isinstance(pattern, str):
        return pattern if pattern == DENSE else from_text(pattern)
    if not isinstance(pattern, Pattern):
        raise _refusal(given)
    return pattern


def _refusal(pattern: Any) -> TypeError:
    message = f"Expected `pattern` to be {_EXPECTED}, got {pattern!r}."
    if isinstance(pattern, type) and issubclass(pattern, Pattern):
        message += f" Make an object of the class: {pattern.__name__}(...)."
    return TypeError(message)


def as_text(pattern: Any) -> Any:
    """What `checked_pattern` made, with texts in place of objects again.

    Raises:
      ValueError: for a pattern that is not registered.
    """
    if isinstance(pattern, Mapping):
        return {path: as_text(one) for path, one in pattern.items()}
    if isinstance(pattern, list):
        return [as_text(one) for one in pattern]
    return pattern if pattern == DENSE else to_text(pattern)


class Choice(NamedTuple):
    """The pattern of each kernel.

    Attributes:
      patterns: a dict from paths to a `Pattern` each, or None for a kernel that is to
        stay dense, or that no pattern suits.
      problems: of the latter, why not: a dict from paths to texts.
    """

    patterns: dict[str, Pattern | None]
    problems: dict[str, str]

    def dense(self) -> dict[str, float]:
        """Sparsity 0 of the kernels that are to stay dense."""
        return {
            path: 0.0
            for path, pattern in self.patterns.items()
            if pattern is None and path not in self.problems
        }

    def own_sparsities(self) -> dict[str, float]:
        """The sparsities that patterns set by themselves, by path."""
        own = {
            path: pattern.own_sparsity
            for path, pattern in self.patterns.items()
            if pattern is not None
        }
        return {path: value for path, value in own.items() if value is not None}

    def checked_sparsity(self, sparsity: float | None) -> float:
        """The sparsity of all kernels whose pattern sets none.

        Args:
          sparsity: what was asked for; None for the default.

        Raises:
          ValueError: when every pattern sets one, and it is another.
        """
        if sparsity is None:
            return DEFAULT_SPARSITY
        sparsity = distributions.check_sparsity(sparsity)
        own = self.own_sparsities()
        if len(own) == len(self.patterns):
            for path in own:
                pattern = self.patterns[path]
                check_own_sparsity(path, pattern or UNSTRUCTURED, sparsity)
        return sparsity

    def of(self, paths: Iterable[str]) -> dict[str, Pattern]:
        """The patterns of kernels that become sparse.

        Args:
          paths: theirs.

        Raises:
          ValueError: where no pattern suits one, saying why, or it is to stay dense.
        """
        problems = [
            f"{path!r}{self.problems.get(path, ', which is to stay dense')}"
            for path in paths
            if self.patterns[path] is None
        ]
        if problems:
            raise ValueError(
                f"The pattern does not suit {len(problems)} of the kernels that are to "
                f"be sparse: {'; '.join(problems)}. Name what these are to have in its "
                "place, in a list such as pattern=['blocks(16, 1)', 'unstructured'] or "
                "[..., 'dense'], or by path, pattern={'conv1/*': 'unstructured', '*': "
                "...}; or leave them dense, overrides={'conv1/*': 0}."
            )
        return {path: self.patterns[path] or UNSTRUCTURED for path in paths}


def choose_patterns(kernels: Sequence[Kernel], pattern: Any) -> Choice:
    """Chooses the pattern of each kernel.

    Args:
      kernels: the kernels.
      pattern: a `Pattern` or its text; or "dense"; or a list of these, of which each
        kernel takes the first that suits it; or a mapping from glob patterns on paths
        to all of these, the first match wins and others are unstructured. None for
        unstructured.

    Returns:
      A `Choice`.

    Raises:
      TypeError: for something else.
      ValueError: for an unknown text, or a path that matches nothing.
    """
    by_path = _by_path([kernel.path for kernel in kernels], checked_pattern(pattern))
    patterns: dict[str, Pattern | None] = {}
    problems = {}
    for kernel in kernels:
        choices = by_path[kernel.path]
        choices = choices if isinstance(choices, list) else [choices]
        patterns[kernel.path], reasons = _first_fitting(kernel, choices)
        if reasons:
            problems[kernel.path] = f" ({'; '.join(reasons)})"
    return Choice(patterns, problems)


def grouping_of(kernel: Any, pattern: Pattern) -> Grouping:
    """The grouping of a kernel by a pattern.

    Args:
      kernel: a `Kernel`.
      pattern: a `Pattern` that suits it.
    """
    return pattern.grouping(kernel.shape, kernel.in_axes, kernel.out_axes)


def check_fits(
    path: str, mask: np.ndarray, pattern: Pattern, *, grouping: Grouping
) -> None:
    """Refuses a mask that is not of a kernel's pattern.

    Args:
      path: the kernel's.
      mask: bool array of its shape.
      pattern: the `Pattern`.
      grouping: the kernel's by that pattern.

    Raises:
      ValueError: for a unit of which only a part exists, and for groups with other
        numbers of units than the pattern allows.
    """
    advice = (
        "Make the masks by that pattern, or take them with another, such as "
        "sparsify(model, masks=..., pattern='unstructured')"
    )
    with tf.init_scope():
        present = grouping.present(tf.constant(mask))
        is_whole = np.array_equal(grouping.spread(present).numpy(), mask)
        counts = np.count_nonzero(present.numpy(), axis=1)
    if not is_whole:
        raise ValueError(
            f"Expected the mask for {path!r} to have the pattern {pattern}, units of "
            f"{grouping.elements} weights, but it has parts of some. {advice}."
        )
    try:
        pattern.check_counts(counts, grouping.units)
    except ValueError as error:
        raise ValueError(
            f"Expected the mask for {path!r} to have the pattern {pattern}, {error}. "
            f"{advice}."
        ) from None


def check_own_sparsity(
    path: str, pattern: Pattern, sparsity: float, *, name: str = "sparsity"
) -> None:
    """Refuses a sparsity other than the one that a pattern sets.

    Args:
      path: the kernel's.
      pattern: its pattern.
      sparsity: share of zeros that was asked for; 0, a mask of ones, suits all.
      name: what the caller knows it by.

    Raises:
      ValueError: saying which sparsity the pattern has.
    """
    own = pattern.own_sparsity
    if own is None or sparsity == 0 or abs(sparsity - own) < 1e-6:
        return
    raise ValueError(
        f"Expected {name} {own:g} of {path!r}, whose pattern {pattern} sets it, got "
        f"{sparsity:g}. Give {own:g}, or use another pattern."
    )


def _by_path(paths: Sequence[str], pattern: Any) -> dict[str, Any]:
    if not isinstance(pattern, Mapping):
        return dict.fromkeys(paths, pattern)
    for glob in pattern:
        if not any(fnmatch.fnmatchcase(path, glob) for path in paths):
            raise ValueError(
                f"`pattern` names {glob!r}, which matches none of the kernels "
                f"{list(paths)}."
            )
    return {
        path: next(
            (one for glob, one in pattern.items() if fnmatch.fnmatchcase(path, glob)),
            UNSTRUCTURED,
        )
        for path in paths
    }


def _first_fitting(kernel: Kernel, choices: Sequence[Any]) -> tuple[Any, list[str]]:
    """The first choice that suits; or None with the reasons why none does."""
    reasons = []
    for choice in choices:
        if choice == DENSE:
            return None, []
        try:
            grouping_of(kernel, choice)
        except ValueError as error:
            reasons.append(f"not {choice}: {error}")
            continue
        return choice, []
    return None, reasons
