"""What `sparsify` was asked for, and why it left weights dense.

It is kept beside the sparse model as long as the model lives. Files do not have it.
"""

import fnmatch
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rigl_keras.core import distributions
from rigl_keras.core.choosing import choose_patterns
from rigl_keras.core.initial_masks import Plan
from rigl_keras.core.kernels import Kernel, matching

_NOTED: weakref.WeakKeyDictionary[Any, "Asked"] = weakref.WeakKeyDictionary()


class Asked(NamedTuple):
    """What `sparsify` was asked for.

    Attributes:
      sparsity: the one number that was given for the whole model, or None where masks
        or a sparsity for each kernel were given.
      reasons: a dict from the paths of weights without zeros to texts that say why.
    """

    sparsity: float | None
    reasons: dict[str, str]


def note(model: Any, asked: Asked) -> None:
    """Keeps what a sparse model was made by.

    Args:
      model: a sparse model.
      asked: an `Asked`.
    """
    _NOTED[model] = asked


def noted(model: Any) -> Asked | None:
    """What a model was made by; None for one that `sparsify` did not make.

    Args:
      model: a model.
    """
    return _NOTED.get(model)


def described(asked: float | None, masked: float, whole: float) -> str:
    """The sparsities of a model in words.

    Args:
      asked: what `sparsify` was asked for, or None.
      masked: share of zeros among the weights of masked kernels.
      whole: share of zeros among the weights of all kernels.
    """
    wish = "" if asked is None else f"asked for {asked:.2%}; "
    return f"{wish}zeros: {masked:.2%} of masked kernels, {whole:.2%} of all kernels"


def dense_reasons(
    maskable: Sequence[Kernel],
    plan: Plan,
    *,
    distribution: Any,
    overrides: Mapping[str, float] | None,
    masks: Mapping[str, Any] | None,
    include: str | Sequence[str],
    pattern: Any,
) -> dict[str, str]:
    """Says why weights have no zeros by a plan.

    Args:
      maskable: what `find_maskable` finds in the model.
      plan: the `Plan` that was made of the other arguments.
      distribution: see `sparsify`, as for all others.
      overrides: mapping from glob patterns to sparsities, or None.
      masks: mapping from paths to masks, or None.
      include: glob pattern, or several, of weights that are no kernels.
      pattern: see `choose_patterns`.

    Returns:
      A dict from paths to texts, of all weights that the plan leaves out and of those
      that lose no weight by it.
    """
    paths = [kernel.path for kernel in maskable]
    included = matching(paths, include, "include") if include else set()
    source = masks if masks is not None else distribution
    by_pattern = choose_patterns(maskable, pattern).dense()

    def reason(kernel: Kernel) -> str:
        path = kernel.path
        if path in plan:
            return "too small to lose a weight"
        is_named = isinstance(source, Mapping) and path in source
        if not (kernel.is_kernel or is_named or path in included):
            return _by_type(kernel)
        if masks is not None:
            return "no mask was given"
        if path in by_pattern:
            return "its pattern is 'dense'"
        if any(fnmatch.fnmatchcase(path, glob) for glob in overrides or ()):
            return "overridden to 0"
        if isinstance(distribution, Mapping):
            return f"{'0' if is_named else 'not'} in `distribution`"
        return _by_distribution(distributions.from_name(distribution))

    return {
        kernel.path: reason(kernel)
        for kernel in maskable
        if kernel.path not in plan
        or (plan[kernel.path].sparsity > 0 and plan[kernel.path].mask.all())
    }


def _by_type(kernel: Kernel) -> str:
    if kernel.is_embedding:
        return "an embedding, not in `include`"
    if kernel.is_depthwise:
        return "a depthwise kernel, not in `include`"
    return "not named a kernel, not in `include`"


def _by_distribution(distribution: Any) -> str:
    for name in ("er", "erk"):
        if distribution is distributions.from_name(name):
            return f"{name.upper()} needs all of it"
    return "`distribution` gives it 0"
