"""Evaluates networks along the straight line between two checkpoints of runs."""

import dataclasses
import warnings

import gin
import numpy as np

from rigl_keras.analysis import interpolation
from rigl_keras.common import tables
from rigl_keras.common.checks import check_int
from rigl_keras.program import algorithm
from rigl_keras.program.checkpoints import SavedModel
from rigl_keras.program.saved_runs import network_at, run_of

# Whose masks --load_mask_from takes, the start's or the end's; -1 takes none.
_MASK_SOURCES = (0, 1)


@gin.configurable("interpolate", module="rigl_keras.interpolate")
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
    batch_size: int = 1000
    num_train: int | None = None
    reestimate_batch_norm: bool = True

    def __post_init__(self):
        """Refuses what is out of range.

        Raises:
          ValueError: naming it.
        """
        check_int("interpolate.n_interpolation", self.n_interpolation, minimum=2)
        check_int("interpolate.batch_size", self.batch_size, minimum=1)
        if self.num_train is not None:
            check_int("interpolate.num_train", self.num_train, minimum=1)
        if not -np.inf < self.i_start < self.i_end < np.inf:
            raise ValueError(
                "Expected interpolate.i_start < interpolate.i_end, got "
                f"{self.i_start!r} and {self.i_end!r}."
            )

    @property
    def coefficients(self):
        """Array of the coefficients."""
        return interpolation.spaced(self.i_start, self.i_end, self.n_interpolation)


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


def interpolate_checkpoints(
    start,
    end,
    coefficients=interpolation.COEFFICIENTS,
    *,
    load_mask_from=-1,
    eval_on_train=True,
    config=None,
    images=None,
):
    """Evaluates networks along the line between two checkpoints.

    Gin's configuration must be that of the network, as `SavedRun.configure` makes it.

    Args:
      start: path of the checkpoint at 0.
      end: path of the checkpoint at 1.
      coefficients: floats [n].
      load_mask_from: 0 for the masks of `start` at all points, 1 for those of `end`, -1
        for the plain line. A dense network has none, and masks nothing.
      eval_on_train: whether to evaluate on the training set, and not on the test set
        alone.
      config: `InterpolationConfig`, of which the coefficients are not used; None for
        gin's.
      images: what `data.load` returns; None loads those of gin's `data`, which takes
        seconds.

    Returns:
      A dict of float arrays [n]: "test_loss" in nats, without regulariser,
      "test_accuracy" in [0, 1], and with `eval_on_train` "train_loss" and
      "train_accuracy".

    Raises:
      ValueError: for checkpoints that cannot be read or are not of the configured
        network, or an argument out of range.
    """
    if load_mask_from not in (*_MASK_SOURCES, -1):
        raise ValueError(
            f"Expected load_mask_from to be 0, 1 or -1, got {load_mask_from!r}."
        )
    config = InterpolationConfig() if config is None else config
    images = algorithm.load_data() if images is None else images
    ends = SavedModel(start), SavedModel(end)
    # Either may be of another network; the one that is left is as good as the other.
    for saved in ends:
        model = network_at(saved, images)
    train = images.train_in_order(config.batch_size, config.num_train)
    test = images.test_in_order(config.batch_size)
    first, last = (_parameters(saved, model) for saved in ends)
    return interpolation.interpolate(
        model,
        first,
        last,
        {"train": train, "test": test} if eval_on_train else {"test": test},
        coefficients,
        masks=_masks(ends, load_mask_from),
        batch_norm_data=train,
        reestimate_batch_norm=config.reestimate_batch_norm,
    )


def _parameters(saved, model):
    """What training changes by its gradient: dict from paths to arrays."""
    return {
        name: saved.values[name] for name in interpolation.trainable_variables(model)
    }


def _masks(ends, load_mask_from):
    """The masks of all points, by kernels' paths; warns when they cut an end off."""
    if load_mask_from not in _MASK_SOURCES:
        return None
    source = ends[load_mask_from]
    for saved in ends:
        lost = sum(
            np.count_nonzero(saved.values[path][~mask])
            for path, mask in source.masks.items()
        )
        if lost:
            warnings.warn(
                f"{lost} weights of {saved.path} lie off the masks of {source.path}, "
                "which all points have: the line does not pass through that network. "
                "With load_mask_from=-1 it does.",
                stacklevel=3,
            )
    return source.masks


def report(coefficients, values_on_line):
    """A table of the line, its barriers and climbs.

    Args:
      coefficients: floats [n].
      values_on_line: what `interpolate_checkpoints` returned.

    Returns:
      Text.
    """
    rows = [["coefficient", *(name.replace("_", " ") for name in values_on_line)]]
    for index, coefficient in enumerate(coefficients):
        rows.append([f"{coefficient:.3f}"])
        rows[-1] += [
            f"{v[index]:.2%}" if name.endswith("accuracy") else f"{v[index]:.4f}"
            for name, v in values_on_line.items()
        ]
    lines = [tables.markdown(rows), ""]
    if not {0.0, 1.0} <= set(coefficients):
        return "\n".join([*lines, "No barrier without the coefficients 0 and 1."])
    for name, values in values_on_line.items():
        if name.endswith("loss"):
            barrier = interpolation.barrier(values, coefficients)
            climb = interpolation.climb(values, coefficients)
            lines.append(
                f"{name.replace('_', ' ')}: barrier {barrier:.4f} nats above the line "
                f"between the ends, climb {climb:.4f} nats on the way"
            )
    return "\n".join(lines)
