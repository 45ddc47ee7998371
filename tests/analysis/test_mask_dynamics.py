import itertools

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tensorflow import keras

import rigl_keras
from rigl_keras.analysis.mask_dynamics import dynamics, kernel_fans
from rigl_keras.plots import masks as figures

SHAPES = {"conv/kernel": (2, 1, 3, 4), "dense/kernel": (5, 3)}


def random_masks(steps, seed, density=0.4):
    generator = np.random.RandomState(seed)
    return [
        (step, {p: generator.rand(*s) < density for p, s in SHAPES.items()})
        for step in steps
    ]


def connections(masks):
    """The active connections of all kernels as a set."""
    return {
        (path, index)
        for path, mask in masks.items()
        for index in itertools.product(*map(range, mask.shape))
        if mask[index]
    }


def jaccard(left, right):
    return len(left & right) / len(left | right) if left | right else 1.0


def fans_by_loops(mask):
    *_, n_in, n_out = mask.shape
    fan_in, fan_out = [0] * n_out, [0] * n_in
    for index in itertools.product(*map(range, mask.shape)):
        fan_in[index[-1]] += int(mask[index])
        fan_out[index[-2]] += int(mask[index])
    return fan_in, fan_out


@st.composite
def trainings(draw):
    steps = draw(st.lists(st.integers(-5, 100), min_size=1, max_size=4, unique=True))
    seed = draw(st.integers(0, 2**32 - 1))
    return random_masks(sorted(steps), seed, draw(st.floats(0, 1)))


@given(trainings())
def test_dynamics_as_sets_and_loops_count_them(masks):
    found = dynamics(iter(masks))
    sets = [connections(now) for _, now in masks]
    size = sum(np.prod(shape) for shape in SHAPES.values())
    ever = list(itertools.accumulate(sets, set.union))
    assert found.steps.tolist() == [step for step, _ in masks]
    assert found.kernels.tolist() == list(SHAPES)
    assert found.density == pytest.approx([len(each) / size for each in sets])
    assert found.iou_first == pytest.approx([jaccard(sets[0], s) for s in sets])
    before = [jaccard(left, right) for left, right in itertools.pairwise(sets)]
    assert found.iou_previous == pytest.approx(before)
    assert found.ever_active == pytest.approx([len(each) / size for each in ever])
    fans = [[fans_by_loops(mask) for mask in now.values()] for _, now in masks]
    dead = [[(f.count(0), g.count(0)) for f, g in step] for step in fans]
    assert found.kernel_dead_outputs.tolist() == [[f for f, _ in s] for s in dead]
    assert found.kernel_dead_inputs.tolist() == [[g for _, g in s] for s in dead]
    assert found.dead_outputs.tolist() == [sum(f for f, _ in s) for s in dead]
    assert found.dead_inputs.tolist() == [sum(g for _, g in s) for s in dead]


@given(trainings())
def test_each_kernel_is_as_if_it_were_alone(masks):
    found = dynamics(masks)
    for index, path in enumerate(SHAPES):
        alone = dynamics([(step, {path: now[path]}) for step, now in masks])
        for name in (
            "density",
            "iou_first",
            "iou_previous",
            "ever_active",
            "dead_outputs",
            "dead_inputs",
        ):
            kernel = getattr(found, f"kernel_{name}")[:, index]
            np.testing.assert_array_equal(kernel, getattr(alone, name))


@given(trainings())
def test_bounds(masks):
    found = dynamics(masks)
    for iou in (found.iou_first, found.iou_previous, found.kernel_iou_first):
        assert ((iou >= 0) & (iou <= 1)).all()
    assert found.iou_first[0] == 1
    assert (np.diff(found.ever_active) >= 0).all()
    assert (found.ever_active >= found.density).all()
    assert found.ever_active[0] == found.density[0]
    assert found.iou_previous.shape == (len(masks) - 1,)
    assert all(isinstance(each, np.ndarray) for each in found._asdict().values())


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_masks_of_blocks_change_as_their_blocks_do(seed, density):
    """Every block has as many weights, so shares of weights are shares of blocks."""
    height, width = 2, 3
    generator = np.random.RandomState(seed)
    blocks = [
        (step, {"dense/kernel": generator.rand(4, 5) < density}) for step in range(3)
    ]
    whole = np.ones((height, width), bool)
    masks = [
        (step, {path: np.kron(each, whole) for path, each in now.items()})
        for step, now in blocks
    ]
    found, expected = dynamics(masks), dynamics(blocks)
    for name in ("density", "iou_first", "iou_previous", "ever_active"):
        of_weights, of_blocks = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(of_weights, of_blocks)
    # A block without inputs is so many outputs without.
    assert (found.dead_outputs == width * expected.dead_outputs).all()
    assert (found.dead_inputs == height * expected.dead_inputs).all()


def test_what_a_training_in_blocks_tries_is_counted_in_whole_blocks():
    model = tiny.compiled(tiny.sparsify(tiny.mlp(), 0.5, pattern="blocks(2, 1)"))
    seen = [(0, rigl_keras.get_masks(model))]

    def note(model):
        seen.append((len(seen), rigl_keras.get_masks(model)))

    tiny.fit(model, tiny.forever(rigl_keras.SET, 1, fraction=0.5), tiny.EveryStep(note))
    found = dynamics(seen)
    ever = np.logical_or.accumulate([now["hidden/kernel"] for _, now in seen])
    np.testing.assert_array_equal(ever[:, ::2], ever[:, 1::2])
    expected = ever[:, ::2].mean((1, 2))  # of 3×8 blocks
    np.testing.assert_allclose(found.kernel_ever_active[:, 0], expected)
    assert (found.kernel_density == 0.5).all() and expected[-1] > 0.5


def test_equal_masks_overlap_wholly_even_when_empty():
    ((_, masks),) = random_masks([0], 1)
    empty = {path: np.zeros_like(mask) for path, mask in masks.items()}
    for now in (masks, empty):
        found = dynamics([(0, now), (1, now)])
        assert found.iou_first.tolist() == [1, 1]
        assert found.iou_previous.tolist() == [1]
    assert dynamics([(0, masks), (1, empty)]).iou_first.tolist() == [1, 0]


def test_masks_given_are_left_as_they_are():
    masks = random_masks([0, 1], 2)
    copies = [(s, {p: m.copy() for p, m in now.items()}) for s, now in masks]
    dynamics(masks)
    for (_, now), (_, copy) in zip(masks, copies, strict=True):
        tiny.assert_same_masks(now, copy)


def test_the_order_of_the_kernels_does_not_matter():
    first, (step, second) = random_masks([0, 1], 3)
    turned = dict(reversed(second.items()))
    expected = dynamics([first, (step, second)])
    for left, right in zip(dynamics([first, (step, turned)]), expected, strict=True):
        np.testing.assert_array_equal(left, right)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_fans_as_loops_count_them(seed, density):
    ((_, masks),) = random_masks([0], seed, density)
    for path, fans in kernel_fans(masks).items():
        fan_in, fan_out = fans_by_loops(masks[path])
        assert (fans.fan_in.tolist(), fans.fan_out.tolist()) == (fan_in, fan_out)


def test_fans_of_kernels_stored_in_another_way():
    inputs = keras.Input((6, 3))
    x = keras.layers.Conv1DTranspose(4, 2, name="transposed")(inputs)
    x = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 5), name="heads")(x)
    model = tiny.sparsify(keras.Model(inputs, x))
    axes = {
        each.path: (each.in_axes, each.out_axes)
        for each in rigl_keras.sparse_kernels(model)
    }
    masks = rigl_keras.get_masks(model)
    # Taps, outputs, inputs; and inputs, heads, outputs of a head.
    transposed, heads = masks["transposed/kernel"], masks["heads/kernel"]
    heads[:, 1, 3] = False
    fans = kernel_fans(masks, axes)
    expected = transposed.sum((0, 2)), transposed.sum((0, 1))
    assert [each.tolist() for each in fans["transposed/kernel"]] == [
        each.tolist() for each in expected
    ]
    expected = heads.reshape(4, 10).sum(0), heads.reshape(4, 10).sum(1)
    assert [each.tolist() for each in fans["heads/kernel"]] == [
        each.tolist() for each in expected
    ]
    found = dynamics([(0, masks)], axes)
    assert found.kernel_dead_outputs[0, 1] == (heads.sum(0) == 0).sum() >= 1


MASK = np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "at least one"),
        ([(1, {"a": MASK}), (1, {"a": MASK})], "increasing steps, got 1 after 1"),
        ([(2, {"a": MASK}), (1, {"a": MASK})], "increasing steps"),
        ([(0, {})], "A dense network"),
        ([(0, None)], "got None"),
        ([(0, {"a": MASK}), (1, {"b": MASK})], "of another network"),
        ([(0, {"a": MASK}), (1, {"a": MASK, "b": MASK})], "of another network"),
        ([(0, {"a": MASK}), (1, {"a": MASK.T})], "of another network"),
        ([(0, {"a": MASK.astype(int)})], "bool array"),
        ([(0, {"a": MASK[0]})], "rank 2"),
    ],
)
def test_refused_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        dynamics(masks)


@pytest.mark.parametrize(
    ("axes", "message"),
    [({"b": ((0,), (1,))}, r"some of \['a'\]"), ({"a": ((0,), (2,))}, "within the 2")],
)
def test_refused_axes(axes, message):
    with pytest.raises(ValueError, match=message):
        kernel_fans({"a": MASK}, axes)


def test_dynamics_of_a_training_with_mask_updates():
    model = tiny.sparse_mlp()
    masks = [(0, rigl_keras.get_masks(model))]
    note = tiny.EveryStep(
        lambda model: masks.append((len(masks), rigl_keras.get_masks(model)))
    )
    tiny.fit(model, tiny.forever(), note)
    found = dynamics(masks)
    assert len(found.steps) == 5
    np.testing.assert_array_equal(found.density, 0.5)
    # Half of the connections are dropped; some of them may grow again at once.
    assert (found.kernel_iou_previous >= 1 / 3).all()
    assert (found.kernel_iou_previous < 1).all()
    assert found.ever_active[-1] > 0.7


def recorded_curves(monkeypatch):
    drawn = []
    curve = figures.style.curve

    def record(axis, x, values, *, label, look):
        drawn.append((label, np.asarray(x), np.asarray(values)))
        curve(axis, x, values, label=label, look=look)

    monkeypatch.setattr(figures.style, "curve", record)
    return drawn


def test_figure_of_the_dynamics(tmp_path, monkeypatch):
    drawn = recorded_curves(monkeypatch)
    runs = [dynamics(random_masks([0, 10, 20], seed)) for seed in range(2)]
    figures.dynamics({"a": runs, "b": runs[:1]}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert [label for label, *_ in drawn] == ["a"] * 4 + ["b"] * 4
    _, steps, values = drawn[1]
    assert steps.tolist() == [10, 20]
    np.testing.assert_array_equal(values, [run.iou_previous for run in runs])
    np.testing.assert_array_equal(drawn[2][2], [run.ever_active for run in runs])


def test_figure_of_one_step(tmp_path):
    found = dynamics(random_masks([0], 0))
    figures.dynamics({"a": [found]}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()


def test_figure_refuses_runs_at_other_steps(tmp_path):
    runs = [dynamics(random_masks(steps, 0)) for steps in ([0, 1], [0, 2])]
    with pytest.raises(ValueError, match="same steps"):
        figures.dynamics({"a": runs}, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()
