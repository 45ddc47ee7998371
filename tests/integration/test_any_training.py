"""Random architectures, trained in random ways: what always holds, holds."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import HealthCheck, Phase, assume, event, given, settings
from hypothesis import strategies as st
from tensorflow import keras

import rigl_keras
from rigl_keras.core.kernels import find_kernels

LAYERS, OPTIMIZERS = keras.layers, keras.optimizers
SAMPLES, OUTPUTS = 12, 2
pytestmark = pytest.mark.release

units = st.integers(1, 6)
activations = st.sampled_from([None, "relu", "tanh"])
flags = st.booleans()


# Architectures: each draws a function from a tensor to a tensor of the same rank.


@st.composite
def dense_layer(draw):
    layer = draw(
        st.sampled_from(
            [
                lambda n: LAYERS.Dense(n, draw(activations), draw(flags)),
                lambda n: LAYERS.EinsumDense("...x,xy->...y", (n,)),
                lambda n: keras.Sequential([LAYERS.Dense(n + 1), LAYERS.Dense(n)]),
                lambda n: LAYERS.Dense(n, kernel_constraint=keras.constraints.NonNeg()),
                lambda n: LAYERS.Dense(n, kernel_regularizer="l2"),
            ]
        )
    )
    return layer(draw(units))


@st.composite
def image_layer(draw):
    n, size = draw(units), draw(st.integers(1, 3))
    options = {"padding": "same", "activation": draw(activations)}
    kind = draw(
        st.sampled_from(["Conv2D", "SeparableConv2D", "Conv2DTranspose", "Depthwise"])
    )
    event(kind)
    if kind == "Depthwise":
        return LAYERS.DepthwiseConv2D(size, **options)
    return getattr(LAYERS, kind)(n, size, **options)


@st.composite
def sequence_layer(draw):
    n = draw(units)
    kind = draw(
        st.sampled_from(["LSTM", "GRU", "SimpleRNN", "Both", "Attention", "Conv1D"])
    )
    event(kind)
    if kind == "Attention":
        return SelfAttention(draw(st.integers(1, 2)), n)
    if kind == "Conv1D":
        return LAYERS.Conv1D(n, draw(st.integers(1, 3)), padding="same")
    if kind == "Both":
        return LAYERS.Bidirectional(LAYERS.GRU(n, return_sequences=True))
    return getattr(LAYERS, kind)(n, return_sequences=True)


@keras.utils.register_keras_serializable("test_any_training")
class SelfAttention(LAYERS.Layer):
    """A custom layer that holds another one."""

    def __init__(self, heads, width, **options):
        super().__init__(**options)
        self.heads, self.width = heads, width
        self.attention = LAYERS.MultiHeadAttention(heads, width, name="attention")

    def call(self, inputs):
        return self.attention(inputs, inputs)

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "width": self.width}


@st.composite
def networks(draw, shape, layer):
    """A Functional model: layers, some twice, with branches and what has no kernel."""
    inputs = x = keras.Input(shape)
    for _ in range(draw(st.integers(1, 3))):
        new = draw(layer)
        branch = x
        x = new(x)
        again = draw(flags) and tuple(x.shape) == tuple(branch.shape)
        if again:
            event("a shared layer")
            x = LAYERS.Add()([new(x), branch])
        if draw(flags):
            x = draw(
                st.sampled_from([LAYERS.BatchNormalization, LAYERS.LayerNormalization])
            )()(x)
        if draw(flags):
            x = LAYERS.Dropout(0.25)(x)
    x = LAYERS.Dense(OUTPUTS, name="last")(LAYERS.Flatten()(x))
    model = keras.Model(inputs, x)
    return keras.Sequential([keras.Input(shape), model]) if draw(flags) else model


# Trainings


@st.composite
def optimizers(draw):
    options = {}
    if draw(flags):
        options[draw(st.sampled_from(["clipnorm", "global_clipnorm", "clipvalue"]))] = (
            0.5
        )
    if draw(flags):
        options |= {
            "use_ema": True,
            "ema_overwrite_frequency": draw(st.sampled_from([None, 2])),
        }
    if draw(flags):
        options["weight_decay"] = 0.1
    if tiny.IS_KERAS_3 and draw(flags):
        options["gradient_accumulation_steps"] = 2
    names = ["SGD", "Adam", "AdamW", "RMSprop", "Lion", "Nadam", "Adamax"]
    name = draw(st.sampled_from(names))
    if name == "SGD":
        options |= {"momentum": 0.9, "nesterov": draw(flags)}
    return getattr(OPTIMIZERS, name)(0.01, **options)


@st.composite
def callbacks(draw):
    kind = draw(
        st.sampled_from(["RigL", "SET", "RigLInverted", "SNFS", "Static", "Pruning"])
    )
    event(kind)
    if kind == "Static":
        return rigl_keras.Static()
    if kind == "Pruning":
        schedule = rigl_keras.schedules.polynomial_decay(
            0.5, draw(st.floats(0.5, 0.95)), 1, 5, frequency=draw(st.integers(1, 3))
        )
        return rigl_keras.Pruning(schedule, draw(st.sampled_from(["layer", "global"])))
    return getattr(rigl_keras, kind)(
        update_freq=draw(st.integers(1, 3)),
        drop_fraction=draw(st.floats(0, 1)),
        schedule=draw(st.sampled_from(["cosine", "constant", "lr"])),
        last_update_step=draw(st.sampled_from([None, 4])),
        seed=draw(st.integers(0, 9)),
        drop_noise=draw(st.sampled_from([0.0, 0.1])),
    )


set_ups = st.fixed_dictionaries(
    {
        "sparsity": st.floats(0.3, 0.95),
        "distribution": st.sampled_from(["uniform", "er", "erk"]),
        "initializer": st.sampled_from([None, "unit_scaled", "layer_scaled"]),
        "seed": st.integers(0, 9),
    }
)
eagerly: dict[str, bool] = {"run_eagerly": True}  # which compiles nothing
IN_A_GRAPH = [eagerly, eagerly, {}]
COMPILED = [*IN_A_GRAPH, *IN_A_GRAPH, {"jit_compile": True}]
policies = st.sampled_from(["float32", "float32", "mixed_bfloat16", "mixed_float16"])


def check_step(model, counts, may_shrink):
    """What holds after every step."""
    tiny.assert_zero_off_masks(model)
    now = tiny.counts(model)
    if may_shrink:
        assert all(1 <= now[path] <= counts[path] for path in counts)
    else:
        assert now == counts


def check_slots(model):
    """State of masked connections is 0, where these optimizers' state begins."""
    shapes = [tuple(each.kernel.shape) for each in rigl_keras.sparse_kernels(model)]
    others = [tuple(v.shape) for v in model.trainable_variables]
    for path, mask in rigl_keras.get_masks(model).items():
        if shapes.count(mask.shape) == others.count(mask.shape) == 1:
            for slot in tiny.slots(model, path):
                assert (slot[~mask] == 0).all(), path


def check_stripping(model, x):
    """The same kernels; the same outputs where they are not rounded to half."""
    plain = rigl_keras.strip(model)
    kernels = {each.path: each.variable.numpy() for each in find_kernels(plain)}
    for path, weights in tiny.weights(model).items():
        np.testing.assert_array_equal(kernels[path], weights, path)
    if model.compute_dtype == "float32":
        outputs = plain.predict(x, verbose=0)
        np.testing.assert_allclose(outputs, model.predict(x, verbose=0), 1e-3, 1e-4)


def train(model, data, callback):
    x, y = data
    counts, may_shrink = tiny.counts(model), isinstance(callback, rigl_keras.Pruning)
    check = tiny.EveryStep(lambda model: check_step(model, counts, may_shrink))
    with warnings.catch_warnings():
        # Of an update left out as gradients overflow, or of masks without a zero.
        warnings.simplefilter("ignore", UserWarning)
        try:
            model.fit(
                x, y, batch_size=4, epochs=2, verbose=0, callbacks=[callback, check]
            )
        except tf.errors.AbortedError as error:
            # TensorFlow 2.21's oneDNN has no kernel for some tiny fused convolutions.
            assume("primitive descriptor" not in str(error))
            raise


def run(data, shape, layer, ways=COMPILED):
    keras.utils.set_random_seed(0)  # so that an example repeats
    keras.mixed_precision.set_global_policy(data.draw(policies))
    model = data.draw(networks(shape, layer))
    try:
        sparse = rigl_keras.sparsify(model, verbose=False, **data.draw(set_ups))
    except ValueError as error:
        assume("Every kernel would stay dense" not in str(error))
        raise
    sparse.compile(data.draw(optimizers()), "mse", **data.draw(st.sampled_from(ways)))
    generator = np.random.RandomState(0)
    x = generator.randn(SAMPLES, *shape).astype(np.float32)
    y = generator.randn(SAMPLES, OUTPUTS).astype(np.float32)
    train(sparse, (x, y), data.draw(callbacks()))
    check_slots(sparse)
    check_stripping(sparse, x)
    keras.backend.clear_session()


EXAMPLES = settings(
    max_examples=10 if tiny.IS_KERAS_3 else 5,
    suppress_health_check=list(HealthCheck),
    # An example takes seconds, and to shrink one that fails would take hundreds.
    phases=[Phase.explicit, Phase.generate],
)


@EXAMPLES
@given(st.data())
def test_dense_networks(data):
    run(data, (5,), dense_layer())


@EXAMPLES
@given(st.data())
def test_convolutional_networks(data):
    run(data, (4, 4, 2), image_layer())


@EXAMPLES
@given(st.data())
def test_recurrent_and_attention_networks(data):
    # XLA takes ten seconds for one of these.
    run(data, (3, 4), sequence_layer(), IN_A_GRAPH)
