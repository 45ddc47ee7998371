"""Which weights form which unit of which group: against lists of indices."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import own_pattern
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from pattern_reference import GroupedKernel
from tensorflow import keras

from rigl_keras import patterns
from rigl_keras.core.choosing import grouping_of
from rigl_keras.core.kernels import find_kernels
from rigl_keras.core.patterns import from_text

LAYERS = keras.layers
TEXTS = [
    "unstructured",
    "blocks(2, 1)",
    "blocks(1, 4)",
    "blocks(2, 2)",
    "blocks(2, 1, 'inputs')",
    "blocks(2, 2, 'inputs')",
    "blocks(1, 4, 'outputs')",
    "blocks(2, 2, 'outputs')",
    "blocks('all', 1)",
    "blocks('all', 2)",
    "n_of_m(2, 4)",
    "n_of_m(1, 2)",
    "constant_fan_in",
    own_pattern.Woven.name,
]
# A layer and the shape of its inputs.
KERNELS = {
    "dense": (lambda: LAYERS.Dense(8), (12,)),
    "conv1d": (lambda: LAYERS.Conv1D(8, 3), (5, 4)),
    "conv2d": (lambda: LAYERS.Conv2D(8, (2, 3)), (5, 5, 4)),
    "conv2d_transpose": (lambda: LAYERS.Conv2DTranspose(8, 2), (4, 4, 4)),
    "einsum": (lambda: LAYERS.EinsumDense("abcd,cdef->abef", (None, 4, 2)), (3, 2, 6)),
    # The kernel's axes are outputs, inputs, outputs, inputs.
    "einsum_mixed": (
        lambda: LAYERS.EinsumDense("abcd,ecfd->abef", (None, 4, 2)),
        (3, 2, 6),
    ),
    "lstm": (lambda: LAYERS.LSTM(4), (3, 8)),
    "gru": (lambda: LAYERS.GRU(4), (3, 8)),
}


def kernels(name):
    """The kernels of a layer, with their shape and axes."""
    make, shape = KERNELS[name]
    layer = make()
    layer.build((None, *shape))
    return find_kernels(layer)


def reference(kernel, text):
    shape = tuple(kernel.variable.shape)
    return GroupedKernel(text, shape, kernel.in_axes, kernel.out_axes)


def assert_same_units(grouping, expected):
    """Spreads the units whose number has a bit, for each bit."""
    assert (grouping.groups, grouping.units) == np.shape(expected.groups)[:2]
    assert grouping.elements == len(expected.groups[0][0])
    shape = grouping.groups, grouping.units
    numbers = np.arange(math.prod(shape)).reshape(shape)
    for bit in range(int(numbers.max()).bit_length()):
        has_bit = (numbers >> bit) % 2 == 1
        np.testing.assert_array_equal(
            grouping.spread(tf.constant(has_bit)),
            expected.mask_of(np.argwhere(has_bit)),
        )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", KERNELS)
def test_units_are_those_of_the_lists(name, text):
    for seed, kernel in enumerate(kernels(name)):
        grouping = grouping_of(kernel, from_text(text))
        expected = reference(kernel, text)
        assert_same_units(grouping, expected)
        generator = np.random.RandomState(seed)
        scores = generator.randint(-9, 10, expected.shape).astype(np.float32)
        np.testing.assert_array_equal(
            grouping.sums(tf.constant(scores)), expected.sums(scores)
        )
        mask = generator.rand(*expected.shape) < 0.2
        np.testing.assert_array_equal(
            grouping.present(tf.constant(mask)), expected.present(mask)
        )


def test_recurrent_layers_have_two_kernels_and_einsums_several_axes():
    assert len(kernels("lstm")) == 2
    [kernel] = kernels("einsum_mixed")
    assert (kernel.in_axes, kernel.out_axes) == ((1, 3), (0, 2))


# Written down by hand: the numbers of the units of a kernel [4, 4] or [2, 2, 2].
@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("blocks(2, 1)", [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]),
        ("blocks(2, 2)", [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]),
        (
            "blocks(2, 2, 'outputs')",
            [[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 3, 3], [1, 1, 3, 3]],
        ),
        ("blocks('all', 2)", [[0, 0, 1, 1]] * 4),
        (
            "n_of_m(1, 2)",
            [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]],
        ),
        ("constant_fan_in", np.arange(16).reshape(4, 4).T.tolist()),
        ("unstructured", np.arange(16).reshape(4, 4).tolist()),
    ],
)
def test_units_of_a_small_kernel(text, numbers):
    grouping = from_text(text).grouping((4, 4), (0,), (1,))
    shape = grouping.groups, grouping.units
    for number in range(math.prod(shape)):
        alone = np.arange(math.prod(shape)).reshape(shape) == number
        np.testing.assert_array_equal(
            grouping.spread(tf.constant(alone)), np.array(numbers) == number
        )


def test_numbers_of_groups_units_and_elements():
    def sizes(text):
        grouping = from_text(text).grouping((3, 3, 8, 16), (2,), (3,))
        return grouping.groups, grouping.units, grouping.elements

    assert sizes("unstructured") == (1, 1152, 1)
    assert sizes("blocks(4, 2)") == (1, 144, 8)
    assert sizes("blocks(4, 2, 'inputs')") == (18, 8, 8)
    assert sizes("blocks(4, 2, 'outputs')") == (8, 18, 8)
    assert sizes("blocks('all', 1)") == (1, 16, 72)
    assert sizes("n_of_m(2, 4)") == (288, 4, 1)
    assert sizes("constant_fan_in") == (16, 72, 1)


def test_what_a_grouping_looks_like():
    grouping = patterns.Blocks(2, 2).grouping((4, 6), (0,), (1,))
    assert repr(grouping) == "Grouping(groups=1, units=6, elements=4)"


@st.composite
def layouts(draw):
    """Any reshape of a kernel of two taps, any of its axes as groups and units."""
    axes = draw(st.permutations(range(5)))
    ends = sorted(draw(st.tuples(st.integers(0, 5), st.integers(0, 5))))
    shape = (2, 2, 3, 2, 3)
    return patterns.Layout(shape, tuple(axes[: ends[0]]), tuple(axes[slice(*ends)]))


@hypothesis.given(layout=layouts(), data=st.data())
def test_any_layout_spreads_what_is_present(layout, data):
    grouping = patterns.Grouping((2, 6, 6), [0, 2, 1], layout)
    units = data.draw(hnp.arrays(bool, (grouping.groups, grouping.units)))
    mask = grouping.spread(tf.constant(units)).numpy()
    np.testing.assert_array_equal(grouping.present(tf.constant(mask)), units)
    assert mask.sum() == units.sum() * grouping.elements
    sums = grouping.sums(tf.constant(mask.astype(np.float32)))
    np.testing.assert_array_equal(sums, units * grouping.elements)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "text", ["blocks(7, 1)", "blocks(7, 3, 'outputs')", "blocks('all', 1)", "woven"]
)
def test_sums_are_the_same_under_xla(text, dtype):
    shape, axes = (3, 42, 18), ((1,), (2,))
    grouping = from_text(text).grouping(shape, *axes)
    normals = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    scores = tf.cast(normals, dtype)
    plain = grouping.sums(scores)
    compiled = tf.function(grouping.sums, jit_compile=True, autograph=False)(scores)
    assert plain.dtype == compiled.dtype == tf.float32
    np.testing.assert_array_equal(plain, compiled)
    exact = GroupedKernel(text, shape, *axes).sums(tf.cast(scores, tf.float64).numpy())
    np.testing.assert_allclose(plain, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int32", "float16", "float64"])
def test_scores_of_single_weights_keep_their_type(dtype):
    grouping = from_text("n_of_m(2, 4)").grouping((8, 3), (0,), (1,))
    assert grouping.sums(tf.ones([8, 3], dtype)).dtype == dtype
