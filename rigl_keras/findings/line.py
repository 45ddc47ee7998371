"""Evaluates networks along the straight line between two checkpoints of runs."""

import warnings

import numpy as np

from rigl_keras.analysis import interpolation
from rigl_keras.common.checks import check_int
from rigl_keras.program import algorithm
from rigl_keras.program.checkpoints import masks_in, read_model
from rigl_keras.program.saved_runs import network_at

BATCH_SIZE = 1000
# By --load_mask_from; any other, -1, takes no masks.
_MASK_SOURCES = {0: "start", 1: "end"}


def interpolate_checkpoints(
    start,
    end,
    coefficients=interpolation.COEFFICIENTS,
    load_mask_from=-1,
    eval_on_train=True,
    num_train=None,
    batch_size=BATCH_SIZE,
    reestimate_batch_norm=True,
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
      num_train: see `InterpolationConfig`, as for the following.
      batch_size: int >= 1.
      reestimate_batch_norm: bool.
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
    check_int("interpolate.batch_size", batch_size, minimum=1)
    if num_train is not None:
        check_int("interpolate.num_train", num_train, minimum=1)
    if load_mask_from not in (*_MASK_SOURCES, -1):
        raise ValueError(
            f"Expected load_mask_from to be 0, 1 or -1, got {load_mask_from!r}."
        )
    images = algorithm.load_data() if images is None else images
    # Either may be of another network; the one that is left is as good as the other.
    for path in (start, end):
        model = network_at(path, images)
    train = images.train_in_order(batch_size, num_train)
    test = images.test_in_order(batch_size)
    return interpolation.interpolate(
        model,
        _parameters(start, model),
        _parameters(end, model),
        {"train": train, "test": test} if eval_on_train else {"test": test},
        coefficients,
        masks=_masks(start, end, load_mask_from),
        batch_norm_data=train,
        reestimate_batch_norm=reestimate_batch_norm,
    )


def _parameters(checkpoint, model):
    """What training changes by its gradient: dict from paths to arrays."""
    values = read_model(checkpoint)
    return {name: values[name] for name in interpolation.trainable_variables(model)}


def _masks(start, end, load_mask_from):
    """The masks of all points, by kernels' paths; warns when they cut an end off."""
    if load_mask_from not in _MASK_SOURCES:
        return None
    paths = {"start": start, "end": end}
    source = paths[_MASK_SOURCES[load_mask_from]]
    masks = masks_in(read_model(source))
    for path in paths.values():
        values = read_model(path)
        lost = sum(np.count_nonzero(values[k][~mask]) for k, mask in masks.items())
        if lost:
            warnings.warn(
                f"{lost} weights of {path} lie off the masks of {source}, which all "
                "points have: the line does not pass through that network. With "
                "load_mask_from=-1 it does.",
                stacklevel=3,
            )
    return masks
