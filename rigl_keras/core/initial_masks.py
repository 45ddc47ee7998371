"""The masks that kernels start with: planned for a model, or drawn for one kernel.

A plan maps the path of each kernel that becomes sparse to an `InitialMask`; a kernel
that it leaves out stays dense.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.common.checks import call_problem, check_choice
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.core import distributions
from rigl_keras.core.choosing import (
    check_fits,
    check_own_sparsity,
    choose_patterns,
    grouping_of,
)
from rigl_keras.core.grouped_selection import top_k_in_groups
from rigl_keras.core.grouping import Grouping
from rigl_keras.core.kernels import Kernel, matching
from rigl_keras.core.masks import check_mask
from rigl_keras.core.patterns import Pattern

METHODS = ("random", "magnitude")


class InitialMask(NamedTuple):
    """What a kernel starts with.

    Attributes:
      sparsity: share of zeros, in [0, 1).
      mask: bool array of the kernel's shape.
      pattern: the pattern that the mask has.
    """

    sparsity: float
    mask: np.ndarray
    pattern: Pattern


Plan = dict[str, InitialMask]


def first_mask(
    kernel: Kernel,
    sparsity: float,
    pattern: Pattern,
    *,
    method: str = "random",
    seed: int,
    index: int,
) -> np.ndarray:
    """Chooses which connections of one kernel exist at the start.

    Args:
      kernel: a `Kernel`; with "magnitude" its variable must have a value.
      sparsity: share of zeros, in [0, 1).
      pattern: the pattern of its mask.
      method: "random", or "magnitude" for the units of the largest weights.
      seed: int, for random masks.
      index: int, which kernel of the model or layer it is, so that no two draw alike.

    Returns:
      A bool array. Of n units of each group of the pattern it has
      round((1 - sparsity) * n), at least 1.
    """
    grouping = grouping_of(kernel, pattern)
    count = pattern.active_units(grouping.units, sparsity)
    # A layer may be built while a graph is being traced; its mask is no part of that.
    with tf.init_scope():
        if method == "magnitude":
            weights = tf.convert_to_tensor(compat.raw(kernel.variable))
            scores = grouping.sums(tf.abs(weights))
        else:
            scores = _random_scores(grouping, stateless_seed("mask", seed, index))
        everywhere = tf.ones_like(scores, tf.bool)
        chosen = top_k_in_groups(scores, count, where=everywhere)
        return grouping.spread(chosen).numpy()


def shuffled_mask(mask: np.ndarray, grouping: Grouping, seed: tf.Tensor) -> np.ndarray:
    """A mask whose units lie elsewhere at random, as many in each group as before.

    Args:
      mask: bool array of a kernel's shape, made of whole units.
      grouping: the kernel's.
      seed: stateless seed, int64 of shape [2].

    Returns:
      A bool array like `mask`.
    """
    present = grouping.present(tf.constant(mask))
    if grouping.groups == 1:
        flat = tf.reshape(present, [-1])
        shuffled = tf.random.experimental.stateless_shuffle(flat, seed, alg=ALGORITHM)
        return grouping.spread(shuffled).numpy()
    counts = tf.math.count_nonzero(present, axis=1)
    scores = _random_scores(grouping, seed)
    chosen = top_k_in_groups(scores, counts, where=tf.ones_like(present))
    return grouping.spread(chosen).numpy()


def _random_scores(grouping: Grouping, seed: tf.Tensor) -> tf.Tensor:
    shape = [grouping.groups, grouping.units]
    return tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.int32, alg=ALGORITHM
    )


def plan_masks(
    maskable: Sequence[Kernel],
    sparsity: float | None,
    distribution: Any,
    *,
    overrides: Mapping[str, float] | None,
    include: str | Sequence[str],
    pattern: Any,
    method: str,
    seed: int,
) -> Plan:
    """Plans the masks of a model by a distribution of its sparsity.

    Args:
      maskable: what `find_maskable` finds in the model.
      sparsity: see `sparsify`, as for all others.
      distribution: a name, a function, or a mapping from paths to sparsities.
      overrides: mapping from glob patterns to sparsities, or None.
      include: glob pattern, or several, of weights that are no kernels.
      pattern: see `choose_patterns`.
      method: one of `METHODS`.
      seed: int.

    Returns:
      A `Plan`.

    Raises:
      ValueError: for an argument out of range, a pattern or path that matches nothing,
        or when every kernel would stay dense.
    """
    check_choice("`method`", method, METHODS)
    named = distribution if isinstance(distribution, Mapping) else ()
    kernels = _candidates(maskable, include, named)
    if overrides is not None:
        distributions.check_overrides(overrides)
    wishes = overrides or {}
    choice = choose_patterns(kernels, pattern)
    sparsity = choice.checked_sparsity(sparsity)
    # A mapping says itself which kernels are sparse, and how much.
    sets_own = sparsity > 0 and not isinstance(distribution, Mapping)
    own = choice.own_sparsities() if sets_own else {}
    dense = {path: 0.0 for path in choice.dense() if path not in named}
    sparsities = _sparsities(
        kernels,
        sparsity,
        distribution,
        # The caller's come first: of several that match, the first one counts.
        overrides={**wishes, **dense, **own, **wishes},
    )
    patterns = choice.of(sparsities)
    for path, value in sparsities.items():
        check_own_sparsity(path, patterns[path], value)
    return {
        kernel.path: InitialMask(
            sparsities[kernel.path],
            first_mask(
                kernel,
                sparsities[kernel.path],
                patterns[kernel.path],
                method=method,
                seed=seed,
                index=index,
            ),
            patterns[kernel.path],
        )
        for index, kernel in enumerate(kernels)
        if kernel.path in sparsities
    }


def given_masks(
    maskable: Sequence[Kernel],
    masks: Mapping[str, Any],
    *,
    overrides: Mapping[str, float] | None,
    include: str | Sequence[str],
    pattern: Any,
) -> Plan:
    """Plans the masks that a caller brings.

    Args:
      maskable: what `find_maskable` finds in the model.
      masks: mapping from paths to arrays of 0/1 or bool.
      overrides: refused, since the masks say everything.
      include: glob pattern, or several, of weights that are no kernels.
      pattern: see `choose_patterns`.

    Returns:
      A `Plan`.

    Raises:
      ValueError: for what is no such mapping, an unknown path or a mask that does not
        fit, or has not the pattern.
    """
    named = masks if isinstance(masks, Mapping) else ()
    kernels = _candidates(maskable, include, named)
    shapes = {kernel.path: kernel.shape for kernel in kernels}
    if not isinstance(masks, Mapping):
        raise ValueError(
            f"Expected `masks` to map some of {list(shapes)} to arrays, but got a "
            f"{type(masks).__name__}."
        )
    unknown = sorted(set(masks) - set(shapes))
    if unknown or not masks or overrides:
        raise ValueError(
            f"Expected `masks` of some of the kernels {list(shapes)} and no "
            f"`overrides`, got masks of {list(masks)} and overrides {overrides}."
        )
    checked = {path: check_mask(path, masks[path], shapes[path]) for path in masks}
    patterns = choose_patterns(kernels, pattern).of(masks)
    for kernel in kernels:
        if kernel.path in checked:
            own = patterns[kernel.path]
            grouping = grouping_of(kernel, own)
            check_fits(kernel.path, checked[kernel.path], own, grouping=grouping)
    return {
        path: InitialMask(float(1 - mask.mean()), mask, patterns[path])
        for path, mask in checked.items()
    }


def _candidates(
    maskable: Sequence[Kernel], include: str | Sequence[str], named: Any
) -> list[Kernel]:
    """The kernels, and the other weights that are asked for by pattern or path."""
    paths = [kernel.path for kernel in maskable]
    if len(set(paths)) < len(paths):
        raise ValueError(
            "Two kernels of the model have the same path; give its layers different "
            f"names. Paths: {sorted(paths)}."
        )
    asked_for = set(named)
    if include:
        asked_for |= matching(paths, include, "include")
    # Kernels first, so that what else is chosen does not change their draws.
    kernels_first = sorted(maskable, key=lambda kernel: not kernel.is_kernel)
    return [
        kernel
        for kernel in kernels_first
        if kernel.is_kernel or kernel.path in asked_for
    ]


def _sparsities(
    kernels: Sequence[Kernel],
    sparsity: float,
    distribution: Any,
    *,
    overrides: Mapping[str, float],
) -> dict[str, float]:
    """The sparsity of each kernel that gets a mask, by path."""
    shapes = {kernel.path: kernel.connection_shape for kernel in kernels}
    own = distributions.overridden(shapes, overrides)
    if isinstance(distribution, Mapping):
        planned = {**_checked(shapes, distribution), **own}
        dense = {path for path, value in planned.items() if value == 0}
    else:
        planned = _checked(
            shapes, _distributed(shapes, sparsity, distribution, overrides=overrides)
        )
        # With sparsity 0 all masks are ones, for pruning to start from.
        zeros = planned if sparsity > 0 else own
        dense = {path for path in zeros if planned[path] == 0}
    sparse = {path: value for path, value in planned.items() if path not in dense}
    if not sparse:
        raise ValueError(
            "Every kernel would stay dense: nothing to make sparse. Raise `sparsity`, "
            "or change `distribution` or `overrides`."
        )
    return sparse


def _distributed(
    shapes: Mapping[str, Any],
    sparsity: float,
    distribution: Any,
    *,
    overrides: Mapping[str, float] | None,
) -> Mapping[str, float]:
    """What a distribution, by name or a function, makes of the shapes."""
    distribute = distributions.from_name(distribution)
    arguments = shapes, sparsity, overrides or None
    expected = (
        "Expected `distribution` to be a function (shapes, sparsity, overrides) -> "
        "mapping from the kernels' paths to sparsities, but"
    )
    problem = call_problem(distribute, *arguments)
    if problem is not None:
        raise ValueError(f"{expected} {problem}.")
    planned = distribute(*arguments)
    if not isinstance(planned, Mapping):
        raise ValueError(f"{expected} it returns a {type(planned).__name__}.")
    return planned


def _checked(
    shapes: Mapping[str, Any], distribution: Mapping[str, float]
) -> dict[str, float]:
    unknown = sorted(set(distribution) - set(shapes))
    if unknown:
        raise ValueError(
            f"`distribution` names {unknown}, but the kernels are {list(shapes)}."
        )
    return {
        path: distributions.check_sparsity(value, f"The sparsity of {path!r}")
        for path, value in distribution.items()
    }
