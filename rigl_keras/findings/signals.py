"""Signal propagation of this package's networks at initialisation."""

import numpy as np

from rigl_keras import networks
from rigl_keras.analysis import signal_propagation
from rigl_keras.common.tables import significant
from rigl_keras.findings.finding import Finding
from rigl_keras.plots import signals as plots

SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
_FAN_IN = (
    "With even fan-in all units of a kernel have about equally many connections; with "
    "uneven fan-in some have up to a hundred times as many as others."
)
_MASKS = {"even fan-in": None, "uneven fan-in": signal_propagation.uneven_masks}


def find(network, input_shape, num_classes, *, sparsities, num_networks, seed):
    """How large signals are at initialisation (Evci et al. 2022, Figure 1c).

    The dense initialisation is that of He, as the sparse ones are, so that all agree at
    sparsity 0.

    Args:
      network: name in `networks.NETWORKS`.
      input_shape: (height, width, channels).
      num_classes: int >= 2.
      sparsities: numbers in [0, 1).
      num_networks: int >= 1, for each sparsity and initialisation.
      seed: int >= 0.

    Returns:
      `Finding`.

    Raises:
      ValueError: for a value out of range.
    """

    def build(network_seed):
        return networks.build(
            network,
            input_shape,
            num_classes,
            kernel_initializer="he_normal",
            seed=network_seed,
        )

    by_masks = {
        title: signal_propagation.signal_propagation(
            build, sparsities, num_networks=num_networks, masks=masks, seed=seed
        )
        for title, masks in _MASKS.items()
    }
    rows, arrays = [], {"sparsities": np.asarray(sparsities)}
    for title, signals in by_masks.items():
        arrays |= {
            f"{title}/output_std": signals.output_std,
            f"{title}/layer_std": signals.layer_std,
            "initializers": np.array(signals.initializers),
            "layers": np.array(signals.layers),
        }
        rows += [
            [title, initializer, *(significant(std) for std in stds)]
            for initializer, stds in zip(
                signals.initializers, signals.output_std, strict=True
            )
        ]
    return Finding(
        "Signals at initialisation",
        f"Standard deviation of the output of {network} before the softmax, for "
        "standard normal inputs, and of its dense units one by one (figure), over "
        f"{num_networks} random networks for each sparsity. {_FAN_IN}",
        ["masks", "initialisation", *(f"{sparsity:.1%}" for sparsity in sparsities)],
        rows,
        arrays,
        lambda path: plots.signal_propagation(by_masks, path),
    )
