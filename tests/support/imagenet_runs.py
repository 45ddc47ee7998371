"""The runs of gin/imagenet_resnet50/rigl.gin on a small ImageNet, made small.

TF_CONFIG=... python imagenet_runs.py LOGDIR DATA_DIR MASKS.npz
"""

import sys

import gin
import numpy as np
import tensorflow as tf

import rigl_keras
from rigl_keras.program import run
from rigl_keras.program.gin_files import gin_search_paths

FILE = "imagenet_resnet50/rigl.gin"
STEPS = 16
# What a user changes, and below it what makes steps of a second ones of a moment.
BINDINGS = [
    f"training.total_steps = {STEPS}",
    "training.batch_size = 16",
    "training.val_batch_size = 16",
    "training.log_freq = 4",
    "training.save_freq = 8",
    "mask_updater.update_freq = 5",
    "mask_updater.last_update_step = 12",
    "data.image_size = (32, 32)",
    "resnet50.width_multiplier = 0.125",
]


def make(logdir, data_dir, bindings=()):
    """The run, ready to train; clear gin afterwards."""
    gin.clear_config()
    for path in gin_search_paths():
        gin.add_config_file_search_path(path)
    data = f"data.data_dir = '{data_dir}'"
    gin.parse_config_files_and_bindings([FILE], [*BINDINGS, data, *bindings])
    made = run.Run(str(logdir), seed=0)
    made.begin()
    return made


def masks(made):
    """The masks of a run, by path."""
    return rigl_keras.get_masks(made._model)


def main(logdir, data_dir, path):
    """Trains as one worker of a cluster, and writes the masks that it ends with."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    made = make(logdir, data_dir)
    made.train()
    np.savez(path, **masks(made))


if __name__ == "__main__":
    main(*sys.argv[1:])
