import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from tensorflow import keras

from rigl_keras import networks

IMAGE = (28, 28, 1)


def kernels(model):
    return {
        layer.name: layer.get_weights()[0]
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense))
    }


def randomise(model, seed=0):
    """Sets every weight, biases too, to random values and returns them by layer."""
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(0, 0.2, w.shape) for w in model.get_weights()])
    return {layer.name: layer.get_weights() for layer in model.layers}


def relu(x):
    return np.maximum(x, 0)


def convolve(x, kernel, bias):
    windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", windows, kernel) + bias


def max_pool(x):
    n, height, width, filters = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, filters).max((2, 4))


def test_lenet5_has_the_published_number_of_weights():
    model = networks.lenet5(IMAGE, 10)
    sizes = {name: kernel.size for name, kernel in kernels(model).items()}
    assert sizes == {
        "conv1": 150,
        "conv2": 2400,
        "dense1": 30720,
        "dense2": 10080,
        "logits": 840,
    }
    assert model.count_params() == 44190 + 6 + 16 + 120 + 84 + 10


def test_small_dense_lenet5_has_2399_parameters():
    assert networks.lenet5(IMAGE, 10, (3, 3, 27, 20)).count_params() == 2399


def test_lenet5_computes_its_layers_in_order():
    model = networks.lenet5((20, 18, 3), 4, (2, 3, 5, 4))
    weights = randomise(model)
    x = np.random.default_rng(1).random((2, 20, 18, 3))
    expected = max_pool(relu(convolve(x, *weights["conv1"])))
    # 18 - 4 = 14, halved 7, 7 - 4 = 3: pooling drops the last column.
    expected = relu(convolve(expected, *weights["conv2"]))[:, :, :2]
    expected = max_pool(expected).reshape(2, -1)
    for name in ("dense1", "dense2"):
        kernel, bias = weights[name]
        expected = relu(expected @ kernel + bias)
    kernel, bias = weights["logits"]
    np.testing.assert_allclose(model(x), expected @ kernel + bias, atol=1e-5)


def test_mlp_computes_its_layers_in_order():
    model = networks.mlp((3, 2, 1), 4, (5, 6, 7), activation="tanh")
    weights = randomise(model)
    x = np.random.default_rng(1).random((2, 3, 2, 1))
    expected = x.reshape(2, 6)
    for name in ("dense1", "dense2", "dense3"):
        kernel, bias = weights[name]
        expected = np.tanh(expected @ kernel + bias)
    kernel, bias = weights["logits"]
    np.testing.assert_allclose(model(x), expected @ kernel + bias, atol=1e-5)


def test_mlp_of_mnist_is_784_300_100_10():
    shapes = [kernel.shape for kernel in kernels(networks.mlp(IMAGE, 10)).values()]
    assert shapes == [(784, 300), (300, 100), (100, 10)]


def test_batch_norm_stands_after_the_activation_beside_the_bias():
    model = networks.mlp((6,), 3, (5,), use_batch_norm=True)
    generator = np.random.default_rng(0)
    kernel, logits = generator.normal(size=(6, 5)), generator.normal(size=(5, 3))
    gamma, beta, mean, variance = generator.uniform(0.5, 1.5, (4, 5))
    hidden_bias, bias = generator.normal(size=5), np.ones(3)
    model.get_layer("dense1").set_weights([kernel, hidden_bias])
    model.get_layer("dense1_bn").set_weights([gamma, beta, mean, variance])
    model.get_layer("logits").set_weights([logits, bias])
    x = generator.random((4, 6))
    epsilon = model.get_layer("dense1_bn").epsilon
    hidden = relu(x @ kernel + hidden_bias)
    normal = (hidden - mean) / np.sqrt(variance + epsilon) * gamma + beta
    np.testing.assert_allclose(model(x), normal @ logits + bias, atol=1e-5)


def test_batch_norm_of_lenet5_stands_after_pooling():
    model = networks.lenet5(IMAGE, 10, use_batch_norm=True)
    names = [layer.name for layer in model.layers]
    for number in (1, 2):
        place = names.index(f"conv{number}_bn")
        assert names[place - 2 : place] == [f"conv{number}_act", f"pool{number}"]
    # A bias and four numbers for each filter and each unit of the hidden layers.
    assert model.count_params() == 44190 + 5 * (6 + 16 + 120 + 84) + 10


@pytest.mark.parametrize("name", ["lenet5", "mlp"])
def test_weight_decay_adds_the_squares_of_kernels_only(name):
    model = networks.build(name, (16, 16, 1), 3, weight_decay=0.25)
    randomise(model)
    expected = 0.25 * sum((kernel**2).sum() for kernel in kernels(model).values())
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert networks.build(name, (16, 16, 1), 3).losses == []


def test_one_seed_gives_the_same_weights_whatever_was_drawn_before():
    first = networks.mlp((16,), 3, (16, 16), seed=5).get_weights()
    keras.utils.set_random_seed(1)
    networks.lenet5(IMAGE, 10)
    for one, other in zip(
        first, networks.mlp((16,), 3, (16, 16), seed=5).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_layers_and_seeds_share_no_draw():
    drawn = [
        kernel
        for seed in range(3)
        for kernel in kernels(networks.mlp((16,), 16, (16, 16), seed=seed)).values()
    ]
    assert len(drawn) == len(np.unique(drawn, axis=0)) == 9
    # Independent draws of 256 numbers have a correlation of about 1/16.
    correlation = np.corrcoef(np.reshape(drawn, (9, -1))) - np.eye(9)
    assert np.abs(correlation).max() < 0.4


def test_weights_are_glorot_uniform():
    for kernel in kernels(networks.lenet5(IMAGE, 10)).values():
        area = np.prod(kernel.shape[:-2])
        limit = np.sqrt(6 / (area * sum(kernel.shape[-2:])))
        assert 0.9 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize("network", ["lenet5", "mlp"])
@pytest.mark.parametrize(
    ("name", "scale", "fans"),
    [
        ("glorot_uniform", 1, "both"),
        ("glorot_normal", 1, "both"),
        ("he_uniform", 2, "in"),
        ("he_normal", 2, "in"),
    ],
)
def test_the_kernel_initializer_gives_its_variance(network, name, scale, fans):
    model = networks.build(network, IMAGE, 10, kernel_initializer=name)
    for layer, kernel in kernels(model).items():
        area = np.prod(kernel.shape[:-2])
        fan_in, fan_out = area * kernel.shape[-2], area * kernel.shape[-1]
        variance = scale / (fan_in if fans == "in" else (fan_in + fan_out) / 2)
        assert kernel.mean() == pytest.approx(
            0, abs=5 * np.sqrt(variance / kernel.size)
        ), layer
        # Of n draws, five standard errors at the kurtosis of a normal distribution.
        assert kernel.var() == pytest.approx(
            variance, rel=5 * np.sqrt(2 / kernel.size)
        ), layer
        # Uniform up to sqrt(3) standard deviations; Keras cuts its normal at 2 of those
        # it has before, and makes up for what that takes from the variance.
        limit = np.sqrt(3) if name.endswith("uniform") else 2 / 0.87962566103423978
        largest = np.abs(kernel).max() / np.sqrt(variance)
        assert 0.9 * limit < largest <= limit * (1 + 1e-6) or kernel.size < 1000


def test_biases_start_at_0_whatever_the_kernel_initializer():
    model = networks.mlp(IMAGE, 10, kernel_initializer="he_normal")
    assert not any(
        layer.get_weights()[1].any() for layer in model.layers if layer.get_weights()
    )


def test_sixteen_pixels_are_the_least_of_lenet5():
    assert networks.lenet5((16, 16, 1), 2)(np.zeros((1, 16, 16, 1))).shape == (1, 2)
    with pytest.raises(ValueError, match="at least 16x16"):
        networks.lenet5((16, 15, 1), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (28, 28)}, "input_shape must hold 3 ints"),
        ({"input_shape": (28, 28, None)}, "input_shape must hold positive ints"),
        ({"hidden_sizes": (6, 16, 120)}, "hidden_sizes must hold 4 ints, got 3"),
        ({"hidden_sizes": (6, 16, 120, 0)}, "hidden_sizes must hold positive ints"),
        ({"hidden_sizes": (6, 16, 120, 8.5)}, "hidden_sizes must hold positive ints"),
        ({"num_classes": 1}, "num_classes must be an int >= 2, got 1"),
        ({"weight_decay": -1e-4}, "weight_decay must be >= 0"),
        ({"seed": -1}, "seed must be an int >= 0"),
        ({"kernel_initializer": "he"}, "kernel_initializer must be one of.*got 'he'"),
    ],
)
def test_lenet5_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        networks.lenet5(**{"input_shape": IMAGE, "num_classes": 10, **arguments})


def test_build_lists_the_names_it_knows():
    assert networks.build("mlp", (4,), 2, hidden_sizes=[3]).count_params() == 15 + 8
    with pytest.raises(ValueError, match="'vgg': use one of 'lenet5', 'mlp', 'resn"):
        networks.build("vgg", IMAGE, 10)
