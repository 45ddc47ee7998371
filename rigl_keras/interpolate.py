r"""Evaluates networks along the straight line between two checkpoints of runs.

Example:
  python -m rigl_keras.interpolate --logdir=/tmp/line \
      --ckpt_start=runs/lottery/ckpt-0 --ckpt_end=runs/prune/ckpt-11719

writes interpolation.npz, interpolation.png and operative_config.gin. The network is
that of the runs' run.json; gin files and bindings change it.
"""

import os

import gin
from absl import flags

from rigl_keras.findings import line
from rigl_keras.plots import interpolation as plots
from rigl_keras.plots import style
from rigl_keras.program import command_line, files
from rigl_keras.program.files import RUN_FILE
from rigl_keras.program.run import CONFIG_FILE

ARRAYS_FILE = "interpolation.npz"
FIGURE_FILE = "interpolation.png"

FLAGS = flags.FLAGS

# Its flags are in the --help of this program too.
flags.adopt_module_key_flags(command_line)
flags.DEFINE_string("ckpt_start", None, "Checkpoint at 0, such as runs/prune/ckpt-0.")
flags.DEFINE_string("ckpt_end", None, "Checkpoint at 1, such as runs/prune/ckpt-11719.")
flags.DEFINE_bool(
    "eval_on_train", True, "Evaluate on the training set too, not the test set alone."
)
flags.DEFINE_integer(
    "load_mask_from",
    0,
    "Whose masks all points on the line have: 0 those of --ckpt_start, 1 those of "
    "--ckpt_end, -1 none.",
    lower_bound=-1,
    upper_bound=1,
)


def check_flags():
    """Refuses flags that are missing, have no function here or would do harm."""
    if FLAGS.mode != "train_eval":
        raise ValueError(f"--mode={FLAGS.mode} is for training; leave it out.")
    if FLAGS.use_tpu:
        raise ValueError("--use_tpu is for training; leave it out.")
    for name in ("ckpt_start", "ckpt_end"):
        if FLAGS[name].value is None:
            raise ValueError(f"--{name} is needed: the path of a checkpoint.")
    if os.path.exists(os.path.join(FLAGS.logdir, RUN_FILE)):
        raise ValueError(
            f"{FLAGS.logdir} is the folder of a run, whose {CONFIG_FILE} would be "
            "written over. Use another --logdir."
        )


def write(folder, coefficients, values):
    """Writes the numbers, the configuration and the figure of the flags' line.

    Args:
      folder: where to.
      coefficients: floats [n].
      values: what `interpolate_checkpoints` returned.

    Raises:
      OSError: when the folder cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    description = {
        "start": FLAGS.ckpt_start,
        "end": FLAGS.ckpt_end,
        "load_mask_from": FLAGS.load_mask_from,
        "config": gin.config_str(),
        **files.environment(),
    }
    files.write_text(os.path.join(folder, CONFIG_FILE), gin.operative_config_str())
    plots.one(coefficients, values, os.path.join(folder, FIGURE_FILE))
    arrays = {"coefficients": coefficients, **values}
    files.write_arrays(os.path.join(folder, ARRAYS_FILE), arrays, description)


def main(argv):
    """Runs the command line.

    Returns:
      The exit code.
    """
    try:
        command_line.check(argv)
        check_flags()
        style.check_installed()
        start, end = FLAGS.ckpt_start, FLAGS.ckpt_end
        line.configure(start, end)
        command_line.parse_gin()
        config = line.InterpolationConfig()
        coefficients = config.coefficients
        values = line.interpolate_checkpoints(
            start,
            end,
            coefficients,
            load_mask_from=FLAGS.load_mask_from,
            eval_on_train=FLAGS.eval_on_train,
            config=config,
        )
        write(FLAGS.logdir, coefficients, values)
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    print(line.report(coefficients, values))
    print(f"\nIn {FLAGS.logdir}: {FIGURE_FILE}, {ARRAYS_FILE}")
    return 0


if __name__ == "__main__":
    command_line.start(main)
