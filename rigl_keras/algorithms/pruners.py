"""Algorithms that only remove connections, before or while a network trains."""

import tensorflow as tf

from rigl_keras.algorithms.base import KernelState, Pruner
from rigl_keras.algorithms.registry import register


@register
class Magnitude(Pruner):
    """Keeps the largest weights.

    Source: Zhu & Gupta 2018, section 3.
    """

    name = "magnitude"
    suits_xla = True

    def keep_scores(self, state: KernelState) -> tf.Tensor:
        """Magnitudes of the weights."""
        return tf.abs(state.weights)


@register
class SNIP(Pruner):
    """Keeps the connections to whose scaling the loss is most sensitive.

    Source: Lee et al. 2019, "SNIP", equation 6.
    """

    name = "snip"
    needs_gradient = True

    def keep_scores(self, state: KernelState) -> tf.Tensor:
        """Magnitudes of weight times gradient."""
        return tf.abs(state.weights * state.gradient)


@register
class GraSP(Pruner):
    """Keeps the connections without which the gradient's norm would fall most.

    Source: Wang et al. 2020, "Picking winning tickets before training", equation 8.
    """

    name = "grasp"
    needs_hessian_gradient = True

    def keep_scores(self, state: KernelState) -> tf.Tensor:
        """Weight times the Hessian-gradient product: minus the paper's score."""
        return state.weights * state.hessian_gradient
