"""Small runs of the command line's code, in this process: seconds each."""

import gin

from rigl_keras.program import run
from rigl_keras.program.gin_files import gin_search_paths

STEPS = 24
BASE = [
    "data.name = 'digits'",
    f"training.total_steps = {STEPS}",
    "training.batch_size = 32",
    "training.save_freq = 6",
    "training.log_freq = 12",
    "training.val_batch_size = 100",
    "optimizer.name = 'momentum'",
    "optimizer.momentum = 0.9",
    "optimizer.learning_rate = 0.05",
    "mask_updater.update_freq = 4",
    # Small, because it is the paths through the code that count.
    "lenet5.hidden_sizes = (3, 4, 12, 8)",
]
PRUNING = [
    "pruning.mode = 'prune'",
    "pruning.begin_step = 4",
    "pruning.end_step = 20",
    "pruning.frequency = 4",
]
RIGL = ["mask_updater.update_alg = 'rigl'"]


def make(folder, bindings, seed=0):
    """A run by these bindings over `BASE`, ready to train; clear gin afterwards."""
    gin.clear_config()
    for path in gin_search_paths():
        gin.add_config_file_search_path(path)
    gin.parse_config([*BASE, *bindings])
    made = run.Run(str(folder), seed)
    made.begin()
    return made


def train(folder, bindings, seed=0):
    """Trains a run by these bindings over `BASE`; returns its folder."""
    try:
        make(folder, bindings, seed).train()
    finally:
        gin.clear_config()
    return folder


def family(folder):
    """A pruned network, two lottery tickets of it, two from scratch, two by RigL.

    Returns:
      A dict from names to lists of folders, seeds of one experiment.
    """
    parent = train(folder / "prune" / "seed0", PRUNING)
    masks = f"network.mask_init_path = '{parent}/ckpt-{STEPS}'"
    start = f"network.weight_init_path = '{parent}/ckpt-0'"
    drawn = "network.weight_init_method = 'unit_scaled'"
    children = {
        "lottery": [masks, start],
        "scratch": [masks, drawn],
        "rigl": [masks, drawn, *RIGL],
    }
    return {
        "prune": [parent],
        **{
            name: [
                train(folder / name / f"seed{seed}", bindings, seed)
                for seed in (101, 102)
            ]
            for name, bindings in children.items()
        },
    }
