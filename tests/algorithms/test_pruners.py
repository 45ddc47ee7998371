import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given
from hypothesis import strategies as st
from pruning_reference import globally_pruned_masks, kept_count, pruned_mask

from rigl_keras import mask_updaters
from rigl_keras.mask_updaters import PRUNERS, KernelState

# With halves among the counts, which round to even.
SPARSITIES = st.sampled_from([0.0, 0.5, 0.75, 0.9]) | st.floats(0, 0.9375, width=32)


def pruner_scores(name, weights, gradient):
    """What each keeps most of; the gradient is the Hessian's product for GraSP."""
    return {
        "magnitude": np.abs(weights),
        "snip": np.abs(weights * gradient),
        "grasp": weights * gradient,
    }[name]


def pruner_state(weights, mask, gradient):
    constants = map(tf.constant, (weights * mask, mask, gradient))
    weights, mask, gradient = constants
    return KernelState(weights, mask, gradient, None, gradient)


def random_states(seed, shapes=((3, 5), (7, 1), (2, 2, 1, 3))):
    """Weights and gradients with ties, and masks that leave something."""
    generator = np.random.RandomState(seed)
    states = []
    for number, shape in enumerate(shapes):
        mask = generator.rand(*shape) < 0.8
        mask.flat[0] = True
        # Kernels of different scales: one would lose everything to another.
        weights = tiny.integers(shape, seed + number) * np.float32(4**number)
        states.append((weights, mask, tiny.integers(shape, seed + number + 9)))
    return states


@pytest.mark.parametrize("ranking", mask_updaters.RANKINGS)
@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_pruners_keep_the_highest_scores(name, ranking):
    pruner = PRUNERS[name](ranking)
    prune = tf.function(pruner.new_masks)

    @given(st.integers(0, 1000), SPARSITIES)
    def check(seed, sparsity):
        numbers = random_states(seed)
        states = [pruner_state(*each) for each in numbers]
        new = [m.numpy() for m in prune(states, tf.constant(sparsity, tf.float32))]
        masks = [mask for _, mask, _ in numbers]
        scores = [pruner_scores(name, w * m, g) for w, m, g in numbers]
        if ranking == "global":
            expected = globally_pruned_masks(scores, masks, sparsity)
        else:
            pairs = zip(scores, masks, strict=True)
            expected = [pruned_mask(s, m, sparsity) for s, m in pairs]
        for mask, old, other in zip(new, masks, expected, strict=True):
            np.testing.assert_array_equal(mask, other)
            assert mask.any() and not (mask & ~old).any()

    check()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("magnitude", [0, 0, 1, 1]), ("snip", [1, 0, 1, 0]), ("grasp", [1, 1, 0, 0])],
)
def test_hand_worked_prunings(name, expected):
    weights, gradient = np.float32([[1, -2, 3, -4]]), np.float32([[9, -1, -2, 1]])
    # Products 9, 2, -6 and -4; GraSP removes those whose product is lowest.
    states = [pruner_state(weights, np.ones((1, 4), bool), gradient)]
    [mask] = PRUNERS[name]().new_masks(states, tf.constant(0.5))
    np.testing.assert_array_equal(mask, np.array([expected], bool))


@given(st.integers(1, 3000), SPARSITIES)
def test_counts_are_those_of_float32_arithmetic(size, sparsity):
    state = KernelState(tf.range(1.0, size + 1), tf.ones(size, tf.bool))
    [mask] = PRUNERS["magnitude"]().new_masks([state], tf.constant(sparsity))
    kept = kept_count(size, sparsity)
    np.testing.assert_array_equal(mask, np.arange(size) >= size - kept)


def test_a_pruner_checks_its_ranking_and_needs_scores():
    with pytest.raises(ValueError, match=r"ranking.*'layer', 'global'.*'all'"):
        PRUNERS["snip"]("all")
    with pytest.raises(NotImplementedError, match="Pruner defines no keep_scores"):
        mask_updaters.Pruner().keep_scores(None)
