"""The wrappers of TensorFlow Model Optimization's `prune_low_magnitude`.

They are told by their class, so nothing is imported: whoever has one has TFMOT.
"""

from typing import Any

import tensorflow as tf


def is_pruning_wrapper(layer: Any) -> bool:
    """True for what `prune_low_magnitude` puts around a layer."""
    return any(
        base.__name__ == "PruneLowMagnitude"
        and base.__module__.startswith("tensorflow_model_optimization.")
        for base in type(layer).__mro__
    )


def pruned_weights(layer: Any) -> list[tuple[Any, Any]]:
    """The weights that a pruning wrapper prunes.

    Args:
      layer: any layer.

    Returns:
      A list of pairs of a weight and its mask, a variable of 0.0 and 1.0; empty for
      other layers, and for a wrapper that is not built.
    """
    if not is_pruning_wrapper(layer):
        return []
    return [(weight, mask) for weight, mask, _ in layer.pruning_vars]


def stop_pruning(wrapper: Any) -> None:
    """Has a wrapper, for good, leave its masks and weights as they are.

    It would set both in the forward pass; what is left is the wrapped layer's own.

    Args:
      wrapper: a built pruning wrapper.
    """
    wrapper.pruning_obj.conditional_mask_update = tf.no_op
    wrapper.pruning_obj.weight_mask_op = tf.no_op
    if int(wrapper.pruning_step.numpy()) < 0:
        # What TFMOT's UpdatePruningStep does, without which training is refused.
        wrapper.pruning_step.assign(0)


def is_pruning(layer: Any) -> bool:
    """True for a wrapper that prunes in its forward pass: no `stop_pruning` yet."""
    return (
        is_pruning_wrapper(layer)
        and layer.pruning_obj is not None
        and layer.pruning_obj.conditional_mask_update is not tf.no_op
    )
