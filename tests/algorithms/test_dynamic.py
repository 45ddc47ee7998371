import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow import keras

import rigl_keras
from rigl_keras import mask_updaters
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.mask_updaters import ALGORITHMS, KernelState

SHAPE = (4, 6)
NUMBERS = st.sampled_from(
    [0.0, -0.0, 0.5, -0.5, 1.0, 3e38, 1e-40, np.nan, np.inf, -np.inf]
)
ARRAYS = hnp.arrays(np.float32, SHAPE, elements=NUMBERS | st.floats(-2, 2, width=32))
MASKS = hnp.arrays(bool, SHAPE).filter(np.any)
FRACTIONS = st.sampled_from([0.0, 0.3, 1 / 3, 0.999, 1.0]) | st.floats(0, 1, width=32)


def state(weights, mask, gradient=None, seed=0):
    if gradient is not None:
        gradient = tf.constant(gradient)
    seed = stateless_seed("grow", seed)
    return KernelState(tf.constant(weights), tf.constant(mask), gradient, seed)


def new_mask(algorithm, *args, fraction, **kwargs):
    updater = ALGORITHMS[algorithm]()
    return updater.new_mask(state(*args, **kwargs), tf.constant(fraction)).numpy()


def grow_scores(algorithm, gradient, seed=0):
    """The scores by which an algorithm grows, worked out apart from it."""
    if algorithm == "set":
        draw = tf.random.stateless_uniform(
            SHAPE, stateless_seed("grow", seed), None, None, tf.int32, alg=ALGORITHM
        )
        return draw.numpy().astype(np.float64)
    return -np.abs(gradient) if algorithm == "rigl_inverted" else np.abs(gradient)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("rigl", [1, 0, 1, 0, 0, 1]), ("rigl_inverted", [1, 0, 0, 1, 0, 1])],
)
def test_a_hand_worked_update(algorithm, expected):
    weights = np.float32([[3, -1, 0, 0, 0, 2]])
    mask = np.array([[1, 1, 0, 0, 0, 1]], bool)
    gradient = np.float32([[9, 2, -5, 1, 4, 9]])
    # One of three goes, the -1; it may come back, but 5 is more than 2, and 1 less.
    mask = new_mask(algorithm, weights, mask, gradient, fraction=0.4)
    np.testing.assert_array_equal(mask, np.array([expected], bool))


def test_ties_go_to_the_lower_index():
    weights = np.float32([[1, -1, 1, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 0, 0, 0]], bool)
    gradient = np.float32([[0, 0, 0, 7, -7, 7]])
    mask = new_mask("rigl", weights, mask, gradient, fraction=0.7)
    np.testing.assert_array_equal(mask, [[True, False, False, True, True, False]])


def test_a_dropped_connection_grows_again_when_its_gradient_is_largest():
    weights = np.float32([[1, 2, 0, 0]])
    mask = np.array([[1, 1, 0, 0]], bool)
    gradient = np.float32([[9, 0, 1, 1]])
    assert (new_mask("rigl", weights, mask, gradient, fraction=0.5) == mask).all()


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@given(ARRAYS, MASKS, ARRAYS, FRACTIONS)
def test_an_update_is_algorithm_1_and_keeps_the_count(
    algorithm, weights, mask, gradient, fraction
):
    weights = np.where(mask, weights, np.float32(0))
    new = new_mask(algorithm, weights, mask, gradient, fraction=fraction)
    assert new.sum() == mask.sum()
    scores = grow_scores(algorithm, gradient)
    expected = tiny.reference_mask(mask, np.abs(weights), scores, fraction)
    np.testing.assert_array_equal(new, expected)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_masks_are_the_same_eagerly_in_a_graph_and_under_xla(algorithm):
    updater = ALGORITHMS[algorithm]()
    graph = tf.function(updater.new_mask)
    xla = tf.function(updater.new_mask, jit_compile=True)

    @settings(max_examples=15)
    @given(ARRAYS, MASKS, ARRAYS, FRACTIONS)
    def check(weights, mask, gradient, fraction):
        weights = np.where(mask, weights, np.float32(0))
        args = state(weights, mask, gradient), tf.constant(fraction, tf.float32)
        eager = updater.new_mask(*args).numpy()
        np.testing.assert_array_equal(eager, graph(*args).numpy())
        np.testing.assert_array_equal(eager, xla(*args).numpy())

    check()


@given(MASKS, st.integers(0, 2**31))
def test_fraction_0_changes_nothing(mask, seed):
    weights = tiny.integers(SHAPE, seed) * mask
    for algorithm in ALGORITHMS:
        new = new_mask(algorithm, weights, mask, weights, fraction=0.0)
        np.testing.assert_array_equal(new, mask)


def test_set_grows_every_free_connection_equally_often():
    mask = np.zeros(SHAPE, bool)
    mask[0] = True
    weights = mask * np.float32(1)
    weights[0, 3] = 0.5
    update = tf.function(ALGORITHMS["set"]().new_mask)
    runs = 600
    grown = sum(
        update(state(weights, mask, seed=seed), tf.constant(0.2)).numpy().astype(int)
        for seed in range(runs)
    )
    kept = grown == runs
    assert kept.sum() == 5 and not kept[0, 3]
    # 19 places, among them the dropped one; binomial, within five standard deviations.
    mean, deviation = runs / 19, np.sqrt(runs / 19 * 18 / 19)
    assert (abs(grown[~kept] - mean) < 5 * deviation).all()


@given(ARRAYS, MASKS, MASKS, st.sampled_from([0.0, 0.1]))
def test_surviving_keeps_values_of_kept_connections_only(values, old, new, start):
    result = mask_updaters.surviving(tf.constant(values), old, new, start).numpy()
    for index in np.ndindex(SHAPE):
        expected = values[index] if old[index] and new[index] else np.float32(start)
        np.testing.assert_array_equal(result[index], expected)


def test_an_algorithm_without_grow_scores_says_so():
    with pytest.raises(NotImplementedError, match="MaskUpdater"):
        mask_updaters.MaskUpdater().grow_scores(None)


def test_no_drop_noise_changes_nothing_and_seeds_name_the_noise():
    weights, mask = tiny.integers(SHAPE), np.ones(SHAPE, bool)
    mask[0] = False

    def kept(drop_noise, seed):
        updater = ALGORITHMS["rigl"](drop_noise)
        return updater.new_mask(
            # Dropped connections would grow last.
            state(weights, mask, (~mask).astype(np.float32), seed),
            tf.constant(0.3),
        ).numpy()

    np.testing.assert_array_equal(kept(0, 1), kept(0, 2))
    np.testing.assert_array_equal(kept(2.0, 1), kept(2.0, 1))
    assert (kept(2.0, 1) != kept(2.0, 2)).any()
    assert kept(2.0, 1).sum() == mask.sum()


@pytest.mark.parametrize("deviation", [0.5, 1.0])
def test_drop_noise_is_normal_of_the_given_deviation(deviation):
    """Of weights 1 and 2 the larger goes when the noise's difference exceeds 1."""
    update = tf.function(ALGORITHMS["rigl"](deviation).new_mask)
    mask = np.array([[1, 1, 0]], bool)
    weights, gradient = np.float32([[1, 2, 0]]), np.float32([[0, 0, 1]])
    runs = 600
    lost = sum(
        not update(state(weights, mask, gradient, seed), tf.constant(0.5))[0, 1]
        for seed in range(runs)
    )
    # The difference of two such numbers has the deviation times the root of 2.
    share = math.erfc(1 / (deviation * 2)) / 2
    assert abs(lost - runs * share) < 5 * math.sqrt(runs * share * (1 - share))


# Updates of a real training, with learning rate 0 so that the weights stand still.


def dense_gradients(model, x, y):
    """The dense gradients of the same, but plain, model."""
    plain = rigl_keras.strip(model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(plain(x) - y))
    kernels = [tiny.raw(layer.kernel) for layer in plain.layers]
    paths = [f"{layer.name}/kernel" for layer in plain.layers]
    return dict(zip(paths, tape.gradient(loss, kernels), strict=True))


def standing_model(seed=0, optimizer=None):
    """Of every kernel some active weights are 0, and many have equal magnitudes."""
    model = tiny.sparse_mlp(optimizer or keras.optimizers.SGD(0.0), seed=seed)
    masks = rigl_keras.get_masks(model)
    for path, kernel in tiny.weights(model).items():
        active = np.abs(kernel[masks[path]])
        assert (active == 0).any() and len(np.unique(active)) < len(active)
    return model


@pytest.mark.parametrize("callback", [rigl_keras.RigL, rigl_keras.RigLInverted])
def test_update_in_fit_is_that_of_the_dense_gradient(callback):
    model = standing_model()
    before, kernels = rigl_keras.get_masks(model), tiny.weights(model)
    gradients = dense_gradients(model, *tiny.data(8))
    sign = 1 if callback is rigl_keras.RigL else -1
    tiny.fit(
        model,
        callback(1, 0.6, schedule="constant", last_update_step=1),
        samples=16,
        epochs=1,
    )
    after = rigl_keras.get_masks(model)
    for path, mask in before.items():
        weight, scores = np.abs(kernels[path]), sign * np.abs(gradients[path].numpy())
        expected = tiny.reference_mask(mask, weight, scores, 0.6)
        np.testing.assert_array_equal(after[path], expected, err_msg=path)
        assert (expected != mask).any()
        # Only kept connections keep a value; the weights did not move otherwise.
        value = np.where(mask & expected, kernels[path], 0)
        np.testing.assert_array_equal(tiny.weights(model)[path], value)


def test_set_update_in_fit_drops_the_smallest_and_grows_by_the_named_draw():
    model = standing_model()
    before, kernels = rigl_keras.get_masks(model), tiny.weights(model)
    tiny.fit(
        model,
        rigl_keras.SET(2, 0.6, schedule="constant", last_update_step=2, seed=5),
        samples=16,
    )
    for index, (path, after) in enumerate(rigl_keras.get_masks(model).items()):
        seed = stateless_seed("set", 5, index, step=2)
        draw = tf.random.stateless_uniform(
            after.shape, seed, None, None, tf.int32, alg=ALGORITHM
        )
        expected = tiny.reference_mask(
            before[path], np.abs(kernels[path]), draw.numpy().astype(np.float64), 0.6
        )
        np.testing.assert_array_equal(after, expected, err_msg=path)


def test_adam_moments_live_on_where_a_connection_does():
    """Moments of two steps by hand, with an update between and after them."""
    optimizer = keras.optimizers.Adam(0.0, beta_1=0.5, beta_2=0.75)
    model = standing_model(optimizer=optimizer)
    kernels, masks = tiny.weights(model), rigl_keras.get_masks(model)
    moments = {
        path: (np.zeros_like(k), np.zeros_like(k)) for path, k in kernels.items()
    }
    x, y = tiny.data(16)
    plain = tiny.mlp()
    for step in (0, 8):
        plain.set_weights(_plain_weights(model, kernels))
        with tf.GradientTape() as tape:
            error = plain(x[step : step + 8]) - y[step : step + 8]
            loss = tf.reduce_mean(tf.square(error))
        variables = [tiny.raw(layer.kernel) for layer in plain.layers]
        for path, gradient in zip(kernels, tape.gradient(loss, variables), strict=True):
            dense, mask = gradient.numpy(), masks[path]
            first, second = moments[path]
            first = 0.5 * first + 0.5 * dense * mask
            second = 0.75 * second + 0.25 * (dense * mask) ** 2
            new = tiny.reference_mask(mask, np.abs(kernels[path]), np.abs(dense), 0.5)
            kept = mask & new
            moments[path] = first * kept, second * kept
            kernels[path] = kernels[path] * kept
            masks[path] = new
    tiny.fit(
        model,
        rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1),
        samples=16,
    )
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    for path, expected in moments.items():
        for slot, moment in zip(tiny.slots(model, path), expected, strict=True):
            np.testing.assert_allclose(slot, moment, rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(slot[~masks[path]], 0)


def _plain_weights(model, kernels):
    biases = [w.numpy() for w in model.trainable_weights if len(w.shape) == 1]
    return [w for pair in zip(kernels.values(), biases, strict=True) for w in pair]


def test_adagrad_slots_start_anew_at_the_accumulators_initial_value():
    optimizer = keras.optimizers.Adagrad(0.0, initial_accumulator_value=0.25)
    model = standing_model(optimizer=optimizer)
    before = rigl_keras.get_masks(model)
    tiny.fit(
        model,
        rigl_keras.RigL(1, 0.5, schedule="constant", last_update_step=-1),
        samples=8,
    )
    for path, after in rigl_keras.get_masks(model).items():
        (slot,) = tiny.slots(model, path)
        assert (slot[~(before[path] & after)] == 0.25).all()
        assert (slot[before[path] & after] > 0.25).any()


def set_masks_of(seed=0, update_seed=0, steps=1):
    model = standing_model(seed)
    tiny.fit(
        model,
        rigl_keras.SET(
            1, 0.8, schedule="constant", last_update_step=-1, seed=update_seed
        ),
        samples=8 * steps,
    )
    return rigl_keras.get_masks(model)


def test_set_draws_by_seed_alone():
    tiny.assert_same_masks(set_masks_of(update_seed=1), set_masks_of(update_seed=1))
    one, other = set_masks_of(update_seed=1), set_masks_of(update_seed=2)
    assert all((one[path] != other[path]).any() for path in one)


def test_set_draws_differ_by_kernel_and_update():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(6, name="a", use_bias=False)(inputs)
    outputs = keras.layers.Dense(6, name="b", use_bias=False)(hidden)
    model = keras.Model(inputs, outputs)
    for layer in model.layers[1:]:
        layer.kernel.assign(np.ones((6, 6), np.float32))
    mask = np.zeros((6, 6), bool)
    mask[0] = True
    model = tiny.compiled(tiny.sparsify(model, 5 / 6), keras.optimizers.SGD(0.0))
    grown = []
    for _ in range(2):
        for variable in model.trainable_weights:
            variable.assign(np.ones((6, 6), np.float32))
        rigl_keras.set_masks(model, {"a/kernel": mask, "b/kernel": mask})
        x = tiny.integers((8, 6))
        model.fit(
            x,
            x,
            verbose=0,
            callbacks=[
                rigl_keras.SET(1, 1.0, schedule="constant", last_update_step=-1, seed=3)
            ],
        )
        grown += [m.tobytes() for m in rigl_keras.get_masks(model).values()]
    assert len(set(grown)) == 4


@pytest.mark.slow
def test_counts_that_float32_rounds_up_are_kept():
    active = 2**24 + 3  # 2**24 + 4 in float32
    mask = np.arange(2**24 + 9) < active
    state = mask_updaters.KernelState(
        tf.zeros(mask.shape), tf.constant(mask), None, tf.zeros([2], tf.int64)
    )
    new = mask_updaters.SET().new_mask(state, tf.constant(1.0))
    assert np.count_nonzero(new) == active
