"""Exact Hessians against closed forms, and Lanczos quadrature against exact ones."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import networks
from rigl_keras.analysis import hessian, lanczos

LAYERS = keras.layers


def linear(loss="mse", **options):
    model = keras.Sequential([keras.Input((6,)), LAYERS.Dense(3, **options)])
    tiny.set_integer_weights(model)
    return tiny.compiled(model, loss=loss)


def design(x):
    """The inputs with those of the bias."""
    return np.hstack([x, np.ones((len(x), 1))]).astype(float)


def softmax_hessian(model, x):
    """Of softmax regression: the mean of (diag(p) − p pᵀ) ⊗ x xᵀ."""
    kernel, bias = (weight.numpy().astype(float) for weight in model.weights)
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    size = kernel.size + bias.size
    expected = np.zeros((size, size))
    for probabilities, row in zip(p, design(x), strict=True):
        curvature = np.diag(probabilities) - np.outer(probabilities, probabilities)
        # Entry (i, j) of the kernel, and (6, j) for the bias, has place 3 i + j.
        expected += np.kron(np.outer(row, row), curvature) / len(x)
    return expected


def test_least_squares():
    x, y = tiny.data(16)
    model = linear(kernel_regularizer="l2")
    expected = np.kron(2 * design(x).T @ design(x) / y.size, np.eye(3))
    found = hessian.hessian(model, (x, y), rows_at_once=4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def softmax_regression():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return linear(loss=loss), tiny.data(16)[0], np.arange(16) % 3


def test_softmax_regression():
    model, x, labels = softmax_regression()
    found = hessian.hessian(model, (x, labels), rows_at_once=3)
    np.testing.assert_allclose(found, softmax_hessian(model, x), atol=1e-5)


@pytest.mark.parametrize("examples_at_once", [3, 8, 16])
def test_batches_count_by_their_examples(examples_at_once):
    model, x, labels = softmax_regression()
    found = hessian.hessian(
        model, (x, labels), rows_at_once=3, examples_at_once=examples_at_once
    )
    np.testing.assert_allclose(found, softmax_hessian(model, x), atol=1e-5)


def test_weighted_examples():
    x, y = tiny.data(16)
    weight = np.arange(16, dtype=np.float32) / 4
    expected = 2 * (design(x).T * weight) @ design(x) / y.size
    found = hessian.hessian(linear(), (x, y, weight), rows_at_once=3)
    np.testing.assert_allclose(found, np.kron(expected, np.eye(3)), 1e-5, 1e-4)


def test_under_replicas_it_is_the_hessian_of_the_data():
    x, y = tiny.data(16)
    with tiny.two_replicas().scope():
        model = tiny.compiled(tiny.sparsify(linear()))
    products = hessian.LossHessian(model, (x, y))
    [mask] = rigl_keras.get_masks(model).values()
    full = np.kron(2 * design(x).T @ design(x) / y.size, np.eye(3))
    active = np.flatnonzero([*mask.ravel(), True, True, True])
    np.testing.assert_array_equal(products.indices, active)
    expected = full[np.ix_(active, active)]
    found = products.rows(np.arange(products.size))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def curved():
    """A sparse network with curvature in every parameter."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            LAYERS.Dense(5, activation="tanh", bias_initializer="normal"),
            LAYERS.Dense(3, bias_initializer="normal"),
        ]
    )
    return tiny.compiled(tiny.sparsify(model, 0.6))


def dense_hessian(model, x, y):
    """By TensorFlow's Jacobian of a gradient that is written out here."""
    kernels = [each.numpy() for each in model.trainable_variables]
    shapes = [each.shape for each in kernels]
    point = tf.constant(np.concatenate([each.ravel() for each in kernels]))
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(point)
        inner.watch(point)
        parts = tf.split(point, [int(np.prod(shape)) for shape in shapes])
        a, b, c, d = (tf.reshape(p, s) for p, s in zip(parts, shapes, strict=True))
        error = tf.tanh(x @ a + b) @ c + d - y
        gradient = inner.gradient(tf.reduce_mean(error**2), point)
    return outer.jacobian(gradient, point).numpy()


def test_active_weights_are_those_of_masks_and_all_others():
    model = curved()
    first, second = rigl_keras.get_masks(model).values()
    expected = [*first.ravel(), *[True] * 5, *second.ravel(), *[True] * 3]
    np.testing.assert_array_equal(
        hessian.active_indices(model), np.flatnonzero(expected)
    )
    np.testing.assert_array_equal(
        hessian.active_indices(model, dense=True), np.arange(6 * 5 + 5 + 5 * 3 + 3)
    )


def test_the_sparse_hessian_is_a_part_of_the_dense_one():
    model = curved()
    x, y = tiny.data(16)
    expected = dense_hessian(model, x, y)
    dense = hessian.hessian(model, (x, y), None, 4, dense=True)
    np.testing.assert_allclose(dense, expected, rtol=1e-4, atol=1e-5)
    active = hessian.active_indices(model)
    sparse = hessian.hessian(model, (x, y), None, 4)
    assert len(sparse) < len(dense)
    np.testing.assert_allclose(sparse, dense[np.ix_(active, active)], 1e-4, 1e-6)


def test_products_are_those_of_the_matrix():
    model, data = curved(), tiny.data(16)
    matrix = hessian.hessian(model, data, None, 4)
    products = hessian.LossHessian(model, data)
    vectors = np.random.RandomState(0).normal(size=(3, products.size))
    found = products.products(vectors)
    np.testing.assert_allclose(found, vectors @ matrix, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(products.matvec(vectors[1]), found[1], 1e-4, 1e-5)


def test_nothing_changes_in_the_model():
    model = curved()
    before = [weight.numpy() for weight in model.weights]
    hessian.hessian(model, tiny.data(16), None, 4)
    for left, right in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(left, right.numpy())


class KilledError(Exception):
    """What a test breaks a computation off with."""


def kill_after(rows):
    def on_rows(done, total):
        if done >= rows:
            raise KilledError

    return on_rows


def test_a_killed_computation_goes_on(tmp_path, monkeypatch):
    model, data, path = curved(), tiny.data(16), str(tmp_path / "rows.npy")
    expected = hessian.hessian(model, data, rows_at_once=4)
    with pytest.raises(KilledError):
        hessian.hessian(model, data, path, rows_at_once=4, on_rows=kill_after(8))
    on_disk = np.load(path)
    assert np.isnan(on_disk[8:]).all()
    np.testing.assert_allclose(on_disk[:8], expected[:8], 1e-5, 1e-6)
    computed, reports = [], []
    rows = hessian.LossHessian.rows
    monkeypatch.setattr(
        hessian.LossHessian,
        "rows",
        lambda self, which: computed.append(list(which)) or rows(self, which),
    )
    found = hessian.hessian(
        model, data, path, 4, on_rows=lambda *report: reports.append(report)
    )
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)
    checked, *missing = computed
    assert set(checked) <= set(range(8))
    size = len(expected)
    assert {row for rows in missing for row in rows} == set(range(8, size))
    assert len(missing) == -(-(size - 8) // 4)
    assert reports[0] == (12, size) and reports[-1] == (size, size)
    computed.clear()
    again = hessian.hessian(model, data, path, 4)
    np.testing.assert_array_equal(again, found)
    assert len(computed) == 1


def test_a_row_that_was_not_written_whole_is_computed_again(tmp_path):
    model, data, path = curved(), tiny.data(16), str(tmp_path / "rows.npy")
    expected = np.array(hessian.hessian(model, data, path, 4))
    broken = expected.copy()
    broken[5, 3:] = np.nan
    np.save(path, broken)
    found = hessian.hessian(model, data, path, 4)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


def test_rows_of_another_hessian_are_refused(tmp_path):
    model, data, path = curved(), tiny.data(16), str(tmp_path / "rows.npy")
    with pytest.raises(KilledError):
        hessian.hessian(model, data, path, 4, on_rows=kill_after(8))
    with pytest.raises(ValueError, match="another Hessian"):
        hessian.hessian(model, tiny.data(12), path, 4)
    with pytest.raises(ValueError, match="not the rows of a Hessian of 53 weights"):
        hessian.hessian(model, data, path, dense=True)


def test_eigenvalues_of_a_known_matrix():
    np.testing.assert_allclose(hessian.eigenvalues([[2, 1], [3, 2]]), [0, 4])
    diagonal = np.diag([3.0, -1.0, 2.0]).astype(np.float32)
    assert hessian.eigenvalues(diagonal).dtype == np.float64
    np.testing.assert_allclose(hessian.eigenvalues(diagonal), [-1, 2, 3])
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        hessian.eigenvalues(np.ones((2, 3)))
    with pytest.raises(ValueError, match="not finite"):
        hessian.eigenvalues([[np.nan]])


def test_an_absurd_size_is_refused_before_anything_is_done(tmp_path):
    model = tiny.compiled(
        keras.Sequential([keras.Input((300,)), LAYERS.Dense(100, use_bias=False)])
    )
    path = tmp_path / "rows.npy"
    with pytest.raises(ValueError, match=r"30000 weights takes 3\.6 GB.*Lanczos"):
        hessian.hessian(model, (np.ones((2, 300)), np.ones((2, 100))), str(path))
    assert not path.exists()


def test_models_that_have_no_hessian_are_refused():
    data = tiny.data(4)
    with pytest.raises(ValueError, match=r"Call model\.compile"):
        hessian.hessian(tiny.mlp(), data)
    frozen = linear()
    frozen.trainable = False
    with pytest.raises(ValueError, match="nothing to train"):
        hessian.hessian(frozen, data)
    with pytest.raises(ValueError, match=r"\(x, y\)"):
        hessian.LossHessian(linear(), data[0])
    diverged = linear("poisson")
    diverged.weights[0].assign(np.full((6, 3), np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        hessian.hessian(diverged, data)


def sparse_lenet5():
    """LeNet5 for 16 × 16 images with random masks, and random images of 10 classes."""
    model = networks.lenet5((16, 16, 1), 10, hidden_sizes=(4, 8, 40, 30))
    model = tiny.sparsify(model, 0.8, seed=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tiny.compiled(model, loss=loss)
    random = np.random.RandomState(0)
    images = random.rand(64, 16, 16, 1).astype(np.float32)
    return model, (images, random.randint(0, 10, 64))


@pytest.mark.slow
def test_lanczos_agrees_with_the_exact_spectrum_on_sparse_lenet5():
    model, data = sparse_lenet5()
    exact = hessian.eigenvalues(hessian.hessian(model, data, rows_at_once=20))
    products = hessian.LossHessian(model, data)
    assert 500 <= products.size == len(exact) <= 2500
    values, weights = lanczos.spectrum(products.matvec, products.size, 50, 6, seed=0)
    largest = np.abs(exact).max()
    assert values.max() == pytest.approx(exact[-1], abs=1e-4 * largest)
    assert values.min() == pytest.approx(exact[0], abs=1e-4 * largest)
    # Deviation of a random unit vector's moment: sqrt(2 / n) of the second moment's.
    for degree in (1, 2, 3):
        error = np.sqrt(2 * np.mean(exact ** (2 * degree)) / len(exact) / len(values))
        estimate = (weights * values**degree).sum(axis=1).mean()
        assert estimate == pytest.approx(np.mean(exact**degree), abs=4 * error)
    # Apart from the many values around 0, which no quadrature resolves.
    for x in np.linspace(exact[0], exact[-1], 200):
        if abs(x) > 0.02 * largest:
            share = (weights * (values <= x)).sum(axis=1).mean()
            assert share == pytest.approx((exact <= x).mean(), abs=0.01)
