"""A mask update knows kernels by their interface only."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import mask_updaters
from rigl_keras.core.masked_kernel import MaskedKernel, Slot
from rigl_keras.training.mask_update import MaskUpdate, UpdatedKernel


def variable(values):
    """A variable of the Keras in use, as those of its optimizers are."""
    return keras.Variable(values) if tiny.IS_KERAS_3 else tf.Variable(values)


class WithoutZeros:
    """A `TrainedKernel` that stores the weights of existing connections alone."""

    axes = ((0,), (1,))
    pattern = rigl_keras.patterns.Unstructured()

    def __init__(self, kernel, gradient):
        self.path, self.shape = kernel.path, kernel.shape
        self._places = tf.Variable(tf.where(kernel.mask()))
        self.variable = tf.Variable(tf.boolean_mask(kernel.weights(), kernel.mask()))
        self.gradient_variable = tf.Variable(gradient)

    def _dense(self, values):
        shape = tf.constant(self.shape, tf.int64)
        return tf.scatter_nd(self._places, values, shape)

    def mask(self):
        return self._dense(tf.ones_like(self.variable)) > 0

    def weights(self):
        return self._dense(tf.convert_to_tensor(self.variable))

    def dense_gradient(self):
        return tf.convert_to_tensor(self.gradient_variable)

    def masked_gradient(self, gradient):
        return gradient

    def replace(self, new_mask, slots):
        places = tf.ensure_shape(tf.where(new_mask), self._places.shape)
        stays = tf.gather_nd(self.mask(), places)
        for stored, start in [(self.variable, 0.0), *slots]:
            values = tf.gather_nd(self._dense(tf.convert_to_tensor(stored)), places)
            stored.assign(tf.where(stays, values, start))
        self._places.assign(places)


@pytest.mark.parametrize("algorithm", [mask_updaters.SET, mask_updaters.RigL])
def test_a_kernel_stored_without_zeros_is_updated_as_one_stored_in_full(algorithm):
    model, step = tiny.sparse_mlp(), 4
    gradient = tiny.integers((6, 8), seed=3)
    in_full = MaskedKernel(rigl_keras.sparse_kernels(model)[0], keeps_gradient=True)
    in_full.gradient_variable.assign(gradient)
    before = in_full.mask().numpy()
    kernels, slots = [in_full, WithoutZeros(in_full, gradient)], []
    hook = SimpleNamespace(kept_steps=lambda: tf.constant([step], tf.int64))
    for kernel in kernels:
        momentum = variable(np.ones(kernel.variable.shape, np.float32))
        slots.append(Slot(momentum, initial_value=0.0))
        updated = [UpdatedKernel(0, kernel, slots[-1:])]
        options = {"hook": hook, "grow_data": None, "seed": 0}
        update = MaskUpdate(model, algorithm(), updated, **options)
        assert update.run(step, 0.3) == ([], True)
    masks = [kernel.mask().numpy() for kernel in kernels]
    assert (masks[0] != before).any()
    np.testing.assert_array_equal(*masks)
    np.testing.assert_array_equal(*(kernel.weights() for kernel in kernels))
    momenta = [slot.variable.numpy() for slot in slots]
    np.testing.assert_array_equal(momenta[0][masks[0]], momenta[1])
