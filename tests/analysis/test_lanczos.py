"""Lanczos quadrature against NumPy's eigenvalues."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rigl_keras.analysis import lanczos

SEEDS = st.integers(0, 2**32 - 1)


def symmetric(size, seed, eigenvalues=None):
    """A random symmetric matrix; its eigenvalues are given or drawn."""
    random = np.random.RandomState(seed)
    if eigenvalues is None:
        matrix = random.normal(size=(size, size))
        return (matrix + matrix.T) / 2
    rotation, _ = np.linalg.qr(random.normal(size=(size, size)))
    return rotation * np.asarray(eigenvalues, float) @ rotation.T


def tridiagonal(diagonal, off_diagonal):
    return np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)


@hypothesis.given(st.integers(1, 20), SEEDS)
def test_as_many_steps_as_rows_give_every_eigenvalue(size, seed):
    matrix = symmetric(size, seed)
    start = np.random.RandomState(seed + 1 & 0xFFFF).normal(size=size)
    diagonal, off_diagonal = lanczos.lanczos(matrix.dot, 3 * start, 2 * size)
    assert len(diagonal) == size and len(off_diagonal) == size - 1
    np.testing.assert_allclose(
        np.linalg.eigvalsh(tridiagonal(diagonal, off_diagonal)),
        np.linalg.eigvalsh(matrix),
        rtol=1e-8,
        atol=1e-8,
    )


@hypothesis.given(st.integers(2, 20), st.integers(1, 4), SEEDS)
def test_it_ends_early_in_an_invariant_space(size, different, seed):
    # A start has one direction in each eigenspace, and no more are found.
    values = np.arange(1, different + 1) * 3.0 - 5
    matrix = symmetric(size, seed, values[np.arange(size) % different])
    start = np.random.RandomState(seed).normal(size=size)
    diagonal, off_diagonal = lanczos.lanczos(matrix.dot, start, size)
    ritz = np.linalg.eigvalsh(tridiagonal(diagonal, off_diagonal))
    np.testing.assert_allclose(ritz, values[: min(size, different)], atol=1e-8)


def test_an_early_end_leaves_the_quadrature_exact():
    matrix = symmetric(12, 0, [-2.0] * 5 + [7.0] * 7)
    values, weights = lanczos.spectrum(matrix.dot, 12, steps=6, num_probes=3)
    assert values.shape == weights.shape == (3, 6)
    np.testing.assert_allclose(values[:, :2], [[-2, 7]] * 3, atol=1e-12)
    np.testing.assert_allclose(values[:, 2:], 7)
    np.testing.assert_array_equal(weights[:, 2:], 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_the_zero_matrix():
    values, weights = lanczos.spectrum(lambda vector: 0 * vector, 4, 3, 2)
    np.testing.assert_array_equal(values, np.zeros((2, 3)))
    np.testing.assert_array_equal(weights, [[1, 0, 0]] * 2)


def probe(seed, number, size):
    start = np.random.default_rng([seed, number]).standard_normal(size)
    return start / np.linalg.norm(start)


@hypothesis.given(st.integers(4, 30), st.integers(1, 6), st.integers(0, 1000))
def test_moments_of_the_probes_are_exact(size, steps, seed):
    matrix = symmetric(size, seed)
    matrix /= np.linalg.norm(matrix, 2)
    steps = min(steps, size)
    values, weights = lanczos.spectrum(matrix.dot, size, steps, 2, seed)
    for number in range(2):
        start = probe(seed, number, size)
        power = start
        for degree in range(2 * steps):
            moment = (weights[number] * values[number] ** degree).sum()
            assert moment == pytest.approx(start @ power, abs=1e-10), degree
            power = matrix @ power


@hypothesis.given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 1000))
def test_ritz_values_lie_within_the_spectrum(size, steps, seed):
    matrix = symmetric(size, seed)
    values, weights = lanczos.spectrum(matrix.dot, size, steps, 2, seed)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert values.min() >= eigenvalues[0] - 1e-9
    assert values.max() <= eigenvalues[-1] + 1e-9
    assert (np.diff(values) >= 0).all() and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_extremes_trace_and_distribution_of_a_large_spectrum():
    size = 400
    bulk = np.random.RandomState(1).normal(scale=0.1, size=size - 5)
    eigenvalues = np.sort([*bulk, -3, 5, 8, 11, 20])
    matrix = symmetric(size, 2, eigenvalues)
    values, weights = lanczos.spectrum(matrix.dot, size, 40, 20, seed=3)
    assert values.min() == pytest.approx(-3, abs=1e-6)
    assert values.max() == pytest.approx(20, abs=1e-6)
    # A probe's mean is off by about its deviation, sqrt(2 / n) of the values' size.
    error = 4 * np.sqrt(2 * (eigenvalues**2).mean() / size / len(values))
    estimate = (values * weights).sum(axis=1).mean()
    assert estimate == pytest.approx(eigenvalues.mean(), abs=error)
    # Between two far eigenvalues the distribution function is a count.
    for x in (-1.5, 4, 6, 10, 15):
        share = (weights * (values < x)).sum(axis=1).mean()
        assert share == pytest.approx((eigenvalues < x).mean(), abs=0.005)


def test_probes_depend_on_the_seed_and_their_number_alone():
    matrix = symmetric(30, 0)
    values, weights = lanczos.spectrum(matrix.dot, 30, 5, 3, seed=1)
    again, _ = lanczos.spectrum(matrix.dot, 30, 5, 2, seed=1)
    np.testing.assert_array_equal(again, values[:2])
    other, _ = lanczos.spectrum(matrix.dot, 30, 5, 3, seed=2)
    assert len(np.unique(np.concatenate([values, other])[:, 0])) == 6
    assert weights.shape == (3, 5)


def test_density_of_one_value_is_the_normal_distribution():
    grid = np.linspace(-2, 4, 601)
    found = lanczos.density([[1.0]], [[1.0]], grid, 0.5)
    assert found[300] == pytest.approx(1 / (0.5 * np.sqrt(2 * np.pi)))
    assert found[350] / found[300] == pytest.approx(np.exp(-0.5))  # One σ away.


def test_density_is_the_mean_of_the_probes_and_integrates_to_1():
    values = np.array([[-1.0, 0.5], [0.0, 2.0]])
    weights = np.array([[0.25, 0.75], [0.5, 0.5]])
    grid = np.linspace(-6, 8, 2001)
    found = lanczos.density(values, weights, grid, 0.3)
    step = grid[1] - grid[0]
    assert found.sum() * step == pytest.approx(1)
    expected = np.mean((values * weights).sum(axis=1))
    assert (grid * found).sum() * step == pytest.approx(expected)


@pytest.mark.parametrize("start", [np.zeros(3), np.ones((2, 3)), [1.0, np.nan], []])
def test_a_start_that_is_none_is_refused(start):
    with pytest.raises(ValueError, match="`start`"):
        lanczos.lanczos(lambda vector: vector, start, 2)


def test_a_product_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        lanczos.spectrum(lambda vector: vector * np.nan, 3)


@pytest.mark.parametrize("name", ["dimension", "steps", "num_probes"])
def test_numbers_out_of_range_are_refused(name):
    options = {"dimension": 3, "steps": 2, "num_probes": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} .* >= 1, got 0"):
        lanczos.spectrum(lambda vector: vector, **options)
