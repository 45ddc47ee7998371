"""What the paper reports of LeNet5 on MNIST, and the runs that are to show it."""

import dataclasses

from rigl_keras.program.sweep import Cell

LAST_STEP = 11719  # as in gin/mnist/base.gin and gin/mnist_mlp/base.gin
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
# Where the pilot did not try all: Keras's dense init, and what the files of the paper's
# code for SET and RigL make of the other two.
PILOT = ("dense", "layer_fanavg", "unit_fanin")
# What it chose, and why: docs/results/mnist/pilot.md.
CHOSEN = ("dense", "layer_fanavg", "unit_fanavg")

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


def inverted_cell(init):
    """The cell of RigL-Inverted."""
    text, bindings = INITS[init]
    return Cell(
        f"rigl_inverted95_{init}",
        f"RigL-Inverted 95 %, {text}",
        ("mnist/rigl_inverted.gin", "mnist/pruned_masks.gin"),
        bindings,
        parent="prune95",
        paper=Paper(92.71, 7.67),
    )


def lottery_cell(name, title, weight_decay, *, seed_offset=100):
    """The cell of the lottery ticket, whose released recipe has no weight decay."""
    return Cell(
        name,
        title,
        ("mnist/lottery.gin",),
        {"network.weight_decay": weight_decay},
        parent="prune95",
        paper=Paper(98.26, 0.27),
        parent_weights=0,
        seed_offset=seed_offset,
    )


# The paper's number for 95 % is that of Table 3, "5 different pruned".
PRUNE_95 = Cell(
    "prune95", "Pruned 95 %", ("mnist/prune.gin",), paper=Paper(98.30, 0.23)
)
PRUNE_98 = Cell(
    "prune98",
    "Pruned 98 %",
    ("mnist/prune.gin",),
    {"pruning.final_sparsity": 0.98},
    paper=Paper(96.50, 0.31),
)
DENSE = Cell("dense", "Dense", ("mnist/dense.gin",), paper=Paper(99.21, 0.07))
LOTTERY = lottery_cell("lottery95", "Lottery 95 %, weight decay 5e-4", 5e-4)


def pilot():
    """The cells of the pilot, which chose the scale of the initial weights."""
    return [
        PRUNE_95,
        PRUNE_98,
        DENSE,
        LOTTERY,
        lottery_cell(
            "lottery95_same_order",
            "Lottery 95 %, weight decay 5e-4, data order of the pruned run",
            5e-4,
            seed_offset=0,
        ),
        lottery_cell("lottery95_nodecay", "Lottery 95 %, weight decay 0", 0.0),
        *(sparse_cell("scratch", init, 95) for init in INITS),
        *(sparse_cell("scratch", init, 98) for init in INITS),
        *(sparse_cell("rigl", init, 95) for init in PILOT),
        *(sparse_cell("set", init, 95) for init in PILOT),
        inverted_cell("unit_fanin"),
        *(sparse_cell("rigl", init, 98) for init in PILOT),
        *(sparse_cell("rigl", init, 95) for init in INITS if init not in PILOT),
        Cell(
            "dense_he",
            "Dense, He",
            ("mnist/dense.gin",),
            INITS["dense_he"][1],
            paper=DENSE.paper,
        ),
    ]


def table_1():
    """Table 1, the column of LeNet5: 95 % sparse, one pruned network for each seed."""
    return [
        PRUNE_95,
        DENSE,
        Cell(
            "small_dense",
            "Small dense",
            ("mnist/small_dense.gin",),
            paper=Paper(98.21, 0.46),
        ),
        LOTTERY,
        *(
            sparse_cell(method, init, 95)
            for method in ("scratch", "set", "rigl")
            for init in CHOSEN
        ),
        inverted_cell("unit_fanavg"),
    ]


def table_2():
    """Table 2: 98 % sparse."""
    return [
        PRUNE_98,
        *(
            sparse_cell(method, init, 98)
            for method in ("scratch", "rigl")
            for init in CHOSEN
        ),
    ]


def table_3():
    """Table 3: five networks from one pruned one, each in another order of the data."""
    return [
        _similar(
            "lottery",
            "Lottery",
            "mnist/lottery.gin",
            paper=Paper(98.52, 0.02),
            bindings={"network.weight_decay": 5e-4},
            parent_weights=0,
        ),
        *_similar_from_scratch(),
        _similar(
            "restart",
            "Prune restart",
            "mnist/prune_restart.gin",
            paper=Paper(98.60, 0.01),
            parent_weights=LAST_STEP,
        ),
    ]


def _similar_from_scratch():
    unit, layer = INITS["unit_fanavg"][1], INITS["layer_fanavg"][1]
    # One seed for all, which is not the pruned network's: the same initial weights.
    same_init = {"seeds.init_seed": 300}
    # The paper does not say which initialisation its own networks have.
    return [
        _similar(
            "scratch",
            "Scratch, same init",
            "mnist/scratch.gin",
            paper=Paper(97.04, 0.15),
            bindings=unit | same_init,
        ),
        _similar(
            "scratch_layer",
            "Scratch, same init, layer-scaled",
            "mnist/scratch.gin",
            paper=Paper(97.04, 0.15),
            bindings=layer | same_init,
            seeds=(0, 1),
        ),
        _similar(
            "scratch_other",
            "Scratch, different init",
            "mnist/scratch.gin",
            paper=Paper(97.19, 0.33),
            bindings=unit,
        ),
    ]


def _similar(name, title, file, *, paper, bindings=None, **options):
    return Cell(
        f"similar_{name}",
        title,
        (file,),
        bindings or {},
        parent="prune95",
        parent_seed=0,
        paper=paper,
        seed_offset=200,
        **options,
    )


def others():
    """Methods of which the paper has no number for LeNet5; 95 % sparse."""
    return [
        Cell("snip95", "SNIP", ("mnist/snip.gin",), seeds=(0, 1, 2)),
        Cell("grasp95", "GraSP", ("mnist/grasp.gin",), seeds=(0, 1, 2)),
        Cell(
            "snfs95",
            "SNFS, unit-scaled",
            ("mnist/snfs.gin", "mnist/pruned_masks.gin"),
            parent="prune95",
            seeds=(0, 1, 2),
        ),
        Cell(
            "metainit95",
            "Scratch, dense init and MetaInit",
            ("mnist/scratch.gin",),
            {"network.weight_init_method": None, "training.use_metainit": True},
            parent="prune95",
            seeds=(0, 1, 2),
        ),
    ]


def mlp():
    """The perceptron, 98 % sparse; the paper's code has the files and it no numbers."""
    masks, masked = "mnist_mlp/pruned_masks.gin", {"parent": "mlp_prune"}
    return [
        _mlp("prune", "Pruned", "mnist_mlp/prune.gin"),
        _mlp("dense", "Dense", "mnist_mlp/dense.gin"),
        _mlp("small_dense", "Small dense", "mnist_mlp/small_dense.gin"),
        _mlp("lottery", "Lottery", "mnist_mlp/lottery.gin", parent_weights=0, **masked),
        _mlp("scratch", "Scratch", "mnist_mlp/scratch.gin", **masked),
        _mlp("set", "SET", ("mnist_mlp/set.gin", masks), **masked),
        _mlp("rigl", "RigL", ("mnist_mlp/rigl.gin", masks), **masked),
    ]


def _mlp(name, title, files, *, parent=None, parent_weights=None):
    return Cell(
        f"mlp_{name}",
        title,
        (files,) if isinstance(files, str) else files,
        parent=parent,
        parent_weights=parent_weights,
        seeds=(0, 1, 2),
    )


# study -> table -> cells
STUDIES = {
    "pilot": {"pilot": pilot()},
    "paper": {
        "table_1": table_1(),
        "table_2": table_2(),
        "table_3": table_3(),
        "others": others(),
        "mlp": mlp(),
    },
}
