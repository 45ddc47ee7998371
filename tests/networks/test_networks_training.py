"""How networks for images start and train, and what they refuse."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from image_networks import (
    SMALL,
    images,
    is_kernel,
    kernel_shapes,
    kernels,
    small,
)
from tensorflow import keras

import rigl_keras
from rigl_keras import networks

# Initial weights


SCALES = {"resnet50": 1, "vgg16": 2, "mobilenet_v1": 1, "wide_resnet": 2}


@pytest.mark.parametrize("name", SMALL)
def test_kernels_start_as_truncated_normals_for_their_fan_in(name):
    larger = {"width_multiplier": 0.2} if "width_multiplier" in SMALL[name] else {}
    for layer, kernel in kernels(small(name, **larger)).items():
        variance = SCALES[name] / np.prod(kernel.shape[:-1])
        # Of n draws, five standard errors at the kurtosis of a normal distribution.
        tolerance = 5 * np.sqrt(2 / kernel.size)
        assert kernel.var() == pytest.approx(variance, rel=tolerance), layer
        # Cut at two of the standard deviations before the cut.
        largest = np.abs(kernel).max() / np.sqrt(variance)
        assert largest <= 2 / 0.87962566 * (1 + 1e-6)
        assert largest > 2 or kernel.size < 1000


@pytest.mark.one_keras
@pytest.mark.parametrize(
    "name",
    [
        *("vgg16", "mobilenet_v1"),
        *(
            pytest.param(name, marks=pytest.mark.release)
            for name in ("resnet50", "wide_resnet")
        ),
    ],
)
def test_kernels_share_no_draw_and_one_seed_gives_the_same(name):
    first, again, other = (kernels(small(name, seed=seed)) for seed in (3, 3, 4))
    drawn = {}
    for layer, kernel in first.items():
        np.testing.assert_array_equal(kernel, again[layer])
        drawn.setdefault(kernel.shape, []).extend([kernel, other[layer]])
    for shape, same in drawn.items():
        flat = np.reshape(same, (len(same), -1))
        assert len(np.unique(flat, axis=0)) == len(same), shape


def test_batch_norm_is_that_of_the_papers_code():
    for name in ("resnet50", "mobilenet_v1", "wide_resnet"):
        norms = [
            layer
            for layer in small(name).layers
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.9, 1e-5)}
        assert all((norm.get_weights()[0] == 1).all() for norm in norms)


def test_residual_blocks_can_start_as_the_identity():
    model = small("resnet50", zero_init_residual=True)
    zero = {
        layer.name
        for layer in model.layers
        if layer.name.endswith("_bn") and not layer.get_weights()[0].any()
    }
    blocks = [
        (s, b) for s, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for b in range(1, n + 1)
    ]
    assert zero == {f"stage{s}_block{b}_conv3_bn" for s, b in blocks}
    inside = keras.Model(
        model.inputs,
        [model.get_layer(f"stage3_block{b}_act").output for b in (1, 2, 6)],
    )
    first, *later = inside(images(model))
    for each in later:
        np.testing.assert_array_equal(first, each)


# Training


@pytest.mark.parametrize("name", SMALL)
def test_weight_decay_adds_the_squares_of_kernels_that_are_not_depthwise(name):
    model = small(name, weight_decay=0.25)
    decayed = [k for n, k in kernels(model).items() if not n.endswith("depthwise")]
    expected = 0.25 * sum((kernel.astype(np.float64) ** 2).sum() for kernel in decayed)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert len(model.losses) == len(decayed)
    assert small(name).losses == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("resnet50", marks=pytest.mark.release),
        pytest.param("mobilenet_v1", marks=pytest.mark.release),
        "vgg16",
        "wide_resnet",
    ],
)
def test_one_sparse_step_moves_active_weights_alone(name):
    model = rigl_keras.sparsify(small(name), 0.5, verbose=False)
    # Depthwise kernels stay dense.
    assert {each.path for each in rigl_keras.sparse_kernels(model)} == {
        f"{name}/kernel" for name in kernels(small(name)) if "depthwise" not in name
    } - {path for path, dense in dense_by_erk(small(name)).items() if dense}
    before = tiny.weights(model)
    tiny.compiled(
        model,
        keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = images(model)
    model.fit(x, np.array([0, 1]), verbose=0, callbacks=[rigl_keras.RigL(1)])
    tiny.assert_zero_off_masks(model)
    for path, kernel in tiny.weights(model).items():
        assert (kernel != before[path]).any(), path


def dense_by_erk(model):
    """Which kernels are so small that ERK leaves them dense at a sparsity of 0.5."""
    shapes = {
        f"{name}/kernel": shape
        for name, shape in kernel_shapes(model).items()
        if "depthwise" not in name
    }
    sparsities = rigl_keras.distributions.erk(shapes, 0.5)
    return {path: sparsity == 0 for path, sparsity in sparsities.items()}


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_logits_are_float32_under_mixed_precision_too(name):
    try:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        options = {**SMALL.get(name, {}), "weight_decay": 0.1}
        model = networks.build(name, (32, 32, 3), 4, **options)
        logits = model(np.zeros((2, 32, 32, 3), np.float32))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert (logits.dtype, tuple(logits.shape)) == (tf.float32, (2, 4))
    inside = [layer.compute_dtype for layer in model.layers if is_kernel(layer)]
    assert set(inside[:-1]) == {"bfloat16"} and inside[-1] == "float32"


# Arguments


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (32, 32)}, "input_shape must hold 3 ints"),
        ({"num_classes": 1}, "num_classes must be an int >= 2, got 1"),
        ({"weight_decay": -1e-4}, "weight_decay must be >= 0"),
        ({"seed": -1}, "seed must be an int >= 0"),
        ({"kernel_initializer": "he"}, "kernel_initializer must be one of.*got 'he'"),
    ],
)
def test_what_no_network_takes(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        networks.build(
            name, **{"input_shape": (32, 32, 3), "num_classes": 10, **arguments}
        )


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "mobilenet_v1"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "half"])
def test_a_width_multiplier_is_a_positive_number(name, value):
    with pytest.raises(ValueError, match="width_multiplier must be a number > 0"):
        small(name, width_multiplier=value)


@pytest.mark.parametrize("depth", [4, 12, 20, 21, 0, 16.0])
def test_a_depth_of_wide_resnet_is_6n_plus_4(depth):
    with pytest.raises(ValueError, match="depth must"):
        small("wide_resnet", depth=depth)


def test_a_width_of_wide_resnet_is_a_positive_int():
    with pytest.raises(ValueError, match="width must hold positive ints"):
        small("wide_resnet", width=0.5)


def test_sixteen_pixels_are_the_least_of_vgg16():
    assert small("vgg16", (16, 16, 1))(np.zeros((1, 16, 16, 1))).shape == (1, 4)
    with pytest.raises(ValueError, match="vgg16 needs images of at least 16x16"):
        small("vgg16", (16, 15, 1))


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v1", "wide_resnet"])
def test_one_pixel_is_enough_for_the_others(name):
    assert small(name, (1, 1, 1))(np.zeros((1, 1, 1, 1))).shape == (1, 4)
