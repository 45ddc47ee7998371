"""Updates and prunings by patterns, against lists of indices."""

import functools

import numpy as np
import own_pattern
import pruning_reference
import pytest
import tensorflow as tf
from pattern_reference import GroupedKernel

from rigl_keras.algorithms.base import MaskUpdater
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.core.patterns import from_text
from rigl_keras.mask_updaters import ALGORITHMS, PRUNERS, KernelState

pytestmark = pytest.mark.one_keras

PATTERNS = [
    "unstructured",
    "blocks(4, 1)",
    "blocks(2, 2, 'inputs')",
    "blocks(1, 4, 'outputs')",
    "blocks('all', 1)",
    "n_of_m(2, 4)",
    "constant_fan_in",
    "constant_fan_in(0.3)",
    "constant_fan_in(1)",
    own_pattern.Woven.name,
]
# Shape, axes of inputs and of outputs.
KERNELS = {
    "dense": ((16, 8), (0,), (1,)),
    "transposed": ((3, 8, 4), (2,), (1,)),
    "several axes": ((2, 4, 2, 4), (1, 2), (0, 3)),
}
FRACTIONS = (0.0, 0.3, 0.7, 1.0)


def random_state(text, kernel, seed, special=False):
    """A state with few different scores; its mask has half of the units."""
    generator = np.random.RandomState(seed)
    expected = GroupedKernel(text, *KERNELS[kernel])
    shape = expected.shape

    def draw(*numbers):
        return generator.choice(np.float32(numbers), shape)

    count = expected.count_at(0.5)
    chosen = [
        (group, unit)
        for group in range(len(expected.groups))
        for unit in generator.permutation(expected.units)[:count]
    ]
    mask = expected.mask_of(chosen)
    odd = (np.inf, np.nan) if special else ()
    weights = np.where(mask, draw(-3, -2, -1, 0, 1, 2, 3, *odd), np.float32(0))
    gradient, hessian_gradient = draw(-2, -1, 0, 1, 2, *odd), draw(-2, -1, 0, 1, 2)
    state = KernelState(
        tf.constant(weights),
        tf.constant(mask),
        tf.constant(gradient),
        stateless_seed("grow", seed),
        hessian_gradient=tf.constant(hessian_gradient),
        pattern=from_text(text),
        axes=KERNELS[kernel][1:],
    )
    return state, expected


def arrays(state):
    return [tensor.numpy() for tensor in (state.weights, state.mask, state.gradient)]


def grow_scores(name, state, expected):
    """The scores of units by which an algorithm grows."""
    if name == "set":
        groups, units, elements = np.shape(expected.groups)
        shape = state.mask.shape if elements == 1 else (groups, units)
        draw = tf.random.stateless_uniform(
            shape, state.seed, None, None, tf.int32, alg=ALGORITHM
        ).numpy()
        return expected.sums(draw) if elements == 1 else draw
    sums = np.abs(expected.sums(state.gradient.numpy()))
    return -sums if name == "rigl_inverted" else sums


def assert_updates(update, name, state, expected, noise=0):
    weights, mask, _ = arrays(state)
    drop_scores = expected.sums(np.abs(weights)) + noise
    grown_by = grow_scores(name, state, expected)
    for fraction in FRACTIONS:
        new = update(state, tf.constant(fraction)).numpy()
        by_lists = expected.updated(mask, drop_scores, grown_by, fraction=fraction)
        np.testing.assert_array_equal(new, by_lists)
        assert new.sum() == mask.sum()


def names_of(default):
    """All algorithms; those that others share most with for a release."""
    return [
        pytest.param(name, marks=() if name in default else pytest.mark.release)
        for name in ALGORITHMS
    ]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("name", names_of(("rigl", "set")))
def test_updates_are_those_of_the_lists(name, text, kernel):
    for seed in range(3):
        state, expected = random_state(text, kernel, seed, special=seed == 2)
        with np.errstate(invalid="ignore"):
            assert_updates(ALGORITHMS[name]().new_mask, name, state, expected)


def names_and_patterns(algorithms, shown):
    """All pairs; but for one algorithm, whose graph the others share, for a release."""
    return [
        pytest.param(name, text, marks=() if name == shown else pytest.mark.release)
        for name in algorithms
        for text in PATTERNS
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text"), names_and_patterns(ALGORITHMS, "rigl"))
def test_updates_under_xla_are_those_of_the_lists(name, text):
    state, _ = random_state(text, "several axes", 0)
    updater = ALGORITHMS[name]()

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def compiled(weights, mask, gradient, seed, fraction):
        changed = {"weights": weights, "mask": mask, "gradient": gradient}
        return updater.new_mask(state._replace(seed=seed, **changed), fraction)

    def update(state, fraction):
        return compiled(*state[:4], fraction)

    for seed in range(3):
        state, expected = random_state(text, "several axes", seed)
        assert_updates(update, name, state, expected)


@pytest.mark.parametrize("text", PATTERNS)
def test_noise_is_added_to_the_scores_of_units(text):
    state, expected = random_state(text, "dense", 0)
    shape = np.shape(expected.groups)[:2]
    seed = tf.bitwise.invert(state.seed)
    noise = tf.random.stateless_normal(shape, seed, alg=ALGORITHM).numpy()
    update = ALGORITHMS["rigl"](drop_noise=0.5).new_mask
    assert_updates(update, "rigl", state, expected, noise=np.float32(0.5) * noise)


class Sixteen(MaskUpdater):
    """Scores of 16 bits, whose sums those would round."""

    def drop_scores(self, state):
        return tf.cast(tf.abs(state.weights) + 256, tf.bfloat16)

    def grow_scores(self, state):
        return tf.cast(state.gradient, tf.float16)


@pytest.mark.parametrize("text", PATTERNS)
def test_scores_of_other_types(text):
    state, expected = random_state(text, "dense", 1)
    weights, mask, gradient = arrays(state)
    drop = expected.sums(
        tf.cast(np.abs(weights) + 256, tf.bfloat16).numpy().astype("f")
    )
    by_lists = expected.updated(mask, drop, expected.sums(gradient), fraction=0.4)
    new = Sixteen().new_mask(state, tf.constant(0.4))
    np.testing.assert_array_equal(new, by_lists)


KEEP_SCORES = {
    "magnitude": lambda state: np.abs(state.weights),
    "snip": lambda state: np.abs(state.weights * state.gradient),
    "grasp": lambda state: np.array(state.weights * state.hessian_gradient),
}


def random_states(text, kernels=tuple(KERNELS)):
    drawn = (random_state(text, name, seed) for seed, name in enumerate(kernels))
    return zip(*drawn, strict=True)


def assert_prunings(prune, name, states, kernels):
    # Some is less than what the masks have lost already.
    for sparsity in (0.2, 0.5, 0.75, 0.99):
        masks = prune(tf.constant(sparsity))
        for state, kernel, mask in zip(states, kernels, masks, strict=True):
            scores = KEEP_SCORES[name](state)
            expected = kernel.pruned(state.mask.numpy(), scores, sparsity)
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("name", PRUNERS)
def test_prunings_are_those_of_the_lists(name, text):
    states, kernels = random_states(text)
    prune = functools.partial(PRUNERS[name]().new_masks, states)
    assert_prunings(prune, name, states, kernels)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text"), names_and_patterns(PRUNERS, "magnitude"))
def test_prunings_under_xla_are_those_of_the_lists(name, text):
    states, kernels = random_states(text, ["several axes"])
    prune = functools.partial(PRUNERS[name]().new_masks, states)
    compiled = tf.function(prune, jit_compile=True, autograph=False)
    assert_prunings(compiled, name, states, kernels)


@pytest.mark.parametrize("text", ["blocks(4, 1)", "blocks(2, 2)"])
def test_units_of_all_kernels_are_ranked_together(text):
    states, kernels = random_states(text)
    masks = PRUNERS["magnitude"]("global").new_masks(states, tf.constant(0.8))
    expected = pruning_reference.globally_pruned_masks(
        [k.sums(np.abs(s.weights)) for k, s in zip(kernels, states, strict=True)],
        [k.present(s.mask.numpy()) for k, s in zip(kernels, states, strict=True)],
        0.8,
    )
    for kernel, mask, units in zip(kernels, masks, expected, strict=True):
        np.testing.assert_array_equal(mask, kernel.mask_of(np.argwhere(units)))
