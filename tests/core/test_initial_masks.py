"""Masks by a pattern: drawn, of the largest weights, shuffled."""

import numpy as np
import own_pattern
import pytest
import tensorflow as tf
from pattern_reference import grouped
from tensorflow import keras

from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core.choosing import grouping_of
from rigl_keras.core.initial_masks import first_mask, shuffled_mask
from rigl_keras.core.kernels import find_kernels
from rigl_keras.core.patterns import from_text

PATTERNS = {
    "unstructured": 0.8,
    "blocks(4, 1)": 0.8,
    "blocks(2, 2, 'inputs')": 0.8,
    "blocks(1, 4, 'outputs')": 0.8,
    "n_of_m(2, 4)": 0.5,
    "constant_fan_in": 0.8,
    own_pattern.Woven.name: 0.75,
}


@pytest.fixture(params=["Conv2D", "Conv2DTranspose", "Dense"])
def kernel(request):
    layer = getattr(keras.layers, request.param)
    is_dense = request.param == "Dense"
    made = layer(8) if is_dense else layer(8, 3)
    made.build((None, 12) if is_dense else (None, 5, 5, 4))
    return find_kernels(made)[0]


def lists(text, kernel):
    return grouped(text, kernel.variable.shape, kernel.in_axes, kernel.out_axes)


@pytest.mark.parametrize("text", PATTERNS)
def test_drawn_masks_have_as_many_units_in_every_group(text, kernel):
    expected = lists(text, kernel)
    options = {"seed": 3, "index": 1}
    mask = first_mask(kernel, PATTERNS[text], from_text(text), **options)
    again = first_mask(kernel, PATTERNS[text], from_text(text), **options)
    np.testing.assert_array_equal(mask, again)
    assert expected.is_whole(mask)
    count = max(1, round((1 - PATTERNS[text]) * expected.units))
    assert (expected.counts(mask) == count).all()
    other = first_mask(kernel, PATTERNS[text], from_text(text), seed=4, index=1)
    assert (mask != other).any()


@pytest.mark.parametrize("text", PATTERNS)
def test_masks_of_the_largest_weights(text, kernel):
    expected = lists(text, kernel)
    weights = tf.convert_to_tensor(kernel.variable).numpy()
    mask = first_mask(
        kernel, PATTERNS[text], from_text(text), method="magnitude", seed=0, index=0
    )
    pruned = expected.pruned(
        np.ones_like(weights, bool), np.abs(weights), PATTERNS[text]
    )
    np.testing.assert_array_equal(mask, pruned)


@pytest.mark.parametrize("text", PATTERNS)
def test_shuffled_masks_keep_the_counts_of_groups(text, kernel):
    expected, pattern = lists(text, kernel), from_text(text)
    mask = first_mask(kernel, PATTERNS[text], pattern, seed=0, index=0)
    grouping = grouping_of(kernel, pattern)
    shuffled = shuffled_mask(mask, grouping, stateless_seed("shuffle", 1))
    assert expected.is_whole(shuffled) and (mask != shuffled).any()
    np.testing.assert_array_equal(expected.counts(mask), expected.counts(shuffled))
