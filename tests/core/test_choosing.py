"""Which pattern each kernel takes, and what is refused."""

import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.core.choosing import as_text, checked_pattern, choose_patterns
from rigl_keras.core.kernels import find_kernels
from rigl_keras.patterns import Blocks, ConstantFanIn, NOfM, Unstructured

LAYERS = keras.layers


def net():
    """A convolution of one channel, one of four, and a dense layer."""
    layers = [
        keras.Input((8, 8, 1)),
        LAYERS.Conv2D(4, 3, name="first"),
        LAYERS.Conv2D(8, 3, name="second"),
        LAYERS.GlobalAveragePooling2D(),
        LAYERS.Dense(3, name="out"),
    ]
    return keras.Sequential(layers)


PATHS = ["first/kernel", "second/kernel", "out/kernel"]


def patterns_of(model):
    found = rigl_keras.sparse_kernels(model)
    return {kernel.path: str(kernel.pattern) for kernel in found}


def chosen(pattern):
    choice = choose_patterns(find_kernels(net()), pattern)
    return [str(choice.patterns[path]) for path in PATHS]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, ["unstructured"] * 3),
        (ConstantFanIn(), ["constant_fan_in"] * 3),
        ("constant_fan_in(0.3)", ["constant_fan_in(0.3)"] * 3),
        (
            ["n_of_m(2, 4)", "unstructured"],
            ["unstructured", "n_of_m(2, 4)", "n_of_m(2, 4)"],
        ),
        (
            (Blocks(8), Blocks(4), "dense"),
            ["None", "blocks(4, 1)", "blocks(8, 1)"],
        ),
        (
            {"second/*": "blocks('all', 1)", "o*": ["blocks(1, 2)", NOfM(1, 8)]},
            ["unstructured", "blocks('all', 1)", "n_of_m(1, 8)"],
        ),
        # The first match wins.
        (
            {"*/kernel": "unstructured", "out/kernel": "constant_fan_in"},
            ["unstructured"] * 3,
        ),
        ({"first/*": "dense", "*": NOfM(1, 2)}, ["None", *["n_of_m(1, 2)"] * 2]),
    ],
)
def test_the_pattern_of_each_kernel(pattern, expected):
    assert chosen(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        (4, TypeError, "Expected `pattern` to be .*, got 4"),
        ([], TypeError, r"Expected `pattern` to be .*, got \[\]"),
        (Blocks, TypeError, "Expected `pattern` to be "),
        ({1: "dense"}, TypeError, "Expected `pattern` to be "),
        ("2:4", ValueError, "Expected the name of a pattern"),
        (["dense", "2:4"], ValueError, "Expected the name of a pattern"),
        ({"conv*": "dense"}, ValueError, "names 'conv.*', which matches none"),
    ],
)
def test_what_is_no_pattern(pattern, error, message):
    with pytest.raises(error, match=message):
        chosen(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "blocks(4, 1)",
        "dense",
        ["n_of_m(2, 4)", "dense"],
        {"a/*": "constant_fan_in(0.3)", "*": ["blocks(4, 1)", "unstructured"]},
    ],
)
def test_objects_and_texts_are_made_of_each_other(pattern):
    assert as_text(checked_pattern(pattern)) == pattern


def test_no_pattern_is_unstructured():
    assert checked_pattern(None) == Unstructured()


def test_a_kernel_that_the_pattern_does_not_suit_is_named_with_the_reason():
    with pytest.raises(ValueError, match="does not suit 1 of the kernels") as caught:
        tiny.sparsify(net(), pattern="blocks(4, 1)")
    message = str(caught.value)
    assert "'first/kernel' (not blocks(4, 1): its 1 inputs are no multiple of 4)" in (
        message
    )
    assert "overrides={'conv1/*': 0}" in message


def test_a_kernel_that_the_pattern_does_not_suit_may_stay_dense():
    model = tiny.sparsify(net(), pattern="blocks(4, 1)", overrides={"first/*": 0})
    assert patterns_of(model) == dict.fromkeys(PATHS[1:], "blocks(4, 1)")


@pytest.mark.parametrize(
    ("distribution", "masks"),
    [
        ({"second/kernel": 0.5, "out/kernel": 0.5}, None),
        ("erk", {"out/kernel": np.eye(8, 3).repeat(4, 0)[:8]}),
    ],
)
def test_a_kernel_that_is_not_named_need_not_suit(distribution, masks):
    model = tiny.sparsify(
        net(), pattern="blocks(4, 1)", distribution=distribution, masks=masks
    )
    assert "first/kernel" not in patterns_of(model)


def test_a_dense_pattern_is_said(capsys):
    pattern = {"first/*": "dense", "*": "constant_fan_in"}
    rigl_keras.sparsify(net(), 0.5, pattern=pattern)
    assert "first/kernel (its pattern is 'dense')" in capsys.readouterr().out


def test_all_kernels_dense_is_refused():
    with pytest.raises(ValueError, match="Every kernel would stay dense"):
        tiny.sparsify(net(), pattern="dense")
    with pytest.raises(ValueError, match="leaves every kernel of layer 'out' dense"):
        rigl_keras.Sparse(LAYERS.Dense(3, name="out"), pattern="dense").build((None, 8))


def test_a_sparsity_of_what_is_to_stay_dense_is_refused():
    given = {"first/kernel": 0.5, "out/kernel": 0.5}
    with pytest.raises(ValueError, match="'first/kernel', which is to stay dense"):
        tiny.sparsify(net(), pattern={"first/*": "dense"}, distribution=given)


@pytest.mark.parametrize("path", ["first/*", "first/kernel"])
def test_an_override_of_what_is_to_stay_dense_is_refused(path):
    pattern = {"first/*": "dense"}
    with pytest.raises(ValueError, match="'first/kernel', which is to stay dense"):
        tiny.sparsify(net(), pattern=pattern, overrides={path: 0.5})


def test_a_layer_takes_a_pattern():
    layer = rigl_keras.Sparse(LAYERS.LSTM(4), 0.5, seed=0, pattern="blocks(2, 2)")
    layer.build((None, 3, 8))
    kernels = rigl_keras.sparse_kernels(layer)
    assert [str(kernel.pattern) for kernel in kernels] == ["blocks(2, 2)"] * 2
    again = rigl_keras.Sparse.from_config(layer.get_config())
    assert again.pattern == layer.pattern == "blocks(2, 2)"


def test_what_kernels_with_patterns_look_like():
    model = tiny.sparsify(net(), pattern="constant_fan_in")
    kernel = rigl_keras.sparse_kernels(model)[0]
    assert repr(kernel).endswith("pattern=constant_fan_in)")
