"""`sparsify` with masks that are given."""

import os

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tensorflow import keras

import rigl_keras
from rigl_keras.core import kernels

SHAPES = {"hidden/kernel": (6, 8), "out/kernel": (8, 3)}


def masks_strategy():
    """Masks of some of the kernels of `tiny.mlp`, in any order, none of them empty."""

    def masks_of(paths):
        return st.fixed_dictionaries(
            {path: arrays(bool, SHAPES[path]).filter(np.any) for path in paths}
        )

    paths = st.lists(st.sampled_from(list(SHAPES)), min_size=1, unique=True)
    return paths.flatmap(masks_of)


def sparsify(model, masks, **options):
    return rigl_keras.sparsify(model, masks=masks, verbose=False, **options)


def random_masks(model, seed=0, density=0.4):
    generator = np.random.RandomState(seed)
    return {
        kernel.path: generator.rand(*kernel.variable.shape) < density
        for kernel in kernels.find_kernels(model)
    }


@settings(max_examples=12)
@given(masks_strategy(), st.sampled_from([bool, int, np.float32]))
def test_masks_are_taken_as_they_are_and_weights_kept_on_them(masks, dtype):
    model = tiny.mlp()
    tiny.set_integer_weights(model)
    sparse = sparsify(model, {path: mask.astype(dtype) for path, mask in masks.items()})
    found = rigl_keras.get_masks(sparse)
    # In the order of the layers, and the kernels that are left out dense.
    assert list(found) == [path for path in SHAPES if path in masks]
    for path, mask in found.items():
        np.testing.assert_array_equal(mask, masks[path])
    for name in ("hidden", "out"):
        kernel, bias = model.get_layer(name).get_weights()
        path = f"{name}/kernel"
        layer = sparse.get_layer(f"sparse_{name}" if path in masks else name)
        layer = getattr(layer, "layer", layer)
        expected = np.where(masks[path], kernel, 0) if path in masks else kernel
        np.testing.assert_array_equal(layer.kernel.numpy(), expected)
        np.testing.assert_array_equal(layer.bias.numpy(), bias)


def test_given_masks_stand_in_place_of_what_draws_masks():
    masks = random_masks(tiny.mlp())
    for options in (
        {"sparsity": 0.99},
        {"distribution": {"out/kernel": 0.5}},
        {"method": "magnitude"},
        {"seed": 7},
    ):
        found = rigl_keras.get_masks(sparsify(tiny.mlp(), masks, **options))
        tiny.assert_same_masks(found, masks)


def test_masks_of_one_model_make_another_like_it():
    first = tiny.sparsify(tiny.mlp(), 0.7)
    again = sparsify(rigl_keras.strip(first), rigl_keras.get_masks(first))
    tiny.assert_same_masks(rigl_keras.get_masks(again), rigl_keras.get_masks(first))
    tiny.assert_same_masks(tiny.weights(again), tiny.weights(first))


def test_masks_of_nested_models_and_convolutions():
    inner = keras.Sequential(
        [keras.Input((5, 5, 4)), keras.layers.Conv2D(3, 2, name="conv")], name="inner"
    )
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 2, name="first"),
            inner,
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="out"),
        ]
    )
    masks = random_masks(model)
    assert list(masks) == ["first/kernel", "inner/conv/kernel", "out/kernel"]
    tiny.assert_same_masks(rigl_keras.get_masks(sparsify(model, masks)), masks)


def test_an_initializer_follows_the_given_masks():
    model = keras.Sequential([keras.Input((400,)), keras.layers.Dense(300, name="out")])
    generator = np.random.RandomState(0)
    # Each unit has a fan-in of its own, from about 20 to 380.
    mask = generator.rand(400, 300) < np.linspace(0.05, 0.95, 300)
    options = {"initializer": "unit_scaled", "init_seed": 1}
    sparse = sparsify(model, {"out/kernel": mask}, **options)
    kernel = tiny.weights(sparse)["out/kernel"]
    assert (kernel[~mask] == 0).all() and (kernel[mask] != 0).all()
    standard = np.where(mask, kernel / np.sqrt(2 / mask.sum(0)), 0)
    for units in (slice(0, 100), slice(100, 200), slice(200, 300)):
        values = standard[:, units][mask[:, units]]
        assert values.std() == pytest.approx(1, abs=5 / np.sqrt(2 * len(values)))
    other = sparsify(model, {"out/kernel": mask}, initializer="unit_scaled", seed=1)
    np.testing.assert_array_equal(tiny.weights(other)["out/kernel"], kernel)


def test_a_model_with_given_masks_is_saved_and_trains(tmp_path):
    masks = random_masks(tiny.mlp())
    sparse = tiny.compiled(sparsify(tiny.mlp(), masks))
    tiny.fit(sparse, rigl_keras.Static())
    tiny.assert_same_masks(rigl_keras.get_masks(sparse), masks)
    tiny.assert_zero_off_masks(sparse)
    path = os.path.join(tmp_path, "sparse.keras")
    sparse.save(path)
    loaded = keras.models.load_model(path)
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), masks)
    tiny.assert_same_masks(tiny.weights(loaded), tiny.weights(sparse))


def test_changing_the_given_array_later_changes_nothing():
    masks = random_masks(tiny.mlp())
    kept = {path: mask.copy() for path, mask in masks.items()}
    sparse = sparsify(tiny.mlp(), masks)
    for mask in masks.values():
        mask[:] = True
    tiny.assert_same_masks(rigl_keras.get_masks(sparse), kept)


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        ({}, {}, "got masks of \\[\\]"),
        ({"no/kernel": np.ones((6, 8))}, {}, "no/kernel"),
        ({"out/kernel": np.ones((3, 8))}, {}, r"\(8, 3\) for 'out/kernel'.*\(3, 8\)"),
        ({"out/kernel": np.full((8, 3), 0.5)}, {}, "zeros and ones for 'out/kernel'"),
        ({"out/kernel": np.zeros((8, 3))}, {}, "'out/kernel' leaves the kernel no"),
        ({"out/kernel": np.ones((8, 3))}, {"overrides": {"out/*": 0}}, "overrides"),
        ({"out/kernel": np.ones((8, 3))}, {"initializer": "he"}, "he"),
        ({"out/kernel": np.ones((8, 3))}, {"method": "best"}, "best"),
        ([np.ones((6, 8)), np.ones((8, 3))], {}, "`masks`"),
        ([], {}, "`masks`"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, options, message):
    with pytest.raises(ValueError, match=message):
        sparsify(tiny.mlp(), masks, **options)
