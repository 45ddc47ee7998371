"""Distances between points in weight space, and maps of them in the plane."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rigl_keras.common.checks import check_int

# All parameters of a network: from the variables' paths to arrays.
Point = Mapping[str, ArrayLike]

# Stress has local minima; the best of so many random starts is taken.
_STARTS = 8
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-9  # of the stress, in parts of the sum of squared distances
_NAMED = 5  # differences between two points that an error names
_ROUNDING = 1e-6  # by which the two halves of a matrix of distances may differ


def l2_distance(a: Point, b: Point) -> float:
    """The Euclidean distance between two points in weight space.

    Every parameter counts alike, biases included. Masked weights are 0, so two points
    also differ by the connections that only one of them has.

    Args:
      a: dict from the variables' paths to arrays of numbers.
      b: the same of another network, with arrays of the same shapes.

    Returns:
      A float >= 0; sums are of float64.

    Raises:
      ValueError: when paths or shapes differ.

    Source: Evci et al. 2022, Figure 5b.
    """
    _check_alike(a, b)
    return float(np.sqrt(sum(_squared_distance(a[path], b[path]) for path in a)))


def cosine_distance(a: Point, b: Point) -> float:
    """1 minus the cosine of the angle between two points in weight space.

    Args:
      a: see `l2_distance`.
      b: likewise.

    Returns:
      A float in [0, 2], 0 for the same direction; 1 when one of the points is 0 and
      has none. Sums are of float64.

    Raises:
      ValueError: when paths or shapes differ.
    """
    _check_alike(a, b)
    lengths = np.sqrt(_product(a, a) * _product(b, b))
    return 1.0 if lengths == 0 else float(np.clip(1 - _product(a, b) / lengths, 0, 2))


_METRICS = {"l2": l2_distance, "cosine": cosine_distance}


def distance_matrix(points: Sequence[Point], metric: str = "l2") -> np.ndarray:
    """The distances between all pairs of points.

    Beside the points no memory is taken but for a copy or two of one variable.

    Args:
      points: list of n dicts, see `l2_distance`.
      metric: "l2" or "cosine".

    Returns:
      Symmetric float64 array [n, n] with 0 on the diagonal.

    Raises:
      ValueError: for another metric, or when paths or shapes differ.
    """
    if metric not in _METRICS:
        raise ValueError(f"Expected metric to be one of {[*_METRICS]}, got {metric!r}.")
    matrix = np.zeros((len(points), len(points)))
    for row, column in itertools.combinations(range(len(points)), 2):
        distance = _METRICS[metric](points[row], points[column])
        matrix[row, column] = matrix[column, row] = distance
    return matrix


class Map(NamedTuple):
    """Points in the plane whose distances are near to given ones.

    With the given distances dᵢⱼ and those of the map eᵢⱼ, sums over all pairs i < j:

    Attributes:
      coordinates: float64 array [n, 2], in the unit of the distances. Their mean is 0,
        and they spread most along the first axis; beyond that directions mean nothing.
      stress: float, Σ (dᵢⱼ - eᵢⱼ)², in the squared unit of the distances.
      stress_1: float in [0, 1], √(stress / Σ eᵢⱼ²), which does not depend on the unit.
        Kruskal calls 0.05 a good fit, 0.1 a fair one and 0.2 a poor one.
    """

    coordinates: np.ndarray
    stress: float
    stress_1: float


def mds_map(distances: ArrayLike, seed: int = 0) -> Map:
    """Places points in the plane by metric multidimensional scaling.

    Minimises the stress from several random starts and keeps the best.

    Args:
      distances: array [n, n], as of `distance_matrix`.
      seed: int in [0, 2³²), of the random starts. The same seed gives the same map.

    Returns:
      `Map`.

    Raises:
      ValueError: when `distances` is no matrix of distances, or for a wrong seed.
      ImportError: when scikit-learn is not installed.

    Source: Evci et al. 2022, Figure 5a; Kruskal 1964, "Multidimensional scaling by
    optimizing goodness of fit to a nonmetric hypothesis", for stress-1.
    """
    distances = _checked_distances(distances)
    seed = check_int("seed", seed, minimum=0)
    coordinates = _principal_axes(_scaled(distances, seed))
    between = coordinates[:, None] - coordinates
    mapped = np.sqrt((between**2).sum(-1))
    stress = float(((distances - mapped) ** 2).sum() / 2)
    size = float((mapped**2).sum() / 2)
    return Map(coordinates, stress, float(np.sqrt(stress / size)) if size else 0.0)


def _scaled(distances, seed):
    """The best of several solutions of SMACOF, array [n, 2]."""
    try:
        # The class around it, MDS, changes its arguments from version to version.
        from sklearn.manifold import smacof
    except ImportError as error:
        raise ImportError(
            "Multidimensional scaling needs scikit-learn. Install it by "
            "`pip install scikit-learn`, or this package with its extra `plots`."
        ) from error
    unit = distances.max()
    if unit == 0:
        return np.zeros((len(distances), 2))
    coordinates, _ = smacof(
        distances / unit,
        n_components=2,
        n_init=_STARTS,
        max_iter=_MAX_ITERATIONS,
        eps=_TOLERANCE,
        random_state=seed,
    )
    return unit * coordinates


def _principal_axes(coordinates):
    """Moves points to the mean 0 and turns them to spread along the first axis."""
    coordinates = coordinates - coordinates.mean(0)
    _, axes = np.linalg.eigh(coordinates.T @ coordinates)
    return coordinates @ axes[:, ::-1]


def _checked_distances(distances):
    """Returns a matrix of distances as float64, exactly symmetric."""
    distances = np.asarray(distances, np.float64)
    problem = _problem_of(distances)
    if problem:
        raise ValueError(
            "Expected a symmetric matrix of the finite distances >= 0 between two or "
            f"more points, with 0 on its diagonal, but {problem}. distance_matrix "
            "gives one."
        )
    return (distances + distances.T) / 2


def _problem_of(distances):
    """Says why an array is no matrix of distances; None when it is one."""
    shape = distances.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return f"its shape is {shape}"
    if not np.isfinite(distances).all() or distances.min() < 0:
        return f"it has values from {distances.min()} to {distances.max()}"
    allowed = _ROUNDING * distances.max()
    if np.diag(distances).max() > allowed:
        return f"{np.diag(distances).max()} is on its diagonal"
    asymmetry = np.abs(distances - distances.T).max()
    return f"its two halves differ by {asymmetry}" if asymmetry > allowed else None


def _check_alike(a, b):
    differences = [
        f"{path} is {_shape(a, path)} in one and {_shape(b, path)} in the other"
        for path in sorted({*a, *b})
        if _shape(a, path) != _shape(b, path)
    ]
    if differences:
        raise ValueError(
            f"Expected two points of one network, but {len(differences)} variables "
            f"differ: {'; '.join(differences[:_NAMED])}."
        )


def _shape(point, path):
    return np.shape(point[path]) if path in point else "absent"


def _squared_distance(x, y):
    difference = np.subtract(x, y, dtype=np.float64)
    return np.vdot(difference, difference)


def _product(a, b):
    """The scalar product of two points."""
    return sum(
        np.einsum("i,i->", np.ravel(a[path]), np.ravel(b[path]), dtype=np.float64)
        for path in a
    )
