"""ResNet-50, VGG-16, MobileNet v1 and Wide ResNet."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import networks

IMAGENET = (224, 224, 3)
# Each so small that it is built and trained in no time, on images of an odd size.
SMALL = {
    "resnet50": {"width_multiplier": 0.05},
    "vgg16": {"width_multiplier": 0.1},
    "mobilenet_v1": {"width_multiplier": 0.1},
    "wide_resnet": {"depth": 10, "width": 1},
}
SIDE = 35


def small(name, shape=(SIDE, 32, 3), classes=4, **options):
    return networks.build(name, shape, classes, **{**SMALL[name], **options})


def is_kernel(layer):
    types = keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense
    return isinstance(layer, types)


def kernels(model):
    """First weights of all layers with a kernel, depthwise ones too."""
    return {
        layer.name: layer.get_weights()[0] for layer in model.layers if is_kernel(layer)
    }


def kernel_shapes(model):
    return {
        layer.name: tuple(layer.weights[0].shape)
        for layer in model.layers
        if is_kernel(layer)
    }


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# Sizes


def resnet50_shapes(width=1.0, classes=1000):
    """Kernels in the order of the paper's table, and the channels that are normalised.

    He et al. 2016, Table 1: 7x7, 64; then 3, 4, 6, 3 blocks of 1x1, 3x3 and 1x1.
    """

    def channels(number):
        return max(1, round(width * number))

    previous = channels(64)
    shapes = [(7, 7, 3, previous)]
    for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        narrow, wide = channels(inner), channels(4 * inner)
        shapes.append((1, 1, previous, wide))
        for _ in range(blocks):
            shapes.append((1, 1, previous, narrow))
            shapes.append((3, 3, narrow, narrow))
            shapes.append((1, 1, narrow, wide))
            previous = wide
    return shapes, [(previous, classes)]


def assert_has(model, convolutions, dense, biases):
    """The kernels, and two numbers of batch norm for every output of a convolution."""
    shapes = sorted(kernel_shapes(model).values())
    assert shapes == sorted(convolutions + dense)
    weights = sum(np.prod(shape) for shape in shapes)
    normalised = 2 * sum(
        # A depthwise kernel has one output for each of its inputs.
        shape[-2] if shape[-1] == 1 and len(shape) == 4 else shape[-1]
        for shape in convolutions
    )
    assert trainable(model) == weights + normalised + biases
    return weights


def test_resnet50_has_the_published_number_of_weights():
    model = networks.resnet50(IMAGENET, 1000)
    weights = assert_has(model, *resnet50_shapes(), biases=1000)
    assert (weights, trainable(model)) == (25_502_912, 25_557_032)
    assert len(kernels(model)) == 54


def test_vgg16_has_the_published_number_of_weights():
    model = networks.vgg16(IMAGENET, 1000)
    filters = [3, 64, 64, 128, 128, *3 * [256], *6 * [512]]
    shapes = [(3, 3, *pair) for pair in itertools.pairwise(filters)]
    assert list(kernel_shapes(model).values()) == [*shapes, (1, 1, 512, 1000)]
    assert model.count_params() == 15_222_464


MOBILENET = [64, 128, 128, 256, 256, *6 * [512], 1024, 1024]


def test_mobilenet_v1_has_its_13_blocks():
    model = networks.mobilenet_v1(IMAGENET, 1000)
    shapes, previous = [(3, 3, 3, 32)], 32
    for filters in MOBILENET:
        shapes += [(3, 3, previous, 1), (1, 1, previous, filters)]
        previous = filters
    weights = assert_has(model, shapes, [(1024, 1000)], biases=1000)
    depthwise = sum(np.prod(shape) for shape in shapes if shape[-1] == 1)
    assert (weights - depthwise, depthwise) == (4_164_448, 44_640)


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 3), (22, 2)])
def test_wide_resnet_is_as_deep_and_wide_as_it_is_called(depth, width):
    model = networks.wide_resnet((32, 32, 3), 10, depth, width)
    blocks = (depth - 4) // 6
    shapes, channels, normalised = [(3, 3, 3, 16)], 16, 0
    for filters in (16 * width, 32 * width, 64 * width):
        if filters != channels:
            shapes.append((1, 1, channels, filters))
        for _ in range(blocks):
            shapes += [(3, 3, channels, filters), (3, 3, filters, filters)]
            normalised += channels + filters
            channels = filters
    shapes.append((channels, 10))
    assert sorted(kernel_shapes(model).values()) == sorted(shapes)
    weights = sum(np.prod(shape) for shape in shapes)
    assert trainable(model) == weights + 2 * (normalised + channels) + 10
    assert sum(shape[:2] == (3, 3) for shape in shapes) == 1 + 6 * blocks


def test_the_width_multiplier_scales_and_rounds_all_channels():
    model = networks.resnet50((64, 64, 3), 7, width_multiplier=0.07)
    convolutions, dense = resnet50_shapes(0.07, 7)
    assert_has(model, convolutions, dense, biases=7)
    assert convolutions[0][-1] == 4  # 4.48
    narrowest = kernel_shapes(small("vgg16", width_multiplier=1 / 200))
    filters = [shape[-1] for shape in narrowest.values()]
    # 64 / 200, 128 / 200, 256 / 200 and 512 / 200, at least 1.
    assert filters == [1, 1, 1, 1, 1, 1, 1, *6 * [3], 4]
    (*_, last) = kernel_shapes(small("mobilenet_v1", width_multiplier=0.3)).values()
    assert last == (307, 4)


# Layers


def sides(model, *names):
    return [tuple(model.get_layer(name).output.shape[1:3]) for name in names]


def test_resnet50_strides_in_the_3x3_convolutions_and_projections():
    model = small("resnet50", IMAGENET)
    assert sides(model, "conv1", "pool1") == [(112, 112), (56, 56)]
    for stage, (before, after) in enumerate([(56, 56), (56, 28), (28, 14), (14, 7)], 1):
        first = f"stage{stage}_block1"
        names = [f"{first}_{layer}" for layer in ("conv1", "conv2", "projection")]
        expected = [(before, before), (after, after), (after, after)]
        assert sides(model, *names) == expected
    strided = {
        layer.name for layer in model.layers if getattr(layer, "strides", 1) == (2, 2)
    }
    assert strided == {"conv1", "pool1"} | {
        f"stage{stage}_block1_{layer}"
        for stage in (2, 3, 4)
        for layer in ("conv2", "projection")
    }


def test_mobilenet_v1_strides_in_five_places():
    model = small("mobilenet_v1", IMAGENET)
    names = [f"block{block}_pointwise" for block in range(1, 14)]
    expected = [112, 56, 56, 28, 28, *6 * [14], 7, 7]
    assert sides(model, "conv1", *names) == [(n, n) for n in [112, *expected]]
    for block, side in enumerate([*expected], 1):
        assert sides(model, f"block{block}_depthwise") == [(side, side)]


def test_wide_resnet_halves_the_image_twice():
    model = small("wide_resnet", (32, 32, 3))
    names = ["conv1", *(f"stage{stage}_block1_add" for stage in (1, 2, 3))]
    assert sides(model, *names) == [(32, 32), (32, 32), (16, 16), (8, 8)]


def test_small_inputs_keep_their_size_in_the_stem():
    model = small("resnet50", (32, 32, 3), small_inputs=True)
    assert kernel_shapes(model)["conv1"][:2] == (3, 3)
    ends = [f"stage{stage}_block1_add" for stage in (1, 2, 3, 4)]
    assert sides(model, "conv1", *ends) == [(n, n) for n in (32, 32, 16, 8, 4)]
    assert "pool1" not in [layer.name for layer in model.layers]
    model = small("mobilenet_v1", (32, 32, 3), small_inputs=True)
    assert sides(model, "conv1", "block2_depthwise") == [(32, 32), (16, 16)]


# Numbers


class ByHand:
    """The layers of a model, computed with TensorFlow's operations and its weights."""

    def __init__(self, model, seed=0):
        generator = np.random.default_rng(seed)

        def draw(shape):
            if len(shape) == 1:  # Of batch norm, and biases.
                return generator.uniform(0.4, 0.6, shape)
            return generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)

        model.set_weights([draw(weight.shape) for weight in model.get_weights()])
        self._weights = {layer.name: layer.get_weights() for layer in model.layers}

    def conv(self, x, name, strides=1, depthwise=False):
        (kernel,) = self._weights[name]
        margin = kernel.shape[0] // 2  # All kernels have an odd size.
        x = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
        if depthwise:
            return tf.nn.depthwise_conv2d(x, kernel, [1, strides, strides, 1], "VALID")
        return tf.nn.conv2d(x, kernel, strides, "VALID")

    def norm(self, x, name):
        gamma, beta, mean, variance = self._weights[f"{name}_bn"]
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def unit(self, x, name, *args, **kwargs):
        """Convolution, batch norm and ReLU."""
        return tf.nn.relu(self.norm(self.conv(x, name, *args, **kwargs), name))

    def dense(self, x):
        kernel, bias = self._weights["logits"]
        return tf.reduce_mean(x, [1, 2]) @ kernel + bias


def images(model):
    shape = (2, *model.inputs[0].shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def assert_computes(model, x, expected):
    expected = expected.numpy()
    assert expected.std() > 1e-2  # Else all networks would agree.
    np.testing.assert_allclose(model(x), expected, atol=1e-3 * expected.std())


def test_vgg16_computes_its_layers_in_order():
    model = small("vgg16")
    hand, x = ByHand(model), images(model)
    y = x
    for group, convolutions in enumerate([2, 2, 3, 3, 3], 1):
        if group > 1:
            y = tf.nn.max_pool2d(y, 2, 2, "VALID")
        for number in range(1, convolutions + 1):
            y = tf.nn.relu(hand.conv(y, f"conv{group}_{number}"))
    y = tf.reduce_mean(y, [1, 2], keepdims=True)
    assert_computes(model, x, hand.conv(y, "logits")[:, 0, 0])


def test_resnet50_computes_its_layers_in_order():
    model = small("resnet50")
    hand, x = ByHand(model), images(model)
    y = tf.nn.max_pool2d(hand.unit(x, "conv1", 2), 3, 2, "SAME")
    for stage, blocks in enumerate([3, 4, 6, 3], 1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            strides = 2 if block == 1 and stage > 1 else 1
            shortcut = y
            if block == 1:
                end = f"{name}_projection"
                # Every second pixel from the first one.
                shortcut = hand.norm(hand.conv(y[:, ::strides, ::strides], end), end)
            y = hand.unit(y, f"{name}_conv1")
            y = hand.unit(y, f"{name}_conv2", strides)
            y = hand.norm(hand.conv(y, f"{name}_conv3"), f"{name}_conv3")
            y = tf.nn.relu(y + shortcut)
    assert_computes(model, x, hand.dense(y))


def test_mobilenet_v1_computes_its_layers_in_order():
    model = small("mobilenet_v1")
    hand, x = ByHand(model), images(model)
    y = hand.unit(x, "conv1", 2)
    for block in range(1, 14):
        strides = 2 if block in (2, 4, 6, 12) else 1
        y = hand.unit(y, f"block{block}_depthwise", strides, depthwise=True)
        y = hand.unit(y, f"block{block}_pointwise")
    assert_computes(model, x, hand.dense(y))


@pytest.mark.parametrize("width", [1, 2])
def test_wide_resnet_computes_its_layers_in_order(width):
    model = small("wide_resnet", depth=16, width=width)
    hand, x = ByHand(model), images(model)
    y = hand.conv(x, "conv1")
    for stage in (1, 2, 3):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            strides = 2 if block == 1 and stage > 1 else 1
            active = tf.nn.relu(hand.norm(y, f"{name}_conv1"))
            if block == 1 and (stage > 1 or width > 1):
                every = active[:, ::strides, ::strides]
                y = hand.conv(every, f"{name}_projection")
            inner = hand.conv(active, f"{name}_conv1", strides)
            inner = tf.nn.relu(hand.norm(inner, f"{name}_conv2"))
            y += hand.conv(inner, f"{name}_conv2")
    assert_computes(model, x, hand.dense(tf.nn.relu(hand.norm(y, "last"))))


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
@pytest.mark.parametrize("name", SMALL)
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


@pytest.mark.parametrize("name", SMALL)
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
