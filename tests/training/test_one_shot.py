"""One-shot pruning against scores in closed form and by finite differences."""

import functools

import hypothesis
import numpy as np
import pytest
import tiny
from hypothesis import strategies as st
from tensorflow import keras

import rigl_keras
from rigl_keras import mask_updaters, prune_once

LAYERS = keras.layers
SAMPLES, CLASSES = 16, 4
CRITERIA = ("snip", "grasp")


def normal(shape, seed):
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


def set_normal_weights(model, scale=1.0):
    for index, variable in enumerate(model.trainable_variables):
        variable.assign(scale * normal(tuple(variable.shape), 10 + index))


def two_heads(penalty=0.0):
    """Linear and softmax regression on the same input: no Hessian between them."""
    inputs = keras.Input((tiny.INPUTS,), name="inputs")
    options = {"kernel_regularizer": keras.regularizers.L2(penalty)}
    outputs = {
        "linear": LAYERS.Dense(tiny.OUTPUTS, name="linear", **options)(inputs),
        "softmax": LAYERS.Dense(CLASSES, name="softmax", **options)(inputs),
    }
    model = tiny.sparsify(keras.Model(inputs, outputs), 0.0)
    set_normal_weights(model)
    loss = {
        "linear": "mse",
        "softmax": keras.losses.CategoricalCrossentropy(from_logits=True),
    }
    return tiny.compiled(model, loss=loss)


def heads_data(weighted=False):
    x = normal((SAMPLES, tiny.INPUTS), 1)
    classes = np.random.RandomState(3).randint(0, CLASSES, SAMPLES)
    y = {
        "linear": normal((SAMPLES, tiny.OUTPUTS), 2),
        "softmax": np.eye(CLASSES, dtype=np.float32)[classes],
    }
    weight = np.arange(SAMPLES, dtype=np.float32) / 8
    return (x, y, dict.fromkeys(y, weight)) if weighted else (x, y)


def heads_gradients_and_products(model, x, y, weights=None):
    """Gradient and Hessian-gradient product of each kernel in closed form."""
    x = x.astype(np.float64)
    kernels = {path: array.astype(np.float64) for path, array in weights_of(model)}
    biases = {
        name: model.get_layer(f"sparse_{name}").layer.bias.numpy()
        for name in ("linear", "softmax")
    }
    weight = np.ones(len(x)) if weights is None else weights["linear"]
    rows = weight[:, None] / len(x)

    linear = x @ kernels["linear/kernel"] + biases["linear"]
    g_linear = x.T @ (rows * 2 * (linear - y["linear"]) / tiny.OUTPUTS)
    h_linear = x.T @ (rows * 2 * (x @ g_linear) / tiny.OUTPUTS)

    logits = x @ kernels["softmax/kernel"] + biases["softmax"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    g_softmax = x.T @ (rows * (shares - y["softmax"]))
    moved = shares * (x @ g_softmax)
    h_softmax = x.T @ (rows * (moved - shares * moved.sum(1, keepdims=True)))
    return (
        {"linear/kernel": g_linear, "softmax/kernel": g_softmax},
        {"linear/kernel": h_linear, "softmax/kernel": h_softmax},
    )


def weights_of(model):
    return tiny.weights(model).items()


def keep_scores(criterion, kernels, gradients, products):
    if criterion == "snip":
        return {path: np.abs(w * gradients[path]) for path, w in kernels}
    # Of GraSP's score, -w * Hg, the highest are removed.
    return {path: w * products[path] for path, w in kernels}


def count_kept(size, sparsity):
    share = np.float32(1) - np.float32(sparsity)
    return max(int(np.round(np.float32(size) * share)), 1)


def expected_masks(scores, sparsity, ranking):
    """By sorting lists of (path, flat index)."""
    kept = []
    if ranking == "layer":
        for path, score in scores.items():
            count = count_kept(score.size, sparsity)
            best = tiny.largest(score.ravel(), count, range(score.size))
            kept += [(path, index) for index in best]
    else:
        ranked = sorted(
            (-value, path, index)
            for path, score in scores.items()
            for index, value in enumerate(score.ravel())
        )
        kept = [
            (p, tiny.largest(s.ravel(), 1, range(s.size))[0]) for p, s in scores.items()
        ]
        total = count_kept(len(ranked), sparsity)
        others = [entry[1:] for entry in ranked if entry[1:] not in kept]
        kept += others[: max(total - len(kept), 0)]
    masks = {path: np.zeros(score.shape, bool) for path, score in scores.items()}
    for path, index in kept:
        masks[path].ravel()[index] = True
    return masks


def assert_pruned(model, before, masks):
    """Masks are these, weights on them are as before, others 0."""
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    for path, kernel in tiny.weights(model).items():
        np.testing.assert_array_equal(kernel, np.where(masks[path], before[path], 0))


@pytest.mark.parametrize("ranking", ["global", "layer"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_and_softmax_regression(criterion, ranking, weighted):
    """Regularisers, strong ones here, do not count."""
    model = two_heads(penalty=10.0)
    data = heads_data(weighted)
    before = tiny.weights(model)
    gradients, products = heads_gradients_and_products(model, *data)
    scores = keep_scores(criterion, before.items(), gradients, products)
    expected = expected_masks(scores, 0.7, ranking)
    prune_once(model, criterion, 0.7, data, ranking)
    assert_pruned(model, before, expected)


def test_the_rankings_differ_in_how_many_a_kernel_keeps():
    by_layer, overall = two_heads(), two_heads()
    prune_once(by_layer, "snip", 0.7, heads_data(), "layer")
    prune_once(overall, "snip", 0.7, heads_data())
    # 18 and 24 weights: 5.4, 7.2 and, together, 12.6 are 30 %.
    assert tiny.counts(by_layer) == {"linear/kernel": 5, "softmax/kernel": 7}
    assert sum(tiny.counts(overall).values()) == 13
    assert tiny.counts(overall) != tiny.counts(by_layer)


def tanh_model(sparsity=0.0):
    layers = [
        LAYERS.Dense(tiny.HIDDEN, "tanh", name="hidden"),
        LAYERS.Dense(tiny.OUTPUTS, name="out"),
    ]
    model = keras.Sequential([keras.Input((tiny.INPUTS,)), *layers])
    set_normal_weights(model, 0.5)
    return tiny.compiled(tiny.sparsify(model, sparsity, seed=3))


def normal_data():
    return normal((SAMPLES, tiny.INPUTS), 4), normal((SAMPLES, tiny.OUTPUTS), 5)


def tanh_gradients(kernels, biases, x, y):
    """Of the mean squared error, by the chain rule in float64."""
    hidden = np.tanh(x @ kernels[0] + biases[0])
    error = 2 * (hidden @ kernels[1] + biases[1] - y) / y.size
    back = (error @ kernels[1].T) * (1 - hidden**2)
    return x.T @ back, hidden.T @ error


def gradients_and_differences(model, x, y, step=1e-5):
    """Gradients, and their central differences along the masked gradient."""
    variables = [v.numpy().astype(np.float64) for v in model.trainable_variables]
    kernels, biases = variables[::2], variables[1::2]
    masks = list(rigl_keras.get_masks(model).values())
    at = functools.partial(tanh_gradients, biases=biases, x=x, y=y)
    gradients = at(kernels)
    direction = [g * mask for g, mask in zip(gradients, masks, strict=True)]
    ahead = at([w + step * d for w, d in zip(kernels, direction, strict=True)])
    behind = at([w - step * d for w, d in zip(kernels, direction, strict=True)])
    products = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
    paths = list(tiny.weights(model))
    return dict(zip(paths, gradients, strict=True)), dict(
        zip(paths, products, strict=True)
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.25])
@pytest.mark.parametrize("ranking", ["global", "layer"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_nonlinear_network(criterion, ranking, sparsity):
    """Pruned further from 0.25, connections that are gone neither count nor return."""
    model = tanh_model(sparsity)
    before, masks = tiny.weights(model), rigl_keras.get_masks(model)
    data = normal_data()
    gradients, products = gradients_and_differences(model, *data)
    scores = keep_scores(criterion, before.items(), gradients, products)
    scores = {p: np.where(masks[p], s, -np.inf) for p, s in scores.items()}
    expected = expected_masks(scores, 0.6, ranking)
    prune_once(model, criterion, 0.6, data, ranking)
    assert_pruned(model, before, expected)


def test_grasp_is_not_the_ranking_by_magnitude_of_the_product():
    """Which the paper's code used, though the sign says where the flow would rise."""
    model, data = tanh_model(), normal_data()
    before = tiny.weights(model)
    _, products = gradients_and_differences(model, *data)
    signs = {path: np.sign(before[path] * products[path]) for path in before}
    prune_once(model, "grasp", 0.6, data)
    for path, mask in rigl_keras.get_masks(model).items():
        assert (signs[path] < 0).any()
        assert (signs[path][mask] > 0).all()


MAGNITUDES = {"hidden/kernel": 0.01, "out/kernel": 1.0}


@functools.cache
def model_for_counts():
    """Every weight of one kernel is smaller than every one of the other."""
    return tiny.sparsify(tiny.compiled(tiny.mlp()), 0.0)


def fresh_for_counts():
    model = model_for_counts()
    kernels = rigl_keras.sparse_kernels(model)
    shapes = {kernel.path: tuple(kernel.kernel.shape) for kernel in kernels}
    rigl_keras.set_masks(model, {p: np.ones(s, bool) for p, s in shapes.items()})
    for seed, kernel in enumerate(kernels):
        values = np.random.RandomState(seed).uniform(1, 2, shapes[kernel.path])
        kernel.kernel.assign(MAGNITUDES[kernel.path] * values)
    return model


@hypothesis.given(
    st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0625, 0.5, 0.984375]),
    st.sampled_from(["global", "layer"]),
)
def test_counts(sparsity, ranking):
    """1/16 and 63/64 of 48, 24 and 72 weights have halves, which go to the even."""
    model = fresh_for_counts()
    before = tiny.weights(model)
    prune_once(model, "magnitude", sparsity, ranking=ranking)
    scores = {path: np.abs(array) for path, array in before.items()}
    assert_pruned(model, before, expected_masks(scores, sparsity, ranking))
    counts = tiny.counts(model)
    assert min(counts.values()) >= 1
    if ranking == "global":
        assert sum(counts.values()) == max(count_kept(72, sparsity), len(counts))


def test_halves_go_to_the_even_count():
    # A share of 3/16 of 24 is 4.5, 5/16 is 7.5.
    for sparsity, count in [(13 / 16, 4), (11 / 16, 8)]:
        model = fresh_for_counts()
        prune_once(model, "magnitude", sparsity, ranking="layer")
        assert tiny.counts(model)["out/kernel"] == count


def test_a_kernel_that_would_lose_all_keeps_its_best():
    model = fresh_for_counts()
    best = np.argmax(np.abs(tiny.weights(model)["hidden/kernel"]))
    prune_once(model, "magnitude", 0.9)  # 7 of 72 remain, all large ones in "out".
    assert tiny.counts(model) == {"hidden/kernel": 1, "out/kernel": 6}
    mask = rigl_keras.get_masks(model)["hidden/kernel"]
    assert np.flatnonzero(mask).tolist() == [best]


@pytest.mark.parametrize("criterion", [*CRITERIA, "magnitude"])
def test_frozen_kernels_stay_and_do_not_count(criterion):
    model = tanh_model()
    model.get_layer("sparse_hidden").trainable = False
    frozen = tiny.weights(model)["hidden/kernel"]
    prune_once(model, criterion, 0.75, normal_data())
    assert tiny.counts(model) == {"hidden/kernel": 48, "out/kernel": 6}
    np.testing.assert_array_equal(tiny.weights(model)["hidden/kernel"], frozen)


def test_replicas_make_no_difference():
    def make():
        layers = [
            keras.Input((tiny.INPUTS,)),
            LAYERS.Dense(tiny.HIDDEN, "tanh", name="hidden", activity_regularizer="l2"),
            LAYERS.BatchNormalization(),
            LAYERS.Dense(tiny.OUTPUTS, name="out", kernel_regularizer="l2"),
        ]
        model = keras.Sequential(layers)
        set_normal_weights(model)
        return tiny.compiled(tiny.sparsify(model, 0.0))

    single = make()
    with tiny.two_replicas().scope():
        replicated = make()
    for model in (single, replicated):
        prune_once(model, "grasp", 0.6, normal_data())
    tiny.assert_same_masks(
        rigl_keras.get_masks(replicated), rigl_keras.get_masks(single)
    )
    tiny.assert_zero_off_masks(replicated)


class Largest(mask_updaters.Pruner):
    """Keeps the largest products of all that a pruner may see, and notes it."""

    name = "largest"
    needs_gradient = True
    needs_hessian_gradient = True

    def __init__(self, ranking="layer"):
        super().__init__(ranking)
        self.states = []

    def keep_scores(self, state):
        self.states.append(state)
        return state.weights * state.gradient * state.hessian_gradient


@pytest.mark.parametrize("ranking", ["global", "layer"])
def test_a_pruner_of_ones_own_brings_its_ranking(ranking):
    model, data = two_heads(), heads_data()
    before = tiny.weights(model)
    gradients, products = heads_gradients_and_products(model, *data)
    scores = {p: w * gradients[p] * products[p] for p, w in before.items()}
    pruner = Largest(ranking)
    other = {"global": "layer", "layer": "global"}[ranking]
    prune_once(model, pruner, 0.7, data, ranking=other)
    assert_pruned(model, before, expected_masks(scores, 0.7, ranking))
    for state, path in zip(pruner.states, before, strict=True):
        assert state.mask.numpy().all() and state.seed is None
        np.testing.assert_allclose(state.gradient, gradients[path], 1e-4, 1e-6)
        np.testing.assert_allclose(state.hessian_gradient, products[path], 1e-4, 1e-6)
