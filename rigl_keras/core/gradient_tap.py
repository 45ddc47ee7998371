"""Gradients of connections that do not exist, seen in a layer's backward pass.

A layer that stores its kernel without zeros has a gradient of the weights that exist
only. What the others would have is known in its backward pass alone, from its inputs
and the gradient of its outputs. There a tap can keep it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from rigl_keras.core.compressed_units import groups_of_a_part


class Listener(NamedTuple):
    """Who keeps the gradients of a kernel's units.

    Attributes:
      is_asked: function without arguments, traced in the backward pass, that returns
        whether to keep them: a bool tensor, or True for always.
      kept: float32 variable of shape [groups, units], to which they are added.
    """

    is_asked: Callable[[], Any]
    kept: Any


class GradientTap:
    """Hands over the gradients of all units of a kernel, where someone listens.

    What is traced while someone listens goes on so, as with the hooks of optimizers.

    Attributes:
      listener: a `Listener` or None.
    """

    def __init__(self) -> None:
        self.listener: Listener | None = None

    def __deepcopy__(self, memo: Any) -> "GradientTap":
        """A tap of its own, for the copy of a layer."""
        return GradientTap()

    def __reduce__(self) -> Any:
        """Pickled as a new tap, with its layer."""
        return GradientTap, ()

    def through(self, outputs: tf.Tensor, rows: tf.Tensor, block: int) -> tf.Tensor:
        """The outputs, whose gradient is seen as it passes.

        Args:
          outputs: tensor of shape [rows, outputs], the product with the kernel.
          rows: tensor of shape [rows, inputs], by which it is multiplied.
          block: int, how many consecutive inputs a unit has.

        Returns:
          The outputs.
        """
        if self.listener is None:
            return outputs
        is_asked, kept = self.listener

        @tf.custom_gradient
        def identity(values: tf.Tensor) -> Any:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                def keep() -> None:
                    add_unit_gradients(kept, rows, upstream, block=block)

                is_wanted = is_asked()
                if is_wanted is True:
                    keep()
                else:
                    tf.cond(is_wanted, keep, lambda: None)
                return upstream

            return tf.identity(values), gradient

        return identity(outputs)


def add_unit_gradients(
    kept: Any, rows: tf.Tensor, upstream: tf.Tensor, *, block: int
) -> None:
    """Adds the gradients of all units of a kernel, each the sum over its weights'.

    The inputs of a block are summed first: that is as much less to multiply. Of a large
    kernel some groups are added at a time: there is no second tensor of all units.

    Args:
      kept: float32 variable of shape [groups, units], to which they are added.
      rows: tensor of shape [rows, inputs].
      upstream: tensor of shape [rows, outputs], the gradient of the product.
      block: int, how many consecutive inputs a unit has.
    """
    groups, units = kept.shape
    parts = tf.reshape(tf.cast(rows, tf.float32), [-1, groups, block])
    sums = tf.reduce_sum(parts, axis=2)
    upstream = tf.cast(upstream, tf.float32)
    size = groups_of_a_part(groups, units)
    if size == groups:
        kept.assign_add(tf.matmul(sums, upstream, transpose_a=True))
        return

    def add(start: tf.Tensor) -> tf.Tensor:
        here = tf.range(size) + start
        product = tf.matmul(tf.gather(sums, here, axis=1), upstream, transpose_a=True)
        tf.raw_ops.ResourceScatterAdd(
            resource=kept.handle, indices=here, updates=product
        )
        return start + size

    tf.while_loop(lambda start: start < groups, add, [0], parallel_iterations=1)


def set_to_zero(kept: Any) -> None:
    """Sets a variable of units to 0; a large one without another tensor of its size.

    Args:
      kept: float32 variable of shape [groups, units].
    """
    groups, units = kept.shape
    size = groups_of_a_part(groups, units)
    if size == groups:
        kept.assign(tf.zeros_like(kept))
        return
    zeros = tf.zeros([size, units])
    for replica in tf.distribute.get_strategy().experimental_local_results(kept):
        for start in range(0, groups, size):
            tf.raw_ops.ResourceScatterUpdate(
                resource=replica.handle,
                indices=tf.range(start, start + size),
                updates=zeros,
            )
