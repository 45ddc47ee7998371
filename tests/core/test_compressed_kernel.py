"""Kernels stored without their zeros: reading, updating, moving weights and slots."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tensorflow import keras

from rigl_keras import Compressed, patterns
from rigl_keras.algorithms import SET, CompressedState, KernelState, RigL, RigLInverted
from rigl_keras.algorithms.compressed_update import new_indices
from rigl_keras.common.seeding import random_integers, stateless_seed
from rigl_keras.core import compressed_units
from rigl_keras.core.compressed_units import places_of, random_indices, spread_units
from rigl_keras.core.masked_kernel import Slot
from rigl_keras.core.patterns import from_text

SHAPE, IN_AXES, OUT_AXES = (3, 4, 8), (1,), (2,)
TEXTS = [
    "unstructured",
    "blocks(2, 1)",
    "blocks(2, 2, 'inputs')",
    "blocks(2, 1, 'inputs')",
    "blocks(1, 4, 'outputs')",
    "blocks('all', 2)",
    "n_of_m(2, 4)",
    "constant_fan_in",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("shape", "in_axes", "out_axes"),
    [(SHAPE, IN_AXES, OUT_AXES), ((8, 3, 4), (2,), (0,)), ((2, 4, 2, 4), (1,), (0, 3))],
)
def test_joined_undoes_split(text, shape, in_axes, out_axes):
    grouping = from_text(text).grouping(shape, in_axes, out_axes)
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    parts = grouping.split(tf.constant(values))
    assert parts.shape == (grouping.groups, grouping.units, grouping.elements)
    np.testing.assert_array_equal(grouping.joined(parts), values)
    np.testing.assert_array_equal(
        tf.reduce_sum(parts, axis=2), grouping.sums(tf.constant(values))
    )


def test_split_has_the_weights_of_each_block():
    values = np.arange(6 * 3, dtype=np.float32).reshape(6, 3)
    grouping = patterns.Blocks(2, 1, balanced="inputs").grouping((6, 3), (0,), (1,))
    wanted = values.reshape(3, 2, 3).swapaxes(1, 2)
    np.testing.assert_array_equal(grouping.split(tf.constant(values)), wanted)


def drawn_units(seed, groups, units, existing):
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.permutation(units)[:existing]) for _ in range(groups)]
    return np.array(rows, np.int32)


@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 9), st.data())
def test_places_and_spread_are_inverse(seed, groups, units, data):
    indices = drawn_units(seed, groups, units, data.draw(st.integers(1, units)))
    count = indices.shape[1]
    exists = np.zeros((groups, units), bool)
    np.put_along_axis(exists, indices, True, 1)
    np.testing.assert_array_equal(places_of(tf.constant(exists), count), indices)
    values = np.random.default_rng(seed).normal(size=(groups, count, 2))
    wanted = np.zeros((groups, units, 2))
    np.put_along_axis(wanted, indices[..., np.newaxis], values, 1)
    spread = spread_units(tf.constant(values), tf.constant(indices), units)
    np.testing.assert_array_equal(spread, wanted)


@pytest.mark.parametrize("units_a_part", [1, 14, 21, 10**6])
def test_random_indices_are_the_highest_scores_of_each_group(monkeypatch, units_a_part):
    monkeypatch.setattr(compressed_units, "_UNITS_A_PART", units_a_part)
    seed = stateless_seed("mask", 0)
    indices = random_indices(
        (6, 3), 7, lambda shape, first: random_integers(shape, seed, first)
    )
    scores = random_integers([6, 7], seed).numpy()
    wanted = np.sort(np.argsort(-scores.astype(np.int64), axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(indices, wanted)


# Updates


def states(seed, groups=6, units=7, existing=3, size=2, nan=False):
    """The same kernel with and without its zeros, of small integers with ties."""
    rng = np.random.default_rng(seed)
    indices = drawn_units(seed, groups, units, existing)
    values = rng.integers(-3, 4, (groups, existing, size)).astype(np.float32)
    gradient = rng.integers(-3, 4, (groups, size, units)).astype(np.float32)
    if nan:
        gradient[rng.random(gradient.shape) < 0.1] = np.nan
    weights = np.zeros((groups, units, size), np.float32)
    mask = np.zeros((groups, units, size), bool)
    np.put_along_axis(weights, indices[..., np.newaxis], values, 1)
    np.put_along_axis(mask, indices[..., np.newaxis], True, 1)
    key = stateless_seed("test", seed)
    compressed = CompressedState(
        tf.constant(values),
        tf.constant(indices),
        units,
        tf.constant(gradient.sum(axis=1)),
        key,
    )
    dense = [a.swapaxes(1, 2).reshape(groups * size, units) for a in (weights, mask)]
    masked = KernelState(
        *map(tf.constant, dense),
        tf.constant(gradient.reshape(groups * size, units)),
        key,
        pattern=patterns.Blocks(size, 1, balanced="inputs"),
        axes=((0,), (1,)),
    )
    return compressed, masked


def indices_of(mask, size):
    """The outputs of each group of inputs that have a block."""
    rows = np.asarray(mask)[::size]
    assert (np.repeat(rows, size, axis=0) == np.asarray(mask)).all()
    return np.array([np.flatnonzero(row) for row in rows])


UPDATERS = {
    "SET": SET(),
    "SET, noise": SET(drop_noise=1.0),
    "RigL": RigL(),
    "RigL, noise": RigL(drop_noise=1.0),
    "RigL inverted": RigLInverted(),
}
BY_UPDATER = pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS)


@BY_UPDATER
@given(
    seed=st.integers(0, 999),
    fraction=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.99, 1.0]),
    existing=st.integers(1, 7),
    nan=st.booleans(),
)
def test_an_update_leads_to_the_units_of_the_masked_kernel(
    updater, seed, fraction, existing, nan
):
    compressed, masked = states(seed, existing=existing, nan=nan)
    fraction = tf.constant(fraction, tf.float32)
    wanted = indices_of(updater.new_mask(masked, fraction), 2)
    (indices,) = updater.new_masks([compressed], fraction)
    assert indices.dtype == tf.int32
    np.testing.assert_array_equal(indices, wanted)


@pytest.mark.parametrize("fraction", [0.3, 0.8])
def test_rigl_by_sorting_lists(fraction):
    # Dropped units of the whole kernel, grown ones of each group.
    compressed, masked = states(3)
    mask = indices_of(masked.mask, 2)
    sizes = np.abs(masked.weights.numpy()).reshape(6, 2, 7).sum(axis=1)
    scores = np.abs(compressed.gradient.numpy())
    alive = [(group, unit) for group in range(6) for unit in mask[group]]
    alive.sort(key=lambda place: (-sizes[place], place))
    kept = alive[: len(alive) - int(np.float32(18) * np.float32(fraction))]
    for group, row in enumerate(new_indices(RigL(), compressed, tf.constant(fraction))):
        stay = [unit for place, unit in kept if place == group]
        rest = sorted(
            set(range(7)) - set(stay), key=lambda unit: (-scores[group, unit], unit)
        )
        assert row.numpy().tolist() == sorted([*stay, *rest[: 3 - len(stay)]])


@BY_UPDATER
@pytest.mark.parametrize("units_a_part", [1, 14])
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.release)]
)
def test_in_parts_it_is_the_same(monkeypatch, updater, units_a_part, jit_compile):
    if jit_compile and updater.drop_noise:
        pytest.skip("XLA draws other noise")
    compressed, masked = states(5)
    fraction = tf.constant(0.6)
    wanted = indices_of(updater.new_mask(masked, fraction), 2)
    monkeypatch.setattr(compressed_units, "_UNITS_A_PART", units_a_part)

    @tf.function(jit_compile=jit_compile)
    def update(fraction):
        return new_indices(updater, compressed, fraction)

    np.testing.assert_array_equal(update(fraction), wanted)


def test_part_and_in_units():
    compressed, masked = states(1)
    part = compressed.part(2, 3).in_units(14)
    grouping = masked.grouping
    np.testing.assert_array_equal(part.mask, grouping.present(masked.mask)[2:5])
    np.testing.assert_array_equal(part.weights, grouping.sums(masked.weights)[2:5])
    np.testing.assert_array_equal(part.gradient, compressed.gradient[2:5])
    whole = compressed.in_units(0)
    np.testing.assert_array_equal(part.random_integers(), whole.random_integers()[2:5])


# The kernel of a layer


def trained_kernel(policy="float32"):
    dense = keras.layers.Dense(5, name="d", dtype=policy)
    layer = Compressed(dense, 0.5, seed=0, pattern="blocks(2, 1, 'inputs')")
    layer.build((None, 6))
    kernel = layer.compressed_kernel
    return kernel, kernel.trained(keeps_gradient=True)


def variable(values):
    """A variable as the optimizer's."""
    kind = keras.Variable if tiny.IS_KERAS_3 else tf.Variable
    return kind(values, dtype=values.dtype)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_replace_moves_weights_and_slots_with_their_units(jit_compile, dtype):
    kernel, trained = trained_kernel(dtype)
    kernel.indices.assign([[0, 3], [1, 2], [0, 4]])
    weights = np.arange(1, 13).reshape(3, 2, 2).astype(dtype)
    kernel.variable.assign(weights)
    slots = [
        Slot(variable(weights * 10), 0.0),
        Slot(variable(weights * 100), 0.5),
    ]
    new = np.array([[0, 4], [0, 1], [1, 2]], np.int32)
    tf.function(
        lambda: trained.replace(tf.constant(new), slots), jit_compile=jit_compile
    )()
    np.testing.assert_array_equal(kernel.indices.numpy(), new)

    def expected(values, initial):
        first, second, _ = values
        fresh = [initial] * 2
        return [[first[0], fresh], [fresh, second[0]], [fresh, fresh]]

    np.testing.assert_array_equal(kernel.variable.numpy(), expected(weights, 0))
    np.testing.assert_array_equal(slots[0].variable, expected(weights * 10, 0))
    np.testing.assert_array_equal(slots[1].variable, expected(weights * 100, 0.5))


def test_what_did_not_exist_starts_anew_whatever_stood_there():
    kernel, trained = trained_kernel()
    kernel.indices.assign([[0, 1], [0, 1], [0, 1]])
    kernel.variable.assign(np.full((3, 2, 2), np.nan, np.float32))
    trained.replace(tf.constant([[2, 3]] * 3), [])
    assert not kernel.variable.numpy().any()


def test_replacing_units_by_themselves_changes_nothing():
    kernel, trained = trained_kernel()
    before = kernel.variable.numpy(), kernel.indices.numpy()
    slot = Slot(variable(before[0] * 3), 0.25)
    trained.replace(tf.constant(before[1]), [slot])
    np.testing.assert_array_equal(kernel.variable.numpy(), before[0])
    np.testing.assert_array_equal(kernel.indices.numpy(), before[1])
    np.testing.assert_array_equal(slot.variable, before[0] * 3)


def test_assign_takes_a_dense_mask_and_dense_weights():
    kernel, _ = trained_kernel()
    mask = np.zeros((6, 5), bool)
    for group, units in enumerate([[1, 4], [0, 2], [3, 4]]):
        mask[2 * group : 2 * group + 2, units] = True
    weights = tiny.integers((6, 5))
    kernel.assign(mask, tf.constant(weights))
    assert kernel.indices.numpy().tolist() == [[1, 4], [0, 2], [3, 4]]
    np.testing.assert_array_equal(kernel.mask, mask)
    np.testing.assert_array_equal(kernel.weights(), np.where(mask, weights, 0))
    assert kernel.active == mask.sum() == 12


def test_the_kept_gradient_is_of_units_and_is_forgotten():
    _, trained = trained_kernel()
    assert trained.gradient_variable.shape == (3, 5)
    trained.gradient_variable.assign(tf.fill((3, 5), np.float32(np.nan)))
    trained.forget()
    assert not trained.kept_gradient().units.numpy().any()
