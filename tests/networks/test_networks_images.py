"""ResNet-50, VGG-16, MobileNet v1 and Wide ResNet."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from image_networks import (
    IMAGENET,
    images,
    kernel_shapes,
    kernels,
    small,
    trainable,
)

from rigl_keras import networks


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
