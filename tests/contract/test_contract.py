"""What holds for every algorithm, however it trains: see tests/support/contract.py."""

import pytest
import tiny
from contract import ALGORITHMS, ONE_SHOT, PATTERNS, WAYS, check, plain
from golden import GOLDEN, digest
from histories import of_kind

# Users have TensorFlow's graph optimizer on.
pytestmark = pytest.mark.usefixtures("graph_optimizer")

# XLA takes seconds to compile an update.
MARKED_WAYS = [
    pytest.param(way, marks=pytest.mark.slow if way == "XLA" else ()) for way in WAYS
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("way", MARKED_WAYS)
@pytest.mark.parametrize("name", ALGORITHMS)
@tiny.too_short  # the half of a training that is resumed
def test_an_algorithm_in_training(name, way, pattern, tmp_path):
    check(name, way, pattern, tmp_path)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("way", ["plain", "two replicas"])
@pytest.mark.parametrize("name", ONE_SHOT)
def test_an_algorithm_before_training(name, way, pattern, tmp_path):
    check(name, way, pattern, tmp_path)


@pytest.mark.parametrize("name", GOLDEN)
def test_masks_are_the_golden_ones(name):
    _, history = plain(name, "unstructured")
    assert digest(of_kind(history[-1], "mask")) == GOLDEN[name]
