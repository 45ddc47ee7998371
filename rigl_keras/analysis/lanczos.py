"""Spectra of symmetric matrices from matrix-vector products: Lanczos quadrature."""

import numpy as np

from rigl_keras.common.checks import check_int

# A coupling smaller than this part of the matrix's norm is none. Rounding errors grow
# in the course of the iteration; this is far above them, and below what matters.
_NEGLIGIBLE = 1e-10


def lanczos(matvec, start, steps):
    """Reduces a symmetric matrix to a tridiagonal one, by the Lanczos iteration.

    Every new vector is made orthogonal to all earlier ones, twice: without that,
    rounding errors would give copies of eigenvalues. It ends early where the vectors
    span a space that the matrix leaves invariant; the Ritz values are eigenvalues then.

    Args:
      matvec: function from a float64 vector [n] to the matrix times it, [n].
      start: vector [n], not 0; its length does not matter.
      steps: int >= 1, the most products that are made; more than n have no use.

    Returns:
      `(diagonal, off_diagonal)`: float64 arrays [m] and [m - 1] of the tridiagonal
      matrix, m <= steps.

    Raises:
      ValueError: for a start that is 0 or no vector, or a product that is not finite.

    Source: Golub and Meurant 2010, "Matrices, Moments and Quadrature", section 4.1.
    """
    check_int("steps", steps, minimum=1)
    start = np.asarray(start, np.float64)
    length = float(np.linalg.norm(start)) if start.ndim == 1 else 0.0
    if not 0 < length < np.inf:
        raise ValueError(
            "Expected `start` to be a finite vector other than 0, got an array of "
            f"shape {start.shape} and length {length}."
        )
    vector, scale = start / length, 0.0
    basis = np.empty((min(steps, start.size), start.size))
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(len(basis)):
        basis[step] = vector
        product = _finite(np.asarray(matvec(vector), np.float64))
        diagonal.append(float(vector @ product))
        scale = max(scale, float(np.linalg.norm(product)))
        for _ in range(2):
            product = product - (basis[: step + 1] @ product) @ basis[: step + 1]
        length = float(np.linalg.norm(product))
        if length <= _NEGLIGIBLE * scale:
            break
        off_diagonal.append(length)
        vector = product / length
    return np.array(diagonal), np.array(off_diagonal[: len(diagonal) - 1])


def _finite(product):
    if not np.isfinite(product).all():
        raise ValueError(
            "The matrix times a vector has entries that are not finite, so there is no "
            "spectrum. Check the matrix: the network behind it may have diverged."
        )
    return product


def spectrum(matvec, dimension, steps=100, num_probes=10, seed=0):
    """Estimates the spectrum of a symmetric matrix, by stochastic Lanczos quadrature.

    The mean over the probes of Σ weights · f(values) estimates trace(f(A)) / n, where
    every probe is exact for polynomials of its random vector up to degree
    2 · steps − 1. The outermost values are those that converge first.

    Args:
      matvec: see `lanczos`.
      dimension: int >= 1, the matrix's number of rows n.
      steps: int >= 1, products for each probe; at most n are made.
      num_probes: int >= 1, random vectors to start from.
      seed: int >= 0; a probe depends on it and on its own number alone.

    Returns:
      `(values, weights)`: float64 arrays [num_probes, min(steps, dimension)]; the Ritz
      values of each probe in ascending order, and their weights, which sum to 1. A
      probe that ended early repeats its largest value, with weight 0.

    Raises:
      ValueError: for an argument out of range, or a product that is not finite.

    Source: Golub and Welsch 1969, "Calculation of Gauss Quadrature Rules"; Ghorbani,
    Krishnan and Xiao 2019, arXiv 1901.10159, Algorithm 1.
    """
    check_int("dimension", dimension, minimum=1)
    check_int("num_probes", num_probes, minimum=1)
    check_int("seed", seed, minimum=0)
    size = min(check_int("steps", steps, minimum=1), dimension)
    values = np.zeros((num_probes, size))
    weights = np.zeros((num_probes, size))
    for probe in range(num_probes):
        start = np.random.default_rng([seed, probe]).standard_normal(dimension)
        diagonal, off_diagonal = lanczos(matvec, start, size)
        # `eigh` reads the lower triangle only.
        ritz, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off_diagonal, -1))
        values[probe] = ritz[-1]
        values[probe, : len(ritz)] = ritz
        weights[probe, : len(ritz)] = vectors[0] ** 2
    return values, weights


def density(values, weights, grid, sigma):
    """A spectrum's density, every value widened to a normal distribution.

    Args:
      values: array [probes, steps], as from `spectrum`; for eigenvalues [1, n].
      weights: array of the same shape, whose rows sum to 1; for eigenvalues 1 / n.
      grid: array [points], where the density is wanted.
      sigma: float > 0, the standard deviation.

    Returns:
      Float64 array [points], the mean over the probes; its integral is 1.

    Source: Ghorbani, Krishnan and Xiao 2019, arXiv 1901.10159, section 2.1.
    """
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    factor = 1 / (len(values) * sigma * np.sqrt(2 * np.pi))
    # A point at a time, as all of them together would need much memory.
    points = [
        np.sum(weights * np.exp(-0.5 * ((x - values) / sigma) ** 2)) for x in grid
    ]
    return factor * np.array(points)
