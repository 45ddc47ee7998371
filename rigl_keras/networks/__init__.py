"""Image classifiers as Keras models: those of the experiments, by name."""

from collections.abc import Callable, Sequence

from rigl_keras.networks.mobilenet import mobilenet_v1
from rigl_keras.networks.resnet import resnet50
from rigl_keras.networks.small import lenet5, mlp
from rigl_keras.networks.stack import KERNEL_INITIALIZERS
from rigl_keras.networks.vgg import vgg16
from rigl_keras.networks.wide_resnet import wide_resnet

__all__ = [
    "KERNEL_INITIALIZERS",
    "NETWORKS",
    "build",
    "lenet5",
    "mlp",
    "mobilenet_v1",
    "resnet50",
    "vgg16",
    "wide_resnet",
]

NETWORKS: dict[str, Callable] = {
    network.__name__: network
    for network in (lenet5, mlp, resnet50, vgg16, mobilenet_v1, wide_resnet)
}


def build(name: str, input_shape: Sequence[int], num_classes: int, **kwargs):
    """Builds a network by its name.

    Args:
      name: a key of `NETWORKS`, such as "lenet5" or "resnet50".
      input_shape: shape of one example, (height, width, channels) for an image.
      num_classes: int >= 2, the number of logits.
      **kwargs: the further arguments of that network's function.

    Returns:
      A `keras.Model` that ends in logits [n, num_classes].

    Raises:
      ValueError: if there is no such network, or it refuses an argument.
    """
    if name not in NETWORKS:
        names = ", ".join(repr(known) for known in NETWORKS)
        raise ValueError(f"Unknown network {name!r}: use one of {names}.")
    return NETWORKS[name](input_shape, num_classes, **kwargs)
