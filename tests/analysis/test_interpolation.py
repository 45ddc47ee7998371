import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.analysis.interpolation import (
    COEFFICIENTS,
    barrier,
    climb,
    interpolate,
    spaced,
)
from rigl_keras.plots.interpolation import confidence_half_width, one, several

SOME = [-0.5, 0.0, 0.25, 1.0, 1.5]


def labels(samples=32):
    return np.random.RandomState(3).randint(0, tiny.OUTPUTS, samples)


def classifier(**options):
    """A compiled 6 → 8 → 3, with "accuracy" and "cross_entropy" as metrics."""
    model = tiny.mlp(**options)
    tiny.set_integer_weights(model)
    return compile_classifier(model)


def compile_classifier(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras.metrics.SparseCategoricalCrossentropy(
            from_logits=True, name="cross_entropy"
        ),
    ]
    return tiny.compiled(model, loss=loss, metrics=metrics)


def random_point(model, seed):
    generator = np.random.RandomState(seed)
    return {
        path: generator.normal(size=variable.shape).astype(np.float32)
        for path, variable in by_path(model).items()
    }


def by_path(model):
    """Trainable variables of models whose layers lie side by side."""
    return {
        f"{layer.name.removeprefix('sparse_')}/{compat.variable_name(weight)}": weight
        for layer in model.layers
        for weight in layer.trainable_weights
    }


def assign(model, point):
    for path, variable in by_path(model).items():
        variable.assign(point[path])


def cross_entropy(logits, y):
    logits = logits - logits.max(1, keepdims=True)
    chosen = logits[np.arange(len(y)), y]
    return np.mean(np.log(np.exp(logits).sum(1)) - chosen)


def mlp_logits(x, point, mask=None):
    first = point["hidden/kernel"] if mask is None else point["hidden/kernel"] * mask
    hidden = x @ first + point["hidden/bias"]
    return hidden @ point["out/kernel"] + point["out/bias"]


def mixed(start, end, coefficient):
    return {
        path: (1 - coefficient) * start[path].astype(float) + coefficient * end[path]
        for path in start
    }


def test_the_squared_error_of_a_linear_model_is_a_parabola():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="out")])
    tiny.compiled(model)
    start, end = random_point(model, 0), random_point(model, 1)
    x, y = tiny.integers((10, 4), 1), tiny.integers((10, 1), 2)
    found = interpolate(model, start, end, {"all": [(x, y)]})
    residual = x @ start["out/kernel"] + start["out/bias"] - y
    slope = (x @ end["out/kernel"] + end["out/bias"] - y) - residual
    expected = [
        np.mean(residual**2)
        + 2 * alpha * np.mean(residual * slope)
        + alpha**2 * np.mean(slope**2)
        for alpha in COEFFICIENTS
    ]
    # Targets that are no class labels have no accuracy.
    assert list(found) == ["all_loss"]
    np.testing.assert_allclose(found["all_loss"], expected, rtol=1e-4)
    # The parabola is convex: never above its chord.
    assert barrier(found["all_loss"]) == pytest.approx(0, abs=1e-5)


def test_the_ends_are_what_keras_evaluates():
    model = classifier(kernel_regularizer=keras.regularizers.l2(0.1))
    start, end = random_point(model, 0), random_point(model, 1)
    (x, _), y = tiny.data(), labels()
    data = {"train": [(x[:20], y[:20]), (x[20:], y[20:])], "test": [(x[:5], y[:5])]}
    found = interpolate(model, start, end, data, SOME)
    assert sorted(found) == [
        f"{name}_{what}" for name in ("test", "train") for what in ("accuracy", "loss")
    ]
    for position, point in ((1, start), (3, end)):
        assign(model, point)
        for name, size in (("train", 32), ("test", 5)):
            theirs = model.evaluate(x[:size], y[:size], verbose=0, return_dict=True)
            ours = found[f"{name}_loss"][position]
            # Keras's own loss has the regulariser, which its metric has not.
            assert theirs["loss"] > theirs["cross_entropy"] + 0.1
            assert ours == pytest.approx(theirs["cross_entropy"], rel=1e-5)
            accuracy = found[f"{name}_accuracy"][position]
            assert accuracy == pytest.approx(theirs["accuracy"], rel=1e-6)


def test_all_between_and_beyond_is_on_the_line():
    model = classifier()
    start, end = random_point(model, 0), random_point(model, 1)
    (x, _), y = tiny.data(), labels()
    found = interpolate(model, start, end, {"all": [(x, y)]}, SOME)
    for index, coefficient in enumerate(SOME):
        logits = mlp_logits(x, mixed(start, end, coefficient))
        assert found["all_loss"][index] == pytest.approx(
            cross_entropy(logits, y), rel=1e-5
        )
        assert found["all_accuracy"][index] == pytest.approx(
            np.mean(logits.argmax(1) == y)
        )


def test_masks_hold_at_every_point_and_those_of_the_model_play_no_part():
    model = compile_classifier(tiny.sparsify(tiny.mlp(), seed=0))
    start, end = random_point(model, 0), random_point(model, 1)
    (x, _), y = tiny.data(), labels()
    mask = np.random.RandomState(5).rand(tiny.INPUTS, tiny.HIDDEN) < 0.5
    for masks in (None, {"hidden/kernel": mask}, {"hidden/kernel": mask.astype(int)}):
        found = interpolate(model, start, end, {"all": [(x, y)]}, SOME, masks=masks)
        for index, coefficient in enumerate(SOME):
            point = mixed(start, end, coefficient)
            logits = mlp_logits(x, point, None if masks is None else mask)
            expected = cross_entropy(logits, y)
            assert found["all_loss"][index] == pytest.approx(expected, rel=1e-5)


def normalised(**options):
    model = keras.Sequential(
        [
            keras.Input((tiny.INPUTS,)),
            keras.layers.Dense(5, name="first"),
            keras.layers.BatchNormalization(name="norm", **options),
            keras.layers.Dense(tiny.OUTPUTS, name="out"),
        ]
    )
    return compile_classifier(model)


def normalised_logits(x, point, mean, variance):
    hidden = x @ point["first/kernel"] + point["first/bias"]
    hidden = (hidden - mean) / np.sqrt(variance + 1e-3)
    hidden = hidden * point["norm/gamma"] + point["norm/beta"]
    return hidden @ point["out/kernel"] + point["out/bias"]


@pytest.mark.parametrize("momentum", [0.99, 0.0])
def test_batch_norm_averages_are_those_of_the_training_batches(momentum):
    model = normalised(momentum=momentum)
    start, end = random_point(model, 0), random_point(model, 1)
    (x, _), y = tiny.data(), labels()
    test_x = tiny.integers((7, tiny.INPUTS), 9)
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    found = interpolate(
        model, start, end, {"test": [(test_x, y[:7])]}, SOME, batch_norm_data=batches
    )
    for index, coefficient in enumerate(SOME):
        point = mixed(start, end, coefficient)
        mean = variance = 0
        for part, _ in batches:
            hidden = part @ point["first/kernel"] + point["first/bias"]
            mean = mean + len(part) / len(x) * hidden.mean(0)
            variance = variance + len(part) / len(x) * hidden.var(0)
        logits = normalised_logits(test_x, point, mean, variance)
        expected = cross_entropy(logits, y[:7])
        assert found["test_loss"][index] == pytest.approx(expected, rel=1e-4)


def test_batch_norm_averages_may_stay_the_models():
    model = normalised()
    norm = model.get_layer("norm")
    norm.moving_mean.assign(np.arange(5) / 4)
    norm.moving_variance.assign(1 + np.arange(5) / 2)
    start, end = random_point(model, 0), random_point(model, 1)
    (x, _), y = tiny.data(), labels()
    found = interpolate(
        model, start, end, {"all": [(x, y)]}, [0.5], reestimate_batch_norm=False
    )
    point = mixed(start, end, 0.5)
    logits = normalised_logits(x, point, np.arange(5) / 4, 1 + np.arange(5) / 2)
    assert found["all_loss"][0] == pytest.approx(cross_entropy(logits, y), rel=1e-4)


class Broken:
    """A data set that breaks when it is gone through for the second time."""

    def __init__(self, batches):
        self._batches, self._times = batches, 0

    def __iter__(self):
        self._times += 1
        if self._times == 2:
            raise OSError("broken")
        return iter(self._batches)


@pytest.mark.parametrize("breaks", [False, True])
def test_the_model_is_as_before(breaks):
    model = keras.Sequential(
        [
            keras.Input((tiny.INPUTS,)),
            keras.layers.Dense(5, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5, name="drop"),
            keras.layers.Dense(tiny.OUTPUTS, name="out"),
        ]
    )
    model = compile_classifier(tiny.sparsify(model, seed=0))
    (x, _), y = tiny.data(), labels()
    model.fit(x, y, verbose=0)
    start, end = random_point(model, 0), random_point(model, 1)
    batches = [(x, y)]
    before = everything(model)
    data = {"all": Broken(batches) if breaks else batches}
    if breaks:
        with pytest.raises(OSError, match="broken"):
            interpolate(model, start, end, data, batch_norm_data=batches)
    else:
        interpolate(model, start, end, data, batch_norm_data=batches)
    after = everything(model)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
    tiny.assert_zero_off_masks(model)


def everything(model):
    """Weights, masks, averages, seeds of random layers, metrics, optimizer."""
    found = [*model.weights, *compat.forward_state(model), *model.optimizer.variables]
    return [tiny.raw(each).numpy() for each in found]


def test_a_model_without_batch_norm_needs_no_training_batches():
    model = classifier()
    point = random_point(model, 0)
    (x, _), y = tiny.data(), labels()
    unread = Broken([])
    interpolate(model, point, point, {"all": [(x, y)]}, [0.5], batch_norm_data=unread)
    assert unread._times == 0


def test_frozen_batch_norm_keeps_its_averages():
    model = normalised()
    model.get_layer("norm").trainable = False
    compile_classifier(model)
    point = random_point(model, 0)
    (x, _), y = tiny.data(), labels()
    found = interpolate(model, point, point, {"all": [(x, y)]}, [0.5])
    point |= {"norm/gamma": np.ones(5), "norm/beta": np.zeros(5)}
    logits = normalised_logits(x, point, np.zeros(5), np.ones(5))
    assert found["all_loss"][0] == pytest.approx(cross_entropy(logits, y), rel=1e-4)


def without(point):
    return {path: value for path, value in point.items() if path != "out/bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"start": without(p)}, r"`start`.*missing: \['out/bias'\]"),
        (lambda p: {"end": without(p)}, r"`end`.*missing: \['out/bias'\]"),
        (lambda p: {"end": {**p, "new/bias": 1}}, r"unknown: \['new/bias'\]"),
        (
            lambda p: {"end": {**p, "out/bias": np.zeros(4)}},
            r"out/bias in `end`.*\(3,\), got \(4,\)",
        ),
        (lambda p: {"coefficients": []}, "coefficients"),
        (lambda p: {"coefficients": [0, np.nan]}, "coefficients"),
        (lambda p: {"coefficients": [[0, 1]]}, "coefficients"),
        (lambda p: {"masks": {"no/kernel": np.ones(3)}}, "no/kernel"),
        (lambda p: {"masks": {"out/kernel": np.ones(3)}}, "shape"),
        (lambda p: {"data": {"all": []}}, "'all' is empty"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    model = classifier()
    point = random_point(model, 0)
    (x, _), y = tiny.data(), labels()
    arguments = {"start": point, "end": point, "data": {"all": [(x, y)]}}
    before = everything(model)
    with pytest.raises(ValueError, match=message):
        interpolate(model, **{**arguments, **change(point)})
    for left, right in zip(before, everything(model), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_model_without_loss_or_variables_is_refused():
    with pytest.raises(ValueError, match="compile"):
        interpolate(tiny.mlp(), {}, {}, {})
    empty = keras.Sequential([keras.Input((3,)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="trainable variables"):
        interpolate(tiny.compiled(empty), {}, {}, {})


def test_averages_that_cannot_be_taken_anew_are_refused():
    (x, _), y = tiny.data(), labels()
    batches = [(x, y)]
    for options, training, message in (
        ({}, None, "batch_norm_data"),
        ({}, [], "empty"),
        ({"momentum": 1.0}, batches, "momentum 1"),
    ):
        model = normalised(**options)
        point = random_point(model, 0)
        with pytest.raises(ValueError, match=message):
            interpolate(model, point, point, {"all": batches}, batch_norm_data=training)


def test_default_coefficients_are_the_papers_and_meet_the_ends():
    np.testing.assert_allclose(COEFFICIENTS, -0.2 + 0.05 * np.arange(29), atol=1e-9)
    assert {0.0, 1.0} <= set(COEFFICIENTS)
    assert not np.signbit(COEFFICIENTS[COEFFICIENTS == 0]).any()


@given(
    height=st.floats(-5, 5),
    first=st.floats(-5, 5),
    last=st.floats(-5, 5),
    outside=st.floats(-100, 100),
)
def test_the_barrier_is_the_height_above_the_chord(height, first, last, outside):
    alpha = spaced(-1, 2, 31)
    losses = first + (last - first) * alpha + 4 * height * alpha * (1 - alpha)
    losses[(alpha < 0) | (alpha > 1)] = outside
    shuffled = np.random.RandomState(0).permutation(31)
    expected = pytest.approx(max(0, height), abs=1e-9)
    assert barrier(losses[shuffled], alpha[shuffled]) == expected


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=5))
def test_the_climb_is_the_largest_rise_from_before_to_after(losses):
    rises = [losses[j] - losses[i] for j in range(5) for i in range(j + 1)]
    alpha = [0, 0.25, 0.5, 0.75, 1]
    assert climb(losses, alpha) == max(rises)
    assert climb([99, *losses, 99], [-1, *alpha, 2]) == max(rises)


def test_barrier_needs_the_ends():
    with pytest.raises(ValueError, match="0 and 1"):
        barrier([1, 2], [0, 0.9])
    with pytest.raises(ValueError, match="each of 2"):
        climb([1, 2, 3], [0, 1])


def test_the_band_is_students():
    # Quantile 0.9 of Student's t with 2 degrees of freedom is 1.8856 in any table.
    values = np.array([[1.0, 5], [2, 5], [3, 5]])
    expected = [1.8856 / np.sqrt(3), 0]
    np.testing.assert_allclose(confidence_half_width(values), expected, rtol=1e-4)
    np.testing.assert_array_equal(confidence_half_width(values[:1]), [0, 0])


@pytest.mark.parametrize("log", [False, True])
def test_figures_are_written(log, tmp_path):
    losses = np.exp(-COEFFICIENTS)
    values = {"train_loss": losses, "test_loss": losses, "test_accuracy": losses / 2}
    one(COEFFICIENTS, values, tmp_path / "one.png", log=log)
    groups = {"a": np.stack([losses, 2 * losses]), "b": losses[np.newaxis]}
    several(COEFFICIENTS, groups, tmp_path / "several.png", log=log)
    for name in ("one.png", "several.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
