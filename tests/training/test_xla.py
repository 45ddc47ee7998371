"""Training step and mask update under XLA: what a TPU asks of them, shown on a CPU.

XLA compiles a function whole or refuses it, naming the operation. LeNet5 is trained as
it is; ResNet-50 and VGG-16 with an eighth of their channels, five classes and small
images: the graphs are those of the full networks but for the numbers in their shapes.
"""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, SNFS, RigL, RigLInverted, networks

STEPS, BATCH, CLASSES = 10, 8, 5
ALGORITHMS = [RigL, RigLInverted, SNFS, SET]
# Users have TensorFlow's graph optimizer on.
pytestmark = pytest.mark.usefixtures("graph_optimizer")
# Images' size and the network's options. Without `zero_init_residual` a ResNet-50 this
# narrow multiplies rounding errors a millionfold at its start, whoever compiles it.
NETWORKS = {
    "lenet5": (32, {}),
    "vgg16": (32, {"width_multiplier": 0.125}),
    "resnet50": (64, {"width_multiplier": 0.125, "zero_init_residual": True}),
}
LARGE = {"vgg16", "resnet50"}

# Operations of a graph that would leave the device, or whose result has a shape that
# depends on the data.
HOST_OPS = {
    *("PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaHostCompute", "_XlaHostCompute"),
    *("Print", "PrintV2", "AsString", "StringFormat", "Assert"),
    *("Where", "Unique", "UniqueV2", "DynamicPartition", "ListDiff", "Bincount"),
    *("RandomUniform", "RandomStandardNormal", "TruncatedNormal", "RandomShuffle"),
}
# What the compiled program would say of a host, a dynamic shape or a double.
NOT_ON_EVERY_DEVICE = {
    "custom-call": r" custom-call\(",
    "host transfer": r" (?:infeed|outfeed|send|recv)\(",
    "dynamic shape": r"\[[^\]]*(?:<=|\?)|[gs]et-dimension-size\(",
    "float64": r"\b(?:f64|c128)\[",
}


def marked(name, *values):
    large = [pytest.mark.release, pytest.mark.one_keras]
    return pytest.param(
        name, *values, marks=large if name in LARGE else [pytest.mark.slow]
    )


def data(name, samples=STEPS * BATCH):
    """Noisy images, each class around a pattern of 4x4 patches of its own."""
    size, _ = NETWORKS[name]
    generator = np.random.RandomState(0)
    labels = generator.randint(0, CLASSES, samples)
    patterns = generator.randn(CLASSES, 4, 4, 3).repeat(size // 4, 1)
    images = 2 * patterns.repeat(size // 4, 2)[labels]
    images += generator.randn(*images.shape)
    return images.astype(np.float32), labels.astype(np.int32)


def compiled(name, jit_compile):
    size, options = NETWORKS[name]
    model = networks.build(name, (size, size, 3), CLASSES, **options)
    model = tiny.sparsify(model, 0.8, initializer="unit_scaled")
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    return model


@functools.cache
def trained(name, jit_compile=False):
    """A model after ten steps and two mask updates, ready for one more.

    Returns:
      The model, its callback, and masks and weights before and after.
    """
    model = compiled(name, jit_compile)
    callback = tiny.forever(RigL, 4, 0.3)
    before = rigl_keras.get_masks(model), values(model.trainable_variables)
    x, y = data(name)
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(x, y, callbacks=[callback, _gradient_of_last_step(callback)], **options)
    after = rigl_keras.get_masks(model), values(model.trainable_variables)
    return model, callback, before, after


def _gradient_of_last_step(callback):
    """Has the dense gradient kept that an update after the last step grows by."""

    def expect(batch, logs):
        if batch == STEPS - 2:
            callback.attachment.expect_update(STEPS)

    return keras.callbacks.LambdaCallback(on_train_batch_end=expect)


def values(variables):
    return [variable.numpy() for variable in variables]


def distance(left, right):
    """Between two lists of arrays, as one vector each."""
    squares = [np.sum((a - b) ** 2) for a, b in zip(left, right, strict=True)]
    return np.sqrt(sum(squares))


def share_changed(left, right):
    """Share of entries in which two sets of masks differ."""
    assert left.keys() == right.keys()
    size = sum(mask.size for mask in left.values())
    return sum((mask != right[path]).sum() for path, mask in left.items()) / size


@pytest.mark.release
@pytest.mark.parametrize("name", [marked(name) for name in NETWORKS])
def test_ten_steps_and_two_updates_end_as_without_xla(name):
    _, _, (masks, weights), (plain_masks, plain_weights) = trained(name)
    xla_masks, xla_weights = trained(name, jit_compile=True)[-1]
    moved = distance(plain_weights, weights)
    assert share_changed(masks, plain_masks) > 0.05
    assert moved > 0.05 * np.sqrt(sum(np.sum(each**2) for each in weights))
    assert share_changed(plain_masks, xla_masks) <= 0.01
    assert distance(plain_weights, xla_weights) <= 1e-3 * moved


@pytest.mark.parametrize("name", [marked("lenet5"), marked("vgg16")])
def test_an_update_under_xla_gives_exactly_the_masks_without(name):
    model, callback, *_ = trained(name)
    attachment, step, fraction = callback.attachment, STEPS, 0.25
    state = [*model.variables, *model.optimizer.variables]
    before = values(state)

    assert attachment.update(step, fraction) is None
    masks, expected = rigl_keras.get_masks(model), values(state)
    for variable, value in zip(state, before, strict=True):
        variable.assign(value)
    assert share_changed(rigl_keras.get_masks(model), masks) > 0.002

    update = tf.function(
        attachment.mask_update.apply, autograph=False, jit_compile=True
    )
    arguments = tf.constant(step, tf.int64), tf.constant(fraction)
    assert_suits_every_device(update, *arguments)
    assert update(*arguments).numpy().all()
    tiny.assert_same_masks(masks, rigl_keras.get_masks(model))
    for left, right in zip(expected, values(state), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", [marked(name) for name in NETWORKS])
def test_a_training_step_has_static_shapes_and_stays_on_its_device(name):
    model, callback = compiled(name, jit_compile=True), tiny.forever(RigL, 4, 0.3)
    x, y = data(name, BATCH)
    with callback.attached(model, total_steps=STEPS):
        step = tf.function(model.train_step, jit_compile=True)
        assert_suits_every_device(step, (tf.constant(x), tf.constant(y)))


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        *((algorithm, {}) for algorithm in ALGORITHMS),
        (RigL, {"grow_data": tiny.data()}),
    ],
)
def test_an_update_suits_every_device(algorithm, options):
    callback = tiny.forever(algorithm, **options)
    callback.prepare(tiny.sparse_mlp(jit_compile=True))
    update = callback.attachment.mask_update.apply
    update = tf.function(update, autograph=False, jit_compile=True)
    assert_suits_every_device(update, tf.constant(4, tf.int64), tf.constant(0.3))


class OnHost(rigl_keras.mask_updaters.SET):
    """Draws its scores in Python, where XLA cannot follow; says nothing of it."""

    def grow_scores(self, state):
        shape = state.weights.shape
        scores = tf.numpy_function(lambda: np.ones(shape, np.float32), [], tf.float32)
        return tf.ensure_shape(scores, shape)


@pytest.mark.parametrize("suits_xla", [None, False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_updates_that_suit_xla_are_compiled_where_the_training_step_is(
    jit_compile, suits_xla, monkeypatch
):
    monkeypatch.setattr(SET, "updater", OnHost)
    if suits_xla is not None:
        monkeypatch.setattr(OnHost, "suits_xla", suits_xla, raising=False)
    model = tiny.sparse_mlp(jit_compile=jit_compile)
    callback = tiny.forever(SET, 4, 0.3)
    callback.prepare(model)
    if not (jit_compile and suits_xla):
        assert callback.attachment.update(4, 0.3) is None
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match="PyFunc"):
        callback.attachment.update(4, 0.3)


def test_updates_on_several_replicas_are_not_compiled(monkeypatch):
    monkeypatch.setattr(SET, "updater", OnHost)
    monkeypatch.setattr(OnHost, "suits_xla", True, raising=False)
    with tiny.two_replicas().scope():
        model = tiny.sparse_mlp(jit_compile=True)
    callback = tiny.forever(SET, 4, 0.3)
    callback.prepare(model)
    assert callback.attachment.update(4, 0.3) is None


def test_a_compiled_model_gets_the_noise_of_another():
    masks = []
    for jit_compile in (False, True):
        model = tiny.sparse_mlp(jit_compile=jit_compile)
        start = rigl_keras.get_masks(model)
        callback = tiny.forever(SET, drop_noise=0.1)
        callback.prepare(model)
        assert callback.attachment.update(4, 0.3) is None
        masks.append(rigl_keras.get_masks(model))
        assert share_changed(start, masks[-1]) > 0.05
    tiny.assert_same_masks(*masks)


def test_an_attachment_does_not_outlive_another_jit_compile():
    model, callback = tiny.sparse_mlp(jit_compile=True), tiny.forever(SET, 4, 0.3)
    callback.prepare(model)
    attachment = callback.attachment
    callback.prepare(model)
    assert callback.attachment is attachment
    model.compile(model.optimizer, "mse", jit_compile=False)
    callback.prepare(model)
    assert callback.attachment is not attachment


# The checks, and what they find


def assert_suits_every_device(function, *arguments):
    assert host_ops(function, *arguments) == set()
    assert doubts(function, *arguments) == set()


def host_ops(function, *arguments):
    """Those of `HOST_OPS` in the graph of a `tf.function`, its own functions' too."""
    graph = function.get_concrete_function(*arguments).graph.as_graph_def()
    # As text, which has the nodes of its functions too.
    return set(re.findall(r'\bop: "(\w+)"', str(graph))) & HOST_OPS


def doubts(function, *arguments):
    """Those of `NOT_ON_EVERY_DEVICE` in what XLA is given to compile."""
    program = function.experimental_get_compiler_ir(*arguments)(stage="hlo")
    assert program.startswith("HloModule")
    patterns = NOT_ON_EVERY_DEVICE.items()
    return {name for name, pattern in patterns if re.search(pattern, program)}


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: tf.boolean_mask(x, x > 0), "dynamic shape"),
        (lambda x: tf.cast(x, tf.float64) * 2, "float64"),
        (lambda x: tf.linalg.qr(x[:, None])[0], "custom-call"),
    ],
)
def test_the_check_sees_what_does_not_suit_every_device(function, found):
    function = tf.function(function, autograph=False, jit_compile=True)
    assert found in doubts(function, tf.constant([1.0, -1.0, 3.0]))


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: tf.numpy_function(np.sin, [x], tf.float32), {"PyFunc"}),
        (lambda x: tf.py_function(np.sin, [x], tf.float32), {"EagerPyFunc"}),
        (
            lambda x: tf.cond(x[0] > 0, lambda: tf.size(tf.where(x)), lambda: 0),
            {"Where"},
        ),
    ],
)
def test_the_check_sees_operations_of_the_host(function, found):
    function = tf.function(function, autograph=False)
    assert host_ops(function, tf.constant([1.0, -1.0])) == found


def test_xla_refuses_a_step_with_an_operation_of_the_host():
    def step(x):
        return x + tf.numpy_function(np.sin, [x], tf.float32)

    with pytest.raises(tf.errors.InvalidArgumentError, match="PyFunc"):
        tf.function(step, jit_compile=True)(tf.constant(1.0))
