"""The runs that compare patterns: networks × patterns × sparsities × methods."""

import dataclasses

from rigl_keras.program.sweep import Cell

SPARSITIES = (95, 98, 90)  # %, in the order in which they are run
N_OF_M = "n_of_m(2, 4)"
METHODS = {"rigl": "RigL", "static": "static", "prune": "pruned"}
# RigL of kernels that are stored without their zeros; of one network and one pattern.
COMPRESSED = "compressed"
COMPRESSED_CELLS = ("mlp", "blocks(16, 1, 'inputs')")
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network, and the patterns that its kernels can have.

    Attributes:
      title: of its table.
      patterns: text of a pattern -> what `masks.pattern` is set to for it.
      folder: of its gin files.
    """

    title: str
    patterns: dict
    folder: str


def _of_hidden_layers(pattern):
    """The dense ones; the convolutions and the last layer have single weights."""
    return {"dense*": pattern}


_MLP_PATTERNS = (
    "unstructured",
    "blocks(4, 1)",
    "blocks(16, 1)",
    "blocks(16, 1, 'inputs')",
    "blocks(1, 16, 'outputs')",
    "constant_fan_in",
    N_OF_M,
)
NETWORKS = {
    "mlp": Network(
        "Perceptron 784-1024-1024-10, masks on the two large kernels",
        {text: text for text in _MLP_PATTERNS},
        "mnist_mlp_patterns",
    ),
    "lenet5": Network(
        "LeNet5, its hidden dense layers in the pattern",
        {
            "unstructured": "unstructured",
            "blocks(4, 1)": _of_hidden_layers("blocks(4, 1)"),
            "blocks(4, 1), last layer too": {
                "dense*": "blocks(4, 1)",
                "logits/*": "blocks(4, 1)",
            },
            "constant_fan_in": _of_hidden_layers("constant_fan_in"),
            N_OF_M: _of_hidden_layers(N_OF_M),
        },
        "mnist_patterns",
    ),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a cell trains.

    Attributes:
      network: key of `NETWORKS`.
      pattern: key of its patterns; None for the dense network.
      sparsity: in %, 0 for the dense network.
      method: key of `METHODS`, `COMPRESSED`, or "dense".
    """

    network: str
    pattern: str | None
    sparsity: int
    method: str

    @property
    def name(self):
        """Of the folder that holds the runs."""
        if self.pattern is None:
            return f"{self.network}_dense"
        letters = "".join(c if c.isalnum() else " " for c in self.pattern)
        return "_".join(
            [self.network, self.method, str(self.sparsity), *letters.split()]
        )

    def cell(self):
        """The `Cell` of its runs."""
        network = NETWORKS[self.network]
        title = f"{self.network}, {self.pattern}, {self.sparsity} %, {self.method}"
        if self.pattern is None:
            return Cell(self.name, title, (f"{network.folder}/dense.gin",), seeds=SEEDS)
        share = self.sparsity / 100
        by = "pruning.final_sparsity" if self.method == "prune" else "masks.sparsity"
        return Cell(
            self.name,
            title,
            (f"{network.folder}/{self.method}.gin",),
            {"masks.pattern": network.patterns[self.pattern], by: share},
            seeds=SEEDS,
        )


def settings():
    """All settings, those that say most first."""
    found = [Setting(name, None, 0, "dense") for name in NETWORKS]
    for sparsity in SPARSITIES:
        for network in NETWORKS:
            for method in METHODS:
                found += [
                    Setting(network, pattern, sparsity, method)
                    for pattern in NETWORKS[network].patterns
                    if pattern != N_OF_M
                ]
        found.append(Setting(*COMPRESSED_CELLS, sparsity, COMPRESSED))
        if sparsity == SPARSITIES[0]:
            found += [
                Setting(network, N_OF_M, 50, method)
                for network in NETWORKS
                for method in METHODS
            ]
    return found
