"""Masks of patterns: drawn, given, set and loaded."""

import numpy as np
import own_pattern
import pytest
import tensorflow as tf
import tiny
from pattern_reference import GroupedKernel
from tensorflow import keras

import rigl_keras
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core.initial_masks import shuffled_mask
from rigl_keras.patterns import from_text

pytestmark = pytest.mark.one_keras

LAYERS = keras.layers
PATTERNS = [
    "unstructured",
    "blocks(4, 1)",
    "blocks(2, 2, 'inputs')",
    "blocks(1, 4, 'outputs')",
    "blocks('all', 1)",
    "n_of_m(1, 4)",
    "constant_fan_in",
    "constant_fan_in(0.3)",
    own_pattern.Woven.name,
]


def net():
    layers = [
        keras.Input((5, 5, 4)),
        LAYERS.Conv2D(8, 3, name="conv"),
        LAYERS.Conv2DTranspose(4, 2, name="transposed"),
        LAYERS.GlobalAveragePooling2D(),
        LAYERS.Dense(16, name="hidden"),
        LAYERS.Dense(8, name="out"),
    ]
    model = keras.Sequential(layers)
    tiny.set_integer_weights(model)
    return model


def sparse_net(text, sparsity=None, **options):
    return tiny.sparsify(net(), sparsity, pattern=text, **options)


def reference(kernel, text):
    shape = tuple(kernel.kernel.shape)
    return GroupedKernel(text, shape, kernel.in_axes, kernel.out_axes)


def small_net(text, **options):
    model = keras.Sequential([keras.Input((8,)), LAYERS.Dense(4, name="out")])
    return tiny.sparsify(model, pattern=text, **options)


@pytest.mark.parametrize("method", ["random", "magnitude"])
@pytest.mark.parametrize("text", PATTERNS)
def test_groups_have_as_many_units_as_the_sparsity_says(text, method):
    sparsity = None if text.startswith("n_of_m") else 0.7
    model = sparse_net(text, sparsity, method=method)
    for kernel in rigl_keras.sparse_kernels(model):
        expected, mask = reference(kernel, text), kernel.mask.numpy()
        assert expected.is_whole(mask)
        count = expected.count_at(0.7)
        assert (expected.counts(mask) == count).all(), kernel.path


@pytest.mark.parametrize("text", PATTERNS)
def test_magnitudes_choose_the_largest_units(text):
    plain = tiny.weights(sparse_net(None, 0))
    sparsity = None if text.startswith("n_of_m") else 0.7
    model = sparse_net(text, sparsity, method="magnitude")
    for kernel in rigl_keras.sparse_kernels(model):
        expected = reference(kernel, text)
        # No unit is gone before, so pruning and choosing are the same but for rounding.
        count = expected.count_at(0.7)
        everything = np.ones(expected.shape, bool)
        share = 1 - count / expected.units
        mask = expected.pruned(everything, np.abs(plain[kernel.path]), share)
        np.testing.assert_array_equal(kernel.mask.numpy(), mask)


@pytest.mark.parametrize("text", PATTERNS)
def test_random_masks_depend_on_the_seed_alone(text):
    sparsity = None if text.startswith("n_of_m") else 0.7
    masks = [
        rigl_keras.get_masks(sparse_net(text, sparsity, seed=seed))
        for seed in (1, 1, 2)
    ]
    tiny.assert_same_masks(masks[0], masks[1])
    assert any((masks[0][path] != masks[2][path]).any() for path in masks[0])


@pytest.mark.parametrize("text", PATTERNS)
def test_sparsity_0_makes_masks_of_ones(text):
    masks = rigl_keras.get_masks(sparse_net(text, 0))
    assert len(masks) == 4
    assert all(mask.all() for mask in masks.values())


def test_at_least_one_unit_of_each_group_exists():
    for text in ("constant_fan_in", "blocks('all', 1)", "blocks(1, 4, 'outputs')"):
        for kernel in rigl_keras.sparse_kernels(sparse_net(text, 0.999)):
            counts = reference(kernel, text).counts(kernel.mask.numpy())
            assert (counts == 1).all()


def test_n_of_m_sets_the_sparsity():
    model = sparse_net("n_of_m(1, 4)")
    assert all(mask.mean() == 0.25 for mask in rigl_keras.get_masks(model).values())
    tiny.assert_same_masks(
        rigl_keras.get_masks(model),
        rigl_keras.get_masks(sparse_net("n_of_m(1, 4)", 0.75)),
    )
    with pytest.raises(ValueError, match=r"sparsity 0.75 of 'conv/kernel'.*got 0.9"):
        sparse_net("n_of_m(1, 4)", 0.9)


@pytest.mark.parametrize("path", ["out/*", "out/kernel"])
def test_overrides_beside_the_sparsity_that_a_pattern_sets(path):
    model = sparse_net("n_of_m(1, 4)", overrides={path: 0})
    assert "out/kernel" not in rigl_keras.get_masks(model)
    assert len(rigl_keras.get_masks(model)) == 3
    with pytest.raises(ValueError, match=r"sparsity 0.75 of 'out/kernel'.*got 0.5"):
        sparse_net("n_of_m(1, 4)", overrides={path: 0.5})


def test_other_kernels_have_the_sparsity_that_was_asked_for():
    model = sparse_net({"out/*": "n_of_m(1, 4)", "*": "constant_fan_in"}, 0.5)
    means = {path: mask.mean() for path, mask in rigl_keras.get_masks(model).items()}
    assert means == dict.fromkeys(means, 0.5) | {"out/kernel": 0.25}


def test_a_layer_has_the_sparsity_that_its_pattern_sets():
    layer = rigl_keras.Sparse(LAYERS.Dense(4), pattern="n_of_m(1, 4)")
    layer.build((None, 8))
    assert layer.sparse_masks[0].numpy().mean() == 0.25
    layer = rigl_keras.Sparse(LAYERS.Dense(10), pattern="constant_fan_in")
    layer.build((None, 10))
    assert layer.sparse_masks[0].numpy().mean() == 0.1


def test_erk_counts_blocks_by_the_shapes_of_kernels():
    text = "blocks(2, 2)"
    plain = sparse_net(None, 0.7, distribution="erk")
    model = sparse_net(text, 0.7, distribution="erk")
    assert tiny.counts(model).keys() == tiny.counts(plain).keys()
    for kernel in rigl_keras.sparse_kernels(model):
        # As many weights as without a pattern, but for half a block.
        count = tiny.counts(model)[kernel.path]
        assert count % 4 == 0
        assert abs(count - tiny.counts(plain)[kernel.path]) <= 2.5
        assert reference(kernel, text).is_whole(kernel.mask.numpy())


# A mask [8, 4], by the rows in which each output has weights.
def mask_of(*rows_of_outputs):
    mask = np.zeros((8, 4), bool)
    for output, rows in enumerate(rows_of_outputs):
        mask[list(rows), output] = True
    return mask


@pytest.mark.parametrize(
    ("text", "mask", "message"),
    [
        ("blocks(2, 1)", mask_of([0, 1], [2, 3], [], [6, 7]), None),
        ("blocks(2, 1)", mask_of([0, 1], [1, 2]), "units of 2 weights, but .* parts"),
        ("blocks('all', 1)", mask_of(range(8)), None),
        ("blocks('all', 1)", mask_of(range(7)), "units of 8 weights, but .* parts"),
        ("constant_fan_in", mask_of([0, 1], [1, 2], [2, 3], [4, 7]), None),
        ("constant_fan_in", mask_of([0, 1], [1, 2], [2, 3], [4]), "they have 1 to 2"),
        ("constant_fan_in(0.3)", mask_of([0, 1], [1, 2], [], [4]), None),
        ("constant_fan_in(0.3)", mask_of([0, 1, 5], [4]), "they have 1 to 3"),
        ("n_of_m(2, 4)", mask_of(*[[0, 3, 5, 6]] * 4), None),
        ("n_of_m(2, 4)", mask_of(*[[0, 4]] * 4), "2 of every 4 weights, but it has 1"),
        ("n_of_m(2, 4)", mask_of(*[[0, 1, 2, 4]] * 4), "they have 1 to 3"),
    ],
)
def test_masks_that_are_given_or_set_have_the_pattern(text, mask, message):
    def given():
        return small_net(text, masks={"out/kernel": mask})

    def set_after():
        model = small_net(text)
        before = rigl_keras.get_masks(model)
        try:
            rigl_keras.set_masks(model, {"out/kernel": mask})
        except ValueError:
            tiny.assert_same_masks(rigl_keras.get_masks(model), before)
            raise
        return model

    for make in (given, set_after):
        if message is None:
            tiny.assert_same_masks(rigl_keras.get_masks(make()), {"out/kernel": mask})
            continue
        with pytest.raises(ValueError, match=f"'out/kernel' .*{message}"):
            make()


def test_refused_masks_may_be_taken_without_a_pattern():
    mask = mask_of([0], [1, 2])
    with pytest.raises(ValueError, match="pattern='unstructured'"):
        small_net("n_of_m(2, 4)", masks={"out/kernel": mask})
    model = small_net("unstructured", masks={"out/kernel": mask})
    tiny.assert_same_masks(rigl_keras.get_masks(model), {"out/kernel": mask})


def test_weights_are_loaded_into_a_model_of_the_same_pattern_only(tmp_path):
    path = tmp_path / "of.weights.h5"
    source = small_net("n_of_m(2, 4)", seed=1)
    source.save_weights(path)
    other = small_net("n_of_m(2, 4)", seed=2)
    other.load_weights(path)
    tiny.assert_same_masks(rigl_keras.get_masks(other), rigl_keras.get_masks(source))
    # Two of four everywhere is four inputs of every output.
    small_net("constant_fan_in").load_weights(path)
    with pytest.raises(ValueError, match=r"'(out/)?kernel' .* pattern blocks\(4, 1\)"):
        small_net("blocks(4, 1)").load_weights(path)


@pytest.mark.parametrize("text", PATTERNS)
def test_shuffled_masks_have_as_many_units_in_each_group(text):
    shape, axes = (2, 8, 16), ((1,), (2,))
    expected = GroupedKernel(text, shape, *axes)
    generator = np.random.RandomState(0)
    # Groups need not be alike: some are empty, some full.
    units = generator.rand(*np.shape(expected.groups)[:2]) < 0.5
    units[0], units[-1] = units[0] & (len(units) == 1), True
    units[-1, 0] = len(units) > 1
    mask = expected.mask_of(np.argwhere(units))
    grouping = from_text(text).grouping(shape, *axes)
    one, again, other = (
        shuffled_mask(mask, grouping, stateless_seed("test", seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (one != mask).any()
    assert expected.is_whole(one)
    np.testing.assert_array_equal(expected.counts(one), expected.counts(mask))


def test_units_are_shuffled_to_every_place_alike():
    mask = mask_of(*[[0, 1]] * 4)
    grouping = from_text("constant_fan_in").grouping((8, 4), (0,), (1,))
    draws = 400
    masks = [
        shuffled_mask(mask, grouping, stateless_seed("test", seed))
        for seed in range(draws)
    ]
    deviation = np.sqrt(draws * 1 / 4 * 3 / 4)
    assert np.abs(np.sum(masks, 0) - draws / 4).max() < 5 * deviation
    assert tf.reduce_all(np.sum(masks, 1) == 2)
