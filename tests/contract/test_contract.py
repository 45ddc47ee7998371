"""What holds for every algorithm, however it trains: see tests/support/contract.py."""

import itertools

import pytest
import tiny
from contract import (
    ALGORITHMS,
    COMPRESSED,
    COMPRESSED_PATTERN,
    ONE_SHOT,
    PATTERNS,
    REFUSED,
    WAYS,
    check,
    made,
    plain,
)
from golden import GOLDEN, digest
from histories import of_kind

# Users have TensorFlow's graph optimizer on.
pytestmark = pytest.mark.usefixtures("graph_optimizer")

# Of patterns, what the default tier trains with: each by an algorithm that replaces
# connections and one that removes them, and each way to train by some of them.
PLAIN = ("rigl", "pruning")
IN_OTHER_WAYS = {
    "XLA": ("blocks(2, 2, 'inputs')", "n_of_m(2, 4)"),
    "two replicas": ("blocks(4, 1)", "constant_fan_in(0.3)"),
    "resumed": ("constant_fan_in(0.3)",),
    "own loop": ("woven",),
    "own loop, two replicas": ("n_of_m(2, 4)",),
}
BEFORE_TRAINING = ("blocks(4, 1)", "n_of_m(2, 4)")


def is_default(name, way, pattern):
    if pattern == "unstructured":
        # The others differ by their scores, which every way takes alike.
        return name in PLAIN or way in ("plain", "resumed")
    if name in ONE_SHOT:
        return way == "plain" and pattern in BEFORE_TRAINING
    if way == "plain":
        return name in PLAIN
    return name == "rigl" and pattern in IN_OTHER_WAYS[way]


def combinations(names, ways):
    """All of them, the default ones without `release`."""
    return [
        pytest.param(name, way, pattern, marks=list(marks(name, way, pattern)))
        for name, way, pattern in itertools.product(names, ways, PATTERNS)
    ]


def marks(name, way, pattern):
    if not is_default(name, way, pattern):
        yield pytest.mark.release
    if pattern != "unstructured" and name != "rigl":
        yield pytest.mark.one_keras
    if way.endswith("XLA"):  # It takes seconds to compile an update.
        yield pytest.mark.slow


@pytest.mark.parametrize(("name", "way", "pattern"), combinations(ALGORITHMS, WAYS))
@tiny.too_short  # the half of a training that is resumed
def test_an_algorithm_in_training(name, way, pattern, tmp_path):
    check(name, way, pattern, tmp_path)


def compressed_combinations():
    """By RigL in all ways; the others, which share most of it, in some."""
    for name, way in itertools.product(ALGORITHMS, COMPRESSED):
        if name in REFUSED:
            continue
        is_default = name == "rigl" or (name, way) == ("set", "compressed, plain")
        own = [] if is_default else [pytest.mark.release]
        if way not in ("compressed, plain", "compressed, two replicas"):
            own.append(pytest.mark.one_keras)
        # Most train twice, once to compare with.
        yield pytest.param(name, way, marks=[pytest.mark.slow, *own])


@pytest.mark.parametrize(("name", "way"), list(compressed_combinations()))
@tiny.too_short  # the half of a training that is resumed
def test_an_algorithm_in_training_of_compressed_kernels(name, way, tmp_path):
    check(name, way, COMPRESSED_PATTERN, tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_an_algorithm_that_needs_dense_kernels_refuses_compressed_ones(name):
    algorithm = ALGORITHMS[name]._replace(sparsity=0.5)
    model, callback, _ = made(algorithm, COMPRESSED_PATTERN, storage="compressed")
    with pytest.raises(ValueError, match=r"cannot train .*hidden/kernel.*decompress"):
        callback.prepare(model)


@pytest.mark.parametrize(
    ("name", "way", "pattern"), combinations(ONE_SHOT, ["plain", "two replicas"])
)
def test_an_algorithm_before_training(name, way, pattern, tmp_path):
    check(name, way, pattern, tmp_path)


@pytest.mark.parametrize("name", GOLDEN)
def test_masks_are_the_golden_ones(name):
    _, history = plain(name, "unstructured")
    assert digest(of_kind(history[-1], "mask")) == GOLDEN[name]
