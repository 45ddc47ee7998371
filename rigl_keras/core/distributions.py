"""How the sparsity of a network is spread over its kernels.

A distribution takes the shapes of the kernels and one sparsity, and returns a sparsity
for each kernel. The one sparsity is that of the kernels without an override, counted
together, whether or not some of them come out dense. Kernels are laid out as in Keras:
receptive-field taps first, then input units, then output units.
"""

import fnmatch
import math
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shapes = Mapping[str, Sequence[int]]
Sparsities = dict[str, float]


def uniform(
    shapes: Shapes, sparsity: float, overrides: Mapping[str, float] | None = None
) -> Sparsities:
    """Gives every kernel the same sparsity.

    Args:
      shapes: kernel path -> shape, of rank 2 or more, with positive dimensions.
      sparsity: fraction of weights that are inactive, in [0, 1), in each kernel that no
        override matches. With overrides the whole network has another one.
      overrides: glob pattern -> sparsity in [0, 1) of the kernels whose path it matches
        (case-sensitively, as in `fnmatch.fnmatchcase`). The first match wins; 0 keeps a
        kernel dense.

    Returns:
      Kernel path -> sparsity in [0, 1), in the order of `shapes`.

    Raises:
      TypeError: if a sparsity is not a number, or a shape not made of integers.
      ValueError: if an argument is out of range, or a pattern matches no path.
    """
    shapes, sparsity, fixed = _checked(shapes, sparsity, overrides)
    return {path: fixed.get(path, sparsity) for path in shapes}


def er(
    shapes: Shapes, sparsity: float, overrides: Mapping[str, float] | None = None
) -> Sparsities:
    """Erdős-Rényi: density proportional to (n_in + n_out) / (n_in * n_out).

    Small kernels become denser than large ones, at the same total. The taps of a
    convolution play no part; `erk` counts them.

    Args:
      shapes: kernel path -> shape, of rank 2 or more, with positive dimensions. The
        last two are n_in and n_out.
      sparsity: fraction of weights that are inactive, in [0, 1), among all kernels that
        no override matches. Of their N weights, N - floor(sparsity * N) remain; a
        kernel whose density would exceed 1 becomes dense, at the expense of the others,
        which are sparser than `sparsity` then.
      overrides: glob pattern -> sparsity in [0, 1) of the kernels whose path it matches
        (case-sensitively, as in `fnmatch.fnmatchcase`). The first match wins; 0 keeps a
        kernel dense. These kernels count neither in N nor in what remains of it.

    Returns:
      Kernel path -> sparsity in [0, 1), in the order of `shapes`.

    Raises:
      TypeError: if a sparsity is not a number, or a shape not made of integers.
      ValueError: if an argument is out of range, or a pattern matches no path.

    Source: Mocanu et al., "Scalable training of artificial neural networks with
    adaptive sparse connectivity inspired by network science" (2018), Eq. 1; the budget
    and the dense kernels as in Evci et al., "Rigging the Lottery" (2020), Section 3.
    """
    return _scaled(shapes, sparsity, overrides, share=_er_share)


def erk(
    shapes: Shapes, sparsity: float, overrides: Mapping[str, float] | None = None
) -> Sparsities:
    """Erdős-Rényi-Kernel: density proportional to sum(shape) / prod(shape).

    For a convolution that is (n_in + n_out + height + width) / (n_in * n_out * height *
    width); for rank 2 it is `er`.

    Args:
      shapes: kernel path -> shape, of rank 2 or more, with positive dimensions.
      sparsity: fraction of weights that are inactive, in [0, 1), among all kernels that
        no override matches. Of their N weights, N - floor(sparsity * N) remain; a
        kernel whose density would exceed 1 becomes dense, at the expense of the others,
        which are sparser than `sparsity` then.
      overrides: glob pattern -> sparsity in [0, 1) of the kernels whose path it matches
        (case-sensitively, as in `fnmatch.fnmatchcase`). The first match wins; 0 keeps a
        kernel dense. These kernels count neither in N nor in what remains of it.

    Returns:
      Kernel path -> sparsity in [0, 1), in the order of `shapes`.

    Raises:
      TypeError: if a sparsity is not a number, or a shape not made of integers.
      ValueError: if an argument is out of range, or a pattern matches no path.

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners" (2020),
    Section 3, "Sparsity distribution".
    """
    return _scaled(shapes, sparsity, overrides, share=sum)


_DISTRIBUTIONS = {"uniform": uniform, "er": er, "erk": erk}


def from_name(name: str | Callable[..., Sparsities]) -> Callable[..., Sparsities]:
    """Looks a distribution up.

    Args:
      name: "uniform", "er" or "erk"; or a function like those, which is returned.

    Returns:
      The function of that name.

    Raises:
      ValueError: if there is none.
    """
    if callable(name):
        return name
    if not isinstance(name, str) or name not in _DISTRIBUTIONS:
        raise ValueError(
            f"A distribution is one of {sorted(_DISTRIBUTIONS)} or a function, got "
            f"{name!r}."
        )
    return _DISTRIBUTIONS[name]


def active_count(size: int, sparsity: float) -> int:
    """Number of active weights of a kernel: its rounded density, but at least one.

    Args:
      size: number of weights of the kernel, positive.
      sparsity: fraction of them that is inactive, in [0, 1).

    Returns:
      An int in [1, size].
    """
    return max(1, round((1 - sparsity) * size))


def _er_share(shape: Sequence[int]) -> int:
    *taps, n_in, n_out = shape
    return math.prod(taps) * (n_in + n_out)


def _scaled(
    shapes: Shapes,
    sparsity: float,
    overrides: Mapping[str, float] | None,
    *,
    share: Callable[[Sequence[int]], int],
) -> Sparsities:
    """Densities proportional to share(shape) / prod(shape), at a given total.

    A kernel's share of the active weights is proportional to `share`. All of it is
    integer arithmetic up to the last division, so a density of 1 is recognised exactly.
    """
    shapes, sparsity, fixed = _checked(shapes, sparsity, overrides)
    sizes = {path: math.prod(shapes[path]) for path in shapes if path not in fixed}
    shares = {path: share(shapes[path]) for path in sizes}
    total = sum(sizes.values())
    budget = total - math.floor(sparsity * total)

    sparsities = dict(fixed)
    while sizes:
        # Active weights of a kernel: budget * share / all.
        all_shares = sum(shares[path] for path in sizes)
        dense = [p for p in sizes if budget * shares[p] > all_shares * sizes[p]]
        if not dense:
            break
        for path in dense:
            sparsities[path] = 0.0
            budget -= sizes.pop(path)
    for path, size in sizes.items():
        sparsities[path] = 1 - budget * shares[path] / (all_shares * size)
    return {path: sparsities[path] for path in shapes}


def _checked(
    shapes: Shapes, sparsity: float, overrides: Mapping[str, float] | None
) -> tuple[dict[str, tuple[int, ...]], float, Sparsities]:
    """Returns shapes of ints, the sparsity, and path -> sparsity where overridden."""
    if not shapes:
        raise ValueError("Expected at least one kernel, got none.")
    checked = {path: _checked_shape(path, shape) for path, shape in shapes.items()}
    sparsity = check_sparsity(sparsity, "The sparsity")
    return checked, sparsity, overridden(checked, overrides)


def _checked_shape(path: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(operator.index(dimension) for dimension in shape)
    except TypeError:
        raise TypeError(
            f"The shape of {path!r} must be a sequence of integers, got {shape!r}."
        ) from None
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(
            f"The shape of {path!r} must have rank 2 or more and positive dimensions, "
            f"got {shape}; leave out what is no kernel."
        )
    return shape


def check_sparsity(sparsity: Any, what: str = "The sparsity") -> float:
    """Returns a sparsity as a float.

    Raises:
      TypeError: if it is not a number.
      ValueError: if it lies outside [0, 1).
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, numbers.Real):
        raise TypeError(f"{what} must be a number in [0, 1), got {sparsity!r}.")
    sparsity = float(sparsity)
    if not 0 <= sparsity < 1:
        advice = "give 0.9 for 90 %."
        if 2 <= sparsity < 100:
            advice = f"did you mean {sparsity / 100:.12g}?"
        raise ValueError(f"{what} must lie in [0, 1), got {sparsity}; {advice}")
    return sparsity


def overridden(
    shapes: Mapping[str, Any], overrides: Mapping[str, float] | None
) -> Sparsities:
    """The sparsity of the kernels that some glob pattern matches.

    Args:
      shapes: mapping whose keys are the kernels' paths.
      overrides: glob pattern -> sparsity in [0, 1); the first match wins. Or None.

    Returns:
      Kernel path -> sparsity, of the matched ones.

    Raises:
      TypeError: if it is no such mapping, or a sparsity is not a number.
      ValueError: if a sparsity lies outside [0, 1), or a pattern matches no path.
    """
    fixed: Sparsities = {}
    if overrides is None:
        return fixed
    check_overrides(overrides)
    for pattern, sparsity in overrides.items():
        sparsity = check_sparsity(sparsity, f"The sparsity for {pattern!r}")
        matched = [path for path in shapes if fnmatch.fnmatchcase(path, pattern)]
        if not matched:
            raise ValueError(
                f"The pattern {pattern!r} matches none of the kernels {list(shapes)}."
            )
        for path in matched:
            fixed.setdefault(path, sparsity)
    return fixed


def check_overrides(overrides: Any, what: str = "`overrides`") -> None:
    """Refuses what does not map glob patterns to something.

    Raises:
      TypeError: saying what was expected.
    """
    is_mapping = isinstance(overrides, Mapping)
    if is_mapping and all(isinstance(pattern, str) for pattern in overrides):
        return
    came = f"the keys {list(overrides)}" if is_mapping else type(overrides).__name__
    raise TypeError(
        f"Expected {what} to map glob patterns on paths to sparsities, such as "
        f"{{'conv1/*': 0.5, 'out/*': 0}}, but got {came}."
    )
