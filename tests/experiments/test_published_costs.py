"""The published costs of ResNet-50 and MobileNet v1, digit for digit."""

import math
from pathlib import Path

import pytest

from experiments.costs import published as published_costs
from rigl_keras.common import tables
from rigl_keras.costs import counting

# Building the networks takes half a minute, and what is counted seldom changes.
pytestmark = [pytest.mark.one_keras, pytest.mark.release]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cost.md"


@pytest.fixture(scope="module")
def resnet50():
    return published_costs.settings("resnet50")


@pytest.fixture(scope="module")
def mobilenet_v1():
    return published_costs.settings("mobilenet_v1")


def test_the_dense_resnet50_costs_what_was_published(resnet50):
    counted = resnet50["dense", 0.0].published
    assert counted.parameters == counted.active_parameters == 25_557_032
    assert counted.dense_flops == counted.inference_flops
    assert f"{counted.inference_flops:.4e}" == "8.2023e+09"
    assert f"{counted.size_bytes / 1e6:.4f}" == "102.1219"
    training = counting.training_flops(counted, "dense", 32_000, 4096)
    assert f"{training:.1e}" == "3.2e+18"


def test_the_dense_resnet50_costs_what_its_convolutions_sum_up_to(resnet50):
    """As built: He et al. 2016, Table 1, two for a product, one bias and one ReLU."""
    flops, side, previous = 112**2 * 64 * (2 * 147 + 1), 56, 64
    for inner, blocks, strides in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            before = side
            if block == 0:
                side //= strides
                flops += side**2 * 4 * inner * (2 * previous + 1)
            flops += before**2 * inner * (2 * previous + 1)
            flops += side**2 * inner * (2 * 9 * inner + 1)
            flops += side**2 * 4 * inner * (2 * inner + 1)
            previous = 4 * inner
    flops += 1000 * (2 * 2048 + 1)
    assert resnet50["dense", 0.0].network.inference_flops == flops


@pytest.mark.parametrize(
    ("key", "flops", "training", "megabytes"),
    [
        (("erk", 0.8), "0.4153", "2.09", "23.683"),
        (("erk", 0.9), "0.2431", "1.23", "13.499"),
        (("erk", 0.95), "0.1230", "0.63", "8.399"),
        # 6.904 was published, the size of the uniform one.
        (("erk", 0.965), "0.0865", "0.45", "6.868"),
        ((published_costs.ERK_DENSE_CONV1, 0.99), "0.0548", "0.29", "4.354"),
        # 23.685 was published, a slip.
        (("uniform", 0.8), "0.2254", "1.14", "23.729"),
        (("uniform", 0.9), "0.1285", "0.66", "13.532"),
        (("uniform", 0.95), "0.0801", "0.42", "8.433"),
        (("uniform", 0.965), "0.0656", "0.34", "6.904"),
    ],
)
def test_sparse_resnet50s_cost_what_was_published(
    resnet50, key, flops, training, megabytes
):
    counted, dense = resnet50[key].published, resnet50["dense", 0.0].published
    assert f"{counted.inference_flops / dense.inference_flops:.4f}" == flops
    assert f"{counted.size_bytes / 1e6:.3f}" == megabytes
    assert f"{published_costs.training_ratio(counted, dense):.2f}" == training
    # Nothing else was changed: as built, the first convolution has fewer pixels.
    assert resnet50[key].network.inference_flops < counted.inference_flops
    assert resnet50[key].network.size_bytes == pytest.approx(
        counted.size_bytes, abs=250
    )


def test_two_sizes_alone_are_not_those_that_were_published(resnet50):
    dense, differ = resnet50["dense", 0.0].published, {}
    for key, (flops, megabytes, training) in published_costs.RESNET50.items():
        counted = resnet50[key].published
        found = f"{counted.inference_flops / dense.inference_flops:.2f}"
        assert float(found) == float(flops)
        ratio = published_costs.training_ratio(counted, dense)
        assert float(f"{ratio:.2f}") == float(training)
        if f"{counted.size_bytes / 1e6:.3f}" != megabytes:
            differ[key] = megabytes
    assert differ == {("uniform", 0.8): "23.685", ("erk", 0.965): "6.904"}


def test_the_longer_trainings_of_the_sparsest_resnet50_cost_what_was_published(
    resnet50,
):
    counted = resnet50[published_costs.ERK_DENSE_CONV1, 0.99].published
    five = published_costs.training_ratio(counted, resnet50["dense", 0.0].published)
    published = {10: "0.58", 40: "2.32"}
    assert {n: f"{five * n / 5:.2f}" for n in published} == published
    assert f"{five * 100 / 5:.1f}" == "5.8"


def test_the_sizes_of_the_sparsest_resnet50s_follow_from_their_weights(resnet50):
    """As built: 4 bytes for an active weight and a bias, a bit for each of a mask."""
    weights, biases, conv1 = 25_502_912, 27_560, 7 * 7 * 3 * 64
    active = weights - math.floor(0.965 * weights)
    size = 4 * (active + biases) + weights / 8
    assert f"{size / 1e6:.3f}" == "6.869"
    found = resnet50["erk", 0.965].network.size_bytes
    assert found == pytest.approx(size, abs=4)
    masked = weights - conv1
    active = masked - math.floor(0.99 * masked) + conv1
    size = 4 * (active + biases) + masked / 8
    assert f"{size / 1e6:.3f}" == "4.354"
    found = resnet50[published_costs.ERK_DENSE_CONV1, 0.99].network.size_bytes
    assert found == pytest.approx(size, abs=4)


@pytest.mark.parametrize("key", published_costs.MOBILENET_V1)
def test_mobilenet_v1s_cost_what_was_published(mobilenet_v1, key):
    counted = mobilenet_v1[key].published
    flops, megabytes = published_costs.MOBILENET_V1[key]
    assert f"{counted.inference_flops / 1e6:.3f}" == flops
    assert f"{counted.size_bytes / 1e6:.3f}" == megabytes
    built = mobilenet_v1[key].network
    assert built.inference_flops == pytest.approx(counted.inference_flops, rel=0.01)


@pytest.mark.parametrize(
    ("distribution", "notebook"), [("erk", "0.29"), ("uniform", "0.15")]
)
def test_mobilenet_v1s_cost_what_the_notebook_says_and_not_the_readme(
    mobilenet_v1, distribution, notebook
):
    """The README of the same code has 0.21 and 0.09."""
    counted, dense = mobilenet_v1[distribution, 0.9], mobilenet_v1["dense", 0.0]
    for each in ("published", "network"):
        flops = getattr(counted, each).inference_flops
        assert f"{flops / getattr(dense, each).inference_flops:.2f}" == notebook


@pytest.mark.parametrize(
    ("sparsity", "dense"), [(0.8, 8), (0.9, 1), (0.95, 0), (0.965, 0)]
)
def test_erk_leaves_as_many_kernels_dense_as_was_published(resnet50, sparsity, dense):
    setting = resnet50["erk", sparsity]
    for counted in (setting.network, setting.published):
        assert sum(row.active == row.size for row in counted.rows) == dense


def test_the_page_shows_these_tables():
    text = PAGE.read_text()
    for table in (
        published_costs.resnet50_table(),
        published_costs.mobilenet_v1_table(),
    ):
        assert tables.markdown(table) in text
