"""Loss and accuracy along the straight line between two points in weight space."""

import contextlib
import math

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_has_loss
from rigl_keras.common.graphs import own_function
from rigl_keras.core import kernels
from rigl_keras.core.masks import check_mask


def spaced(first, last, number):
    """Evenly spaced coefficients, rounded so that 0 and 1 are met exactly.

    Args:
      first: float, the first coefficient.
      last: float, the last one.
      number: int, how many.

    Returns:
      Float array [number].
    """
    return np.linspace(first, last, number).round(12) + 0.0  # + 0.0: no -0.


COEFFICIENTS = spaced(-0.2, 1.2, 29)


def interpolate(
    model,
    start,
    end,
    data,
    coefficients=COEFFICIENTS,
    masks=None,
    batch_norm_data=None,
    reestimate_batch_norm=True,
):
    """Evaluates a model at points (1 - α) · start + α · end of its parameters.

    Kernels, biases and all else that is trained move along the line. Weights, masks,
    batch-norm averages, metrics and random states are those of before afterwards.

    Args:
      model: a compiled, built model.
      start: dict from the path of every trainable variable, such as "conv1/kernel" or
        "conv1/bias", to its array at α = 0.
      end: the same at α = 1.
      data: dict from names to data sets to evaluate on. A data set is an iterable of
        batches `(x, y)` that can be gone through again, such as a `tf.data.Dataset` or
        a list. Integers y with one rank less than the outputs are class labels.
      coefficients: floats [n], the values of α; outside [0, 1] they extrapolate.
      masks: dict from kernels' paths to arrays of 0/1 or bool, off which weights are 0
        at every point; None, or kernels left out: whatever is on the line. Masks that
        the model has itself play no part.
      batch_norm_data: data set of training batches, for the averages of batch
        normalisation.
      reestimate_batch_norm: whether these averages are taken anew at every point, as
        means over the training batches weighted by their examples, since those of
        neither end belong to a point between. False leaves the model's. Models
        without batch normalisation need none and lose no time.

    Returns:
      A dict of float arrays [n]: for every data set "<name>_loss", the loss that the
      model is compiled with (in nats for cross-entropy), without regularisers, and
      with class labels "<name>_accuracy", in [0, 1].

    Raises:
      ValueError: for variables that are missing, unknown or of another shape, masks or
        coefficients that do not fit, an empty data set, a model that is not compiled,
        or averages that cannot be taken anew.

    Source: Evci et al. 2022, section 4.3 and Figure 5; Goodfellow et al. 2015,
    "Qualitatively characterizing neural network optimization problems".
    """
    check_has_loss(model, "The interpolation")
    coefficients = check_coefficients(coefficients)
    variables = trainable_variables(model)
    start = _checked_point("start", start, variables)
    end = _checked_point("end", end, variables)
    masks = _checked_masks(masks or {}, variables)
    averages = _batch_norm_averages(
        model, batch_norm_data if reestimate_batch_norm else None, reestimate_batch_norm
    )
    evaluate = _evaluation(model)
    points = []
    with _unchanged(model):
        for coefficient in coefficients:
            for path, variable in variables.items():
                value = (1 - coefficient) * start[path] + coefficient * end[path]
                variable.assign(np.where(masks.get(path, True), value, 0))
            averages()
            points.append(
                {
                    f"{name}_{what}": value
                    for name, batches in data.items()
                    for what, value in _means(name, batches, evaluate).items()
                }
            )
    return {key: np.array([point[key] for point in points]) for key in points[0]}


def barrier(losses, coefficients=COEFFICIENTS):
    """The largest excess of a loss over the straight line between those of the ends.

    It tells whether two trained networks are linearly connected. From an initial point
    the loss may fall all the way and still lie above that line: see `climb`.

    Args:
      losses: floats [n], the losses at the coefficients.
      coefficients: floats [n], of which only those in [0, 1] count; 0 and 1 must be
        among them.

    Returns:
      A float >= 0, in the losses' unit: 0 where no point lies above the line.

    Raises:
      ValueError: when there are not as many losses as coefficients, or 0 or 1 is not
        among these.

    Source: Frankle et al. 2020, "Linear mode connectivity and the lottery ticket
    hypothesis", who compare with the mean of the ends; the straight line is that of
    Entezari et al. 2022, "The role of permutation invariance in linear mode
    connectivity of neural networks". For ends of equal loss they are the same.
    """
    coefficients, losses = _between(losses, coefficients)
    line = (1 - coefficients) * losses[0] + coefficients * losses[-1]
    return float((losses - line).max())


def climb(losses, coefficients=COEFFICIENTS):
    """The most that a loss rises on the way from one end to the other.

    Args:
      losses: see `barrier`, as for the following.
      coefficients: likewise.

    Returns:
      A float >= 0, in the losses' unit: 0 where the loss falls all the way.

    Raises:
      ValueError: see `barrier`.

    Source: the question, whether the loss falls monotonically, is that of Goodfellow et
    al. 2015, "Qualitatively characterizing neural network optimization problems".
    """
    _, losses = _between(losses, coefficients)
    return float((losses - np.minimum.accumulate(losses)).max())


def check_coefficients(coefficients):
    """Returns coefficients as a float array.

    Raises:
      ValueError: when they are not finite numbers [n], n >= 1.
    """
    values = np.asarray(coefficients, float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            "Expected coefficients to be one or more finite numbers in one row, got "
            f"{coefficients!r}."
        )
    return values


def _between(losses, coefficients):
    """The coefficients from 0 to 1, in order, and their losses."""
    coefficients = check_coefficients(coefficients)
    losses = np.asarray(losses, float)
    if losses.shape != coefficients.shape:
        raise ValueError(
            f"Expected a loss for each of {len(coefficients)} coefficients, got losses "
            f"of shape {losses.shape}."
        )
    if not {0.0, 1.0} <= set(coefficients):
        raise ValueError(
            "Expected 0 and 1, the ends of the line, to be among the coefficients, got "
            f"{coefficients.tolist()}. `spaced` meets them exactly."
        )
    order = np.argsort(coefficients)
    order = order[(coefficients[order] >= 0) & (coefficients[order] <= 1)]
    return coefficients[order], losses[order]


def trainable_variables(model):
    """A model's trainable variables by path.

    Args:
      model: a built model.

    Returns:
      A dict from paths, such as "conv1/kernel", to `tf.Variable`, not empty.

    Raises:
      ValueError: when there are none, or two of one path.
    """
    paths = {id(weight): path for path, _, weight in kernels.named_weights(model)}
    trained = model.trainable_variables
    variables = {paths[id(variable)]: compat.raw(variable) for variable in trained}
    if len(variables) < len(trained) or not variables:
        raise ValueError(
            f"Expected model {model.name!r} to have trainable variables of different "
            f"paths, got {sorted(paths[id(one)] for one in trained)}. Build it, or "
            "give its layers different names."
        )
    return variables


def _checked_point(name, values, variables):
    """The arrays of one end of the line, in double precision."""
    missing = [path for path in variables if path not in values]
    unknown = [path for path in values if path not in variables]
    if missing or unknown:
        raise ValueError(
            f"Expected `{name}` to hold the trainable variables {list(variables)}; "
            f"missing: {missing}, unknown: {unknown}."
        )
    for path, variable in variables.items():
        shape = np.shape(values[path])
        if shape != tuple(variable.shape):
            raise ValueError(
                f"Expected {path} in `{name}` to have the model's shape "
                f"{tuple(variable.shape)}, got {shape}."
            )
    return {path: np.asarray(value, np.float64) for path, value in values.items()}


def _checked_masks(masks, variables):
    unknown = [path for path in masks if path not in variables]
    if unknown:
        raise ValueError(
            f"Expected masks of the trainable variables {list(variables)}, got "
            f"{unknown}."
        )
    return {
        path: check_mask(path, mask, tuple(variables[path].shape))
        for path, mask in masks.items()
    }


@contextlib.contextmanager
def _unchanged(model):
    """Puts back what the block does to a model's parameters and forward state."""
    changing = [*model.trainable_variables, *compat.forward_state(model)]
    before = [(compat.raw(one), compat.raw(one).numpy()) for one in changing]
    try:
        with compat.unchanged_trace_seeds(model):
            yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _evaluation(model):
    """A compiled function from a batch to its size, and sums over its examples."""

    def sums(x, y):
        outputs = model(x, training=False)
        loss = model.compute_loss(x=x, y=y, y_pred=outputs)
        # Both Kerases add them.
        penalties = [tf.reduce_sum(penalty) for penalty in model.losses]
        loss -= sum(tf.cast(penalty, loss.dtype) for penalty in penalties)
        size = tf.shape(y)[0]
        of_batch = {"size": size, "loss": loss * tf.cast(size, loss.dtype)}
        if y.dtype.is_integer and len(y.shape) == len(outputs.shape) - 1:
            hits = tf.argmax(outputs, -1, output_type=tf.int64) == tf.cast(y, tf.int64)
            share = tf.reduce_mean(tf.cast(hits, loss.dtype))
            of_batch["accuracy"] = share * tf.cast(size, loss.dtype)
        return of_batch

    return own_function(sums, reduce_retracing=True)


def _means(name, batches, evaluate):
    """Means over the examples of a data set."""
    by_batch = [
        {key: float(value) for key, value in evaluate(*_tensors(batch)).items()}
        for batch in batches
    ]
    if not by_batch:
        raise ValueError(
            f"Data set {name!r} is empty. Give batches that can be gone through once "
            "for every coefficient, such as a list; a generator cannot."
        )
    size = sum(sums["size"] for sums in by_batch)
    return {
        key: math.fsum(sums[key] for sums in by_batch) / size
        for key in by_batch[0]
        if key != "size"
    }


def _tensors(batch):
    return tuple(tf.nest.map_structure(tf.convert_to_tensor, part) for part in batch)


def _batch_norm_averages(model, batches, is_wanted):
    """A function that sets the averages of batch normalisation for the weights of now.

    In training mode a layer moves its averages to momentum · average + (1 - momentum) ·
    statistic of the batch: from averages of 0 the statistic itself can be read off.
    """
    layers = _batch_norms(model) if is_wanted else []
    if not layers:
        return lambda: None
    _check_batch_norms(layers, batches)
    averages = [
        compat.raw(average)
        for layer in layers
        for average in (layer.moving_mean, layer.moving_variance)
    ]
    shares = [1 - layer.momentum for layer in layers for _ in range(2)]

    def statistics(x):
        for average in averages:
            average.assign(tf.zeros_like(average))
        model(x, training=True)
        return [
            average / share for average, share in zip(averages, shares, strict=True)
        ]

    compiled = own_function(statistics, reduce_retracing=True)

    def reestimate():
        totals, examples = [0.0] * len(averages), 0
        for batch in batches:
            x, y = _tensors(batch)
            size = int(tf.shape(y)[0])
            of_batch = [value.numpy().astype(np.float64) for value in compiled(x)]
            totals = [
                total + size * value
                for total, value in zip(totals, of_batch, strict=True)
            ]
            examples += size
        if not examples:
            raise ValueError("`batch_norm_data` is empty. Give training batches.")
        for average, total in zip(averages, totals, strict=True):
            average.assign(total / examples)

    return reestimate


def _batch_norms(model):
    """The layers whose averages training would change, each once."""
    found = {
        id(layer): layer
        for layer, _ in kernels.walk(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    }
    return list(found.values())


def _check_batch_norms(layers, batches):
    if batches is None:
        raise ValueError(
            f"The averages of {layers[0].name!r} are to be taken anew at every point: "
            "give training batches as batch_norm_data, or reestimate_batch_norm=False "
            "to leave the model's."
        )
    for layer in layers:
        if layer.momentum == 1:
            raise ValueError(
                f"{layer.name!r} has momentum 1, so that no batch changes its averages "
                "and they cannot be taken anew. Pass reestimate_batch_norm=False."
            )
