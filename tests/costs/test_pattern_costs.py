"""What patterns of sparsity cost, and how the table shows them."""

import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.costs.counting import KernelCost

LAYERS = keras.layers


@pytest.mark.parametrize(
    ("pattern", "elements", "bits"),
    [
        ("unstructured", 1, 9 * 8 * 16),
        ("blocks(4, 1)", 4, 9 * 2 * 16),
        ("blocks(2, 8)", 16, 9 * 4 * 2),
        ("blocks(4, balanced='inputs')", 4, 9 * 2 * 16),
        ("blocks('all')", 9 * 8, 16),  # of whole filters
        # Their units are single weights, which groups only count.
        ("n_of_m(2, 4)", 1, 9 * 8 * 16),
        ("constant_fan_in", 1, 9 * 8 * 16),
    ],
)
def test_a_bit_says_of_each_unit_of_a_pattern_whether_it_exists(
    pattern, elements, bits
):
    model = keras.Sequential(
        [keras.Input((6, 6, 8)), LAYERS.Conv2D(16, 3, name="conv")]
    )
    sparse = tiny.sparsify(model, 0.5, pattern=pattern)
    (row,) = rigl_keras.model_cost(sparse).rows
    assert (row.active, row.elements) == (9 * 8 * 16 / 2, elements)
    assert row.bytes == 4 * (9 * 8 * 16 / 2 + 16) + bits / 8
    # A plan in place of the masks keeps their pattern; a dense kernel has none.
    (planned,) = rigl_keras.model_cost(sparse, {"conv/kernel": 0.75}).rows
    assert planned.bytes == 4 * (9 * 8 * 16 / 4 + 16) + bits / 8
    (dense,) = rigl_keras.model_cost(sparse, {"conv/kernel": 0.0}).rows
    assert dense.bytes == dense.dense_bytes == 4 * (9 * 8 * 16 + 16)
    (plain,) = rigl_keras.model_cost(model, {"conv/kernel": 0.75}).rows
    assert plain.bytes == 4 * (9 * 8 * 16 / 4 + 16) + 9 * 8 * 16 / 8
    (row,) = rigl_keras.model_cost(tiny.sparsify(model, 0, pattern=pattern)).rows
    assert row.bytes == row.dense_bytes


def test_a_kernel_cost_that_is_made_by_hand_has_no_pattern():
    cost = KernelCost("a", (4, 4), 8, True, units=4, uses=1, outputs=4)
    assert cost.bytes == 4 * (8 + 4) + 2


PATTERNED = """\
Sparsity of 'net'
─────────────────────────────────────────────────────────────────────────────
weight              shape  pattern       active  size  sparsity  FLOPs  bytes
─────────────────────────────────────────────────────────────────────────────
first/kernel        8×8    unstructured      16    64    75.00%     40    104
second/kernel       8×8    blocks(4, 2)      32    64    50.00%     72    161
third/kernel        8×4    n_of_m(1, 4)       8    32    75.00%     20     52
fourth/kernel       4×2                       8     8     dense     18     40
biases of 4 layers                           22    22     dense
─────────────────────────────────────────────────────────────────────────────
masked kernels                               56   160    65.00%    132    317
all kernels                                  64   168    61.90%    150    357
all weights                                  86   190    54.74%    150    357
─────────────────────────────────────────────────────────────────────────────
"""
FORMAT = (
    "bytes: 4 for each active weight and bias; 1 bit for each weight of a sparse "
    "kernel or, in blocks, for each block"
)


def patterned(second, third):
    """Three sparse layers and a dense one, each after the other."""
    sparse = [("first", 8, 0.75, None), ("second", 8, 0.5, second)]
    sparse.append(("third", 4, 0.75, third))
    layers = [
        rigl_keras.Sparse(LAYERS.Dense(size, name=name), sparsity, pattern=pattern)
        for name, size, sparsity, pattern in sparse
    ]
    fourth = LAYERS.Dense(2, name="fourth")
    return keras.Sequential([keras.Input((8,)), *layers, fourth], name="net")


def test_a_column_names_the_patterns_and_a_line_the_format_that_is_counted():
    # Of 8 blocks one byte; bits of 64 and 32 weights are 8 and 4 bytes.
    model = patterned("blocks(4, 2)", "n_of_m(1, 4)")
    lines = []
    data = rigl_keras.summary(model, lines.append)
    assert "\n".join(lines) + "\n" == PATTERNED + FORMAT + "\n"
    assert [row.pattern for row in data.rows if row.kind == "kernel"] == [
        "unstructured",
        "blocks(4, 2)",
        "n_of_m(1, 4)",
        None,
    ]
    assert {row.pattern for row in data.rows if row.kind == "bias"} == {None}


def test_without_patterns_the_table_has_no_column_for_them():
    lines = []
    data = rigl_keras.summary(patterned(None, None), lines.append)
    text = "\n".join(lines)
    assert "pattern" not in text and "unstructured" not in text and "bit" not in text
    patterns = [row.pattern for row in data.rows if row.masked]
    assert patterns == ["unstructured"] * 3
