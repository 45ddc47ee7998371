"""The published costs of ResNet-50 and MobileNet v1, digit for digit."""

from pathlib import Path

import pytest

from experiments.costs import published as published_costs
from rigl_keras.common import tables
from rigl_keras.costs import counting

pytestmark = pytest.mark.one_keras

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
        # 23.685 was published, a slip.
        (("uniform", 0.8), "0.2254", "1.14", "23.729"),
        (("uniform", 0.9), "0.1285", "0.66", "13.532"),
        (("uniform", 0.95), "0.0801", "0.42", "8.433"),
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


@pytest.mark.parametrize("key", published_costs.MOBILENET_V1)
def test_mobilenet_v1s_cost_what_was_published(mobilenet_v1, key):
    counted = mobilenet_v1[key].published
    flops, megabytes = published_costs.MOBILENET_V1[key]
    assert f"{counted.inference_flops / 1e6:.3f}" == flops
    assert f"{counted.size_bytes / 1e6:.3f}" == megabytes
    built = mobilenet_v1[key].network
    assert built.inference_flops == pytest.approx(counted.inference_flops, rel=0.01)


@pytest.mark.parametrize(("sparsity", "dense"), [(0.8, 8), (0.9, 1), (0.95, 0)])
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
