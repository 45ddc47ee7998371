"""Which connections an update drops and which it grows: one class per algorithm.

A new algorithm is a subclass of `MaskUpdater` that returns scores.
"""

from typing import NamedTuple

import tensorflow as tf

from rigl_keras.kernels import masked
from rigl_keras.seeding import ALGORITHM
from rigl_keras.selection import top_k_mask


class KernelState(NamedTuple):
    """What an algorithm sees of a kernel, all tensors of the kernel's shape but `seed`.

    Attributes:
      weights: the kernel's weights, 0 off the mask.
      mask: bool, True where a connection exists.
      gradient: the dense gradient, or None where the algorithm asks for none.
      seed: stateless seed, int64 of shape [2], for this kernel and this update.
    """

    weights: tf.Tensor
    mask: tf.Tensor
    gradient: tf.Tensor | None
    seed: tf.Tensor


class MaskUpdater:
    """Replaces the connections that matter least; how many there are stays the same.

    `name` is what the command line and errors call the algorithm; `needs_gradient`
    says whether `KernelState.gradient` is there.
    """

    name = ""
    needs_gradient = False

    def drop_scores(self, state):
        """Scores of the existing connections; the lowest are dropped.

        Returns:
          A real tensor of the kernel's shape; its values off the mask do not count.
        """
        return tf.abs(state.weights)

    def grow_scores(self, state):
        """Scores of the connections that do not exist; the highest are grown.

        Connections dropped in the same update take part.

        Returns:
          A real tensor of the kernel's shape; its values at kept ones do not count.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no grow_scores.")

    def new_mask(self, state, drop_fraction):
        """The mask after one update.

        Args:
          state: a `KernelState`.
          drop_fraction: scalar float32 tensor in [0, 1].

        Returns:
          A bool tensor with as many True entries as `state.mask`: all but the
          floor(active * drop_fraction) lowest drop scores, and as many highest grow
          scores among the rest. Ties go to the lower index, NaN ranks last.

        Source: Evci et al. 2020 (RigL), Algorithm 1.
        """
        active = tf.math.count_nonzero(state.mask, dtype=tf.int32)
        replaced = tf.cast(
            tf.floor(tf.cast(active, tf.float32) * drop_fraction), tf.int32
        )
        kept = top_k_mask(self.drop_scores(state), active - replaced, where=state.mask)
        candidates = tf.logical_not(kept)
        grown = top_k_mask(self.grow_scores(state), replaced, where=candidates)
        return tf.logical_or(kept, grown)


class SET(MaskUpdater):
    """Drops the smallest weights and grows connections at random.

    Source: Mocanu et al. 2018; Evci et al. 2022, section 4.
    """

    name = "set"

    def grow_scores(self, state):
        """Random integers, independent for each kernel and update."""
        return tf.random.stateless_uniform(
            tf.shape(state.weights),
            state.seed,
            minval=None,
            maxval=None,
            dtype=tf.int32,
            alg=ALGORITHM,
        )


class RigL(MaskUpdater):
    """Drops the smallest weights and grows where the loss gradient is largest.

    Source: Evci et al. 2020, section 3.
    """

    name = "rigl"
    needs_gradient = True

    def grow_scores(self, state):
        """Magnitudes of the dense gradient."""
        return tf.abs(state.gradient)


class RigLInverted(RigL):
    """Drops the smallest weights and grows where the loss gradient is *smallest*.

    Source: Evci et al. 2022, section 4, as a control for RigL.
    """

    name = "rigl_inverted"

    def grow_scores(self, state):
        """Negated magnitudes of the dense gradient."""
        return -tf.abs(state.gradient)


ALGORITHMS = {updater.name: updater for updater in (SET, RigL, RigLInverted)}


def surviving(values, old_mask, new_mask, initial_value=0.0):
    """Values after a mask update: kept connections keep theirs, all others start anew.

    A connection that was dropped and grown in the same update keeps its value too.
    """
    kept = tf.logical_and(old_mask, new_mask)
    if initial_value == 0.0:
        return masked(values, kept)
    return tf.where(kept, values, tf.cast(initial_value, values.dtype))
