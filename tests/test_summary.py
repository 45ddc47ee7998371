import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras


def two_kernels():
    model = tiny.sparsify(tiny.mlp(), 0.5)
    masks = {"hidden/kernel": np.zeros((6, 8)), "out/kernel": np.zeros((8, 3))}
    masks["hidden/kernel"][:2] = 1
    masks["out/kernel"][0, :3] = 1
    rigl_keras.set_masks(model, masks)
    return model


def test_numbers():
    data = rigl_keras.summary(two_kernels(), print_fn=None)
    assert [(r.path, r.shape, r.active, r.size, r.masked) for r in data.rows] == [
        ("hidden/kernel", (6, 8), 16, 48, True),
        ("hidden/bias", (8,), 8, 8, False),
        ("out/kernel", (8, 3), 3, 24, True),
        ("out/bias", (3,), 3, 3, False),
    ]
    assert data.rows[0].sparsity == pytest.approx(2 / 3)
    assert (data.active, data.size) == (30, 83)
    assert data.sparsity == pytest.approx(53 / 83)
    assert data.kernel_sparsity == pytest.approx(53 / 72)


def test_the_table_names_every_weight_and_the_totals(capsys):
    rigl_keras.summary(two_kernels())
    lines = capsys.readouterr().out.splitlines()

    def cells(start):
        (line,) = [line for line in lines if line.startswith(start)]
        return line.split()

    assert cells("hidden/kernel")[1:] == ["6×8", "16", "48", "66.67%"]
    assert cells("out/bias")[1:] == ["3", "3", "3", "dense"]
    assert cells("masked kernels")[2:] == ["19", "72", "73.61%"]
    assert cells("all weights")[2:] == ["30", "83", "63.86%"]


def test_print_fn_is_given_each_line():
    lines = []
    rigl_keras.summary(two_kernels(), print_fn=lines.append)
    assert len(lines) > 6 and all(isinstance(line, str) for line in lines)
    assert len({len(line) for line in lines if set(line) == {"─"}}) == 1


def test_a_dense_model_and_shared_weights():
    shared = keras.layers.Dense(3, use_bias=False, name="shared")
    inputs = keras.Input((3,))
    data = rigl_keras.summary(
        keras.Model(inputs, shared(shared(inputs))), print_fn=None
    )
    assert [(r.path, r.active) for r in data.rows] == [("shared/kernel", 9)]
    assert data.sparsity == data.kernel_sparsity == 0


def test_every_weight_of_a_model_is_counted_once():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            layers.Embedding(11, 6),
            layers.Bidirectional(layers.GRU(4)),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )
    data = rigl_keras.summary(tiny.sparsify(model), print_fn=None)
    assert data.size == model.count_params()


def test_no_weights_and_no_model_are_refused():
    with pytest.raises(ValueError, match=r"no weights yet|not yet been created"):
        rigl_keras.summary(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(TypeError, match="model"):
        rigl_keras.summary("model")
