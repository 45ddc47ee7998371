"""Patterns of TensorFlow Model Optimization: its masks are ours, and are trained on."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras
from wrapped_models import their_masks, theirs, wrap, wrappers

import rigl_keras
from rigl_keras import SNFS, Pruning, RigL, patterns
from rigl_keras.algorithms import schedules
from rigl_keras.core.masks import is_sparse
from rigl_keras.mask_updaters import KernelState, Magnitude

if tiny.IS_KERAS_3:
    pytest.skip("TFMOT prunes models of Keras 2 only", allow_module_level=True)

from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

LAYERS = keras.layers
pytestmark = pytest.mark.both_kerases

NEVER = 10**6  # as a schedule's frequency: it prunes at its first step only


# The masks that TFMOT makes


def their_mask(weights, sparsity, *, pooling="AVG", **pattern):
    """The mask that TFMOT makes of weights in one pruning."""
    kernel, mask = tf.Variable(weights), tf.Variable(tf.ones_like(weights))
    options = {"block_size": (1, 1), "sparsity_m_by_n": None, **pattern}
    pruning_impl.Pruning(
        lambda: tf.constant(1, tf.int64),
        [(kernel, mask, tf.Variable(0.0))],
        schedules.constant_sparsity(sparsity, 1, frequency=1),
        block_pooling_type=pooling,
        **options,
    ).conditional_mask_update()
    return mask.numpy() == 1


def our_masks(layer, shape, sparsity, pattern):
    """A kernel's weights and the masks that each of our prunings gives it."""
    model = keras.Sequential([keras.Input(shape), layer])
    generator = np.random.RandomState(len(str(pattern)))
    kernel = layer.kernel
    kernel.assign(generator.randn(*kernel.shape).astype(np.float32))
    weights = kernel.numpy()
    (chosen,) = rigl_keras.get_masks(
        tiny.sparsify(model, sparsity, method="magnitude", pattern=pattern)
    ).values()
    ones = tiny.compiled(tiny.sparsify(model, 0, pattern=pattern))
    (sparse,) = rigl_keras.sparse_kernels(ones)
    state = KernelState(
        tf.constant(weights),
        tf.ones(weights.shape, tf.bool),
        pattern=sparse.pattern,
        axes=(sparse.in_axes, sparse.out_axes),
    )
    [updated] = Magnitude().new_masks([state], tf.constant(sparsity, tf.float32))
    rigl_keras.prune_once(ones, "magnitude", sparsity, ranking="layer")
    (once,) = rigl_keras.get_masks(ones).values()
    return weights, (chosen, updated.numpy(), once)


@pytest.mark.parametrize("block", [(16, 1), (4, 1), (1, 4), (4, 4), (2, 8)])
@pytest.mark.parametrize("sparsity", [0.5, 0.85])
def test_masks_of_blocks_are_those_of_tfmot(block, sparsity):
    """Weights are without ties: of blocks at its threshold TFMOT keeps all."""
    layer = LAYERS.Dense(24)
    weights, masks = our_masks(layer, (32,), sparsity, patterns.Blocks(*block))
    expected = their_mask(weights, sparsity, block_size=block)
    height, width = block
    blocks = weights.size // (height * width)
    assert expected.sum() == round(blocks * (1 - sparsity)) * height * width
    for mask in masks:
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: LAYERS.Dense(7), (12,)),
        (lambda: LAYERS.Conv2D(5, (3, 2)), (4, 4, 12)),
    ],
)
@pytest.mark.parametrize(("zeros", "size"), [(2, 4), (1, 4), (3, 4), (1, 2), (2, 3)])
def test_masks_of_n_of_m_are_those_of_tfmot(layer, shape, zeros, size):
    """TFMOT names the zeros: with (1, 4) three of four weights are left."""
    pattern = patterns.NOfM(size - zeros, size)
    weights, masks = our_masks(layer(), shape, zeros / size, pattern)
    # The sparsity of its schedule counts for nothing in this pattern.
    expected = their_mask(weights, 0.1, sparsity_m_by_n=(zeros, size))
    assert expected.mean() == pytest.approx(1 - zeros / size)
    for mask in masks:
        np.testing.assert_array_equal(mask, expected)


def test_of_equal_blocks_tfmot_keeps_all_and_we_the_exact_count():
    weights = np.float32([[1, 2], [1, 0], [-1, 5], [1, 4]])
    assert their_mask(weights, 0.5, block_size=(2, 1)).sum() == 8
    state = KernelState(
        tf.constant(weights),
        tf.ones((4, 2), tf.bool),
        pattern=patterns.Blocks(2),
        axes=((0,), (1,)),
    )
    [mask] = Magnitude().new_masks([state], tf.constant(0.5))
    np.testing.assert_array_equal(mask, [[1, 0], [1, 0], [0, 1], [0, 1]])


def test_blocks_are_ranked_as_by_average_pooling_not_by_the_largest():
    weights = np.float32([[5, 3], [0, 3], [1, 1], [1, 1]])
    state = KernelState(
        tf.constant(weights),
        tf.ones((4, 2), tf.bool),
        pattern=patterns.Blocks(2),
        axes=((0,), (1,)),
    )
    [mask] = Magnitude().new_masks([state], tf.constant(0.75))
    average = their_mask(weights, 0.75, block_size=(2, 1))
    largest = their_mask(weights, 0.75, block_size=(2, 1), pooling="MAX")
    np.testing.assert_array_equal(mask, average)
    np.testing.assert_array_equal(average, [[0, 1], [0, 1], [0, 0], [0, 0]])
    np.testing.assert_array_equal(largest, [[1, 0], [1, 0], [0, 0], [0, 0]])


def test_blocks_that_do_not_divide_a_kernel_are_pooled_askew_by_tfmot():
    """Its pooling pads both ends, its mask the far one, so it keeps other blocks."""
    weights = np.float32([[1], [1], [1], [9], [5]]) * np.ones(2, np.float32)
    # Ranked are the rows 0-2 and 3-4, masked 0-3 and 4.
    mask = their_mask(weights, 0.5, block_size=(4, 1))
    np.testing.assert_array_equal(mask[:, 0], [0, 0, 0, 0, 1])
    with pytest.raises(ValueError, match="5 inputs are no multiple of 4"):
        patterns.Blocks(4).grouping((5, 2), (0,), (1,))


def test_tfmot_prunes_no_convolution_in_blocks():
    with pytest.raises(ValueError, match="2-dimensional"):
        keras.Sequential(
            [keras.Input((4, 4, 4)), wrap(LAYERS.Conv2D(4, 3), block_size=(4, 1))]
        )


# Trainings of both


def net():
    """Kernels that all patterns below suit.

    Of a kernel with one row or column of blocks TFMOT loses an axis, and fails.
    """
    model = keras.Sequential(
        [
            keras.Input((8,)),
            LAYERS.Dense(12, activation="relu", name="hidden"),
            LAYERS.Dense(8, name="out"),
        ]
    )
    for index, weight in enumerate(model.weights):
        generator = np.random.RandomState(index)
        weight.assign(generator.randn(*weight.shape).astype(np.float32))
    return model


def trained(model, *callbacks, epochs=2):
    generator = np.random.RandomState(7)
    x = generator.randn(32, 8).astype(np.float32)
    y = generator.randn(32, 8).astype(np.float32)
    options = {"shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
    model.fit(x, y, batch_size=8, epochs=epochs, **options)
    return model


PATTERNS = [
    ({"block_size": (4, 1)}, patterns.Blocks(4)),
    ({"block_size": (2, 4)}, patterns.Blocks(2, 4)),
    ({"sparsity_m_by_n": (1, 4)}, patterns.NOfM(3, 4)),
    ({"sparsity_m_by_n": (2, 4)}, patterns.NOfM(2, 4)),
]


def pruned(options):
    """A wrapped model that TFMOT has trained for a few steps."""
    return trained(tiny.compiled(wrap(net(), **options)), theirs().UpdatePruningStep())


def check_pattern(mask, pattern):
    """Whole blocks, or n of each m rows, counted by numpy."""
    rows, columns = mask.shape
    if isinstance(pattern, patterns.NOfM):
        counts = mask.reshape(rows // pattern.m, pattern.m, columns).sum(1)
        assert (counts == pattern.n).all()
        return
    height, width = pattern.inputs, pattern.outputs
    parts = mask.reshape(rows // height, height, columns // width, width)
    assert np.isin(parts.sum((1, 3)), (0, height * width)).all()


@pytest.mark.parametrize(
    ("options", "pattern", "sparsity"),
    [(*PATTERNS[0], 0.6), (*PATTERNS[3], 0.5)],
)
@pytest.mark.slow
def test_pruning_while_training_gives_the_masks_of_tfmot(options, pattern, sparsity):
    """They prune once: at a second pruning TFMOT may bring back what it pruned."""
    schedule = schedules.constant_sparsity(sparsity, 1, frequency=NEVER)
    wrapped = theirs().prune_low_magnitude(net(), schedule, **options)
    trained(tiny.compiled(wrapped), theirs().UpdatePruningStep())
    sparse = tiny.compiled(tiny.sparsify(net(), 0, pattern=pattern))
    trained(sparse, Pruning(schedule))
    both = zip(
        rigl_keras.get_masks(sparse).values(),
        their_masks(wrapped).values(),
        strict=True,
    )
    for mine, (his,) in both:
        assert mine.mean() < 0.6
        np.testing.assert_array_equal(mine, his == 1)


@pytest.mark.parametrize(
    ("options", "pattern", "callback"),
    [
        (*PATTERNS[0], RigL),
        pytest.param(*PATTERNS[1], SNFS, marks=pytest.mark.release),
        (*PATTERNS[2], SNFS),
        pytest.param(*PATTERNS[3], RigL, marks=pytest.mark.release),
    ],
)
@pytest.mark.slow
def test_masks_stay_in_the_pattern_of_the_wrapper(options, pattern, callback):
    model = pruned(options)
    counts, before = tiny.counts(model), rigl_keras.get_masks(model)

    def check(model):
        tiny.assert_zero_off_masks(model)
        assert tiny.counts(model) == counts
        for (mask,) in their_masks(model).values():
            check_pattern(mask == 1, pattern)

    trained(model, tiny.forever(callback, 1, fraction=0.5), tiny.EveryStep(check))
    assert [kernel.pattern for kernel in rigl_keras.sparse_kernels(model)] == [
        pattern,
        pattern,
    ]
    after = rigl_keras.get_masks(model)
    assert all((after[path] != mask).any() for path, mask in before.items())


@pytest.mark.parametrize(("options", "pattern"), PATTERNS[1:3])
@pytest.mark.slow
def test_a_training_is_that_of_a_copy_of_the_same_pattern(options, pattern):
    model = pruned(options)
    sparse = tiny.compiled(rigl_keras.from_tfmot(model, verbose=False))
    assert {kernel.pattern for kernel in rigl_keras.sparse_kernels(sparse)} == {pattern}
    for each in (tiny.compiled(model), sparse):
        trained(each, tiny.forever(RigL, 2))
    tiny.assert_same_masks(rigl_keras.get_masks(model), rigl_keras.get_masks(sparse))
    for path, weight in tiny.weights(model).items():
        np.testing.assert_array_equal(weight, tiny.weights(sparse)[path])


@pytest.mark.parametrize(("options", "pattern"), PATTERNS[1:3])
@pytest.mark.slow
def test_a_wrapper_that_has_not_pruned_yet_is_pruned_in_its_pattern(options, pattern):
    sparsity = pattern.own_sparsity or 0.5
    once = tiny.compiled(wrap(net(), **options))
    rigl_keras.prune_once(once, "magnitude", sparsity, ranking="layer")
    step_by_step = tiny.compiled(wrap(net(), **options))
    schedule = schedules.constant_sparsity(sparsity, 1, frequency=NEVER)
    trained(step_by_step, Pruning(schedule))
    tiny.assert_same_masks(
        rigl_keras.get_masks(once), rigl_keras.get_masks(step_by_step)
    )
    for mask in rigl_keras.get_masks(once).values():
        check_pattern(mask, pattern)
        assert mask.mean() == pytest.approx(1 - sparsity)


# What is refused


def refused(layer, shape, **options):
    """A wrapped layer that no callback and no copy takes, and the reason."""
    model = keras.Sequential([keras.Input(shape), wrap(layer, **options)])
    tiny.compiled(model)
    with pytest.raises(ValueError, match="TFMOT prunes") as adopting:
        RigL(1).prepare(model)
    with pytest.raises(ValueError, match="TFMOT prunes") as copying:
        rigl_keras.from_tfmot(model)
    assert str(adopting.value) == str(copying.value)
    # It stays TFMOT's: nothing was adopted.
    (wrapper,) = wrappers(model).values()
    assert not any(is_sparse(weight) for weight, _, _ in wrapper.pruning_vars)
    sparse = rigl_keras.from_tfmot(model, verbose=False, pattern="unstructured")
    assert rigl_keras.sparse_kernels(sparse)
    return str(adopting.value)


@pytest.mark.parametrize(
    ("layer", "shape", "options", "reason"),
    [
        (
            lambda: LAYERS.Dense(8, name="odd"),
            (6,),
            {"block_size": (4, 1)},
            "'odd' with block_size=(4, 1), .*: its 6 inputs are no multiple of 4. ",
        ),
        (
            lambda: LAYERS.Dense(7, name="odd"),
            (8,),
            {"block_size": [4, 2]},
            "block_size=(4, 2), .*: its 7 outputs are no multiple of 2. ",
        ),
        (
            lambda: LAYERS.Dense(8, name="odd"),
            (6,),
            {"sparsity_m_by_n": (2, 4)},
            "sparsity_m_by_n=(2, 4), .*: its 6 inputs are no multiple of 4. ",
        ),
        (
            # TFMOT takes its last axis but one for that of inputs.
            lambda: LAYERS.Conv2DTranspose(8, 3, name="odd"),
            (4, 4, 4),
            {"sparsity_m_by_n": (2, 4)},
            "'odd' with .*: axis 2 of the kernel does not count inputs. ",
        ),
        (
            lambda: LAYERS.Dense(8, name="odd"),
            (8,),
            {"sparsity_m_by_n": (0, 4)},
            "sparsity_m_by_n=(0, 4), .*: Expected `n` of NOfM to be less than m=4",
        ),
    ],
)
def test_what_is_no_pattern_here_is_refused_with_a_way_out(
    layer, shape, options, reason
):
    found = refused(layer(), shape, **options)
    pattern = ".*".join(map(re.escape, reason.split(".*")))
    assert re.search(pattern, found), found
    assert "rigl_keras.from_tfmot(model, pattern='unstructured')" in found


def test_masks_that_are_not_in_the_pattern_of_their_wrapper_are_refused():
    model = tiny.compiled(wrap(net(), block_size=(4, 1)))
    _, mask, _ = wrappers(model)["hidden"].pruning_vars[0]
    values = np.ones(mask.shape, np.float32)
    values[0, 0] = 0
    mask.assign(values)
    for refuse in (RigL(1).prepare, rigl_keras.from_tfmot):
        with pytest.raises(ValueError, match=r"hidden/kernel' .*blocks\(4, 1\).*parts"):
            refuse(model)
