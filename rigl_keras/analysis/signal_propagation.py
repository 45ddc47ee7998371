"""Signal propagation: how large a network's signals are at initialisation."""

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_int
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.conversion.convert import sparsify
from rigl_keras.core.distributions import active_count, check_sparsity
from rigl_keras.core.kernels import find_kernels, join, walk
from rigl_keras.core.selection import top_k_mask
from rigl_keras.layers.sparse import Sparse

INITIALIZERS = {
    "dense": None,
    "layer-scaled": "layer_scaled",
    "unit-scaled": "unit_scaled",
}
# How many times likelier a connection to the best served unit of a kernel is than one
# to the worst served, in uneven masks.
_FAN_IN_RATIO = 100
# More than any score of an uneven mask differs from another.
_FIRST_OF_ITS_UNIT = 1e4
_BATCH_SIZE = 100


class SignalPropagation(NamedTuple):
    """Standard deviations of signals at initialisation.

    Attributes:
      initializers: tuple of I labels.
      sparsities: float array [S].
      layers: tuple of the paths of the L layers with a masked kernel.
      units: int array [L], how many output units each layer has.
      is_dense: bool array [L], which of them are `keras.layers.Dense`.
      output_std: array [I, S, networks], of the network's output over inputs and units
        together.
      layer_std: array [I, S, networks, L], of each unit of the layer's output over the
        inputs (and positions, of a convolution), averaged over the units.
    """

    initializers: tuple[str, ...]
    sparsities: np.ndarray
    layers: tuple[str, ...]
    units: np.ndarray
    is_dense: np.ndarray
    output_std: np.ndarray
    layer_std: np.ndarray

    @property
    def neuron_std(self):
        """`layer_std` averaged over all units of the Dense layers: [I, S, networks].

        Raises:
          ValueError: when the network has no Dense layer.
        """
        if not self.is_dense.any():
            raise ValueError(
                f"Expected a network with Dense layers, got {list(self.layers)}; use "
                "`layer_std`."
            )
        return np.average(
            self.layer_std[..., self.is_dense],
            axis=-1,
            weights=self.units[self.is_dense],
        )


def signal_propagation(
    build,
    sparsities,
    initializers=None,
    num_networks=5,
    num_inputs=500,
    masks=None,
    seed=0,
):
    """Measures how the size of a network's signals depends on sparsity, at the start.

    Inputs are standard normal. Network n has the same inputs, masks and draws for all
    initialisations, and its uniformly random or uneven mask at a sparsity is part of
    its mask at any lower one, so that differences come from what is compared.
    The network runs in inference mode: without dropout, and with batch normalisation
    by its initial averages, which is none. A layer's output is taken as the layer gives
    it: after the activation that is part of the layer, before one that is a layer of
    its own.

    Args:
      build: function from a seed, int >= 0, to a new built Sequential or Functional
        model without Sparse layers, with floating-point inputs and one output, the
        logits; the last axis of a layer's output counts its units.
      sparsities: numbers in [0, 1).
      initializers: dict from labels to what `sparsify` takes as `initializer`; None for
        `INITIALIZERS`: the model's own weights, and those of He scaled by the layer's
        and by each unit's fan-in under the mask.
      num_networks: int >= 1, networks for each sparsity and initialisation.
      num_inputs: int >= 2, random inputs of each network.
      masks: function `(model, sparsity, seed) -> masks` for `sparsify`, which names the
        same kernels at all sparsities, such as `uneven_masks`; None for uniformly
        random masks, which give every kernel the same sparsity.
      seed: int >= 0; everything drawn depends on it alone.

    Returns:
      `SignalPropagation`.

    Raises:
      TypeError: when `build` returns no model of the Keras in use, or a sparsity is no
        number.
      ValueError: for an argument out of range, or a model that cannot be made sparse,
        has another number of outputs, or inputs of unknown shape or other type.

    Source: Evci et al. 2022, section 4 and Figure 1c.
    """
    sparsities = [
        check_sparsity(sparsity, "Each of `sparsities`") for sparsity in sparsities
    ]
    initializers = INITIALIZERS if initializers is None else dict(initializers)
    if not sparsities or not initializers:
        raise ValueError(
            "Expected at least one of `sparsities` and one of `initializers`, got "
            f"{sparsities} and {list(initializers)}."
        )
    check_int("num_networks", num_networks, 1)
    check_int("num_inputs", num_inputs, 2)
    check_int("seed", seed, 0)
    cells = np.empty((len(initializers), len(sparsities), num_networks), object)
    for number in range(num_networks):
        network_seed = _network_seed(seed, number)
        model = build(network_seed)
        inputs = _random_inputs(model, num_inputs, network_seed)
        for column, sparsity in enumerate(sparsities):
            drawn = None if masks is None else masks(model, sparsity, network_seed)
            for row, initializer in enumerate(initializers.values()):
                sparse = sparsify(
                    model,
                    sparsity,
                    distribution="uniform",
                    initializer=initializer,
                    masks=drawn,
                    seed=network_seed,
                    verbose=False,
                )
                cells[row, column, number] = _measure(sparse, inputs)
    return _stacked(cells, tuple(initializers), sparsities)


def _stacked(cells, initializers, sparsities):
    """`SignalPropagation` of an array [I, S, networks] of `_Measurement`."""
    layers = cells.flat[0].layers
    stds = [[layer.std for layer in cell.layers.values()] for cell in cells.flat]
    return SignalPropagation(
        initializers=initializers,
        sparsities=np.array(sparsities),
        layers=tuple(layers),
        units=np.array([layer.units for layer in layers.values()]),
        is_dense=np.array([layer.is_dense for layer in layers.values()]),
        output_std=np.vectorize(lambda cell: cell.output_std)(cells),
        layer_std=np.reshape(stds, (*cells.shape, len(layers))),
    )


def uneven_masks(model, sparsity, seed=0):
    """Random masks that leave the units of a kernel very different fans-in.

    The connections of a kernel are drawn without replacement, those to the best served
    output unit 100 times likelier than those to the worst served, in between in
    geometric progression; which unit is how well served is random. Every unit keeps at
    least one connection where there are as many as units, because one without any
    passes no signal whatever its initial weights. For uniformly random masks a
    layer-scaled and a unit-scaled initialisation are nearly the same, for these not.

    Args:
      model: a built model or layer, whose kernels are masked.
      sparsity: share of zeros of every kernel, in [0, 1).
      seed: int; with the same one, the masks of a sparsity lie in those of any lower.

    Returns:
      A dict from the kernels' paths to bool arrays with round((1 - sparsity) * size)
      active weights, at least 1, for `sparsify(masks=...)`.

    Raises:
      TypeError: when `model` is no layer of the Keras in use, or `sparsity` no number.
      ValueError: when `sparsity` is out of range, or the model has no kernel.
    """
    compat.check_layer(model, "a model")
    sparsity = check_sparsity(sparsity)
    found = find_kernels(model)
    if not found:
        raise ValueError(
            f"Model {model.name!r} has no kernel; give a built one with layers such as "
            "Dense or Conv2D."
        )
    return {
        kernel.path: _uneven_mask(
            kernel.shape,
            kernel.out_axes,
            sparsity,
            seed=seed,
            index=index,
        )
        for index, kernel in enumerate(found)
    }


def _uneven_mask(shape, out_axes, sparsity, *, seed, index):
    """Weighted sampling without replacement: the largest of log weight + Gumbel."""
    draw = functools.partial(
        tf.random.stateless_uniform, dtype=tf.float64, alg=ALGORITHM
    )
    per_unit = [size if axis in out_axes else 1 for axis, size in enumerate(shape)]
    units = int(np.prod(per_unit))
    order = np.argsort(draw([units], stateless_seed("uneven units", seed, index)))
    log_weights = np.log(_FAN_IN_RATIO) * np.linspace(0, 1, units)[order]
    uniform = draw(shape, stateless_seed("uneven mask", seed, index)).numpy()
    uniform = np.maximum(uniform, np.finfo(float).tiny)
    scores = log_weights.reshape(per_unit) - np.log(-np.log(uniform))
    others = tuple(axis for axis in range(len(shape)) if axis not in out_axes)
    is_first = scores == scores.max(axis=others, keepdims=True)
    count = active_count(scores.size, sparsity)
    return top_k_mask(scores + _FIRST_OF_ITS_UNIT * is_first, count).numpy()


def _network_seed(seed, number):
    """Seed of a network, another one for every seed and number."""
    key = int(stateless_seed("network", seed, number)[0])
    return key % 2**31  # Keras 2 takes no more bits.


def _random_inputs(model, num_inputs, seed):
    """Standard normal inputs, in the structure that the model takes."""
    if len(model.outputs) != 1:
        raise ValueError(
            f"Expected a model with one output, its logits; {model.name!r} has "
            f"{len(model.outputs)}."
        )
    arrays = []
    for index, tensor in enumerate(model.inputs):
        shape, dtype = tuple(tensor.shape)[1:], tf.as_dtype(tensor.dtype)
        if None in shape or not dtype.is_floating:
            raise ValueError(
                "Expected inputs of known shape and floating-point type for random "
                f"numbers, but input {index} of {model.name!r} is {dtype.name} of "
                f"shape {(None, *shape)}."
            )
        draw = stateless_seed("signal", seed, index)
        shape = (num_inputs, *shape)
        arrays.append(
            tf.random.stateless_normal(shape, draw, dtype=dtype, alg=ALGORITHM)
        )
    if isinstance(model, keras.Sequential):
        return arrays[0]
    return tf.nest.pack_sequence_as(model.input, arrays)


class _Layer(NamedTuple):
    """What is measured of one layer."""

    std: float
    units: int
    is_dense: bool


class _Measurement(NamedTuple):
    """What is measured of one network."""

    output_std: float
    layers: dict[str, _Layer]


def _measure(sparse, inputs):
    """The standard deviations of a sparse model's signals."""
    layers = {
        join(path, layer.layer.name): layer
        for layer, path in walk(sparse)
        if isinstance(layer, Sparse)
    }
    moments = {path: _Moments() for path in layers}
    for path, layer in layers.items():
        _record_outputs(layer, moments[path].add)
    output = _Moments()
    size = len(tf.nest.flatten(inputs)[0])
    for start in range(0, size, _BATCH_SIZE):
        batch = tf.nest.map_structure(
            lambda array, start=start: array[start : start + _BATCH_SIZE], inputs
        )
        output.add(sparse(batch, training=False))
    return _Measurement(
        output.pooled_std(),
        {
            path: _Layer(
                float(moments[path].unit_stds().mean()),
                moments[path].units,
                isinstance(layer.layer, keras.layers.Dense),
            )
            for path, layer in layers.items()
        },
    )


def _record_outputs(layer, record):
    """Has `record` see every output of a layer, which is not put back."""
    call = layer.call

    def recorded(*args, **kwargs):
        outputs = call(*args, **kwargs)
        record(tf.nest.flatten(outputs)[0])  # Others are states and attention scores.
        return outputs

    layer.call = recorded


class _Moments:
    """Means and variances of the units of a signal, summed up batch by batch."""

    def __init__(self):
        self._count = 0
        self._shift: Any = 0.0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, signal):
        """Adds a batch: tensor [..., units]."""
        values = np.asarray(signal, float)
        values = values.reshape(-1, values.shape[-1])
        if not self._count:
            # Of numbers near the mean: a unit that is constant has exactly no variance.
            self._shift = values[0]
        self._count += len(values)
        self._sum += (values - self._shift).sum(0)
        self._squares += ((values - self._shift) ** 2).sum(0)

    @property
    def units(self):
        return len(self._shift)

    def unit_stds(self):
        """Standard deviation of each unit."""
        return np.sqrt(self._variances())

    def pooled_std(self):
        """Standard deviation over everything, by the law of total variance."""
        means = self._shift + self._sum / self._count
        return float(np.sqrt(self._variances().mean() + means.var()))

    def _variances(self):
        mean = self._sum / self._count
        return np.maximum(self._squares / self._count - mean**2, 0)
