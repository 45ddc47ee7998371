"""How often a forward pass uses each kernel, by every kind of layer."""

import pytest
import tensorflow as tf
from tensorflow import keras

import rigl_keras

LAYERS = keras.layers


def model_of(shape, *layers, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def counted(model, **options):
    """Uses, outputs and units of every kernel, by the end of its path."""
    rows = rigl_keras.model_cost(model, **options).rows
    return {
        "/".join(row.path.split("/")[1:]): (row.uses, row.outputs, row.units)
        for row in rows
    }


# Uses: a trace against what is counted by hand


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        ((5,), LAYERS.Dense(4), {"kernel": (1, 4, 4)}),
        ((3, 5), LAYERS.Dense(4), {"kernel": (3, 12, 4)}),
        ((2, 3, 5), LAYERS.Dense(4), {"kernel": (6, 24, 4)}),
        # Every second of 9.
        (
            (9, 2),
            LAYERS.Conv1D(6, 3, strides=2, padding="same"),
            {"kernel": (5, 30, 6)},
        ),
        ((9, 2), LAYERS.Conv1D(6, 3, padding="causal"), {"kernel": (9, 54, 6)}),
        # 8 - 3 + 1 rows and 7 - 2 + 1 columns.
        ((8, 7, 4), LAYERS.Conv2D(6, (3, 2)), {"kernel": (36, 216, 6)}),
        ((8, 7, 4), LAYERS.Conv2D(6, 3, groups=2), {"kernel": (30, 180, 6)}),
        ((8, 7, 4), LAYERS.Conv2D(6, 3, dilation_rate=2), {"kernel": (12, 72, 6)}),
        ((4, 4, 4, 1), LAYERS.Conv3D(2, 3), {"kernel": (8, 16, 2)}),
        # Each of 16 pixels is spread by the whole kernel; 3 * 2 + 3 pixels a side come.
        ((4, 4, 2), LAYERS.Conv2DTranspose(6, 3, strides=2), {"kernel": (16, 486, 6)}),
        ((4, 2), LAYERS.Conv1DTranspose(6, 2, strides=2), {"kernel": (4, 48, 6)}),
        ((3, 3, 3, 1), LAYERS.Conv3DTranspose(2, 2), {"kernel": (27, 128, 2)}),
        (
            (5, 4, 3),
            LAYERS.SeparableConv2D(6, 3, depth_multiplier=2),
            {"depthwise_kernel": (6, 0, 0), "pointwise_kernel": (6, 36, 6)},
        ),
        (
            (7, 3),
            LAYERS.SeparableConv1D(6, 3, strides=2),
            {"depthwise_kernel": (3, 0, 0), "pointwise_kernel": (3, 18, 6)},
        ),
        ((6, 5), LAYERS.EinsumDense("abc,cd->abd", (6, 4)), {"kernel": (6, 24, 4)}),
        (
            (6, 5),
            LAYERS.EinsumDense("...c,cde->...de", (2, 4)),
            {"kernel": (6, 48, 8)},
        ),
        (
            (6, 2, 4),
            LAYERS.EinsumDense("abcd,cde->abe", (6, 3)),
            {"kernel": (6, 18, 3)},
        ),
        # A kernel for each of 6 positions: each is used once.
        ((6, 5), LAYERS.EinsumDense("abc,bcd->abd", (6, 4)), {"kernel": (1, 24, 24)}),
        ((5, 4), LAYERS.PReLU(), {"alpha": (0, 0, 0)}),
    ],
)
def test_uses_of_layers(shape, layer, expected):
    assert counted(model_of(shape, layer)) == expected


def test_uses_of_a_depthwise_convolution():
    layer = LAYERS.DepthwiseConv2D(3, depth_multiplier=2, padding="same")
    # 5 * 4 pixels, 3 * 2 channels.
    assert list(counted(model_of((5, 4, 3), layer)).values()) == [(20, 120, 6)]
    layer = LAYERS.DepthwiseConv1D(3)
    assert list(counted(model_of((5, 2), layer)).values()) == [(3, 6, 2)]


@pytest.mark.parametrize(
    ("layer", "gates"), [(LAYERS.SimpleRNN, 1), (LAYERS.GRU, 3), (LAYERS.LSTM, 4)]
)
@pytest.mark.parametrize("return_sequences", [False, True])
def test_recurrent_kernels_are_used_once_a_step(layer, gates, return_sequences):
    model = model_of((7, 3), layer(4, return_sequences=return_sequences))
    units = 4 * gates
    assert list(counted(model).values()) == [(7, 7 * units, units), (7, 0, 0)]


def test_cells_of_an_rnn_and_both_directions():
    cells = [LAYERS.LSTMCell(4), LAYERS.SimpleRNNCell(2)]
    both = LAYERS.Bidirectional(LAYERS.RNN(cells))
    once = [(7, 112, 16), (7, 0, 0), (7, 14, 2), (7, 0, 0)]
    assert list(counted(model_of((7, 3), both)).values()) == 2 * once


@pytest.mark.parametrize("layer", [LAYERS.SimpleRNN, LAYERS.GRU, LAYERS.LSTM])
@pytest.mark.parametrize("is_both", [False, True])
def test_a_recurrent_layer_of_unknown_length_is_counted_by_the_shape_that_it_is_given(
    layer, is_both
):
    layer = layer(4)
    layer = LAYERS.Bidirectional(layer) if is_both else layer
    model = model_of((None, 3), layer, LAYERS.Dense(2, name="out"))
    found = rigl_keras.model_cost(model)
    directions = 1 + is_both
    # Of `out`, whose inputs are one state of each direction.
    assert found.counted_flops == 2 * 2 * 4 * directions + 2
    reason = "the number of time steps is not known (give `input_shape`)"
    assert list(found.reasons.values()) == [reason] * 2 * directions
    known = rigl_keras.model_cost(model, input_shape=(5, 3))
    gates = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
    kind = getattr(layer, "forward_layer", layer)
    units = 4 * gates[type(kind).__name__]
    # 5 steps, each with 3 inputs and 4 states for a unit, its bias and activation.
    recurrent = directions * 5 * units * (2 * (3 + 4) + 1)
    assert known.inference_flops == recurrent + found.counted_flops
    assert known.counted_flops == known.inference_flops


def test_a_cell_of_its_own_type_is_named_as_the_reason():
    class Cell(LAYERS.Layer):
        state_size = output_size = 4

        def build(self, input_shape):
            self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], 4))
            self.built = True

        def call(self, inputs, states, training=None):
            state = states[0] + tf.matmul(inputs, self.kernel)
            return state, [state]

    found = rigl_keras.model_cost(model_of((7, 3), LAYERS.RNN(Cell()), LAYERS.Dense(2)))
    assert list(found.reasons.values()) == [
        "its recurrent cell is of a type of its own"
    ]
    assert found.counted_flops == 2 * 8 + 2


@pytest.mark.parametrize("return_sequences", [False, True])
def test_a_recurrent_convolution_is_used_once_a_step_and_pixel(return_sequences):
    layer = LAYERS.ConvLSTM2D(2, 3, return_sequences=return_sequences)
    # 5 steps, 4 * 3 pixels, 4 gates of 2 filters.
    expected = [(60, 480, 8), (60, 0, 0)]
    assert list(counted(model_of((5, 6, 5, 1), layer)).values()) == expected


def test_a_layer_that_is_distributed_over_time_is_used_once_a_step():
    inner = keras.Sequential([LAYERS.Conv2D(3, 2), LAYERS.Flatten(), LAYERS.Dense(2)])
    model = model_of((5, 4, 4, 1), LAYERS.TimeDistributed(inner))
    assert list(counted(model).values()) == [(45, 135, 3), (5, 10, 2)]
    nested = LAYERS.TimeDistributed(LAYERS.TimeDistributed(LAYERS.Dense(2)))
    assert list(counted(model_of((5, 4, 3), nested)).values()) == [(20, 40, 2)]


def test_projections_of_attention_are_used_once_a_position():
    inputs, others = keras.Input((6, 8)), keras.Input((5, 7))
    attention = LAYERS.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model([inputs, others], attention(inputs, others))
    assert counted(model) == {
        "query/kernel": (6, 36, 6),
        "key/kernel": (5, 30, 6),
        "value/kernel": (5, 30, 6),
        "attention_output/kernel": (6, 48, 8),
    }


def test_a_lookup_multiplies_nothing_and_needs_no_bias():
    model = model_of((7,), LAYERS.Embedding(11, 6), dtype="int32")
    (row,) = rigl_keras.model_cost(model).rows
    assert (row.flops, row.bytes) == (0, 4 * 66)


def test_products_are_those_of_tensorflows_profiler():
    """Its counts have two for each product of a convolution or a matrix."""
    layers = [
        LAYERS.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
        LAYERS.DepthwiseConv2D(3, use_bias=False),
        LAYERS.SeparableConv2D(5, 2, use_bias=False),
        LAYERS.Flatten(),
        LAYERS.Dense(6, use_bias=False),
    ]
    model = model_of((13, 12, 2), *layers)
    call = tf.function(model).get_concrete_function(tf.TensorSpec((1, 13, 12, 2)))
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = tf.compat.v1.profiler.profile(call.graph, options=options)
    rows = rigl_keras.model_cost(model).rows
    assert len(rows) == 5
    assert sum(2 * row.uses * row.size for row in rows) == profile.total_float_ops
