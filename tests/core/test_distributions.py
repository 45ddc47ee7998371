import ast
import math
import pathlib
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rigl_keras.core import distributions

NAMES = ("uniform", "er", "erk")
LENET5 = {
    "conv1": (5, 5, 1, 6),
    "conv2": (5, 5, 6, 16),
    "dense1": (256, 120),
    "dense2": (120, 84),
    "dense3": (84, 10),
}

shape_dicts = st.lists(
    st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple),
    min_size=1,
    max_size=8,
).map(lambda shapes: {f"layer{i}/kernel": shape for i, shape in enumerate(shapes)})
sparsities = st.floats(0, 1, exclude_max=True, allow_subnormal=False)


def resnet50():
    shapes: dict[str, tuple[int, ...]] = {"conv1": (7, 7, 3, 64)}
    n_in = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            name = f"stage{stage}/block{block}"
            n_out = 4 * width
            if block == 0:
                shapes[f"{name}/shortcut"] = (1, 1, n_in, n_out)
            shapes[f"{name}/conv1"] = (1, 1, n_in, width)
            shapes[f"{name}/conv2"] = (3, 3, width, width)
            shapes[f"{name}/conv3"] = (1, 1, width, n_out)
            n_in = n_out
    shapes["fc"] = (2048, 1000)
    return shapes


def share(name, shape):
    """What a density is proportional to, with the kernel's size taken out."""
    if name == "erk":
        return sum(shape)
    return np.prod(shape[:-2]) * (shape[-2] + shape[-1])


@pytest.mark.parametrize(
    ("sparsity", "n_dense", "epsilon"),
    [(0.8, 8, 99.562), (0.9, 1, 48.787), (0.95, 0, 24.372)],
)
def test_erk_on_resnet50(sparsity, n_dense, epsilon):
    shapes = resnet50()
    assert len(shapes) == 54
    assert sum(map(math.prod, shapes.values())) == 25_502_912
    result = distributions.erk(shapes, sparsity)
    assert list(result.values()).count(0.0) == n_dense
    for path, shape in shapes.items():
        if result[path] > 0:
            factor = (1 - result[path]) * math.prod(shape) / sum(shape)
            # The published factors round each kernel's inactive weights down, 54 times
            # instead of once: 24 to 29 weights more, up to 2.2e-5.
            assert factor == pytest.approx(epsilon, rel=2.5e-5)


@pytest.mark.parametrize(
    ("sparsity", "counts"),
    [(0.95, [8, 120, 1536, 504, 42]), (0.98, [3, 48, 614, 202, 17])],
)
def test_uniform_counts_on_lenet5(sparsity, counts):
    result = distributions.uniform(LENET5, sparsity)
    assert result == dict.fromkeys(LENET5, sparsity)
    sizes = [math.prod(shape) for shape in LENET5.values()]
    assert sum(sizes) == 44_190
    assert list(map(distributions.active_count, sizes, result.values())) == counts


def test_er_and_erk_by_hand():
    # 36 + 4 weights at 60 %: 16 remain. ER shares are 9 * 4 and 4, so 14.4 and 1.6
    # weights; ERK shares are 10 and 4, so 80/7 and 32/7 > 4: the dense kernel is full
    # and 12 weights are left to the other.
    shapes = {"conv": (3, 3, 2, 2), "dense": (2, 2)}
    er = distributions.er(shapes, 0.6)
    assert er == pytest.approx({"conv": 1 - 14.4 / 36, "dense": 1 - 1.6 / 4})
    erk = distributions.erk(shapes, 0.6)
    assert erk == pytest.approx({"conv": 1 - 12 / 36, "dense": 0})
    assert erk["dense"] == 0.0


def test_the_density_is_solved_more_than_once():
    # 400 + 36 + 4 weights, 88 remain. Shares 40, 12, 4: by the first solution (88 / 56)
    # only the smallest is full (6.3 > 4); without it (84 / 52 a share) none is.
    shapes = {"large": (20, 20), "middle": (6, 6), "small": (2, 2)}
    result = distributions.erk(shapes, 0.8)
    expected = {"large": 1 - 84 / 52 * 40 / 400, "middle": 1 - 84 / 52 * 12 / 36}
    assert result == pytest.approx({**expected, "small": 0})
    # Of 165 remaining the middle one gets 35.4 < 36 in the first round, and
    # 161 / 52 * 12 = 37.2 > 36 in the second.
    result = distributions.erk(shapes, 0.625)
    assert result == pytest.approx({"large": 1 - 125 / 400, "middle": 0, "small": 0})


def test_floor_of_the_budget():
    # floor(0.5 * 9) = 4 weights go, 5 remain.
    result = distributions.erk({"kernel": (3, 3)}, 0.5)
    assert result["kernel"] == pytest.approx(4 / 9)


@pytest.mark.parametrize("name", ["er", "erk"])
@hypothesis.given(shapes=shape_dicts, sparsity=sparsities)
def test_budget_and_proportionality(name, shapes, sparsity):
    result = distributions.from_name(name)(shapes, sparsity)
    assert list(result) == list(shapes)
    assert all(0 <= value < 1 for value in result.values())

    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    total = sum(sizes.values())
    active = sum((1 - result[path]) * sizes[path] for path in shapes)
    assert active == pytest.approx(total - math.floor(sparsity * total), rel=1e-9)

    # Weights per share: equal for the sparse kernels, less for those that filled up.
    factors = {
        path: (1 - result[path]) * sizes[path] / share(name, shapes[path])
        for path in shapes
    }
    sparse = [factors[path] for path in shapes if result[path] > 0]
    dense = [factors[path] for path in shapes if result[path] == 0]
    if sparse:
        assert max(sparse) == pytest.approx(min(sparse), rel=1e-9)
        assert all(factor <= max(sparse) * (1 + 1e-9) for factor in dense)


@hypothesis.given(shapes=shape_dicts, sparsity=sparsities)
def test_erk_equals_er_without_taps(shapes, sparsity):
    shapes = {path: shape[-2:] for path, shape in shapes.items()}
    er = distributions.er(shapes, sparsity)
    assert er == distributions.erk(shapes, sparsity)


@pytest.mark.parametrize("name", NAMES)
@hypothesis.given(shapes=shape_dicts)
def test_no_sparsity_is_exactly_dense(name, shapes):
    result = distributions.from_name(name)(shapes, 0)
    assert set(result.values()) == {0.0}


@pytest.mark.parametrize("name", NAMES)
@hypothesis.given(shapes=shape_dicts, sparsity=sparsities, data=st.data())
def test_overridden_kernels_leave_the_budget(name, shapes, sparsity, data):
    own = data.draw(st.dictionaries(st.sampled_from(list(shapes)), sparsities))
    function = distributions.from_name(name)
    result = function(shapes, sparsity, own)
    rest = {path: shape for path, shape in shapes.items() if path not in own}
    assert list(result) == list(shapes)
    assert result == (function(rest, sparsity) if rest else {}) | own


def test_patterns():
    overrides = {"conv1": 0, "conv*": 0.5, "*[12]": 0.25}
    result = distributions.uniform(LENET5, 0.9, overrides)
    expected = dict(zip(LENET5, [0, 0.5, 0.25, 0.25, 0.9], strict=True))
    assert result == expected
    assert list(result) == list(LENET5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", ["fc*", "CONV1", "conv"])
def test_a_pattern_without_a_match(name, pattern):
    with pytest.raises(ValueError, match="none of the kernels") as error:
        distributions.from_name(name)(LENET5, 0.9, {pattern: 0.5})
    assert repr(pattern) in str(error.value)
    assert all(path in str(error.value) for path in LENET5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sparsity", [1, 1.5, -0.1, math.nan, math.inf])
def test_sparsity_out_of_range(name, sparsity):
    function = distributions.from_name(name)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        function(LENET5, sparsity)
    with pytest.raises(ValueError, match=r"'conv\*' must lie in \[0, 1\)"):
        function(LENET5, 0.5, {"conv*": sparsity})


@pytest.mark.parametrize("sparsity", [True, "0.5", None, 0.5j])
def test_sparsity_of_the_wrong_type(sparsity):
    with pytest.raises(TypeError, match="number"):
        distributions.erk(LENET5, sparsity)
    with pytest.raises(TypeError, match="number"):
        distributions.erk(LENET5, 0.5, {"conv*": sparsity})


@pytest.mark.parametrize("name", NAMES)
def test_numpy_numbers(name):
    function = distributions.from_name(name)
    shapes = {path: tuple(np.array(shape)) for path, shape in LENET5.items()}
    assert function(shapes, np.float64(0.9)) == function(LENET5, 0.9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (5,), (3, 0), (3, -1)])
def test_shapes_out_of_range(name, shape):
    with pytest.raises(ValueError, match="'bad' must have rank 2"):
        distributions.from_name(name)({"good": (2, 2), "bad": shape}, 0.5)


@pytest.mark.parametrize("shape", [(None, 3), (2.0, 3), 4])
def test_shapes_of_the_wrong_type(shape):
    with pytest.raises(TypeError, match="sequence of integers"):
        distributions.erk({"bad": shape}, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_no_kernels(name):
    with pytest.raises(ValueError, match="at least one kernel"):
        distributions.from_name(name)({}, 0.5)


@pytest.mark.parametrize("name", ["ERK", "", "er ", None])
def test_unknown_name(name):
    with pytest.raises(ValueError, match="'er', 'erk', 'uniform'"):
        distributions.from_name(name)


def test_active_count():
    assert distributions.active_count(7, 0.0) == 7
    assert distributions.active_count(7, 0.999) == 1
    assert distributions.active_count(1, 0.5) == 1
    # Halves round to the even number, as everywhere in Python.
    assert distributions.active_count(5, 0.5) == 2
    assert distributions.active_count(7, 0.5) == 4


def test_imports_only_the_standard_library():
    tree = ast.parse(pathlib.Path(distributions.__file__).read_text(encoding="utf-8"))
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or ".")
    assert modules
    assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names
