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


def test_the_table_names_every_kernel_and_the_totals(capsys):
    rigl_keras.summary(two_kernels())
    lines = capsys.readouterr().out.splitlines()

    def cells(start):
        (line,) = [line for line in lines if line.startswith(start)]
        return line.split()

    # 2 FLOPs a weight and 1 an output; 4 bytes a weight and bias, and 1 bit for all.
    assert cells("weight")[-3:] == ["sparsity", "FLOPs", "bytes"]
    assert cells("hidden/kernel")[1:] == ["6×8", "16", "48", "66.67%", "40", "102"]
    assert cells("out/kernel")[1:] == ["8×3", "3", "24", "87.50%", "9", "27"]
    assert cells("biases of 2 layers")[4:] == ["11", "11", "dense"]
    assert not any("hidden/bias" in line for line in lines)
    assert cells("masked kernels")[2:] == ["19", "72", "73.61%", "49", "129"]
    assert cells("all kernels")[2:] == ["19", "72", "73.61%", "49", "129"]
    assert cells("all weights")[2:] == ["30", "83", "63.86%", "49", "129"]


def test_biases_and_vectors_have_a_line_together_and_a_row_each():
    layers = [keras.Input((8, 8, 3))]
    for _ in range(3):
        layers += [
            keras.layers.Conv2D(4, 3, use_bias=False),
            keras.layers.BatchNormalization(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(2, name="out")]
    lines = []
    data = rigl_keras.summary(keras.Sequential(layers), lines.append)
    body = lines[4 : lines.index(lines[1], 4)]
    assert len(body) == 4 + 2 and len(data.rows) == 4 + 1 + 3 * 4
    assert body[-2].split() == [*["biases", "of", "1", "layer"], "2", "2", "dense"]
    # Scale, shift and two moving averages of 4 channels.
    words = ["normalisation", "vectors", "of", "3", "layers"]
    assert body[-1].split() == [*words, "48", "48", "dense"]
    kinds = [row.kind for row in data.rows]
    assert (kinds.count("kernel"), kinds.count("normalisation")) == (4, 12)


def test_the_costs_are_those_of_model_cost():
    model = two_kernels()
    data = rigl_keras.summary(model, print_fn=None)
    assert data.cost == rigl_keras.model_cost(model)
    kernels = [row for row in data.rows if row.masked]
    assert [row.flops for row in kernels] == [row.flops for row in data.cost.rows]
    assert [row.bytes for row in kernels] == [row.bytes for row in data.cost.rows]
    assert [row.flops for row in data.rows if not row.masked] == [None, None]


def unknown_inputs():
    layers = [
        keras.Input((None, 3)),
        keras.layers.Dense(2, name="each"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(2, name="all"),
    ]
    return keras.Sequential(layers)


def test_flops_that_cannot_be_known_are_a_dash_and_the_sum_is_a_bound():
    lines = []
    rigl_keras.summary(unknown_inputs(), lines.append)
    assert [line.split()[-2:] for line in lines if "/kernel  " in line] == [
        ["-", "32"],
        ["10", "24"],
    ]
    (total,) = [line for line in lines if line.startswith("all weights")]
    assert total.split()[-4:] == ["at", "least", "10", "56"]
    assert lines[-2] == "FLOPs that cannot be counted, and why:"
    assert lines[-1] == (
        "  each/kernel: the size of its inputs is not known (give `input_shape`)"
    )
    lines.clear()
    rigl_keras.summary(unknown_inputs(), lines.append, input_shape=(5, 3))
    (total,) = [line for line in lines if line.startswith("all weights")]
    assert total.split()[-2:] == ["80", "56"]  # 5 * (2 * 6 + 2) + 2 * 4 + 2
    assert set(lines[-1]) == {"─"}


def test_a_model_of_which_nothing_can_be_counted_says_so_once():
    class Stack(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [keras.layers.Dense(3, name=f"part_{i}") for i in range(5)]

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs

    model, lines = Stack(), []
    model(np.zeros((1, 3), np.float32))
    rigl_keras.summary(model, lines.append)
    (total,) = [line for line in lines if line.startswith("all weights")]
    assert total.split()[-2:] == ["-", f"{5 * 4 * 12}"]
    assert "part_2/kernel and 2 more: the model has no inputs of its own" in lines[-1]


def test_a_model_that_refuses_the_trace_is_shown_without_costs():
    class Refusing(keras.layers.Dense):
        def call(self, inputs):
            if getattr(self, "refuses", False):
                raise RuntimeError("not now")
            return super().call(inputs)

    model = keras.Sequential([keras.Input((3,)), Refusing(2, name="out")])
    model.layers[0].refuses = True
    lines = []
    data = rigl_keras.summary(model, lines.append)
    assert data.cost is None and data.size == 8
    (at,) = [i for i, line in enumerate(lines) if "cannot be counted" in line]
    assert lines[at + 1].startswith("RuntimeError")
    assert "not now" in "".join(lines[at + 1 :])
    assert data.missing.startswith("RuntimeError")
    (total,) = [line for line in lines if line.startswith("all weights")]
    assert total.split()[2:] == ["8", "8", "0.00%", "-", "-"]
    with pytest.raises(RuntimeError, match="not now"):
        rigl_keras.summary(model, input_shape=(3,))


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
