import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.training.gradient_penalty import regularize_gradient

LAYERS = keras.layers
RATE = 0.125
JIT = [False, True, "auto" if tiny.IS_KERAS_3 else None]

BLOCKS = "blocks(2, 1, 'inputs')"


def linear(l2=0.5, sparsity=0.5):
    """A linear layer [6, 3] without bias, with small weights and L2."""
    layer = LAYERS.Dense(
        3, use_bias=False, name="d", kernel_regularizer=keras.regularizers.L2(l2)
    )
    model = keras.Sequential([keras.Input((6,)), layer])
    tiny.set_integer_weights(model)
    return tiny.sparsify(model, sparsity) if sparsity else model


def train(model, x, y, sample_weight=None, jit_compile=False, optimizer=None):
    """One step, in plain gradient descent if no optimizer is given."""
    optimizer = optimizer or keras.optimizers.SGD(RATE)
    tiny.compiled(model, optimizer, jit_compile=jit_compile, metrics=["mae"])
    return model.fit(
        x, y, sample_weight=sample_weight, batch_size=len(x), verbose=0
    ).history


@pytest.mark.parametrize(
    ("sample_weight", "sparsity", "jit_compile"),
    [(None, 0.0, False), *((np.float32([0, 1, 2, 1]), 0.5, jit) for jit in JIT)],
)
def test_a_step_of_linear_regression(sample_weight, sparsity, jit_compile):
    x, y = tiny.data(4, 6, 3)
    model = linear(sparsity=sparsity)
    kernel = model.trainable_variables[0].numpy()
    mask = rigl_keras.get_masks(model).get("d/kernel", np.ones_like(kernel, bool))

    weighted = x if sample_weight is None else x * sample_weight[:, None]
    gradient = mask * (2 * weighted.T @ (x @ kernel - y) / y.size)
    product = 2 * weighted.T @ (x @ gradient) / y.size
    total = mask * (gradient + 0.25 * product + 2 * 0.5 * kernel)

    regularized = regularize_gradient(model, 0.25)
    history = train(regularized, x, y, sample_weight, jit_compile)
    new_kernel = model.trainable_variables[0].numpy()
    np.testing.assert_allclose(new_kernel, kernel - RATE * total, rtol=1e-5, atol=1e-6)
    penalty = 0.25 * 0.5 * (gradient**2).sum()
    np.testing.assert_allclose(history["gradient_penalty"], [penalty], rtol=1e-5)


def numpy_gradients(weights, masks, x, y):
    """Those of the mean squared error of x → tanh → linear, by backpropagation."""
    kernel, bias, out, out_bias = weights
    hidden = np.tanh(x @ kernel + bias)
    error = 2 * (hidden @ out + out_bias - y) / y.size
    back = (error @ out.T) * (1 - hidden**2)
    gradients = [x.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
    return [m * g for m, g in zip(masks, gradients, strict=True)]


def numpy_penalised(weights, masks, x, y, weight, h=1e-6):
    """The gradients with the penalty, the Hessian being that of differences."""
    gradients = numpy_gradients(weights, masks, x, y)
    right, left = (
        numpy_gradients(
            [w + s * g for w, g in zip(weights, gradients, strict=True)], masks, x, y
        )
        for s in (h, -h)
    )
    return [
        g + weight * (r - lt) / (2 * h)
        for g, r, lt in zip(gradients, right, left, strict=True)
    ]


def tanh_mlp():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            LAYERS.Dense(8, activation="tanh", name="hidden"),
            LAYERS.Dense(3, name="out"),
        ]
    )
    generator = np.random.RandomState(0)
    for variable in model.weights:
        variable.assign(generator.normal(0, 0.5, tuple(variable.shape)))
    return tiny.sparsify(model)


@pytest.mark.parametrize("callback", [None, rigl_keras.Static])
def test_steps_of_a_nonlinear_network(callback):
    model = tanh_mlp()
    masks = rigl_keras.get_masks(model)
    masks = [masks["hidden/kernel"], 1, masks["out/kernel"], 1]
    weights = [v.numpy().astype(np.float64) for v in model.trainable_variables]
    x, y = tiny.data(16)
    for _ in range(3):
        gradients = numpy_penalised(weights, masks, x, y, weight=2.0)
        weights = [w - RATE * g for w, g in zip(weights, gradients, strict=True)]

    regularized = tiny.compiled(
        regularize_gradient(model, 2.0), keras.optimizers.SGD(RATE)
    )
    callbacks = [callback()] if callback else []
    tiny.fit(regularized, *callbacks, samples=16, batch_size=16, epochs=3)
    for variable, expected in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-3, atol=1e-5)


def noisy_model():
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((6,)),
        LAYERS.Dense(8, name="hidden", kernel_regularizer="l2"),
        LAYERS.BatchNormalization(),
        LAYERS.Dropout(0.5, seed=1),
        LAYERS.Dense(3, name="out"),
    ]
    return tiny.sparsify(keras.Sequential(layers))


@pytest.mark.parametrize(
    "callback",
    [pytest.param(rigl_keras.Static, marks=pytest.mark.release), tiny.forever],
)
def test_weight_0_is_plain_training(callback):
    def run(wrap):
        model = noisy_model()
        keras.utils.set_random_seed(1)
        trained = tiny.compiled(wrap(model), keras.optimizers.Adam(0.01))
        logs = tiny.fit(trained, callback(), epochs=2).history
        return model, logs

    plain, plain_logs = run(lambda model: model)
    zero, zero_logs = run(lambda model: regularize_gradient(model, 0))
    assert plain_logs == zero_logs
    for left, right in zip(plain.get_weights(), zero.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_logs_but_the_penalty_are_those_of_plain_training():
    x, y = tiny.data(16)
    still = keras.optimizers.SGD
    plain = train(linear(), x, y, optimizer=still(0.0))
    model = regularize_gradient(linear(), 3.0)
    logs = train(model, x, y, optimizer=still(0.0))
    assert logs.pop("gradient_penalty")[0] > 0
    assert logs == plain
    evaluated = model.evaluate(x, y, verbose=0, return_dict=True)
    assert evaluated.keys() == plain.keys()
    np.testing.assert_allclose(evaluated["loss"], plain["loss"][0], rtol=1e-6)


def test_layers_weights_and_paths_are_shared():
    inner = keras.Sequential([keras.Input((8,)), LAYERS.Dense(4)], name="inner")
    x = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    hidden = LAYERS.Dense(8, name="hidden")(LAYERS.Concatenate()(list(x.values())))
    model = keras.Model(x, {"y": inner(hidden)}, name="both")
    model = tiny.sparsify(model)
    regularized = regularize_gradient(model, 0.5)
    assert regularized.name == model.name
    assert [id(w) for w in regularized.weights] == [id(w) for w in model.weights]
    left, right = (rigl_keras.sparse_kernels(m) for m in (model, regularized))
    assert [(k.path, id(k.kernel)) for k in left] == [
        (k.path, id(k.kernel)) for k in right
    ]
    batch = {"a": tiny.integers((8, 6)), "b": tiny.integers((8, 6), 1)}
    labels = {"y": tiny.integers((8, 4), 2)}
    before = model.predict(batch, verbose=0)["y"]
    regularized.compile("sgd", loss={"y": "mse"})
    regularized.fit(batch, labels, verbose=0)
    after = model.predict(batch, verbose=0)["y"]
    assert (after != before).any()
    np.testing.assert_array_equal(after, regularized.predict(batch, verbose=0)["y"])


def test_rigl_updates_the_masks_of_a_regularised_model():
    model = tiny.mlp()
    tiny.set_integer_weights(model)
    model = tiny.sparsify(model)
    before, counts = rigl_keras.get_masks(model), tiny.counts(model)
    regularized = tiny.compiled(
        regularize_gradient(model, 2.0**-6), keras.optimizers.SGD(2.0**-8, 0.5)
    )
    history = tiny.fit(regularized, tiny.forever(rigl_keras.RigL, every=2)).history
    assert np.isfinite(history["gradient_penalty"]).all()
    assert history["sparsity"] == [pytest.approx(0.5, abs=0.05)]
    after = rigl_keras.get_masks(model)
    assert all((before[path] != after[path]).any() for path in before)
    assert tiny.counts(model) == counts
    tiny.assert_zero_off_masks(model)
    for path, mask in after.items():
        assert all((slot[~mask] == 0).all() for slot in tiny.slots(regularized, path))


@pytest.mark.parametrize("repeat", range(3))
def test_convolutions_with_biases(repeat):
    # The first derivative and its gradient must be one graph that TensorFlow accepts.
    layers = [
        keras.Input((8, 8, 1)),
        LAYERS.Conv2D(4, 3, activation="relu"),
        LAYERS.MaxPooling2D(2),
        LAYERS.Conv2D(4, 3, activation="relu"),
        LAYERS.Flatten(),
        LAYERS.Dense(3),
    ]
    model = regularize_gradient(tiny.sparsify(keras.Sequential(layers)), 0.1)
    x, y = tiny.integers((8, 8, 8, 1)), tiny.integers((8, 3), 1)
    optimizer = keras.optimizers.SGD(0.01, clipnorm=1.0)
    history = train(model, x, y, optimizer=optimizer)
    assert np.isfinite(history["gradient_penalty"]).all()


def test_embeddings_and_several_steps_per_execution():
    layers = [
        keras.Input((4,), dtype="int32"),
        LAYERS.Embedding(5, 3),
        LAYERS.Flatten(),
        LAYERS.Dense(3),
    ]
    model = keras.Sequential(layers)
    before = model.get_weights()
    regularized = regularize_gradient(model, 0.5)
    tiny.compiled(regularized, steps_per_execution=2)
    x, y = np.arange(32).reshape(8, 4) % 5, tiny.integers((8, 3))
    logs = regularized.fit(x, y, batch_size=2, verbose=0).history
    assert logs["gradient_penalty"][0] > 0
    after = model.get_weights()
    assert all((a != b).any() for a, b in zip(after, before, strict=True))


def test_mixed_precision_with_loss_scaling():
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = tanh_mlp()
    regularized = regularize_gradient(model, 0.5)
    optimizer = keras.mixed_precision.LossScaleOptimizer(
        keras.optimizers.SGD(RATE), **{"initial_scale": 16.0}
    )
    masks = rigl_keras.get_masks(model)
    masks = [masks["hidden/kernel"], 1, masks["out/kernel"], 1]
    weights = [v.numpy().astype(np.float64) for v in model.trainable_variables]
    x, y = tiny.data(16)
    gradients = numpy_penalised(weights, masks, x, y, weight=0.5)
    train(regularized, x, y, optimizer=optimizer)
    for variable, weight, gradient in zip(
        model.trainable_variables, weights, gradients, strict=True
    ):
        change = variable.numpy() - weight
        np.testing.assert_allclose(change, -RATE * gradient, rtol=0.05, atol=2e-3)


def test_saved_and_loaded_it_trains_the_same(tmp_path):
    model = regularize_gradient(tanh_mlp(), 0.5)
    x, y = tiny.data(16)
    train(model, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    left, right = (train(net, x, y) for net in (model, loaded))
    assert left == right
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def own_step():
    x = keras.Input((6,))
    return OwnStep(x, LAYERS.Dense(3)(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (own_step, "own way to train"),
        (lambda: regularize_gradient(tiny.mlp(), 0.5), "own way to train"),
        (Subclassed, "no inputs"),
        (lambda: keras.Sequential([LAYERS.Dense(3)]), "no inputs"),
    ],
)
def test_models_that_it_cannot_take_over(make, message):
    with pytest.raises(ValueError, match=message):
        regularize_gradient(make(), 0.5)


@pytest.mark.parametrize("weight", [-1, float("inf"), float("nan"), "0.5", None])
def test_weights_out_of_range(weight):
    with pytest.raises(ValueError, match="weight"):
        regularize_gradient(tiny.mlp(), weight)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="model"):
        regularize_gradient(lambda x: x, 0.5)


def test_several_replicas_are_refused():
    with tiny.two_replicas().scope():
        model = tiny.mlp()
        with pytest.raises(ValueError, match="one replica"):
            regularize_gradient(model, 0.5)
    with pytest.raises(ValueError, match="one replica"):
        regularize_gradient(model, 0.5)


def test_compressed_kernels_are_refused():
    layer = rigl_keras.Compressed(keras.layers.Dense(4), 0.5, pattern=BLOCKS)
    with pytest.raises(ValueError, match="decompress"):
        regularize_gradient(keras.Sequential([keras.Input((4,)), layer]), 0.5)


def test_without_anything_to_train_there_is_no_penalty():
    model = tiny.mlp()
    model.trainable = False
    regularized = tiny.compiled(regularize_gradient(model, 0.5))
    x, y = tiny.data(8)
    assert list(regularized.fit(x, y, verbose=0).history) == ["loss"]
