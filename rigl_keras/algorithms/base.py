"""What an algorithm is: scores, by which connections are dropped, grown or kept.

A new algorithm is a subclass of `MaskUpdater`, which replaces connections, or of
`Pruner`, which only removes them. It returns scores; how many connections go and come,
and which of equal ones, is decided here.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from rigl_keras.algorithms.compressed_update import kept_units, new_indices
from rigl_keras.common.checks import check_choice, check_not_negative
from rigl_keras.common.seeding import random_normal
from rigl_keras.common.shown import ShowsArguments
from rigl_keras.core.grouped_selection import top_k_in_groups
from rigl_keras.core.kernel_state import CompressedState as CompressedState
from rigl_keras.core.kernel_state import KernelState as KernelState
from rigl_keras.core.masked_kernel import TrainedKernel
from rigl_keras.core.masked_kernel import surviving as surviving
from rigl_keras.core.selection import top_k_mask

RANKINGS = ("layer", "global")


class MaskUpdater(ShowsArguments):
    """Replaces the connections that matter least; how many there are stays the same.

    Attributes of the class:
      name: what the command line, `MaskUpdates` and errors call the algorithm.
      needs_gradient: whether `KernelState.gradient` is there.
      gradient_decay: 0; or the gradient is a moving average over the training steps,
        and this is the share of the old average in each of them.
      suits_xla: whether XLA may compile the updates where it compiles the training
        step. It is not inherited: set it in each class whose scores are bitwise equal
        with and without XLA.

    Args:
      drop_noise: float >= 0, standard deviation of the normal noise that is added to
        the drop scores.
    """

    name = ""
    needs_gradient = False
    gradient_decay = 0.0
    suits_xla = False

    def __init__(self, drop_noise: float = 0.0) -> None:
        self.drop_noise = check_not_negative("drop_noise", drop_noise)
        if self.drop_noise > 0:
            # XLA's normal numbers are others than TensorFlow's, and so the masks.
            self.suits_xla = False

    def drop_scores(self, state: KernelState) -> tf.Tensor:
        """Scores of the existing connections; the lowest are dropped.

        Returns:
          A real tensor of the kernel's shape; its values off the mask do not count.
        """
        return tf.abs(state.weights)

    def grow_scores(self, state: KernelState) -> tf.Tensor:
        """Scores of the connections that do not exist; the highest are grown.

        Connections dropped in the same update take part. A unit of several weights, as
        of blocks, is scored as if it were one weight, whose gradient is the sum of
        theirs.

        Args:
          state: a `KernelState` of the kernel; of units, see `KernelState.in_units`,
            where those have several weights.

        Returns:
          A real tensor of the shape of `state.mask`; its values at kept ones do not
          count.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no grow_scores.")

    def new_masks(
        self,
        states: Sequence[KernelState | CompressedState],
        drop_fraction: tf.Tensor,
    ) -> list[tf.Tensor]:
        """The masks after one update of all kernels; see `new_mask`.

        Of a compressed kernel it is the indices.
        """
        return [
            self.new_mask(state, drop_fraction)
            if isinstance(state, KernelState)
            else new_indices(self, state, drop_fraction)
            for state in states
        ]

    def new_mask(self, state: KernelState, drop_fraction: tf.Tensor) -> tf.Tensor:
        """The mask after one update.

        Units of the kernel's pattern, single weights where it has none, are dropped by
        the sums of their drop scores, ranked over the whole kernel, and every group
        grows as many as it lost.

        Args:
          state: a `KernelState`.
          drop_fraction: scalar float32 tensor in [0, 1].

        Returns:
          A bool tensor with as many units as `state.mask`, in every group: all but the
          floor(active * drop_fraction) lowest drop scores, and as many highest grow
          scores among the rest. Ties go to the lower index, NaN ranks last.

        Source: Evci et al. 2020 (RigL), Algorithm 1; for groups Lasby et al. 2023
        (SRigL), section 3.
        """
        grouping = state.grouping
        exists = grouping.present(state.mask)
        drop_scores = grouping.sums(self.drop_scores(state))
        if self.drop_noise > 0:
            noise = self.noise_at(drop_scores.shape, state.seed)
            drop_scores += tf.cast(noise, drop_scores.dtype)
        kept, replaced = kept_units(drop_scores, exists, drop_fraction)
        if grouping.elements == 1:
            grow_scores = grouping.sums(self.grow_scores(state))
        else:
            grow_scores = self.grow_scores(state.in_units())
        counts = _counted(exists)
        if state.pattern.redistributes:
            best = top_k_mask(grow_scores, replaced, where=tf.logical_not(exists))
            salient = _counted(tf.logical_or(kept, best))
            counts = state.pattern.new_counts(counts, salient, grouping.units)
            kept = tf.logical_and(kept, counts[:, tf.newaxis] > 0)
        missing = counts - _counted(kept)
        grown = top_k_in_groups(grow_scores, missing, where=tf.logical_not(kept))
        return grouping.spread(tf.logical_or(kept, grown))

    def noise_at(
        self, shape: Sequence[int], seed: tf.Tensor, first: int | tf.Tensor = 0
    ) -> tf.Tensor:
        """The noise of some units' drop scores.

        Args:
          shape: of the units.
          seed: the kernel's and update's.
          first: how many units of the kernel come before these.
        """
        # Another key than the one that growth draws by.
        key = tf.bitwise.invert(seed)
        return self.drop_noise * random_normal(shape, key, first)


def _counted(units: tf.Tensor) -> tf.Tensor:
    """How many units of each group there are, of shape [groups]."""
    return tf.math.count_nonzero(units, axis=1, dtype=tf.int64)


class Pruner(ShowsArguments):
    """Removes the connections that matter least, of each kernel or of all together.

    Attributes of the class:
      name: as of `MaskUpdater`, like `needs_gradient` and `suits_xla`.
      needs_hessian_gradient: whether `KernelState.hessian_gradient` is there.

    Args:
      ranking: "layer" leaves every kernel the same share of its connections; "global"
        ranks those of all kernels together, and leaves each kernel one at least.

    Raises:
      ValueError: for another ranking.
    """

    name = ""
    needs_gradient = False
    needs_hessian_gradient = False
    suits_xla = False

    def __init__(self, ranking: str = "layer") -> None:
        check_choice("`ranking`", ranking, RANKINGS)
        self._ranking = ranking

    @property
    def is_global(self) -> bool:
        """Whether it ranks the units of all kernels together.

        Kernels are to pass `check_global_ranking` then.
        """
        return self._ranking == "global"

    def keep_scores(self, state: KernelState) -> tf.Tensor:
        """Scores of the existing connections; the highest are kept.

        Returns:
          A real tensor of the kernel's shape; its values off the mask do not count.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no keep_scores.")

    def new_masks(self, states: Sequence[Any], sparsity: tf.Tensor) -> list[tf.Tensor]:
        """The masks after pruning.

        Args:
          states: list of `KernelState`.
          sparsity: scalar float32 tensor in [0, 1), the share of zeros afterwards.

        Returns:
          A bool tensor for each kernel. Of n units of each group of its pattern, single
          weights in one group where it has none, round(n * (1 - sparsity)) in float32
          arithmetic, half to even, are kept, at least one, and no more than there were.
          Ties go to the lower index, NaN ranks last.

        Source: Zhu & Gupta 2018, "To prune, or not to prune"; counts as in TensorFlow
        Model Optimization 0.8.1.
        """
        scores = [state.grouping.sums(self.keep_scores(state)) for state in states]
        units = [state.grouping.present(state.mask) for state in states]
        if not self.is_global:
            kept = [
                _kept_in_groups(state, score, exists, sparsity=sparsity)
                for state, score, exists in zip(states, scores, units, strict=True)
            ]
        else:
            # One of each kernel first, so that none is left without.
            score, exists = _joined(scores, units)
            kept = _split(_kept(score, exists, sparsity, least=len(units)), units)
        return [
            state.grouping.spread(part)
            for state, part in zip(states, kept, strict=True)
        ]


def check_global_ranking(kernels: Sequence[TrainedKernel]) -> None:
    """Refuses kernels whose units cannot be ranked together.

    Args:
      kernels: theirs.

    Raises:
      ValueError: naming those whose pattern has several groups; or where units have
        different sizes.
    """
    groupings = {
        f"{kernel.path} ({kernel.pattern})": kernel.pattern.grouping(
            kernel.shape, *kernel.axes
        )
        for kernel in kernels
    }
    grouped = [name for name, grouping in groupings.items() if grouping.groups > 1]
    if grouped:
        raise ValueError(
            "The ranking 'global' decides how many weights each kernel keeps, and the "
            "patterns of these give every group of a kernel equally many: "
            f"{', '.join(grouped)}. Use ranking='layer'."
        )
    sizes = {grouping.elements for grouping in groupings.values()}
    if len(sizes) > 1:
        raise ValueError(
            "The ranking 'global' compares units of all kernels, but the patterns here "
            f"have units of {sorted(sizes)} weights. Use ranking='layer'."
        )


def _kept_in_groups(
    state: KernelState, scores: tf.Tensor, exists: tf.Tensor, *, sparsity: tf.Tensor
) -> tf.Tensor:
    groups, units = exists.shape
    least = state.pattern.least_units(units)
    if groups == 1:
        return _kept(scores, exists, sparsity, least=least)
    count = _count_at(units, sparsity, least)
    return top_k_in_groups(scores, tf.minimum(count, _counted(exists)), where=exists)


def _kept(
    scores: tf.Tensor, mask: tf.Tensor, sparsity: tf.Tensor, *, least: int
) -> tf.Tensor:
    count = _count_at(mask.shape.num_elements(), sparsity, least)
    active = tf.math.count_nonzero(mask, dtype=tf.int64)
    return top_k_mask(scores, tf.minimum(count, active), where=mask)


def _count_at(size: int, sparsity: tf.Tensor, least: int) -> tf.Tensor:
    """How many of `size` units a sparsity leaves, as an int64 scalar."""
    density = 1 - tf.cast(sparsity, tf.float32)
    rounded = tf.round(tf.cast(size, tf.float32) * density)
    return tf.cast(tf.maximum(rounded, least), tf.int64)


def _joined(
    scores: Sequence[tf.Tensor], masks: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """All kernels as one, the best connection of each before all others."""
    firsts = [
        tf.where(
            top_k_mask(score, 1, where=mask),
            tf.constant(float("inf"), tf.float32),
            tf.cast(score, tf.float32),
        )
        for score, mask in zip(scores, masks, strict=True)
    ]
    return (
        tf.concat([tf.reshape(score, [-1]) for score in firsts], 0),
        tf.concat([tf.reshape(mask, [-1]) for mask in masks], 0),
    )


def _split(joined: tf.Tensor, masks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    sizes = [mask.shape.num_elements() for mask in masks]
    parts = tf.split(joined, sizes)
    return [
        tf.reshape(part, mask.shape) for part, mask in zip(parts, masks, strict=True)
    ]
