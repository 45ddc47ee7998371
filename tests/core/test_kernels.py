import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from rigl_keras.core import kernels

LAYERS = keras.layers


def built(layer, *shape):
    layer(keras.Input(shape))
    return layer


def found(layer):
    return {k.path: tuple(k.variable.shape) for k in kernels.find_kernels(layer)}


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda: LAYERS.Dense(4), (3,), {"kernel": (3, 4)}),
        (lambda: LAYERS.Conv1D(4, 2), (5, 3), {"kernel": (2, 3, 4)}),
        (lambda: LAYERS.Conv2D(4, 2), (5, 5, 3), {"kernel": (2, 2, 3, 4)}),
        (lambda: LAYERS.Conv3D(4, 2), (5, 5, 5, 3), {"kernel": (2, 2, 2, 3, 4)}),
        (lambda: LAYERS.EinsumDense("ab,bc->ac", 4), (3,), {"kernel": (3, 4)}),
        (lambda: LAYERS.Conv2DTranspose(4, 2), (5, 5, 3), {"kernel": (2, 2, 4, 3)}),
        (lambda: LAYERS.DepthwiseConv2D(2), (5, 5, 3), {}),
        (lambda: LAYERS.DepthwiseConv1D(2), (5, 3), {}),
        (lambda: LAYERS.BatchNormalization(), (5,), {}),
        (lambda: LAYERS.LayerNormalization(), (5,), {}),
        (lambda: LAYERS.Embedding(9, 4), (5,), {}),
        (
            lambda: LAYERS.SeparableConv2D(4, 2),
            (5, 5, 3),
            {"pointwise_kernel": (1, 1, 3, 4)},
        ),
    ],
)
def test_which_weights_of_a_layer_are_kernels(make, shape, expected):
    assert found(built(make(), *shape)) == expected


def test_recurrent_layers_have_two_kernels_in_their_cell_and_no_bias_of_rank_2():
    layer = built(LAYERS.GRU(4, reset_after=True), 5, 3)
    ranks = sorted(len(weight.shape) for weight in layer.weights)
    assert ranks == [2, 2, 2]  # the bias has rank 2 as well
    assert sorted(found(layer).values()) == [(3, 12), (4, 12)]


def test_attention_has_four_kernels_and_no_bias_of_rank_2():
    layer = LAYERS.MultiHeadAttention(2, 3)
    tensor = keras.Input((5, 4))
    layer(tensor, tensor)
    assert set(found(layer)) == {
        f"{name}/kernel" for name in ("query", "key", "value", "attention_output")
    }


def test_frozen_kernels_are_found():
    layer = built(LAYERS.Dense(4), 3)
    layer.trainable = False
    assert found(layer) == {"kernel": (3, 4)}


def test_a_shared_layer_is_found_once_at_its_first_place():
    shared = LAYERS.Dense(3, name="shared")
    first = keras.Sequential([keras.Input((3,)), shared], name="first")
    second = keras.Sequential([keras.Input((3,)), shared], name="second")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, second(first(inputs)))
    assert list(found(model)) == ["first/shared/kernel"]


def test_paths_name_the_layers_on_the_way():
    inner = keras.Sequential([keras.Input((3,)), LAYERS.Dense(2, name="d")], name="in")
    model = keras.Sequential([keras.Input((3,)), inner, LAYERS.Dense(1, name="out")])
    assert list(found(model)) == ["in/d/kernel", "out/kernel"]


@pytest.mark.parametrize(
    ("make", "shape", "in_axes", "out_axes"),
    [
        (lambda: LAYERS.Dense(4), (3,), (0,), (1,)),
        (lambda: LAYERS.Conv2D(4, 2), (5, 5, 3), (2,), (3,)),
        (lambda: LAYERS.Conv2DTranspose(4, 2), (5, 5, 3), (3,), (2,)),
        (lambda: LAYERS.EinsumDense("abc,cde->abde", (7, 4, 2)), (7, 3), (0,), (1, 2)),
        (lambda: LAYERS.EinsumDense("...xy,yxz->...z", (4,)), (7, 3), (0, 1), (2,)),
        (lambda: LAYERS.EinsumDense("ab,cb->ac", 4), (3,), (1,), (0,)),
    ],
)
def test_axes_of_inputs_and_outputs(make, shape, in_axes, out_axes):
    (kernel,) = kernels.find_kernels(built(make(), *shape))
    assert (kernel.in_axes, kernel.out_axes) == (in_axes, out_axes)


def test_axes_are_those_that_the_computation_sums_over_and_keeps():
    """One weight of a kernel joins one input unit to one output unit."""
    layer = built(LAYERS.Conv2DTranspose(4, 1, use_bias=False), 1, 1, 3)
    (kernel,) = kernels.find_kernels(layer)
    values = np.zeros(tuple(kernel.variable.shape), np.float32)
    position = [0] * 4
    position[kernel.in_axes[0]], position[kernel.out_axes[0]] = 2, 3
    values[tuple(position)] = 1
    kernel.variable.assign(values)
    x = np.array([5.0, 6.0, 7.0], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(np.ravel(layer(x)), [0, 0, 0, 7])


def test_connection_shape_joins_the_axes_of_heads():
    layer = built(LAYERS.EinsumDense("abc,cde->abde", (7, 4, 2)), 7, 3)
    (kernel,) = kernels.find_kernels(layer)
    assert kernel.connection_shape == (3, 8)
    (kernel,) = kernels.find_kernels(built(LAYERS.Conv2DTranspose(4, 2), 5, 5, 3))
    assert kernel.connection_shape == (2, 2, 3, 4)


def test_own_weights_leaves_out_those_of_sublayers():
    model = keras.Sequential([keras.Input((3,)), LAYERS.Dense(2)])
    assert kernels.own_weights(model) == []
    assert len(kernels.own_weights(model.layers[-1])) == 2


def test_join_leaves_out_empty_names():
    assert kernels.join("", "a", "", "b") == "a/b"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("mask_dtype", [tf.bool, tf.float32])
@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_masks_stop_whatever_stood_there(dtype, mask_dtype, jit_compile):
    function = kernels.masked
    if jit_compile is not None:
        function = tf.function(function, jit_compile=jit_compile)
    values = tf.constant([[1.5, np.nan, -np.inf, -2.0, np.nan, -3.0]], dtype)
    mask = tf.cast([[1, 0, 0, 0, 1, 1]], mask_dtype)
    result = tf.cast(function(values, mask), tf.float32).numpy()
    np.testing.assert_array_equal(result, [[1.5, 0, 0, 0, np.nan, -3.0]])
    assert not np.signbit(result[0, 1:4]).any()
