"""What holds at every step under optimizers and constraints, and after a restart.

What holds for every algorithm, however it trains, is tested in tests/contract.
"""

import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from golden import GOLDEN, cross_entropy, digest, exact_net, images, net
from histories import BATCH, X, Y, sgd
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, RigL

LAYERS, OPTIMIZERS = keras.layers, keras.optimizers


# Every step of a training

TRAININGS = {
    "momentum, clipnorm": (
        lambda: OPTIMIZERS.SGD(0.01, momentum=0.9, clipnorm=0.5),
        {},
        RigL,
    ),
    "adam, global_clipnorm, jit": (
        lambda: OPTIMIZERS.Adam(0.01, global_clipnorm=0.5),
        {"jit_compile": True},
        RigL,
    ),
    "adamw, average of weights": (
        lambda: OPTIMIZERS.AdamW(
            0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=3
        ),
        {},
        RigL,
    ),
    "adagrad, two steps at once": (
        lambda: OPTIMIZERS.Adagrad(0.01, initial_accumulator_value=0.25),
        {"steps_per_execution": 2},
        SET,
    ),
}
STARTS_AT = {"adagrad, two steps at once": {0.25}}


def train(model, *callbacks, **options):
    x, y = images()
    options = {"epochs": 2, "batch_size": 8, "verbose": 0, **options}
    return model.fit(x, y, callbacks=list(callbacks), **options)


def marks(name):
    if name.startswith(("adamw", "adagrad")):
        return pytest.mark.release
    return pytest.mark.slow if "jit" in name else ()


@pytest.mark.parametrize(
    "training",
    [pytest.param(name, marks=marks(name)) for name in sorted(TRAININGS)],
)
def test_weights_and_slots_off_the_masks_stay_as_new(training):
    make, options, callback = TRAININGS[training]
    model = tiny.sparsify(net(kernel_regularizer=keras.regularizers.L2(0.01)), 0.6)
    model = tiny.compiled(model, make(), loss=cross_entropy(), **options)
    counts, seen = tiny.counts(model), []
    starts = STARTS_AT.get(training, {0.0})

    def check(model):
        tiny.assert_zero_off_masks(model)
        assert tiny.counts(model) == counts
        for path, mask in rigl_keras.get_masks(model).items():
            for slot in tiny.slots(model, path):
                assert len(set(slot[~mask])) == 1 and set(slot[~mask]) <= starts, path
        seen.append(rigl_keras.get_masks(model))

    train(model, tiny.forever(callback, 2, 0.4), tiny.EveryStep(check))
    check(model)  # Averages of the weights replace them when a training ends.
    first, last = seen[0], seen[-1]
    assert any((first[path] != last[path]).any() for path in first)


def test_the_average_of_the_weights_is_finalised_sparse():
    optimizer = OPTIMIZERS.SGD(0.05, use_ema=True, ema_momentum=0.5)
    model = tiny.sparse_mlp(optimizer)
    last = []
    note = tiny.EveryStep(lambda model: last.append(tiny.weights(model)))
    tiny.fit(model, tiny.forever(RigL, 4, 0.4), note, epochs=3)
    tiny.assert_zero_off_masks(model)
    # It is an average indeed.
    assert (tiny.weights(model)["out/kernel"] != last[-1]["out/kernel"]).any()


@pytest.mark.slow
@pytest.mark.usefixtures("graph_optimizer")
def test_the_users_constraint_holds_at_every_step_under_xla():
    model = tiny.mlp(kernel_constraint=keras.constraints.MaxNorm(0.75))
    optimizer = OPTIMIZERS.SGD(0.5, momentum=0.9)
    model = tiny.compiled(tiny.sparsify(model), optimizer, jit_compile=True)
    norms = []

    def check(model):
        tiny.assert_zero_off_masks(model)
        for kernel in tiny.weights(model).values():
            norms.append(np.sqrt((kernel**2).sum(0)).max())

    tiny.fit(model, tiny.forever(SET, 3, 0.4), tiny.EveryStep(check), epochs=2)
    assert max(norms) <= 0.75 + 1e-5
    assert max(norms) > 0.74


# The same masks and weights


@pytest.mark.usefixtures("graph_optimizer")
@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"steps_per_execution": 2}])
def test_masks_eagerly_and_with_many_steps_at_once_are_the_golden_ones(options):
    model = tiny.compiled(exact_net(), sgd(), **options)
    callback = tiny.forever(RigL, 2, 0.4)
    model.fit(X, Y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[callback])
    assert digest(rigl_keras.get_masks(model)) == GOLDEN["rigl"]


def test_a_training_repeated_is_the_same_bit_for_bit():
    def run():
        keras.utils.set_random_seed(5)
        model = tiny.compiled(
            tiny.sparsify(net()), OPTIMIZERS.Adam(0.01), loss=cross_entropy()
        )
        train(model, tiny.forever(RigL, 2, 0.4))
        return rigl_keras.get_masks(model), [w.numpy() for w in model.weights]

    (masks, weights), (again, weights_again) = run(), run()
    tiny.assert_same_masks(masks, again)
    for left, right in zip(weights, weights_again, strict=True):
        np.testing.assert_array_equal(left, right)


# A training that goes on from a checkpoint


def resumable(seed, callback, optimizer):
    model = tiny.sparse_mlp(optimizer(), seed=seed)
    callback = callback()
    callback.prepare(model)
    checkpoint = tf.train.Checkpoint(
        model=model, optimizer=model.optimizer, sparse=callback.state
    )
    return model, callback, checkpoint


def batches(model, callback, first, last, total=12):
    """Trains the steps from `first` to `last` of a training of `total` steps."""
    x, y = tiny.data(8 * total)
    model.fit(
        x[8 * first : 8 * last],
        y[8 * first : 8 * last],
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )


RESUMED = [
    (
        lambda: RigL(update_freq=2, drop_fraction=0.5, last_update_step=10),
        lambda: OPTIMIZERS.Adam(0.01),
    ),
    (
        lambda: RigL(
            update_freq=2, drop_fraction=0.5, schedule="lr", last_update_step=-1
        ),
        lambda: OPTIMIZERS.SGD(
            OPTIMIZERS.schedules.ExponentialDecay(0.02, 4, 0.5), momentum=0.9
        ),
    ),
]


@pytest.mark.parametrize(("callback", "optimizer"), RESUMED)
def test_a_resumed_training_ends_as_an_undisturbed_one(tmp_path, callback, optimizer):
    at = 6
    straight, its_callback, _ = resumable(0, callback, optimizer)
    batches(straight, its_callback, 0, 12)

    begun, its_callback, checkpoint = resumable(0, callback, optimizer)
    batches(begun, its_callback, 0, at)
    path = checkpoint.save(os.path.join(tmp_path, "ckpt"))

    resumed, its_callback, checkpoint = resumable(7, callback, optimizer)
    checkpoint.restore(path).assert_existing_objects_matched()
    tiny.assert_same_masks(rigl_keras.get_masks(resumed), rigl_keras.get_masks(begun))
    batches(resumed, its_callback, at, 12)
    tiny.assert_same_masks(
        rigl_keras.get_masks(resumed), rigl_keras.get_masks(straight)
    )
    variables = [*straight.weights, *straight.optimizer.variables]
    others = [*resumed.weights, *resumed.optimizer.variables]
    for left, right in zip(variables, others, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())


def test_the_last_update_step_resolved_before_a_checkpoint_is_kept(tmp_path):
    def make():
        return SET(update_freq=1, drop_fraction=0.5, schedule="constant")

    model, callback, checkpoint = resumable(0, make, lambda: OPTIMIZERS.SGD(0.01))
    tiny.fit(model, callback, epochs=2)
    path = checkpoint.save(os.path.join(tmp_path, "ckpt"))
    model, callback, checkpoint = resumable(0, make, lambda: OPTIMIZERS.SGD(0.01))
    checkpoint.restore(path)
    tiny.fit(model, callback, epochs=10)
    assert int(callback.state.last_update_step.numpy()) == 6


def test_training_goes_on_from_a_saved_model(tmp_path):
    """A file holds model and optimizer, so a callback of fixed schedule goes on."""
    straight = tiny.sparse_mlp(OPTIMIZERS.Adam(0.01))
    batches(straight, tiny.forever(RigL, 2, 0.4), 0, 12)
    begun = tiny.sparse_mlp(OPTIMIZERS.Adam(0.01))
    batches(begun, tiny.forever(RigL, 2, 0.4), 0, 6)
    path = os.path.join(tmp_path, "model.keras")
    begun.save(path)
    resumed = keras.models.load_model(path)
    batches(resumed, tiny.forever(RigL, 2, 0.4), 6, 12)
    tiny.assert_same_masks(
        rigl_keras.get_masks(resumed), rigl_keras.get_masks(straight)
    )
    for left, right in zip(straight.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())
