"""What holds at every step, in every set-up, and from one process to the next."""

import contextlib
import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from golden import CASES, GOLDEN, cross_entropy, digest, exact_net, forever, images, net
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, RigL, RigLInverted

LAYERS, OPTIMIZERS = keras.layers, keras.optimizers


# Every step of a training

TRAININGS = {
    "momentum, clipnorm": (
        lambda: OPTIMIZERS.SGD(0.01, momentum=0.9, clipnorm=0.5),
        {},
        RigL,
    ),
    "nesterov, jit": (
        lambda: OPTIMIZERS.SGD(0.01, momentum=0.9, nesterov=True),
        {"jit_compile": True},
        SET,
    ),
    "adam, global_clipnorm, jit": (
        lambda: OPTIMIZERS.Adam(0.01, global_clipnorm=0.5),
        {"jit_compile": True},
        RigL,
    ),
    "adam, amsgrad, clipvalue": (
        lambda: OPTIMIZERS.Adam(0.01, amsgrad=True, clipvalue=0.1),
        {},
        RigLInverted,
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
    "rmsprop, jit": (
        lambda: OPTIMIZERS.RMSprop(0.01, momentum=0.9, centered=True),
        {"jit_compile": True},
        RigLInverted,
    ),
    "nadam": (lambda: OPTIMIZERS.Nadam(0.01), {}, SET),
    "lion": (lambda: OPTIMIZERS.Lion(0.01), {}, RigL),
    "ftrl": (
        lambda: OPTIMIZERS.Ftrl(0.01, initial_accumulator_value=0.25),
        {},
        RigL,
    ),
}
STARTS_AT = {"adagrad, two steps at once": {0.25}, "ftrl": {0.0, 0.25}}


def train(model, *callbacks, **options):
    x, y = images()
    options = {"epochs": 2, "batch_size": 8, "verbose": 0, **options}
    return model.fit(x, y, callbacks=list(callbacks), **options)


@pytest.mark.parametrize("training", sorted(TRAININGS))
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

    train(model, forever(callback), tiny.EveryStep(check))
    check(model)  # Averages of the weights replace them when a training ends.
    first, last = seen[0], seen[-1]
    assert any((first[path] != last[path]).any() for path in first)


def test_the_average_of_the_weights_is_finalised_sparse():
    optimizer = OPTIMIZERS.SGD(0.05, use_ema=True, ema_momentum=0.5)
    model = tiny.sparse_mlp(optimizer)
    last = []
    note = tiny.EveryStep(lambda model: last.append(tiny.weights(model)))
    tiny.fit(model, forever(RigL, 4), note, epochs=3)
    tiny.assert_zero_off_masks(model)
    # It is an average indeed.
    assert (tiny.weights(model)["out/kernel"] != last[-1]["out/kernel"]).any()


@pytest.mark.parametrize("jit", [False, True])
def test_the_users_constraint_holds_at_every_step(jit):
    model = tiny.mlp(kernel_constraint=keras.constraints.MaxNorm(0.75))
    optimizer = OPTIMIZERS.SGD(0.5, momentum=0.9)
    model = tiny.compiled(tiny.sparsify(model), optimizer, jit_compile=jit)
    norms = []

    def check(model):
        tiny.assert_zero_off_masks(model)
        for kernel in tiny.weights(model).values():
            norms.append(np.sqrt((kernel**2).sum(0)).max())

    tiny.fit(model, forever(SET, 3), tiny.EveryStep(check), epochs=2)
    assert max(norms) <= 0.75 + 1e-5
    assert max(norms) > 0.74


# The same masks in every set-up. Small integers and powers of two make sums exact.


def exact_masks(callback, strategy=None, **options):
    x, y = tiny.integers((64, 6, 6, 1), 1), tiny.integers((64, 1), 2)
    if callback == "grow_data":
        callback = forever(RigL, grow_data=(x[:16], y[:16]))
    else:
        callback = forever(callback)
    with strategy.scope() if strategy else contextlib.nullcontext():
        optimizer = OPTIMIZERS.SGD(2.0**-6, momentum=0.5)
        model = tiny.compiled(exact_net(), optimizer, **options)
    model.fit(
        x, y, batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=[callback]
    )
    if strategy:
        _assert_replicas_agree(model)
    return rigl_keras.get_masks(model)


def _assert_replicas_agree(model):
    for each in rigl_keras.sparse_kernels(model):
        for variable in (each.kernel, each.mask):
            first, *others = [c.numpy() for c in tiny.raw(variable).values]
            for other in others:
                np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize(("name", "callback"), CASES)
def test_masks_on_one_device_are_the_golden_ones(name, callback):
    assert digest(exact_masks(callback)) == GOLDEN[name]


@pytest.mark.parametrize(("name", "callback"), CASES)
def test_masks_on_two_replicas_are_the_golden_ones(name, callback):
    strategy = tiny.two_replicas()
    assert digest(exact_masks(callback, strategy)) == GOLDEN[name]


@pytest.mark.parametrize(("name", "callback"), CASES)
def test_masks_under_xla_are_the_golden_ones(name, callback):
    assert digest(exact_masks(callback, jit_compile=True)) == GOLDEN[name]


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"steps_per_execution": 2}])
def test_masks_eagerly_and_with_many_steps_at_once_are_the_golden_ones(options):
    assert digest(exact_masks(RigL, **options)) == GOLDEN["RigL"]


def test_a_training_repeated_is_the_same_bit_for_bit():
    def run():
        keras.utils.set_random_seed(5)
        model = tiny.compiled(
            tiny.sparsify(net()), OPTIMIZERS.Adam(0.01), loss=cross_entropy()
        )
        train(model, forever(RigL))
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
    (lambda: RigL(2, 0.5, last_update_step=10), lambda: OPTIMIZERS.Adam(0.01)),
    (lambda: forever(SET, 3), lambda: OPTIMIZERS.SGD(0.01, momentum=0.9)),
    (
        lambda: RigL(2, 0.5, schedule="lr", last_update_step=-1),
        lambda: OPTIMIZERS.SGD(
            OPTIMIZERS.schedules.ExponentialDecay(0.02, 4, 0.5), momentum=0.9
        ),
    ),
]


@pytest.mark.parametrize(("callback", "optimizer"), RESUMED)
@pytest.mark.parametrize("at", [4, 6])
def test_a_resumed_training_ends_as_an_undisturbed_one(
    tmp_path, callback, optimizer, at
):
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
    make = lambda: SET(1, 0.5, schedule="constant")  # noqa: E731
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
    batches(straight, forever(RigL, 2), 0, 12)
    begun = tiny.sparse_mlp(OPTIMIZERS.Adam(0.01))
    batches(begun, forever(RigL, 2), 0, 6)
    path = os.path.join(tmp_path, "model.keras")
    begun.save(path)
    resumed = keras.models.load_model(path)
    batches(resumed, forever(RigL, 2), 6, 12)
    tiny.assert_same_masks(
        rigl_keras.get_masks(resumed), rigl_keras.get_masks(straight)
    )
    for left, right in zip(straight.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())


# Models of other kinds


def sequences():
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            LAYERS.Embedding(9, 6, mask_zero=True),
            LAYERS.Bidirectional(LAYERS.LSTM(4, return_sequences=True), name="both"),
            LAYERS.TimeDistributed(LAYERS.Dense(4), name="time"),
            LAYERS.GRU(4, name="gru"),
            LAYERS.Dense(3, name="out"),
        ]
    )


def attention():
    inputs = keras.Input((5, 6))
    x = LAYERS.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    x = LAYERS.GlobalAveragePooling1D()(LAYERS.LayerNormalization()(x + inputs))
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))


def upscaling():
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            LAYERS.SeparableConv2D(4, 3, name="separable"),
            LAYERS.Conv2DTranspose(3, 3, name="up"),
            LAYERS.GlobalAveragePooling2D(),
            LAYERS.Dense(3, name="out", activity_regularizer="l2"),
        ]
    )


@pytest.mark.parametrize(
    ("callback", "make"),
    [
        pytest.param(RigL, sequences, marks=pytest.mark.slow),
        *(
            (callback, make)
            for callback in (RigL, SET)
            for make in (attention, upscaling)
        ),
    ],
)
def test_training_saving_and_stripping_models_of_other_kinds(tmp_path, callback, make):
    model = tiny.compiled(tiny.sparsify(make()), OPTIMIZERS.Adam(0.01))
    shape = (16, *model.input_shape[1:])
    x = np.random.RandomState(0).randint(0, 5, shape).astype(np.float32)
    y = tiny.integers((16, 3))
    before = rigl_keras.get_masks(model)
    counts = tiny.counts(model)
    callbacks = [forever(callback), tiny.EveryStep(tiny.assert_zero_off_masks)]
    model.fit(x, y, batch_size=4, verbose=0, callbacks=callbacks)
    after = rigl_keras.get_masks(model)
    assert tiny.counts(model) == counts
    assert any((before[path] != after[path]).any() for path in before)
    expected = model.predict(x, verbose=0)
    plain = rigl_keras.strip(model)
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
    path = os.path.join(tmp_path, "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), after)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
