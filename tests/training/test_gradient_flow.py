import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.training import gradient_flow as flow_module
from rigl_keras.training.gradient_flow import FlowMeter, GradientFlow, gradient_flow
from rigl_keras.training.observers import observers

LAYERS = keras.layers


def sparse_linear(**options):
    layer = LAYERS.Dense(8, name="d", **options)
    model = keras.Sequential([keras.Input((6,)), layer])
    tiny.set_integer_weights(model)
    return tiny.compiled(tiny.sparsify(model))


def linear_gradients(model, x, y, weight=1.0):
    """Of the mean squared error, in closed form; the kernel's is masked."""
    kernel, bias = (tiny.raw(each).numpy() for each in model.trainable_variables)
    error = 2 * (x @ kernel + bias - y) * weight / y.size
    mask = rigl_keras.get_masks(model)["d/kernel"]
    return (x.T @ error)[mask], error.sum(0)


def assert_linear(measured, kernel, bias):
    kernel, bias = np.linalg.norm(kernel), np.linalg.norm(bias)
    assert measured.norms == pytest.approx({"d/kernel": kernel, "d/bias": bias}, 1e-5)
    assert measured.kernel_norms == {"d/kernel": measured.norms["d/kernel"]}
    assert measured.norm == pytest.approx(math.sqrt(kernel**2 + bias**2), 1e-5)
    assert measured.flow == pytest.approx(kernel**2 + bias**2, 1e-5)
    assert measured.kernel_norm == pytest.approx(kernel, 1e-5)


def test_masked_weights_and_regularisers_do_not_count():
    model = sparse_linear(
        kernel_regularizer=keras.regularizers.L2(3.0), activity_regularizer="l1"
    )
    x, y = tiny.data(4, 6, 8)
    assert_linear(gradient_flow(model, (x, y)), *linear_gradients(model, x, y))


def test_sample_weights_count():
    model = sparse_linear()
    x, y = tiny.data(4, 6, 8)
    weight = np.float32([0, 1, 2, 1])
    expected = linear_gradients(model, x, y, weight[:, None])
    assert_linear(gradient_flow(model, (x, y, weight)), *expected)


def mean_squared_error(values, x, y):
    """Of 6 → 8 tanh → 3."""
    hidden = np.tanh(x @ values[0] + values[1])
    return np.mean((hidden @ values[2] + values[3] - y) ** 2)


def central_differences(function, values, step=1e-5):
    gradients = [np.zeros_like(array) for array in values]
    for array, gradient in zip(values, gradients, strict=True):
        for index in np.ndindex(array.shape):
            at = array[index]
            array[index] = at + step
            high = function(values)
            array[index] = at - step
            gradient[index] = (high - function(values)) / (2 * step)
            array[index] = at
    return gradients


def test_norms_of_a_dense_nonlinear_model_agree_with_finite_differences():
    layers = [LAYERS.Dense(8, "tanh", name="hidden"), LAYERS.Dense(3, name="out")]
    model = tiny.compiled(keras.Sequential([keras.Input((6,)), *layers]))
    x, y = tiny.data(8)
    values = [v.numpy().astype(np.float64) for v in model.trainable_variables]
    gradients = central_differences(lambda v: mean_squared_error(v, x, y), values)
    expected = [float(np.linalg.norm(gradient)) for gradient in gradients]
    measured = gradient_flow(model, (x, y))
    paths = ["hidden/kernel", "hidden/bias", "out/kernel", "out/bias"]
    assert measured.norms == pytest.approx(
        dict(zip(paths, expected, strict=True)), 1e-4
    )
    assert measured.flow == pytest.approx(sum(n**2 for n in expected), 1e-4)
    assert list(measured.kernel_norms) == ["hidden/kernel", "out/kernel"]


def test_frozen_layers_do_not_count_and_unused_ones_count_nothing():
    inputs = keras.Input((6,))
    used = LAYERS.Dense(3, name="used")(inputs)
    frozen = LAYERS.Dense(3, name="frozen", trainable=False)(used)
    unused = LAYERS.Dense(2, name="unused")(inputs)
    model = keras.Model(inputs, [frozen, unused])
    model.compile("sgd", loss=["mse", None])
    x, y = tiny.data(4)
    measured = gradient_flow(model, (x, [y, np.zeros((4, 2), np.float32)]))
    assert {path for path, norm in measured.norms.items() if norm > 0} == {
        "used/kernel",
        "used/bias",
    }
    assert "frozen/kernel" not in measured.norms
    assert measured.norms["unused/kernel"] == 0


def test_a_layer_used_twice_counts_once():
    inputs = keras.Input((6,))
    layer = LAYERS.Dense(6, use_bias=False, name="shared")
    inner = keras.Sequential([keras.Input((6,)), layer], name="inner")
    model = tiny.compiled(keras.Model(inputs, layer(inner(inputs))))
    x, y = tiny.data(4, 6, 6)
    kernel = layer.kernel.numpy()
    error = 2 * (x @ kernel @ kernel - y) / y.size
    expected = x.T @ error @ kernel.T + (x @ kernel).T @ error
    measured = gradient_flow(model, (x, y))
    assert len(measured.norms) == 1
    assert measured.norm == pytest.approx(np.linalg.norm(expected), 1e-5)


def test_weights_of_equal_paths_count_together():
    same = [LAYERS.Dense(3, use_bias=False, name="same") for _ in range(2)]

    class Both(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="both")
            self.first, self.second = same

        def build(self, input_shape):
            for layer in same:
                layer.build(input_shape)
            self.built = True

        def call(self, inputs):
            return self.first(inputs) + 2 * self.second(inputs)

    model = tiny.compiled(keras.Sequential([keras.Input((6,)), Both()]))
    x, y = tiny.data(4)
    first, second = (layer.kernel.numpy() for layer in same)
    gradient = x.T @ (x @ first + 2 * x @ second - y) * 2 / y.size
    expected = np.linalg.norm(gradient) * math.sqrt(5)
    measured = gradient_flow(model, (x, y))
    assert measured.norms == pytest.approx({"both/same/kernel": expected}, 1e-5)
    assert measured.kernel_norms == measured.norms


def noisy_model():
    """Batch normalisation and dropout; the same one at every call."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((6,)),
        LAYERS.Dense(8, name="hidden"),
        LAYERS.BatchNormalization(name="norm"),
        LAYERS.Dropout(0.5, seed=3),
        LAYERS.Dense(3, name="out", kernel_regularizer="l2"),
    ]
    model = tiny.sparsify(keras.Sequential(layers), seed=0)
    return tiny.compiled(model, keras.optimizers.Adam(0.01), metrics=["mae"])


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [tf.identity(tiny.raw(v)).numpy() for v in variables]


def assert_same_state(left, right):
    for one, other in zip(state_of(left), state_of(right), strict=True):
        np.testing.assert_array_equal(one, other)


def updaters():
    # The pruning of the first step comes before the training step is traced.
    schedule = rigl_keras.schedules.polynomial_decay(0.5, 0.8, 0, 8, frequency=1)
    return {
        "rigl": tiny.forever(rigl_keras.RigL, every=2),
        "set": tiny.forever(rigl_keras.SET, every=2),
        "pruning": rigl_keras.Pruning(schedule),
        "static": rigl_keras.Static(),
    }


@pytest.mark.parametrize(
    "name",
    [
        "rigl",
        *(pytest.param(n, marks=pytest.mark.release) for n in ("pruning", "static")),
    ],
)
def test_training_goes_on_as_without_it(name):
    without, watched = noisy_model(), noisy_model()
    x, y = tiny.data(16)
    expected = tiny.fit(without, updaters()[name], epochs=2).history
    watch = GradientFlow((10 * x, y), every=1)
    history = tiny.fit(watched, watch, updaters()[name], epochs=2).history
    assert_same_state(without, watched)
    assert history["loss"] == expected["loss"] and history["mae"] == expected["mae"]
    assert len(watch.records) == 8
    assert (len(watch.updates) > 0) == (name != "static")


def test_batch_normalisation_counts_and_stays():
    model = noisy_model()
    before = state_of(model)
    meter = FlowMeter(model, tiny.data(16))
    first, second = meter.measure(), meter.measure()
    assert first.norms["norm/gamma"] > 0 and first.norms["norm/beta"] > 0
    assert set(first.kernel_norms) == {"hidden/kernel", "out/kernel"}
    for left, right in zip(before, state_of(model), strict=True):
        np.testing.assert_array_equal(left, right)
    if tiny.IS_KERAS_3:  # whose dropout has a state that is put back
        assert first == second


def test_replicas_make_no_difference():
    def model():
        layers = [
            keras.Input((6,)),
            LAYERS.Dense(8, name="d", kernel_regularizer="l2"),
            LAYERS.BatchNormalization(name="norm"),
        ]
        model = keras.Sequential(layers)
        tiny.set_integer_weights(model)
        return tiny.compiled(tiny.sparsify(model, seed=0))

    data = tiny.data(16, 6, 8)
    expected = gradient_flow(model(), data)
    with tiny.two_replicas().scope():
        replicated = model()
    assert gradient_flow(replicated, data).norms == pytest.approx(expected.norms, 1e-5)


def test_a_meter_measures_the_weights_and_masks_of_now():
    model = sparse_linear()
    x, y = tiny.data(4, 6, 8)
    meter = FlowMeter(model, (x, y))
    assert_linear(meter.measure(), *linear_gradients(model, x, y))
    masks = rigl_keras.get_masks(model)
    rigl_keras.set_masks(model, {path: ~mask for path, mask in masks.items()})
    model.trainable_variables[1].assign(np.arange(8))
    assert_linear(meter.measure(), *linear_gradients(model, x, y))


@pytest.mark.parametrize(("steps_per_execution", "every"), [(1, 2), (2, 3)])
def test_records_come_every_so_many_steps(steps_per_execution, every):
    model = tiny.sparse_mlp(steps_per_execution=steps_per_execution)
    data = tiny.data(8)
    meter = FlowMeter(model, data)
    separate = {}

    def note(model):
        step = int(model.optimizer.iterations.numpy())
        separate[step] = meter.measure()

    watch = GradientFlow(data, every)
    for _ in range(2):  # 6 steps a fit, 3 an epoch; the count goes on
        tiny.fit(model, watch, tiny.EveryStep(note), samples=24, epochs=2)
    steps = [record["step"] for record in watch.records]
    if steps_per_execution == 1:
        assert steps == list(range(every, 13, every))
    else:  # executions end at steps 2, 3, 5, 6, ...
        assert steps == {2: [2, 5, 6, 8, 11, 12], 3: [3, 6, 9, 12]}[every]
    for record in watch.records:
        expected = separate[record["step"]]
        assert record == {
            "step": record["step"],
            "flow": expected.flow,
            "norm": expected.norm,
            "kernel_norms": expected.kernel_norms,
        }
    assert watch.updates == []


def test_history_gets_the_last_record_of_each_epoch():
    model = tiny.sparse_mlp()
    watch = GradientFlow(tiny.data(8), every=3)
    history = tiny.fit(
        model,
        rigl_keras.Static(),
        watch,
        samples=32,
        epochs=2,
        validation_data=tiny.data(8),
    ).history
    last = [watch.records[0], watch.records[1]]
    assert [record["step"] for record in last] == [3, 6]
    assert history["gradient_flow"] == [record["flow"] for record in last]
    assert history["gradient_norm"] == [record["norm"] for record in last]


class Around(rigl_keras.training.observers.MaskUpdateObserver):
    """Notes what a meter measures around mask updates."""

    def __init__(self, meter):
        super().__init__()
        self._meter = meter
        self.updates = []

    def on_mask_update_begin(self, step):
        self.updates.append([step, self._meter.measure().norm])

    def on_mask_update_end(self, step):
        assert self.updates[-1][0] == step
        self.updates[-1].append(self._meter.measure().norm)


@pytest.mark.parametrize(
    "name", ["rigl", pytest.param("set", marks=pytest.mark.release), "pruning"]
)
def test_updates_are_measured_before_and_after(name):
    model = tiny.sparse_mlp()
    data = tiny.data(8)
    around = Around(FlowMeter(model, data))
    watch = GradientFlow(data, every=None)
    tiny.fit(model, updaters()[name], watch, around, epochs=2)
    assert watch.updates == [
        {"step": step, "before": before, "after": after, "change": after - before}
        for step, before, after in around.updates
    ]
    assert len(watch.updates) >= 4
    assert any(update["change"] != 0 for update in watch.updates)
    assert watch.records == []


def test_the_function_is_compiled_once_a_training(monkeypatch):
    traces = []
    run = flow_module.BatchGradients.gradients

    def gradients(self):
        traces.append(self)
        return run(self)

    monkeypatch.setattr(flow_module.BatchGradients, "gradients", gradients)
    watch = GradientFlow(tiny.data(8), every=1)
    tiny.fit(tiny.sparse_mlp(), watch, updaters()["rigl"], epochs=2)
    assert len(watch.records) == 8 and len(watch.updates) == 4
    assert len(traces) == 1


def test_it_takes_part_only_while_training():
    model = tiny.sparse_mlp()
    watch = GradientFlow(tiny.data(8), every=None)
    tiny.fit(model, watch, updaters()["rigl"])
    count = len(watch.updates)
    tiny.fit(model, updaters()["rigl"])
    assert len(watch.updates) == count > 0
    assert observers(model) == []


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "all"])
def test_every_is_checked(every):
    with pytest.raises(ValueError, match="every"):
        GradientFlow(tiny.data(8), every)


def test_what_cannot_be_measured_is_refused():
    data = tiny.data(8)
    with pytest.raises(ValueError, match=r"\(x, y\)"):
        GradientFlow(data[0])
    with pytest.raises(ValueError, match=r"\(x, y\)"):
        gradient_flow(tiny.sparse_mlp(), data[0])
    with pytest.raises(ValueError, match="compile"):
        gradient_flow(tiny.mlp(), data)
    model = tiny.sparse_mlp()
    model.trainable = False
    with pytest.raises(ValueError, match="nothing to train"):
        gradient_flow(model, data)
