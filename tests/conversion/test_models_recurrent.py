"""Recurrent layers and what wraps them, trained sparsely."""

import model_checks
import pytest
import tiny
from tensorflow import keras

LAYERS = keras.layers
KERNELS = ["kernel", "recurrent_kernel"]
# The name of a backward layer that is given is prefixed by Keras 2 alone.
BACKWARD = "own" if tiny.IS_KERAS_3 else "backward_own"


def model_of(*layers, shape=(4, 5)):
    layers = [keras.Input(shape), *layers, LAYERS.Dense(3, name="out")]
    return keras.Sequential(layers)


def kernels_below(*prefixes):
    return {f"{prefix}/{kernel}" for prefix in prefixes for kernel in KERNELS}


RECURRENT = {
    "LSTM": (lambda: [LAYERS.LSTM(4, name="r")], ["r/lstm_cell"]),
    "LSTM, unrolled": (
        lambda: [LAYERS.LSTM(4, unroll=True, return_sequences=True, name="r")],
        ["r/lstm_cell"],
    ),
    "GRU": (lambda: [LAYERS.GRU(4, name="r")], ["r/gru_cell"]),
    "GRU, reset first": (
        lambda: [LAYERS.GRU(4, reset_after=False, name="r")],
        ["r/gru_cell"],
    ),
    "SimpleRNN": (lambda: [LAYERS.SimpleRNN(4, name="r")], ["r/simple_rnn_cell"]),
    "two LSTMs": (
        lambda: [
            LAYERS.LSTM(4, return_sequences=True, name="a"),
            LAYERS.LSTM(3, go_backwards=True, name="b"),
        ],
        ["a/lstm_cell", "b/lstm_cell"],
    ),
    "cells": (
        lambda: [
            LAYERS.RNN(
                [LAYERS.LSTMCell(4, name="first"), LAYERS.GRUCell(3, name="second")],
                name="r",
            )
        ],
        ["r/stacked_rnn_cells/first", "r/stacked_rnn_cells/second"],
    ),
    "Bidirectional": (
        lambda: [LAYERS.Bidirectional(LAYERS.LSTM(4, name="r"), name="both")],
        ["both/forward_r/lstm_cell", "both/backward_r/lstm_cell"],
    ),
    "Bidirectional of two": (
        lambda: [
            LAYERS.Bidirectional(
                LAYERS.LSTM(4, name="r"),
                backward_layer=LAYERS.GRU(4, go_backwards=True, name="own"),
                merge_mode="concat",
                name="both",
            )
        ],
        ["both/forward_r/lstm_cell", f"both/{BACKWARD}/gru_cell"],
    ),
    "TimeDistributed": (
        lambda: [
            LAYERS.TimeDistributed(LAYERS.LSTM(4, name="r"), name="each"),
            LAYERS.GRU(4, name="over"),
        ],
        ["each/r/lstm_cell", "over/gru_cell"],
    ),
    "ConvLSTM2D": (
        lambda: [LAYERS.ConvLSTM2D(4, 3, name="r"), LAYERS.GlobalMaxPooling2D()],
        ["r/conv_lstm_cell"],
    ),
    "ConvLSTM1D": (
        lambda: [LAYERS.ConvLSTM1D(4, 2, name="r"), LAYERS.GlobalMaxPooling1D()],
        ["r/conv_lstm_cell"],
    ),
}
SHAPES = {
    "TimeDistributed": (3, 4, 5),
    "ConvLSTM2D": (3, 5, 5, 2),
    "ConvLSTM1D": (3, 5, 2),
}


# One of each kind in the default tier.
USUAL = (
    "LSTM",
    "TimeDistributed",
    "ConvLSTM1D",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in USUAL else pytest.mark.release)
        for name in RECURRENT
    ],
)
def test_a_recurrent_layer_is_trained_sparsely(tmp_path, name):
    make, cells = RECURRENT[name]
    model = model_of(*make(), shape=SHAPES.get(name, (4, 5)))
    paths = kernels_below(*cells) | {"out/kernel"}
    model_checks.check_model(model, tmp_path, paths)


def with_states():
    """Words are encoded, and what the encoder ends in is where the decoder begins."""
    words = keras.Input((4,), dtype="int32", name="words")
    frames = keras.Input((3, 2), name="frames")
    x = LAYERS.Embedding(9, 4, mask_zero=True)(words)
    _, *state = LAYERS.LSTM(5, return_state=True, name="encoder")(x)
    decoder = LAYERS.LSTM(5, name="decoder")
    x = decoder(frames, initial_state=state)
    return keras.Model([words, frames], LAYERS.Dense(3, name="out")(x))


@pytest.mark.slow
def test_an_encoder_and_decoder_are_trained_sparsely(tmp_path):
    paths = kernels_below("encoder/lstm_cell", "decoder/lstm_cell") | {"out/kernel"}
    model_checks.check_model(with_states(), tmp_path, paths)
