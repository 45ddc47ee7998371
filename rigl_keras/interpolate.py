"""Evaluates networks along the straight line between two checkpoints of runs.

Example:
  python -m rigl_keras.interpolate --logdir=/tmp/line \
      --ckpt_start=runs/lottery/ckpt-0 --ckpt_end=runs/prune/ckpt-11719

writes interpolation.npz, interpolation.png and operative_config.gin. The network is
that of the runs' run.json; gin files and bindings change it.
"""

import dataclasses
import os

import gin
import numpy as np
from absl import app, flags

from rigl_keras.analysis import interpolation
from rigl_keras.common import tables
from rigl_keras.common.checks import check_int
from rigl_keras.findings.line import BATCH_SIZE, interpolate_checkpoints
from rigl_keras.plots import interpolation as plots
from rigl_keras.program import command_line, files
from rigl_keras.program.files import RUN_FILE
from rigl_keras.program.run import CONFIG_FILE
from rigl_keras.program.saved_runs import run_of

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
flags.DEFINE_string("master", None, "Address of a TPU worker; not available yet.")


@gin.configurable("interpolate")
@dataclasses.dataclass(frozen=True)
class InterpolationConfig:
    """Which points on a line are evaluated, and how.

    Attributes:
      i_start: float, the first coefficient; 0 is the one checkpoint, 1 the other.
      i_end: float > i_start, the last one.
      n_interpolation: int >= 2, how many there are.
      batch_size: this package's own, as are the following: int >= 1, examples
        evaluated at a time.
      num_train: int >= 1, the first training records to evaluate on and to take
        averages of batch normalisation from; None for all.
      reestimate_batch_norm: whether these averages are taken anew at every point.
    """

    i_start: float = -0.2
    i_end: float = 1.2
    n_interpolation: int = 29
    batch_size: int = BATCH_SIZE
    num_train: int | None = None
    reestimate_batch_norm: bool = True

    def __post_init__(self):
        """Refuses what is out of range.

        Raises:
          ValueError: naming it.
        """
        check_int("interpolate.n_interpolation", self.n_interpolation, minimum=2)
        if not -np.inf < self.i_start < self.i_end < np.inf:
            raise ValueError(
                "Expected interpolate.i_start < interpolate.i_end, got "
                f"{self.i_start!r} and {self.i_end!r}."
            )

    @property
    def coefficients(self):
        """Array of the coefficients."""
        return interpolation.spaced(self.i_start, self.i_end, self.n_interpolation)


def check_flags():
    """Refuses flags that are missing, have no function here or would do harm.

    Raises:
      ValueError: naming the flag.
    """
    if FLAGS.mode != "train_eval":
        raise ValueError(f"--mode={FLAGS.mode} is for training; leave it out.")
    if FLAGS.use_tpu:
        raise ValueError("--use_tpu is for training; leave it out.")
    if FLAGS.master:
        raise ValueError("--master is not available yet; leave it out.")
    for name in ("ckpt_start", "ckpt_end"):
        if FLAGS[name].value is None:
            raise ValueError(f"--{name} is needed: the path of a checkpoint.")
    if os.path.exists(os.path.join(FLAGS.logdir, RUN_FILE)):
        raise ValueError(
            f"{FLAGS.logdir} is the folder of a run, whose {CONFIG_FILE} would be "
            "written over. Use another --logdir."
        )


def configure(start, end):
    """Makes gin's configuration that of a checkpoint's run, of the last if it can be.

    Args:
      start: path of a checkpoint.
      end: path of another.

    Raises:
      ValueError: when neither is of a run.
    """
    try:
        run = run_of(end)
    except ValueError:
        run = run_of(start)
    run.configure()


def write(folder, coefficients, found):
    """Writes the numbers, the configuration and the figure of the flags' line.

    Args:
      folder: where to.
      coefficients: floats [n].
      found: what `interpolate_checkpoints` returned.

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
    plots.one(coefficients, found, os.path.join(folder, FIGURE_FILE))
    files.write_arrays(
        os.path.join(folder, ARRAYS_FILE),
        {"coefficients": coefficients, **found},
        description,
    )


def report(coefficients, found):
    """A table of the line, its barriers and climbs.

    Args:
      coefficients: floats [n].
      found: what `interpolate_checkpoints` returned.

    Returns:
      Text.
    """
    rows = [["coefficient", *(name.replace("_", " ") for name in found)]]
    for index, coefficient in enumerate(coefficients):
        rows.append([f"{coefficient:.3f}"])
        rows[-1] += [
            f"{v[index]:.2%}" if name.endswith("accuracy") else f"{v[index]:.4f}"
            for name, v in found.items()
        ]
    lines = [tables.markdown(rows), ""]
    if not {0.0, 1.0} <= set(coefficients):
        return "\n".join([*lines, "No barrier without the coefficients 0 and 1."])
    for name, values in found.items():
        if name.endswith("loss"):
            barrier = interpolation.barrier(values, coefficients)
            climb = interpolation.climb(values, coefficients)
            lines.append(
                f"{name.replace('_', ' ')}: barrier {barrier:.4f} nats above the line "
                f"between the ends, climb {climb:.4f} nats on the way"
            )
    return "\n".join(lines)


def main(argv):
    """Runs the command line.

    Returns:
      The exit code.
    """
    try:
        command_line.check(argv)
        check_flags()
        start, end = FLAGS.ckpt_start, FLAGS.ckpt_end
        configure(start, end)
        command_line.parse_gin()
        config = InterpolationConfig()
        coefficients = config.coefficients
        found = interpolate_checkpoints(
            start,
            end,
            coefficients,
            FLAGS.load_mask_from,
            FLAGS.eval_on_train,
            config.num_train,
            config.batch_size,
            config.reestimate_batch_norm,
        )
        write(FLAGS.logdir, coefficients, found)
    except command_line.USER_ERRORS as error:
        return command_line.refuse(error)
    print(report(coefficients, found))
    print(f"\nIn {FLAGS.logdir}: {FIGURE_FILE}, {ARRAYS_FILE}")
    return 0


if __name__ == "__main__":
    app.run(main)
