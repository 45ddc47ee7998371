"""The product with a kernel stored without its zeros, against NumPy's dense one."""

import numpy as np
import pytest
import tensorflow as tf

from rigl_keras.layers.block_product import block_product

pytestmark = pytest.mark.one_keras
MODES = pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "xla"])


def case(rows, groups, blocks, size, outputs, dtype=np.float32):
    """Inputs, values and upstream of small integers, so sums are exact; indices."""
    rng = np.random.default_rng(0)
    indices = [rng.permutation(outputs)[:blocks] for _ in range(groups)]
    shapes = (rows, groups * size), (groups, blocks, size), (rows, outputs)
    inputs, values, upstream = (rng.integers(-3, 4, s).astype(dtype) for s in shapes)
    return inputs, values, upstream, np.sort(indices, axis=1).astype(np.int32)


def dense(values, indices, outputs):
    groups, blocks, size = values.shape
    kernel = np.zeros((groups * size, outputs), values.dtype)
    for i in range(groups):
        for k in range(blocks):
            kernel[i * size : (i + 1) * size, indices[i, k]] = values[i, k]
    return kernel


def stored(kernel, indices, size):
    """The entries of a dense array where blocks are, in the blocks' shape."""
    parts = kernel.reshape(len(indices), size, -1)
    return np.stack([part[:, i].T for part, i in zip(parts, indices, strict=True)])


def with_gradients(inputs, values, upstream, indices, **kwargs):
    @tf.function(**kwargs)
    def run(inputs, values, upstream, indices):
        with tf.GradientTape() as tape:
            tape.watch((inputs, values))
            result = block_product(inputs, values, indices, outputs=upstream.shape[1])
        return result, *tape.gradient(result, (inputs, values), upstream)

    return [
        t.numpy() for t in run(*map(tf.constant, (inputs, values, upstream, indices)))
    ]


def expected(inputs, values, upstream, indices):
    kernel = dense(values, indices, upstream.shape[1])
    of_kernel = inputs.T @ upstream
    of_values = stored(of_kernel, indices, values.shape[2])
    return inputs @ kernel, upstream @ kernel.T, of_values


def check(arrays, **kwargs):
    *floats, indices = arrays
    # NumPy has no products in bfloat16.
    wide = expected(*(a.astype(np.float64) for a in floats), indices)
    for actual, wanted in zip(with_gradients(*arrays, **kwargs), wide, strict=True):
        assert actual.dtype == floats[0].dtype
        np.testing.assert_array_equal(actual.astype(np.float64), wanted)


@MODES
@pytest.mark.parametrize("rows", [0, 1, 7, 128])
def test_any_number_of_rows(rows, jit_compile):
    check(case(rows, 3, 4, 2, 10), jit_compile=jit_compile)


@MODES
@pytest.mark.parametrize(
    ("groups", "blocks", "size", "outputs"),
    [(4, 1, 16, 5), (2, 6, 2, 6), (6, 3, 1, 7), (1, 3, 16, 8), (1, 1, 1, 1)],
    ids=["one block", "all blocks", "size 1", "one group", "one weight"],
)
def test_any_blocks(groups, blocks, size, outputs, jit_compile):
    check(case(5, groups, blocks, size, outputs), jit_compile=jit_compile)


@MODES
@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_any_float(dtype, jit_compile):
    check(
        case(5, 3, 2, 4, 6, tf.as_dtype(dtype).as_numpy_dtype), jit_compile=jit_compile
    )


def test_numbers_that_are_rounded():
    inputs, values, upstream, indices = case(7, 8, 5, 16, 12)
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=a.shape) for a in (inputs, values, upstream)]
    single = [a.astype(np.float32) for a in arrays]
    for actual, wanted in zip(
        with_gradients(*single, indices), expected(*arrays, indices), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)


@MODES
def test_outputs_without_a_block_are_0(jit_compile):
    inputs, values, upstream, _ = case(3, 2, 2, 4, 9)
    indices = np.array([[1, 7], [1, 2]], np.int32)
    check((inputs, values, upstream, indices), jit_compile=jit_compile)
    result, *_ = with_gradients(inputs, values, upstream, indices)
    assert not result[:, [0, 3, 4, 5, 6, 8]].any()


@MODES
def test_rows_unknown_when_traced(jit_compile):
    signature = [tf.TensorSpec([None, 6]), tf.TensorSpec([3, 2, 2])]
    signature += [tf.TensorSpec([None, 5]), tf.TensorSpec([3, 2], tf.int32)]
    for rows in (0, 4):
        arrays = case(rows, 3, 2, 2, 5)
        check(arrays, jit_compile=jit_compile, input_signature=signature)


def test_the_static_shape():
    _, values, _, indices = case(4, 3, 2, 2, 5)

    @tf.function(input_signature=[tf.TensorSpec([None, 6])])
    def run(inputs):
        result = block_product(inputs, values, indices, outputs=5)
        assert result.shape.as_list() == [None, 5]
        return result

    run.get_concrete_function()


def test_variables_and_eager_calls():
    arrays = case(4, 3, 2, 2, 5)
    inputs, values, upstream, indices = arrays
    values = tf.Variable(values)
    indices = tf.Variable(indices, trainable=False)
    with tf.GradientTape() as tape:
        result = block_product(inputs, values, indices, outputs=5)
    actual = tape.gradient(result, values, tf.constant(upstream))
    wanted, _, of_values = expected(*arrays)
    np.testing.assert_array_equal(result, wanted)
    np.testing.assert_array_equal(actual, of_values)


@pytest.mark.parametrize("kwargs", [None, {}, {"jit_compile": True}])
def test_second_derivatives(kwargs):
    # Of the scalar s = sum(x D ∗ x D ∗ u) / 2, along the directions a of x and c of D:
    # the gradients are (x D ∗ u) Dᵀ and xᵀ (x D ∗ u), and change with x and with D.
    inputs, values, upstream, indices = case(5, 3, 4, 2, 6)
    rng = np.random.default_rng(2)
    along = [rng.integers(-2, 3, a.shape).astype("float32") for a in (inputs, values)]

    def run(inputs, values):
        with tf.GradientTape() as outer:
            outer.watch((inputs, values))
            with tf.GradientTape() as inner:
                inner.watch((inputs, values))
                result = block_product(inputs, values, indices, outputs=6)
                loss = tf.reduce_sum(result**2 * upstream) / 2
            first = inner.gradient(loss, (inputs, values))
            slope = sum(tf.reduce_sum(g * a) for g, a in zip(first, along, strict=True))
        return outer.gradient(slope, (inputs, values))

    run = run if kwargs is None else tf.function(run, **kwargs)
    of_inputs, of_values = run(tf.constant(inputs), tf.constant(values))
    kernel, turned = dense(values, indices, 6), dense(along[1], indices, 6)
    scaled = inputs @ kernel * upstream
    change = (along[0] @ kernel + inputs @ turned) * upstream
    np.testing.assert_array_equal(of_inputs, change @ kernel.T + scaled @ turned.T)
    of_kernel = inputs.T @ change + along[0].T @ scaled
    np.testing.assert_array_equal(of_values, stored(of_kernel, indices, 2))
