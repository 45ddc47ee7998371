"""Variants of mask updates: by averaged gradients, in a step's place, with noise."""

import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, SNFS, RigL

HIDDEN, OUT = "hidden/kernel", "out/kernel"


def noise(samples=64):
    """Data without ties among its gradients."""
    generator = np.random.RandomState(4)
    x = generator.randn(samples, tiny.INPUTS).astype(np.float32)
    return x, generator.randn(samples, tiny.OUTPUTS).astype(np.float32)


def train(model, *callbacks, first=0, last=8):
    """The steps from `first` to `last` of a training with batches of 8."""
    x, y = (values[8 * first : 8 * last] for values in noise())
    model.fit(x, y, 8, shuffle=False, verbose=0, callbacks=list(callbacks))


def gradients(values, x, y):
    """Dense gradients of the linear MLP's mean squared error, in closed form."""
    w1, b1, w2, b2 = (values[name].astype(np.float64) for name in values)
    hidden = x @ w1 + b1
    error = 2 * (hidden @ w2 + b2 - y) / y.size
    return {HIDDEN: x.T @ (error @ w2.T), OUT: hidden.T @ error}


def step_gradients(values, step):
    x, y = (array[8 * (step - 1) : 8 * step] for array in noise())
    return gradients(values, x, y)


def all_values(model):
    """The linear MLP's weights by name, in the order of its layers."""
    found = {}
    for layer in model.layers:
        found[f"{layer.layer.name}/kernel"] = layer.layer.kernel.numpy()
        found[f"{layer.layer.name}/bias"] = layer.layer.bias.numpy()
    return found


class Values:
    """Weights, masks and momenta, at the start and after every step."""

    def __init__(self, model):
        self.weights, self.masks, self.momenta = [], [], []
        self._note(model)
        self.callback = tiny.EveryStep(self._note)

    def _note(self, model):
        self.weights.append(all_values(model))
        self.masks.append(rigl_keras.get_masks(model))
        slots = {path: tiny.slots(model, path) for path in (HIDDEN, OUT)}
        self.momenta.append({path: s[0] for path, s in slots.items() if s})


def averages(callback):
    """SNFS's averages, by the path of the kernel."""
    return {
        path: variable.numpy()
        for path, variable in callback.state.gradient_averages.items()
    }


def assert_all_close(left, right, **options):
    assert left.keys() == right.keys()
    for path, values in left.items():
        np.testing.assert_allclose(values, right[path], err_msg=path, **options)


# SNFS


def test_the_average_of_the_gradients_by_hand():
    model, callback = tiny.sparse_mlp(), tiny.forever(SNFS, 3, 0.6)
    values, seen = Values(model), []
    note = tiny.EveryStep(lambda model: seen.append(averages(callback)))
    train(model, callback, values.callback, note)
    average = dict.fromkeys((HIDDEN, OUT), 0.0)
    for step in range(1, 9):
        # A step's gradient is that of the weights, and the masks, before it.
        gradient = step_gradients(values.weights[step - 1], step)
        average = {p: 0.9 * average[p] + 0.1 * gradient[p] for p in average}
        assert_all_close(seen[step - 1], average, rtol=1e-4, atol=1e-6)
    for path, mask in rigl_keras.get_masks(model).items():
        assert (average[path][~mask] != 0).all()  # it is dense


def test_growth_follows_the_average():
    # Weights stand still, and their magnitudes at the update are known so.
    model, callback = (
        tiny.sparse_mlp(keras.optimizers.SGD(0.0)),
        SNFS(5, 0.6, schedule="constant", last_update_step=5),
    )
    masks, weights = rigl_keras.get_masks(model), all_values(model)
    train(model, callback, last=5)
    average = dict.fromkeys(masks, 0.0)
    for step in range(1, 6):
        gradient = step_gradients(weights, step)
        average = {p: 0.9 * average[p] + 0.1 * gradient[p] for p in average}
    for path, after in rigl_keras.get_masks(model).items():
        args = masks[path], np.abs(weights[path])
        by_average = tiny.reference_mask(*args, np.abs(average[path]), 0.6)
        by_last = tiny.reference_mask(*args, np.abs(gradient[path]), 0.6)
        np.testing.assert_array_equal(after, by_average, err_msg=path)
        assert (by_average != by_last).any()


def assert_same_snfs(left, right):
    (model, callback), (other, its) = left, right
    tiny.assert_same_masks(rigl_keras.get_masks(model), rigl_keras.get_masks(other))
    tiny.assert_same_masks(all_values(model), all_values(other))
    tiny.assert_same_masks(averages(callback), averages(its))


def undisturbed():
    model, callback = tiny.sparse_mlp(), tiny.forever(SNFS, 3, 0.6)
    train(model, callback)
    return model, callback


def test_a_second_fit_goes_on_with_the_average():
    model, callback = tiny.sparse_mlp(), tiny.forever(SNFS, 3, 0.6)
    train(model, callback, last=4)
    train(model, callback, first=4)
    assert_same_snfs((model, callback), undisturbed())


@tiny.too_short
def test_compiling_again_keeps_the_average():
    model, callback = tiny.sparse_mlp(), tiny.forever(SNFS, 3, 0.6)
    train(model, callback, last=4)
    before = averages(callback)
    tiny.compiled(model, keras.optimizers.SGD(0.0))
    callback.prepare(model)
    tiny.assert_same_masks(averages(callback), before)
    values = Values(model)
    train(model, callback, first=4, last=5)
    gradient = step_gradients(values.weights[0], 5)
    expected = {path: 0.9 * before[path] + 0.1 * gradient[path] for path in before}
    assert_all_close(averages(callback), expected, rtol=1e-4, atol=1e-6)


@tiny.too_short
def test_a_gradient_that_is_not_finite_does_not_enter_the_average():
    model, callback = tiny.sparse_mlp(keras.optimizers.SGD(0.0)), SNFS(9, 0.6)
    train(model, callback, last=4)
    before = averages(callback)
    x, y = noise(8)
    x[0] = np.inf
    model.fit(x, y, 8, verbose=0, callbacks=[callback])
    after = averages(callback)
    np.testing.assert_array_equal(after[HIDDEN], before[HIDDEN])


# An update in the place of its step


def skipping(callback, every=3, fraction=0.6, **options):
    return tiny.forever(callback, every, fraction, skip_weight_step=True, **options)


@pytest.mark.parametrize(
    ("callback", "options"),
    [(SET, {}), (RigL, {}), (RigL, {"grow_data": noise(16)}), (SNFS, {})],
)
def test_an_update_takes_the_place_of_its_step(callback, options):
    model = tiny.sparse_mlp()
    values = Values(model)
    train(model, skipping(callback, **options), values.callback)
    assert int(model.optimizer.iterations.numpy()) == 8
    for step in range(1, 9):
        is_update = step % 3 == 0
        old, new = values.masks[step - 1 : step + 1]
        before, after = values.weights[step - 1 : step + 1]
        for path, mask in new.items():
            assert (mask != old[path]).any() == is_update, (step, path)
            kept = mask & old[path]
            if is_update:
                expected = np.where(kept, before[path], 0)
                np.testing.assert_array_equal(after[path], expected)
                momentum = np.where(kept, values.momenta[step - 1][path], 0)
                np.testing.assert_array_equal(values.momenta[step][path], momentum)
            else:
                assert (after[path] != before[path]).any()
        assert (after["out/bias"] == before["out/bias"]).all() == is_update


def test_growth_is_by_the_gradient_at_the_weights_before_the_step():
    # A rate at which the step would change what is dropped.
    model = tiny.sparse_mlp(keras.optimizers.SGD(0.5))
    masks, weights = rigl_keras.get_masks(model), all_values(model)
    gradient = step_gradients(weights, 1)
    train(model, skipping(RigL, 1), last=1)
    for path, after in rigl_keras.get_masks(model).items():
        grow = np.abs(gradient[path])
        expected = tiny.reference_mask(masks[path], np.abs(weights[path]), grow, 0.6)
        np.testing.assert_array_equal(after, expected, err_msg=path)
        moved = weights[path] - 0.5 * gradient[path]
        other = tiny.reference_mask(masks[path], np.abs(moved), grow, 0.6)
        assert (expected != other).any()


def test_growth_by_a_given_batch_at_the_weights_before_the_step():
    batch = noise(16)
    model = tiny.sparse_mlp(keras.optimizers.SGD(0.5))
    masks, weights = rigl_keras.get_masks(model), all_values(model)
    gradient = gradients(weights, *batch)
    train(model, skipping(RigL, 1, grow_data=batch), last=1)
    for path, after in rigl_keras.get_masks(model).items():
        args = masks[path], np.abs(weights[path]), np.abs(gradient[path]), 0.6
        np.testing.assert_array_equal(after, tiny.reference_mask(*args), err_msg=path)


def test_two_replicas_take_the_step_back_too():
    with tiny.two_replicas().scope():
        model = tiny.sparse_mlp()
        values = Values(model)
    train(model, skipping(RigL), values.callback)
    alone = tiny.sparse_mlp()
    expected = Values(alone)
    train(alone, skipping(RigL), expected.callback)
    for step in range(9):
        tiny.assert_same_masks(values.masks[step], expected.masks[step])
        left, right = values.weights[step], expected.weights[step]
        assert_all_close(left, right, rtol=1e-4, atol=1e-6)


def test_several_steps_in_one_execution_are_refused():
    model = tiny.sparse_mlp(steps_per_execution=2)
    with pytest.raises(ValueError, match=r"skip_weight_step.*steps_per_execution=2"):
        train(model, skipping(RigL, 2))
    assert int(model.optimizer.iterations.numpy()) == 0
    train(model, tiny.forever(RigL, 2))


# Noise on what is dropped


def masks_after(callback, **options):
    model = tiny.sparse_mlp(keras.optimizers.SGD(2.0**-10))
    train(model, tiny.forever(callback, 2, 0.5, **options), last=4)
    return rigl_keras.get_masks(model)


def differ(left, right):
    return any((left[path] != right[path]).any() for path in left)


@pytest.mark.parametrize(
    "callback", [RigL, pytest.param(SET, marks=pytest.mark.release)]
)
def test_noise_changes_drops_by_the_seed(callback):
    without = masks_after(callback, seed=1)
    tiny.assert_same_masks(masks_after(callback, seed=1, drop_noise=0.0), without)
    noisy = masks_after(callback, seed=1, drop_noise=1.0)
    assert differ(noisy, without)
    tiny.assert_same_masks(masks_after(callback, seed=1, drop_noise=1.0), noisy)
    assert differ(masks_after(callback, seed=2, drop_noise=1.0), noisy)
    assert differ(masks_after(callback, seed=1, drop_noise=0.5), noisy)
    assert {path: mask.sum() for path, mask in noisy.items()} == {HIDDEN: 24, OUT: 12}


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf"), None, "1", True])
def test_what_is_no_noise_is_refused(noise):
    with pytest.raises(ValueError, match="drop_noise"):
        RigL(drop_noise=noise)
