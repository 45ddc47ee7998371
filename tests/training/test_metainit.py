import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import keras

import rigl_keras
from rigl_keras.common.seeding import ALGORITHM, stateless_seed
from rigl_keras.training.metainit import meta_init

LAYERS = keras.layers
LENGTH, FILTERS, TAPS, CLASSES, BATCH = 4, 2, 2, 3, 5


def small(sparsity=0.4, scale=1.0, dtype="float64", **options):
    """Conv1D [2, 1, 2], tanh, dense [6, 3]; masks on both kernels."""
    model = keras.Sequential(
        [
            keras.Input((LENGTH, 1), dtype=dtype),
            LAYERS.Conv1D(
                FILTERS, TAPS, activation="tanh", name="conv", dtype=dtype, **options
            ),
            LAYERS.Flatten(dtype=dtype),
            LAYERS.Dense(CLASSES, name="logits", dtype=dtype, **options),
        ]
    )
    generator = np.random.RandomState(3)
    for variable in model.weights:
        variable.assign(scale * generator.normal(size=tuple(variable.shape)))
    return tiny.sparsify(model, sparsity) if sparsity else model


def draw(step, seed):
    x = tf.random.stateless_normal(
        (BATCH, LENGTH, 1),
        stateless_seed("metainit", seed, 0, step=step),
        dtype=tf.float64,
        alg=ALGORITHM,
    )
    y = tf.random.stateless_uniform(
        (BATCH,),
        stateless_seed("metainit", seed, 1, step=step),
        maxval=CLASSES,
        dtype=tf.int32,
        alg=ALGORITHM,
    )
    return x.numpy(), y.numpy()


def numpy_loss(values, x, y):
    """The loss of `small`, also for complex values."""
    kernel, bias, dense, dense_bias = values
    windows = np.stack([x[:, i : i + TAPS] for i in range(LENGTH - TAPS + 1)], 1)
    hidden = np.tanh(np.einsum("nptc,tcf->npf", windows, kernel) + bias)
    logits = hidden.reshape(len(x), -1) @ dense + dense_bias
    picked = logits[np.arange(len(x)), y]
    return np.mean(np.log(np.exp(logits).sum(-1)) - picked)


def numpy_gradient(values, masks, x, y):
    """By complex steps, which are exact to rounding."""
    gradients = []
    for index, value in enumerate(values):
        gradient = np.zeros(value.shape)
        for position in np.argwhere(masks[index]):
            moved = [array.astype(complex) for array in values]
            moved[index][tuple(position)] += 1e-30j
            gradient[tuple(position)] = numpy_loss(moved, x, y).imag / 1e-30
        gradients.append(gradient)
    return gradients


def numpy_quotient(values, masks, x, y, epsilon):
    gradients = numpy_gradient(values, masks, x, y)
    h = 1e-5

    def gradients_at(step):
        moved = [v + step * g for v, g in zip(values, gradients, strict=True)]
        return numpy_gradient(moved, masks, x, y)

    total = 0.0
    for g, right, left, mask in zip(
        gradients, gradients_at(h), gradients_at(-h), masks, strict=True
    ):
        product = (right - left) / (2 * h)
        sign = np.where(g >= 0, 1, -1)
        total += np.abs(1 - (g - product) / (g + epsilon * sign))[mask].sum()
    return total / sum(mask.sum() for mask in masks if mask.ndim > 1)


def values_and_masks(model):
    masks = rigl_keras.get_masks(model)
    values = [variable.numpy() for variable in model.trainable_variables]
    dense = [np.ones(value.shape, bool) for value in values]
    by_index = {0: "conv/kernel", 2: "logits/kernel"}
    return values, [masks.get(by_index.get(i), d) for i, d in enumerate(dense)]


def numpy_meta_init(model, steps, rate, momentum, epsilon, seed):
    """The quotients, and the kernel of the convolution after the steps."""
    values, masks = values_and_masks(model)
    change, quotients = 0.0, []
    for step in range(steps):
        x, y = draw(step, seed)

        def of_scale(scale, x=x, y=y):
            scaled = [scale * values[0], *values[1:]]
            return numpy_quotient(scaled, masks, x, y, epsilon)

        quotients.append(of_scale(1.0))
        sign = np.sign(of_scale(1 + 1e-5) - of_scale(1 - 1e-5))
        change = momentum * change - rate * sign
        norm = np.sqrt((values[0] ** 2).sum())
        values[0] = values[0] * (norm + change) / norm
    return quotients, values[0]


@pytest.mark.parametrize("sparsity", [0.0, 0.4])
def test_steps_are_those_of_an_independent_calculation(sparsity):
    model = small(sparsity)
    settings = {"momentum": 0.5, "epsilon": 1e-3, "seed": 7}
    expected, kernel = numpy_meta_init(model, 4, rate=0.1, **settings)
    before = [variable.numpy() for variable in model.trainable_variables]
    got = meta_init(model, steps=4, learning_rate=0.1, batch_size=BATCH, **settings)
    assert got.dtype == np.float32 and got.shape == (4,)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    after = [variable.numpy() for variable in model.trainable_variables]
    np.testing.assert_allclose(after[0], kernel, rtol=1e-6)
    for left, right in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(left, right)


def test_regularisers_do_not_count():
    plain = meta_init(small(), steps=2, batch_size=BATCH)
    penalty = keras.regularizers.L2(10.0)
    penalised = meta_init(small(kernel_regularizer=penalty), steps=2, batch_size=BATCH)
    np.testing.assert_array_equal(plain, penalised)


@pytest.mark.slow
@pytest.mark.one_keras
@settings(max_examples=3)
@given(st.floats(0.1, 0.75), st.integers(0, 99), st.floats(0, 0.3), st.integers(2, 3))
def test_only_norms_change_and_masked_weights_stay_zero(sparsity, seed, rate, rank):
    model = small(sparsity, dtype="float32")
    before = tiny.weights(model)
    options = {"learning_rate": rate, "min_rank": rank, "seed": seed}
    meta_init(model, steps=1, batch_size=BATCH, **options)
    tiny.assert_zero_off_masks(model)
    for path, after in tiny.weights(model).items():
        moves = rate if rank == 2 or path == "conv/kernel" else 0.0
        norms = np.linalg.norm(before[path]), np.linalg.norm(after)
        # The first step is `rate` up or down, but for rounding; past 0 it flips.
        up, down = norms[0] + moves, abs(norms[0] - moves)
        assert min(abs(norms[1] - up), abs(norms[1] - down)) < 1e-5
        cosine = np.vdot(before[path], after) / (norms[0] * norms[1])
        np.testing.assert_allclose(abs(cosine), 1, rtol=1e-5)


def image_model(*last):
    layers = [
        keras.Input((8, 8, 1)),
        LAYERS.Conv2D(4, 3, activation="relu", name="conv1"),
        LAYERS.MaxPooling2D(2),
        LAYERS.Conv2D(4, 3, activation="relu", name="conv2"),
        LAYERS.Flatten(),
        *last,
        LAYERS.Dense(10, name="logits"),
    ]
    return keras.Sequential(layers)


@pytest.mark.release
@pytest.mark.one_keras
def test_the_quotient_of_badly_scaled_kernels_falls():
    model = tiny.sparsify(image_model(), 0.5)
    for kernel in rigl_keras.sparse_kernels(model)[:2]:
        kernel.kernel.assign(6 * kernel.kernel.numpy())

    def measure():
        options = {"learning_rate": 0, "batch_size": 32, "seed": 1}
        return np.median(meta_init(model, steps=20, **options))

    before = measure()
    meta_init(model, steps=100, learning_rate=0.01, batch_size=32)
    assert measure() < 0.6 * before
    tiny.assert_zero_off_masks(model)


@pytest.mark.one_keras
@pytest.mark.parametrize("repeat", range(2))
def test_the_graph_of_convolutions_with_biases_runs(repeat):
    # One graph of all derivatives failed at about every third model.
    quotients = meta_init(image_model(), steps=1, batch_size=8)
    assert np.isfinite(quotients).all()


def test_a_rate_of_zero_only_measures():
    model = small()
    before = tiny.weights(model)
    meta_init(model, steps=2, learning_rate=0, batch_size=BATCH)
    for path, kernel in tiny.weights(model).items():
        np.testing.assert_array_equal(kernel, before[path])


@pytest.mark.one_keras
def test_the_seed_names_the_draws():
    def run(seed):
        model = small()
        return meta_init(model, steps=3, batch_size=BATCH, seed=seed), model

    (left, first), (right, second), (other, _) = run(1), run(1), run(2)
    np.testing.assert_array_equal(left, right)
    for path, kernel in tiny.weights(first).items():
        np.testing.assert_array_equal(kernel, tiny.weights(second)[path])
    assert (left != other).all()


def test_it_leaves_no_trace_but_the_kernels():
    model = image_model(LAYERS.BatchNormalization(), LAYERS.Dropout(0.5))
    model = tiny.sparsify(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["acc"])
    x, y = np.ones((8, 8, 8, 1)), np.arange(8)
    model.fit(x, y, verbose=0)

    def state():
        variables = [*model.non_trainable_variables, *model.optimizer.variables]
        variables += [v for metric in model.metrics for v in metric.variables]
        return [tf.identity(tiny.raw(v)).numpy() for v in variables]

    before = state()
    meta_init(model, steps=2, batch_size=8)
    for left, right in zip(before, state(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_batches_are_normal_inputs_and_uniform_labels():
    seen = []

    def loss(labels, logits):
        tf.numpy_function(lambda y: seen.append(y), [labels], [])
        return keras.losses.sparse_categorical_crossentropy(labels, logits, True)

    meta_init(small(), loss, steps=50, batch_size=20)
    counts = np.bincount(np.concatenate(seen), minlength=CLASSES)
    assert counts.sum() == 1000 and len(counts) == CLASSES
    assert abs(counts - 1000 / CLASSES).max() < 100


def test_a_loss_of_ones_own_with_entries_is_averaged():
    def loss(labels, logits):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

    own = meta_init(small(), loss, steps=2, batch_size=BATCH)
    default = meta_init(small(), steps=2, batch_size=BATCH)
    np.testing.assert_allclose(own, default, rtol=1e-6)


def test_logits_of_a_fully_convolutional_model():
    layers = [keras.Input((6, 6, 2)), LAYERS.Conv2D(4, 3, name="conv")]
    model = keras.Sequential(layers)
    before = model.get_weights()[0]
    quotients = meta_init(model, steps=2, batch_size=BATCH)
    assert np.isfinite(quotients).all()
    assert (model.get_weights()[0] != before).all()


def test_a_kernel_of_zeros_stays():
    model = small(sparsity=0)
    kernel = model.trainable_variables[0]
    kernel.assign(np.zeros(tuple(kernel.shape)))
    assert np.isfinite(meta_init(model, steps=2, batch_size=BATCH)).all()
    assert (kernel.numpy() == 0).all()


def test_an_overflow_is_refused_and_leaves_the_kernels():
    model = small(dtype="float32", scale=1e25)
    before = tiny.weights(model)
    with pytest.raises(ValueError, match="finite gradient quotient"):
        meta_init(model, steps=2, batch_size=BATCH)
    for path, kernel in tiny.weights(model).items():
        np.testing.assert_array_equal(kernel, before[path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": "0.9"}, "momentum"),
        ({"epsilon": 0}, "epsilon"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"min_rank": 1}, "min_rank"),
        ({"min_rank": 4}, "rank >= 4"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        meta_init(small(), **options)


def two_inputs():
    left, right = keras.Input((4, 1)), keras.Input((4, 1))
    return keras.Model([left, right], LAYERS.Conv1D(2, 2)(left + right))


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_inputs, "one input"),
        (Subclassed, "one input"),
        (lambda: keras.Sequential([LAYERS.Conv1D(2, 2)]), "one input"),
        (
            lambda: keras.Sequential([keras.Input((None, 1)), LAYERS.Conv1D(2, 2)]),
            "siz",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((4,), dtype="int32"), LAYERS.Embedding(3, 2)]
            ),
            "floats",
        ),
        (tiny.mlp, "min_rank=2"),
    ],
)
def test_models_that_it_cannot_rescale(make, message):
    with pytest.raises(ValueError, match=message):
        meta_init(make())


def test_frozen_kernels_are_not_rescaled():
    model = small(sparsity=0)
    model.layers[0].trainable = False
    with pytest.raises(ValueError, match="trainable weights of rank >= 3"):
        meta_init(model)


def test_what_is_no_loss_or_no_model():
    with pytest.raises(TypeError, match="loss"):
        meta_init(small(), loss="mse")
    with pytest.raises(TypeError, match="model"):
        meta_init(lambda x: x)
