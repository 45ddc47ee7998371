import math
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rigl_keras.analysis import distances
from rigl_keras.analysis.distances import cosine_distance, l2_distance


def point(values):
    """The same numbers, spread over a kernel and a bias."""
    values = np.float32(values).ravel()
    return {"a/kernel": values[:-1].reshape(1, -1), "a/bias": values[-1:]}


def test_l2_distance_goes_over_all_variables():
    a = {"kernel": np.array([[1.0, 2.0]]), "bias": np.array([3.0])}
    b = {"bias": np.array([1.0]), "kernel": np.array([[2.0, 4.0]])}
    assert l2_distance(a, b) == pytest.approx(math.sqrt(1 + 4 + 4))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.0], [30.0, 40.0], 0.0),
        ([3.0, 4.0], [-4.0, 3.0], 1.0),
        ([3.0, 4.0], [-3.0, -4.0], 2.0),
        ([1.0, 0.0], [1.0, 1.0], 1 - math.sqrt(0.5)),
        ([1.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 4.0], 0.4),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([3.0, 4.0], [0.0, 0.0], 1.0),
        ([0.0], [0.0], 1.0),
        ([math.nan, 1.0], [1.0, 1.0], math.nan),
    ],
)
def test_cosine_distance(x, y, expected):
    distance = cosine_distance(point(x), point(y))
    assert distance == pytest.approx(expected, abs=1e-6, nan_ok=True)


LENGTHS = st.floats(0.125, 8, width=32)
VECTORS = hnp.arrays(np.float32, (2, 3), elements=LENGTHS | LENGTHS.map(lambda v: -v))


@hypothesis.given(VECTORS, VECTORS)
def test_cosine_distance_by_the_law_of_cosines(x, y):
    left, right, between = (
        np.linalg.norm(each) for each in (x, y, x.astype(float) - y)
    )
    cosine = (left**2 + right**2 - between**2) / (2 * left * right)
    assert cosine_distance(point(x), point(y)) == pytest.approx(1 - cosine, abs=1e-5)


@pytest.mark.parametrize("function", [l2_distance, cosine_distance])
@pytest.mark.parametrize(
    "other", [{"a/bias": np.ones(1)}, {**point([1, 2, 3]), "b": np.ones(2)}, {}]
)
def test_points_of_different_networks_are_refused(function, other):
    with pytest.raises(ValueError, match="two points of one network"):
        function(point([1, 2, 3]), other)
    with pytest.raises(ValueError, match=r"a/kernel is \(1, 2\) in one and \(1, 3\)"):
        function(point([1, 2, 3]), point([1, 2, 3, 4]))


@hypothesis.given(hnp.arrays(np.float32, (4, 5), elements=LENGTHS))
def test_the_matrix_holds_the_distances_of_all_pairs(values):
    points = [point(each) for each in values]
    for metric, expected in (
        ("l2", lambda a, b: np.linalg.norm(a - b)),
        ("cosine", lambda a, b: 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
    ):
        found = distances.distance_matrix(points, metric)
        table = [[expected(a, b) for b in values] for a in values.astype(float)]
        np.testing.assert_allclose(found, table, atol=1e-6)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="'l1'"):
        distances.distance_matrix([point([1, 2])], "l1")


def between(coordinates):
    return np.linalg.norm(coordinates[:, None] - coordinates[None], axis=-1)


@pytest.mark.parametrize("seed", [0, 1])
def test_points_of_a_plane_are_found_again(seed):
    matrix = between(np.random.RandomState(seed).normal(size=(9, 2)))
    found = distances.mds_map(matrix, seed=seed)
    np.testing.assert_allclose(between(found.coordinates), matrix, atol=1e-2)
    assert found.stress_1 < 1e-3


def test_stress_is_the_sum_over_pairs():
    matrix = between(np.random.RandomState(3).normal(size=(7, 5)))
    found = distances.mds_map(matrix)
    stress = scale = 0.0
    for i in range(7):
        for j in range(i):
            placed = math.dist(found.coordinates[i], found.coordinates[j])
            stress += (placed - matrix[i, j]) ** 2
            scale += placed**2
    assert found.stress == pytest.approx(stress)
    assert found.stress_1 == pytest.approx(math.sqrt(stress / scale))
    # Five dimensions do not fit into two, and no small move makes it better.
    assert found.stress_1 > 0.05
    for move in np.random.RandomState(4).normal(scale=1e-2, size=(20, 7, 2)):
        moved = between(found.coordinates + move)
        assert ((moved - matrix) ** 2).sum() / 2 >= found.stress


def test_a_map_depends_on_the_seed_alone():
    matrix = between(np.random.RandomState(5).normal(size=(6, 4)))
    np.testing.assert_array_equal(
        distances.mds_map(matrix, seed=2).coordinates,
        distances.mds_map(matrix, seed=2).coordinates,
    )


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0]],
        [[0.0, 1.0]],
        [[0.0, 1.0], [2.0, 0.0]],
        [[0.0, -1.0], [-1.0, 0.0]],
        [[1.0, 1.0], [1.0, 0.0]],
        [[0.0, math.nan], [math.nan, 0.0]],
    ],
)
def test_what_is_no_matrix_of_distances_is_refused(matrix):
    with pytest.raises(ValueError, match="Expected a symmetric matrix"):
        distances.mds_map(matrix)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_map_lies_around_0_along_the_first_axis_in_the_unit_of_the_distances(scale):
    points = np.random.RandomState(6).normal(size=(8, 2)) * [0.2, 3] * scale
    found = distances.mds_map(between(points)).coordinates / scale
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    first, second = found.T
    assert first @ first > 9 * (second @ second)
    assert first @ second == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(between(found), between(points / scale), atol=3e-2)


def test_points_that_coincide_are_one_point_of_the_map():
    found = distances.mds_map(np.zeros((3, 3)))
    assert found.coordinates.tolist() == [[0, 0]] * 3
    assert (found.stress, found.stress_1) == (0, 0)
    found = distances.mds_map([[0, 0, 2], [0, 0, 2], [2, 2, 0]])
    np.testing.assert_allclose(found.coordinates[0], found.coordinates[1], atol=1e-2)
    assert found.stress_1 < 1e-2


def test_a_map_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ImportError, match="extra `plots`"):
        distances.mds_map([[0, 1], [1, 0]])


def test_sums_of_many_small_numbers_are_exact():
    size = 2**18
    a = {"kernel": np.full(size, 1e4, np.float32)}
    b = {"kernel": np.full(size, 1e4 + 2**-9, np.float32)}
    difference = float(b["kernel"][0]) - float(a["kernel"][0])
    assert difference > 0
    assert l2_distance(a, b) == pytest.approx(difference * 2**9, rel=1e-12)
    assert cosine_distance(a, b) == pytest.approx(0, abs=1e-12)
