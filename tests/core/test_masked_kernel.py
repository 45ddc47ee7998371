"""What training reads of a kernel, and how its mask is replaced."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

from rigl_keras.core.masked_kernel import MaskedKernel, Slot, SparseKernel

OLD = np.array([[1, 1, 0], [0, 1, 0]], bool)
NEW = np.array([[1, 0, 1], [0, 1, 0]], bool)
WEIGHTS = np.array([[1, 2, 0], [0, 3, 0]], np.float32)


def variable(values):
    """A variable of the Keras in use."""
    if tiny.IS_KERAS_3:
        return keras.Variable(values, dtype=values.dtype.name)
    return tf.Variable(values)


def stored_in_full(mask_dtype=bool, **options):
    """The kernel, with a mask of bools or, as TFMOT's, of floats."""
    sparse = SparseKernel(
        "d/kernel", variable(WEIGHTS), variable(OLD.astype(mask_dtype)), (0,), (1,)
    )
    return MaskedKernel(sparse, **options)


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_what_is_read(dtype):
    kernel = stored_in_full(dtype)
    assert (kernel.path, kernel.shape, kernel.axes) == (
        "d/kernel",
        (2, 3),
        ((0,), (1,)),
    )
    assert kernel.mask().dtype == tf.bool
    np.testing.assert_array_equal(kernel.mask(), OLD)
    np.testing.assert_array_equal(kernel.weights(), WEIGHTS)
    gradient = kernel.masked_gradient(tf.fill((2, 3), np.float32("nan")))
    np.testing.assert_array_equal(np.isnan(gradient), OLD)


def test_a_gradient_is_there_where_it_is_kept():
    assert stored_in_full().kept_gradient() is None
    kernel = stored_in_full(keeps_gradient=True)
    np.testing.assert_array_equal(kernel.kept_gradient(), np.zeros((2, 3)))
    kernel.gradient_variable.assign(WEIGHTS + 1)
    np.testing.assert_array_equal(kernel.kept_gradient(), WEIGHTS + 1)


@pytest.mark.parametrize("dtype", [bool, np.float32])
@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_what_does_not_stay_starts_anew(dtype, jit_compile):
    kernel = stored_in_full(dtype)
    slots = [
        Slot(variable(np.full((2, 3), 7, np.float32)), initial_value=start)
        for start in (0.0, 0.5)
    ]
    replace = lambda mask: kernel.replace(mask, slots)  # noqa: E731
    if jit_compile is not None:
        replace = tf.function(replace, jit_compile=jit_compile, autograph=False)
    replace(tf.constant(NEW))
    np.testing.assert_array_equal(kernel.mask(), NEW)
    np.testing.assert_array_equal(kernel.weights(), [[1, 0, 0], [0, 3, 0]])
    stayed = OLD & NEW
    for slot in slots:
        expected = np.where(stayed, 7, slot.initial_value)
        np.testing.assert_array_equal(slot.variable.numpy(), expected)


def test_the_same_mask_clears_what_is_left_off_it():
    kernel = stored_in_full()
    kernel.variable.assign(np.full((2, 3), 5, np.float32))
    slot = Slot(variable(np.full((2, 3), np.nan, np.float32)), 0.5)
    kernel.clear([slot])
    np.testing.assert_array_equal(kernel.mask(), OLD)
    np.testing.assert_array_equal(kernel.weights(), 5 * OLD)
    np.testing.assert_array_equal(slot.variable.numpy(), np.where(OLD, np.nan, 0.5))
