"""Arguments of `sparsify` and `strip` that are none: what is said of them."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import RigL, Sparse

LAYERS = keras.layers
ONLY_SHAPES = "Keras's initializers know nothing of the mask"


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda: LAYERS.Dense(3), r"'\w+' \(Dense\).*rigl_keras.Sparse\(layer, spars"),
        (lambda: Sparse(LAYERS.Dense(3), 0.5), r"\(Sparse\).*whole model"),
        (lambda: [LAYERS.Dense(3)], r"a list of 1.*keras.Sequential"),
        (lambda: "model.keras", r"'model.keras'.*load_model"),
        (lambda: Path("model.keras"), "load_model"),
        (lambda: tiny.mlp, r"mlp itself.*first: mlp\(\.\.\.\)"),
        (lambda: keras.Sequential, r"Sequential itself"),
        (lambda: None, "but got None"),
    ],
)
@pytest.mark.parametrize("convert", [rigl_keras.sparsify, rigl_keras.strip])
def test_what_is_no_model(convert, thing, message):
    if convert is rigl_keras.strip:
        message = message.split(".*rigl_keras.Sparse")[0]
    with pytest.raises(TypeError, match=f"Expected a model of Keras.*{message}"):
        convert(thing())


def test_what_is_no_layer_to_wrap():
    with pytest.raises(TypeError, match=r"for Sparse to wrap.*Dense itself"):
        Sparse(LAYERS.Dense, 0.5)
    with pytest.raises(TypeError, match=r"a list of 2.*keras.Sequential"):
        Sparse([LAYERS.Dense(2), LAYERS.Dense(2)], 0.5)


def without_mask(shape, dtype=None):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("initializer", "message"),
    [
        (keras.initializers.HeNormal(), ONLY_SHAPES),
        (keras.initializers.HeNormal, ONLY_SHAPES),
        ("he_normal", ONLY_SHAPES),
        (keras.initializers.Constant(0.5), ONLY_SHAPES),
        ("he", "got 'he'. Write one of the names"),
        (3, "got 3"),
        (without_mask, r"but it takes \(shape, dtype=None\)"),
        (lambda mask: mask, r"but it takes \(mask\)"),
        (lambda mask, in_axes, out_axes, seed, scale: mask, "scale"),
    ],
)
def test_an_initializer_that_cannot_draw_for_a_mask(initializer, message):
    with pytest.raises(ValueError, match=message) as refusal:
        rigl_keras.sparsify(tiny.mlp(), 0.5, initializer=initializer)
    for choice in ("unit_scaled", "layer_scaled", "(mask, in_axes, out_axes, seed)"):
        assert choice in str(refusal.value)
    with pytest.raises(ValueError, match=message):
        Sparse(LAYERS.Dense(3), 0.5, initializer=initializer)


@pytest.mark.parametrize(
    "initializer",
    [
        lambda mask, in_axes, out_axes, seed: np.ones(mask.shape),
        lambda mask, **options: np.ones(mask.shape),
        rigl_keras.init_utils.unit_scaled_init,
        None,
    ],
)
def test_functions_of_a_mask_are_taken(initializer):
    tiny.sparsify(tiny.mlp(), initializer=initializer)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"overrides": ["out/*"]}, TypeError, r"\{'conv1/\*': 0.5.*but got list"),
        ({"overrides": "out/*"}, TypeError, "but got str"),
        ({"overrides": []}, TypeError, "but got list"),
        ({"overrides": {0: 0.5}}, TypeError, r"the keys \[0\]"),
        ({"overrides": {"out/*": 50}}, ValueError, r"'out/\*'.*did you mean 0\.5\?"),
        ({"overrides": {"out/*": 1}}, ValueError, r"\[0, 1\).*give 0.9 for 90 %"),
        ({"overrides": {"out/*": None}}, TypeError, "number"),
        ({"include": 3}, ValueError, r"`include` to be a glob pattern.*got 3"),
        ({"include": {"out/*": 0.5}}, ValueError, "`include` to be a glob pattern"),
        ({"include": [3]}, ValueError, "3 matches none"),
        ({"masks": [np.ones((8, 3))]}, ValueError, "but got a list"),
        ({"masks": np.ones((8, 3))}, ValueError, "but got a ndarray"),
        ({"distribution": ["erk"]}, ValueError, r"got \['erk'\]"),
        ({"distribution": lambda shapes: {}}, ValueError, r"it takes \(shapes\)"),
        ({"distribution": lambda *_: None}, ValueError, "it returns a NoneType"),
        ({"sparsity": 90}, ValueError, r"got 90.0; did you mean 0\.9\?"),
        ({"sparsity": 92.5}, ValueError, r"did you mean 0\.925\?"),
        ({"sparsity": {"out/kernel": 0.9}}, TypeError, "must be a number"),
        ({"seed": None}, ValueError, "seed to be an int, got None"),
    ],
)
def test_arguments_of_another_kind(options, error, message):
    options = {"sparsity": 0.5, **options}
    with pytest.raises(error, match=message):
        rigl_keras.sparsify(tiny.mlp(), verbose=False, **options)


def test_masks_and_kernels_of_another_kind():
    with pytest.raises(ValueError, match="but got a list"):
        rigl_keras.set_masks(tiny.sparse_mlp(), [np.ones((6, 8))])
    with pytest.raises(ValueError, match=r"`kernels` to be a glob pattern.*got 3"):
        RigL(kernels=3)
