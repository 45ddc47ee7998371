"""Algorithms that replace connections while a network trains."""

import tensorflow as tf

from rigl_keras.algorithms.base import KernelState, MaskUpdater
from rigl_keras.algorithms.registry import register


@register
class SET(MaskUpdater):
    """Drops the smallest weights and grows connections at random.

    Source: Mocanu et al. 2018; Evci et al. 2022, section 4.
    """

    name = "set"
    suits_xla = True

    def grow_scores(self, state: KernelState) -> tf.Tensor:
        """Random integers, independent for each kernel and update."""
        return state.random_integers()


@register
class RigL(MaskUpdater):
    """Drops the smallest weights and grows where the loss gradient is largest.

    Source: Evci et al. 2020, section 3.
    """

    name = "rigl"
    needs_gradient = True
    suits_xla = True

    def grow_scores(self, state: KernelState) -> tf.Tensor:
        """Magnitudes of the gradient."""
        return tf.abs(state.gradient)


@register
class RigLInverted(MaskUpdater):
    """Drops the smallest weights and grows where the loss gradient is *smallest*.

    Source: Evci et al. 2022, section 4, as a control for RigL.
    """

    name = "rigl_inverted"
    needs_gradient = True
    suits_xla = True

    def grow_scores(self, state: KernelState) -> tf.Tensor:
        """Negated magnitudes of the gradient."""
        return -tf.abs(state.gradient)


@register
class SNFS(MaskUpdater):
    """Drops the smallest weights and grows where the gradient's average is largest.

    Source: Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch", without its
    redistribution over layers.
    """

    name = "snfs"
    needs_gradient = True
    suits_xla = True
    gradient_decay = 0.9

    def grow_scores(self, state: KernelState) -> tf.Tensor:
        """Magnitudes of the averaged gradient."""
        return tf.abs(state.gradient)
