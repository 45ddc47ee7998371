import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from pruning_reference import decay, globally_pruned_masks, kept_count, pruned_mask
from tensorflow import keras

import rigl_keras
from rigl_keras import Pruning, compat
from rigl_keras.algorithms import schedules


def dense_mlp(optimizer=None, **options):
    """A compiled MLP with all its weights, some of them equal."""
    return tiny.sparse_mlp(optimizer, sparsity=0, **options)


def every_step(sparsity, begin=1, **options):
    return Pruning(schedules.constant_sparsity(sparsity, begin, frequency=1), **options)


def gradual(ranking="layer"):
    return Pruning(schedules.polynomial_decay(0.1, 0.85, 2, 11, frequency=3), ranking)


def gradual_sparsity(step):
    """What `gradual` prunes to at a step, or None."""
    is_due = 2 <= step <= 11 and (step - 2) % 3 == 0
    return decay(step, 0.1, 0.85, 2, 11) if is_due else None


class States:
    """The kernels and masks of a model, at the start and after every execution."""

    def __init__(self, model):
        self.seen = [self._now(model)]
        self.callback = tiny.EveryStep(lambda model: self.seen.append(self._now(model)))

    def masks(self):
        return [masks for masks, _ in self.seen]

    def _now(self, model):
        return rigl_keras.get_masks(model), tiny.weights(model)


def pruned(masks, weights, sparsity, ranking):
    scores = {path: np.abs(kernel) for path, kernel in weights.items()}
    if ranking == "layer":
        return {p: pruned_mask(scores[p], masks[p], sparsity) for p in masks}
    together = globally_pruned_masks(
        list(scores.values()), list(masks.values()), sparsity
    )
    return dict(zip(masks, together, strict=True))


def check_off_masks(model):
    tiny.assert_zero_off_masks(model)
    for path, mask in rigl_keras.get_masks(model).items():
        for slot in tiny.slots(model, path):
            assert (slot[~mask] == 0).all(), path


def assert_same_training(left, right):
    tiny.assert_same_masks(rigl_keras.get_masks(left), rigl_keras.get_masks(right))
    ours, theirs = ([*m.weights, *m.optimizer.variables] for m in (left, right))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


# Masks, step by step


@pytest.mark.parametrize(
    ("optimizer", "ranking"),
    [
        (lambda: keras.optimizers.SGD(2.0**-6, momentum=0.5), "layer"),
        (lambda: keras.optimizers.Adam(0.05), "global"),
    ],
    ids=["sgd", "adam"],
)
def test_masks_in_fit_are_those_of_the_smallest_weights(optimizer, ranking):
    model, pruning = dense_mlp(optimizer()), gradual(ranking)
    states = States(model)
    tiny.fit(model, pruning, tiny.EveryStep(check_off_masks), states.callback, epochs=4)
    assert len(states.seen) == 17
    changes = []
    for step in range(1, 17):
        masks, weights = states.seen[step - 1]  # those that the step begins with
        sparsity = gradual_sparsity(step)
        if sparsity is not None:
            expected = pruned(masks, weights, sparsity, ranking)
            changes += [step] * any((expected[p] != masks[p]).any() for p in masks)
            smallest = {p: np.abs(weights[p][m]).min() for p, m in expected.items()}
            masks = expected
        tiny.assert_same_masks(states.masks()[step], masks)
    assert changes == [2, 5, 8, 11]
    assert pruning.thresholds() == smallest


def test_a_pruned_weight_stays_pruned_and_sparsity_never_falls():
    model = dense_mlp()
    states = States(model)
    pruning = Pruning(lambda step: (True, tf.where(step < 5, 0.7, 0.2)))
    tiny.fit(model, pruning, states.callback, epochs=2)
    for masks in states.masks()[1:]:
        tiny.assert_same_masks(masks, states.masks()[1])
    assert tiny.counts(model) == {"hidden/kernel": 14, "out/kernel": 7}


@pytest.mark.parametrize(
    ("sparsity", "counts"),
    [
        (0.5, (24, 12)),
        (0.34375, (32, 16)),  # 31.5 and 15.75
        (0.6875, (15, 8)),  # 15 and 7.5
        (0.90625, (4, 2)),  # 4.5 and 2.25
        (0.999, (1, 1)),
    ],
)
def test_counts_round_half_to_even_and_leave_one(sparsity, counts):
    model = dense_mlp()
    tiny.fit(model, every_step(sparsity))
    assert tuple(tiny.counts(model).values()) == counts
    assert counts == (kept_count(48, sparsity), kept_count(24, sparsity))


def test_of_equal_weights_the_first_are_kept():
    model = dense_mlp()
    for each in rigl_keras.sparse_kernels(model):
        signs = np.resize(np.float32([1, -1]), each.kernel.shape)
        each.kernel.assign(0.5 * signs)
    tiny.fit(model, every_step(0.75), samples=8)
    for mask in rigl_keras.get_masks(model).values():
        expected = np.arange(mask.size) < mask.size / 4
        np.testing.assert_array_equal(mask.ravel(), expected)


def test_global_ranking_leaves_every_kernel_one():
    model = dense_mlp()
    hidden, out = rigl_keras.sparse_kernels(model)
    hidden.kernel.assign(np.linspace(0.001, 0.01, 48, dtype=np.float32).reshape(6, 8))
    out.kernel.assign(np.linspace(1, 2, 24, dtype=np.float32).reshape(8, 3))
    pruning = every_step(0.75, ranking="global")
    tiny.fit(model, pruning, samples=8)
    masks = rigl_keras.get_masks(model)
    assert tiny.counts(model) == {"hidden/kernel": 1, "out/kernel": 17}  # of 72: 18
    assert masks["hidden/kernel"][-1, -1]
    assert masks["out/kernel"].ravel()[-17:].all()


# Schedules


def test_an_own_schedule():
    model = dense_mlp()
    states = States(model)

    def schedule(step):
        if step == 3:
            return True, 0.5
        return step > 6, 0.75

    history = tiny.fit(model, Pruning(schedule), states.callback, epochs=2)
    counts = [int(masks["out/kernel"].sum()) for masks in states.masks()]
    assert counts == [24, 24, 24, 12, 12, 12, 12, 6, 6]
    assert history.history["sparsity"] == [0.5, 0.75]


def test_a_schedule_is_followed_for_longer_than_is_planned_at_once():
    model = dense_mlp(keras.optimizers.SGD(2.0**-10))
    schedule = schedules.polynomial_decay(0.0, 0.75, 1020, 1036, frequency=8)
    steps = tiny.update_steps(model, Pruning(schedule), samples=1040, batch_size=1)
    assert steps == [1028, 1036]  # sparsity begins at 0
    assert tiny.counts(model)["out/kernel"] == 6


@tiny.too_short
@pytest.mark.parametrize(("sparsity", "begin"), [(0.0, 1), (0.5, 9)])
def test_sparsity_0_and_steps_before_the_first_pruning_change_nothing(sparsity, begin):
    with_it, without = dense_mlp(), dense_mlp()
    pruning = every_step(sparsity, begin)
    tiny.fit(with_it, pruning, epochs=2)
    tiny.fit(without, rigl_keras.Static(), epochs=2)
    assert tiny.counts(with_it) == {"hidden/kernel": 48, "out/kernel": 24}
    assert_same_training(with_it, without)
    if begin > 8:
        assert pruning.thresholds() == {"hidden/kernel": 0.0, "out/kernel": 0.0}


@pytest.mark.parametrize("sparsity", [1.0, -0.25, float("nan")])
def test_a_sparsity_out_of_range_is_refused_before_the_training(sparsity):
    model = dense_mlp()
    masks = rigl_keras.get_masks(model)
    with pytest.raises(ValueError, match=r"\[0, 1\), got .* at step 3"):
        tiny.fit(model, Pruning(lambda step: (step == 3, sparsity)))
    assert int(model.optimizer.iterations.numpy()) == 0
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)


def test_an_unknown_ranking_is_refused():
    with pytest.raises(ValueError, match=r"ranking.*'layer', 'global'.*'local'"):
        every_step(0.5, ranking="local")


def test_a_model_without_masks_is_refused():
    model = tiny.compiled(tiny.mlp())
    with pytest.raises(ValueError, match=r"no sparse kernel.*sparsity=0"):
        tiny.fit(model, every_step(0.5))


# Other set-ups


@tiny.too_short
def test_a_killed_and_resumed_training_ends_as_an_undisturbed_one(tmp_path):
    at = 1

    def make():
        model, pruning = dense_mlp(keras.optimizers.Adam(0.05)), gradual()
        pruning.prepare(model)
        parts = {"optimizer": model.optimizer, "pruning": pruning.state}
        return model, pruning, tf.train.Checkpoint(model=model, **parts)

    straight, pruning, _ = make()
    tiny.fit(straight, pruning, epochs=3)
    thresholds = pruning.thresholds()

    killed, pruning, checkpoint = make()
    tiny.fit(killed, pruning, epochs=at)
    path = checkpoint.save(os.path.join(tmp_path, "ckpt"))
    before = pruning.thresholds()

    resumed, pruning, checkpoint = make()
    for variable in resumed.trainable_weights:
        variable.assign(variable.numpy() + 1)
    checkpoint.restore(path).assert_existing_objects_matched()
    assert pruning.thresholds() == before != thresholds
    tiny.fit(resumed, pruning, epochs=3, initial_epoch=at)
    assert_same_training(resumed, straight)
    assert pruning.thresholds() == thresholds


@tiny.too_short
def test_a_callback_that_restores_the_step_is_followed():
    model = dense_mlp()

    states = States(model)
    restore = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: model.optimizer.iterations.assign(100 * epoch)
    )
    pruning = every_step(0.5, begin=103)
    tiny.fit(model, restore, pruning, states.callback, epochs=2)
    counts = [int(masks["out/kernel"].sum()) for masks in states.masks()]
    assert counts == [24] * 7 + [12, 12]


@pytest.mark.release
def test_steps_in_one_execution_train_as_steps_alone():
    alone, together = dense_mlp(), dense_mlp(steps_per_execution=2)
    for model in (alone, together):
        # The first steps of executions.
        schedule = schedules.polynomial_decay(0.0, 0.8, 1, 7, frequency=2)
        tiny.fit(model, Pruning(schedule), epochs=3)
    assert_same_training(alone, together)


@tiny.too_short
@pytest.mark.parametrize(
    ("due", "pruned_by"),
    [
        (2, {3: 24, 4: 24}),  # before the execution that it falls into
        (4, {3: 48, 4: 24}),
        (5, {4: 48, 7: 24}),
        (6, {4: 48, 7: 24}),  # executions have steps 1-3, 4, 5-7, 8
        (9, {7: 48, 8: 48}),  # after the training
    ],
)
def test_pruning_comes_before_the_execution_that_it_falls_into(due, pruned_by):
    model, seen = dense_mlp(steps_per_execution=3), {}

    def note(model):
        step = int(model.optimizer.iterations.numpy())
        seen[step] = tiny.counts(model)["hidden/kernel"]

    tiny.fit(model, every_step(0.5, begin=due), tiny.EveryStep(note), epochs=2)
    assert list(seen) == [3, 4, 7, 8]
    assert {step: seen[step] for step in pruned_by} == pruned_by


def test_the_last_of_several_prunings_in_an_execution_counts():
    model = dense_mlp(steps_per_execution=4)
    tiny.fit(model, Pruning(lambda step: (step < 4, step / 4)))
    assert tiny.counts(model) == {"hidden/kernel": 12, "out/kernel": 6}


@tiny.too_short
def test_a_second_fit_goes_on_where_the_first_ended():
    once, twice = dense_mlp(), dense_mlp()
    tiny.fit(once, gradual(), epochs=3)
    pruning = gradual()
    tiny.fit(twice, pruning, epochs=1)
    thresholds = pruning.thresholds()
    assert min(thresholds.values()) > 0
    pruning.prepare(twice)
    assert pruning.thresholds() == thresholds
    tiny.fit(twice, pruning, epochs=2)
    assert_same_training(once, twice)


def test_one_callback_for_models_of_different_kernels():
    pruning = every_step(0.5)
    assert pruning.thresholds() == {}
    tiny.fit(dense_mlp(), pruning)
    other = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="only")])
    other = tiny.compiled(tiny.sparsify(other, 0))
    tiny.fit(other, pruning)
    assert tiny.counts(other) == {"only/kernel": 9}
    assert list(pruning.thresholds()) == ["only/kernel"]


def test_frozen_kernels_are_left_alone():
    model = dense_mlp()
    model.layers[0].trainable = False
    tiny.compiled(model)
    pruning = every_step(0.5)
    history = tiny.fit(model, pruning)
    assert tiny.counts(model) == {"hidden/kernel": 48, "out/kernel": 12}
    assert list(pruning.thresholds()) == ["out/kernel"]
    assert history.history["sparsity"] == [pytest.approx(12 / 72)]


def test_two_replicas_prune_as_one_device():
    def trained():
        model, pruning = dense_mlp(keras.optimizers.SGD(2.0**-6)), gradual("global")
        states = States(model)
        tiny.fit(model, pruning, states.callback, epochs=3)
        return states.masks(), tiny.weights(model), pruning.thresholds()

    masks, weights, thresholds = trained()
    with tiny.two_replicas().scope():
        replicas = trained()
    for one, two in zip(masks, replicas[0], strict=True):
        tiny.assert_same_masks(one, two)
    for path, kernel in weights.items():
        np.testing.assert_allclose(replicas[1][path], kernel, rtol=1e-5, atol=1e-7)
    assert replicas[2] == pytest.approx(thresholds)


def test_a_step_skipped_by_loss_scaling():
    keras.mixed_precision.set_global_policy("mixed_float16")
    if tiny.IS_KERAS_3:
        wrapper = keras.optimizers.LossScaleOptimizer
    else:
        wrapper = keras.mixed_precision.LossScaleOptimizer
    optimizer = keras.optimizers.SGD(2.0**-10, momentum=0.5)
    model = dense_mlp(wrapper(optimizer, initial_scale=8.0))
    states = States(model)
    x, y = tiny.data(64)
    x[28] = np.inf  # in the fourth of eight steps
    schedule = schedules.polynomial_decay(0.0, 0.75, 2, 6, 1, frequency=2)
    callbacks = [Pruning(schedule), tiny.EveryStep(check_off_masks), states.callback]
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
    counts = [int(masks["hidden/kernel"].sum()) for masks in states.masks()]
    # A skipped step is pruned before all the same; in Keras 3 it does not count.
    later = [30, 30, 12, 12] if tiny.IS_KERAS_3 else [30, 12, 12, 12]
    assert counts == [48, 48, 48, 48, 30, *later]
    skipped, before = states.seen[4][1], states.seen[3][1]
    for path, mask in states.masks()[4].items():
        np.testing.assert_array_equal(skipped[path], np.where(mask, before[path], 0))
    steps = compat.innermost_optimizer(model.optimizer).iterations
    assert int(steps.numpy()) == (7 if tiny.IS_KERAS_3 else 8)


def test_weights_that_are_not_finite_are_not_pruned():
    model = dense_mlp()
    masks = rigl_keras.get_masks(model)
    model.layers[0].layer.kernel.assign(np.full((6, 8), np.nan, np.float32))
    pruning = every_step(0.5)
    with pytest.warns(UserWarning, match=r"Pruning: no mask update at step 1: .*not"):
        tiny.fit(model, pruning)
    tiny.assert_same_masks(rigl_keras.get_masks(model), masks)
    assert set(pruning.thresholds().values()) == {0.0}
