"""Compressed layers compute what the dense layers do, and have their gradients."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

from rigl_keras import Compressed

LAYERS = keras.layers
PATTERN = "blocks(2, 1, 'inputs')"


def dense(**options):
    return lambda: LAYERS.Dense(6, **options)


def einsum(equation, output_shape, **options):
    return lambda: LAYERS.EinsumDense(equation, output_shape, **options)


def convolution(rank, **options):
    kind = getattr(LAYERS, f"Conv{rank}D")
    return lambda: kind(6, (1,) * rank, **options)


# A layer, and the shape of its inputs.
CASES = {
    "dense, rank 2": (dense(), (5, 4)),
    "dense, rank 3": (dense(), (3, 5, 4)),
    "dense, rank 4": (dense(activation="tanh"), (2, 3, 5, 4)),
    "dense without bias": (dense(use_bias=False), (5, 4)),
    "einsum, ellipsis": (einsum("...x,xy->...y", 6, bias_axes="y"), (2, 3, 4)),
    "einsum, ellipsis of rank 2": (einsum("...x,xy->...y", 6), (3, 4)),
    "einsum, ellipsis of rank 4": (einsum("...x,xy->...y", 6), (2, 3, 2, 4)),
    "einsum, ellipsis at the end": (einsum("ab...,bc->ac...", 6), (2, 4, 3)),
    "einsum, long ellipsis at the end": (
        einsum("ab...,bc->ac...", 6, bias_axes="c"),
        (2, 4, 3, 2),
    ),
    "einsum, one output": (einsum("abc,cd->abd", (None, 6), bias_axes="d"), (2, 3, 4)),
    "einsum, two outputs": (
        einsum("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        (2, 3, 4),
    ),
    "einsum, two inputs": (
        einsum("abcd,cde->abe", (None, 6), bias_axes="e"),
        (2, 3, 2, 4),
    ),
    "einsum, inputs in the kernel's other order": (
        einsum("abcd,dce->abe", (None, 6)),
        (2, 3, 2, 4),
    ),
    "einsum, inputs first": (einsum("acb,cd->abd", (3, 6)), (2, 4, 3)),
    "einsum, kernel's outputs first": (einsum("abc,dc->abd", (None, 6)), (2, 3, 4)),
    "einsum, outputs in another order": (
        einsum("abc,cde->aebd", (3, 3, 2), bias_axes="d"),
        (2, 3, 4),
    ),
    "einsum, bias of both": (
        einsum("abc,cde->aebd", (3, 3, 2), bias_axes="ed"),
        (2, 3, 4),
    ),
    "einsum, bias of kept axes": (
        einsum("abc,cd->abd", (3, 6), bias_axes="b"),
        (2, 3, 4),
    ),
    "conv 1": (convolution(1), (2, 5, 4)),
    "conv 1, strides": (convolution(1, strides=2), (2, 5, 4)),
    "conv 1, causal": (convolution(1, strides=2, padding="causal"), (2, 6, 4)),
    "conv 2": (convolution(2, activation="relu"), (2, 5, 3, 4)),
    "conv 2, strides": (convolution(2, strides=(2, 3)), (2, 5, 7, 4)),
    "conv 2, same": (convolution(2, strides=2, padding="same"), (2, 5, 6, 4)),
    "conv 2, no bias": (convolution(2, use_bias=False), (2, 2, 3, 4)),
    "conv 2, dilation": (convolution(2, dilation_rate=2), (2, 5, 5, 4)),
    "conv 3": (convolution(3), (2, 2, 3, 2, 4)),
    "conv 3, strides": (convolution(3, strides=2, padding="same"), (2, 3, 2, 5, 4)),
}
IN_ORDER = pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)


def pair(make, shape, **options):
    """A compressed layer with small weights, and the dense one with the same."""
    compressed = Compressed(make(), 0.5, seed=1, pattern=PATTERN, **options)
    plain = make()
    for layer in (compressed, plain):
        layer.build(shape)
    kernel = compressed.compressed_kernel
    compressed.values.assign(tiny.integers(compressed.values.shape, 3) / 2)
    assert kernel.kernel.shape == plain.kernel.shape == kernel.shape
    plain.kernel.assign(kernel.kernel)
    if getattr(plain, "bias", None) is None:
        assert compressed.bias is None
    else:
        compressed.bias.assign(tiny.integers(plain.bias.shape, 4) / 2)
        plain.bias.assign(compressed.bias.numpy())
    return compressed, plain


def results(layer, x, upstream):
    """Outputs and gradients: of inputs, kernel, bias."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
    sources = [x, *map(tiny.raw, layer.trainable_variables)]
    return [outputs, *tape.gradient(outputs, sources, upstream)]


def blocks_of(kernel, in_axes, out_axes, size):
    """A kernel as an array [groups, outputs, size]."""
    matrix = np.transpose(kernel, [*range(kernel.ndim)])
    order = [a for a in range(kernel.ndim) if a not in (*in_axes, *out_axes)]
    matrix = np.transpose(matrix, [*order, *in_axes, *out_axes])
    inputs = math.prod(kernel.shape[axis] for axis in in_axes)
    return matrix.reshape(inputs // size, size, -1).swapaxes(1, 2)


@IN_ORDER
def test_outputs_and_gradients_are_those_of_the_dense_layer(make, shape):
    compressed, plain = pair(make, shape)
    x = tf.constant(tiny.integers(shape, 5))
    upstream = tf.constant(tiny.integers(plain(x).shape, 6))
    outputs, of_inputs, of_values, *rest = results(compressed, x, upstream)
    expected, *gradients = results(plain, x, upstream)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(outputs, expected, **tolerance)
    np.testing.assert_allclose(of_inputs, gradients[0], **tolerance)
    kernel = compressed.compressed_kernel
    of_blocks = blocks_of(gradients[1].numpy(), kernel.in_axes, kernel.out_axes, 2)
    there = np.take_along_axis(of_blocks, kernel.indices.numpy()[..., np.newaxis], 1)
    np.testing.assert_allclose(of_values, there, **tolerance)
    assert len(rest) == len(gradients[2:])
    for actual, wanted in zip(rest, gradients[2:], strict=True):
        np.testing.assert_allclose(actual, wanted, **tolerance)


@pytest.mark.one_keras
@IN_ORDER
def test_the_mask_and_the_kernel_are_where_the_indices_say(make, shape):
    compressed, _ = pair(make, shape)
    kernel = compressed.compressed_kernel
    values, indices = compressed.values.numpy(), compressed.indices.numpy()
    blocks = blocks_of(kernel.weights().numpy(), kernel.in_axes, kernel.out_axes, 2)
    exists = blocks_of(kernel.mask.numpy(), kernel.in_axes, kernel.out_axes, 2)
    assert indices.shape[1] == 3  # Half of 6 outputs.
    for group in range(len(indices)):
        for unit in range(6):
            (place,) = np.nonzero(indices[group] == unit)
            assert exists[group, unit].all() == exists[group, unit].any() == place.size
            wanted = values[group, place[0]] if place.size else [0, 0]
            np.testing.assert_array_equal(blocks[group, unit], wanted)


@IN_ORDER
def test_output_shapes(make, shape):
    compressed, plain = pair(make, shape)
    outputs = tuple(plain(tf.zeros(shape)).shape)
    assert tuple(compressed.compute_output_shape(shape)) == outputs
    given = (None, *shape[1:])
    assert tuple(compressed.compute_output_shape(given)) == (None, *outputs[1:])
    symbolic = keras.Input(shape[1:])
    assert tuple(compressed(symbolic).shape) == (None, *outputs[1:])


@pytest.mark.parametrize(
    ("make", "shape", "called"),
    [
        (dense(), (None, None, 4), (2, 3, 4)),
        (einsum("...x,xy->...y", 6), (None, None, 4), (2, 3, 4)),
        (einsum("abc,cd->abd", (None, 6)), (None, None, 4), (2, 3, 4)),
        (convolution(1, strides=2), (None, None, 4), (2, 5, 4)),
        (convolution(2, strides=2), (None, None, None, 4), (2, 5, 4, 4)),
    ],
)
def test_sizes_that_are_not_known_when_traced(make, shape, called):
    compressed, plain = pair(make, shape)
    model = keras.Sequential([keras.Input(shape[1:]), compressed])
    wanted = keras.Sequential([keras.Input(shape[1:]), plain])
    assert model.output_shape == wanted.output_shape
    x = tiny.integers(called, 5)
    expected = wanted.predict(x, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize("make", [dense(), einsum("...x,xy->...y", 6)])
@pytest.mark.parametrize("called", [(7, 4), (2, 3, 4), (2, 3, 2, 4)])
def test_called_at_another_rank_and_batch_than_built(make, called):
    compressed, plain = pair(make, (5, 3, 4))
    x = tiny.integers(called, 5)
    wanted = x @ plain.kernel.numpy()
    if compressed.bias is not None:
        wanted = wanted + compressed.bias.numpy()
    np.testing.assert_allclose(compressed(x), wanted, atol=1e-5)
