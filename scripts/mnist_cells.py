"""What the paper reports of LeNet5 on MNIST, and the runs that are to show it."""

import dataclasses

# Test accuracy of a network that calls everything the most frequent digit.
PLATEAU = 0.1135


@dataclasses.dataclass(frozen=True)
class Paper:
    """The paper's cell of 5 seeds, test accuracies in %.

    Attributes:
      mean: of all seeds.
      std: their population standard deviation.
      stuck: how many seeds never left the plateau, worked out from the two.
    """

    mean: float
    std: float
    stuck: int = 0

    @property
    def trained(self):
        """Mean of the seeds that left the plateau, None where none did."""
        rest = 5 - self.stuck
        return (5 * self.mean - 100 * PLATEAU * self.stuck) / rest if rest else None


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment.

    Attributes:
      name: of its runs' folder.
      title: for the table.
      configs: gin files, later ones over earlier ones.
      bindings: gin name -> value.
      parent: name of the cell whose run gives the masks, or None.
      paper: `Paper`, or None where the paper has no such cell.
      seed_offset: what a run's seed is above that of its parent, so that it has another
        init and another data order.
    """

    name: str
    title: str
    configs: tuple[str, ...]
    bindings: dict = dataclasses.field(default_factory=dict)
    parent: str | None = None
    paper: Paper | None = None
    seed_offset: int = 100


def _init(method, variance, scale):
    """Bindings of an initialisation for masks: `method` is "unit" or "layer"."""
    return {
        "network.weight_init_method": f"{method}_scaled",
        f"{method}_scaled_init.method": variance,
        f"{method}_scaled_init.scale": scale,
    }


INITS = {
    "dense": ("dense init, Glorot", {}),
    "dense_he": ("dense init, He", {"lenet5.kernel_initializer": "he_normal"}),
    "layer": ("layer-scaled, He", _init("layer", "fanin_normal", 2.0)),
    "layer_fanavg": (
        "layer-scaled, mean fan, scale 1",
        _init("layer", "fanavg_uniform", 1.0),
    ),
    "unit": ("unit-scaled, He", _init("unit", "fanin_normal", 2.0)),
    "unit_fanavg": (
        "unit-scaled, mean fan, scale 1",
        _init("unit", "fanavg_uniform", 1.0),
    ),
    "unit_fanin": ("unit-scaled, fan-in, scale 1", _init("unit", "fanin_normal", 1.0)),
}
# Where not all are tried: Keras's dense init, and what the files of the paper's code
# for SET and RigL make of the other two.
MAIN = ("dense", "layer_fanavg", "unit_fanin")

# Which of the paper's columns a cell belongs to.
_COLUMN = {init: init.split("_")[0] for init in INITS}
TABLE_1 = {
    "scratch": {
        "dense": Paper(62.99, 42.16, 2),
        "layer": Paper(96.64, 0.83),
        "unit": Paper(97.70, 0.09),
    },
    "set": {
        "dense": Paper(63.33, 42.44, 2),
        "layer": Paper(97.77, 0.31),
        "unit": Paper(98.16, 0.06),
    },
    "rigl": {
        "dense": Paper(80.82, 34.74, 1),
        "layer": Paper(98.14, 0.17),
        "unit": Paper(98.13, 0.09),
    },
}
TABLE_2 = {
    "scratch": {
        "dense": Paper(11.35, 0.0, 5),
        "layer": Paper(56.51, 36.90, 2),
        "unit": Paper(90.00, 4.04),
    },
    "rigl": {
        "dense": Paper(11.35, 0.0, 5),
        "layer": Paper(62.34, 41.63, 2),
        "unit": Paper(96.72, 0.23),
    },
}
METHODS = {"scratch": "Scratch", "set": "SET", "rigl": "RigL"}
FILES = {
    "scratch": "mnist/static.gin",
    "set": "mnist/set.gin",
    "rigl": "mnist/rigl.gin",
}


def sparse_cell(method, init, sparsity):
    """The cell of a method and an initialisation on the masks of a pruned network."""
    table = TABLE_1 if sparsity == 95 else TABLE_2
    text, bindings = INITS[init]
    return Cell(
        f"{method}{sparsity}_{init}",
        f"{METHODS[method]} {sparsity} %, {text}",
        (FILES[method], "mnist/pruned_masks.gin"),
        {"network.weight_init_method": None, **bindings},
        parent=f"prune{sparsity}",
        paper=table[method][_COLUMN[init]],
    )


def lottery_cell(name, title, weight_decay, seed_offset=100):
    """The cell of the lottery ticket, whose released recipe has no weight decay."""
    return Cell(
        name,
        title,
        ("mnist/lottery.gin",),
        {"network.weight_decay": weight_decay},
        parent="prune95",
        paper=Paper(98.26, 0.27),
        seed_offset=seed_offset,
    )


def pilot():
    """The cells of the pilot, the most telling first."""
    baseline = Paper(99.21, 0.07)
    return [
        # The paper's number is that of Table 3, "5 different pruned".
        Cell("prune95", "Pruned 95 %", ("mnist/prune.gin",), paper=Paper(98.30, 0.23)),
        Cell(
            "prune98",
            "Pruned 98 %",
            ("mnist/prune.gin",),
            {"pruning.final_sparsity": 0.98},
            paper=Paper(96.50, 0.31),
        ),
        Cell("dense", "Dense, Glorot", ("mnist/dense.gin",), paper=baseline),
        lottery_cell("lottery95", "Lottery 95 %, weight decay 5e-4", 5e-4),
        lottery_cell(
            "lottery95_same_order",
            "Lottery 95 %, weight decay 5e-4, data order of the pruned run",
            5e-4,
            seed_offset=0,
        ),
        lottery_cell("lottery95_nodecay", "Lottery 95 %, weight decay 0", 0.0),
        *(sparse_cell("scratch", init, 95) for init in INITS),
        *(sparse_cell("scratch", init, 98) for init in INITS),
        *(sparse_cell("rigl", init, 95) for init in MAIN),
        *(sparse_cell("set", init, 95) for init in MAIN),
        Cell(
            "rigl_inverted95_unit_fanin",
            "RigL-Inverted 95 %, unit-scaled, fan-in, scale 1",
            ("mnist/rigl_inverted.gin", "mnist/pruned_masks.gin"),
            INITS["unit_fanin"][1],
            parent="prune95",
            paper=Paper(92.71, 7.67),
        ),
        *(sparse_cell("rigl", init, 98) for init in MAIN),
        *(sparse_cell("rigl", init, 95) for init in INITS if init not in MAIN),
        Cell(
            "dense_he",
            "Dense, He",
            ("mnist/dense.gin",),
            INITS["dense_he"][1],
            paper=baseline,
        ),
    ]
