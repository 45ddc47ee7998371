"""The script that measures large networks at initialisation, on small ones."""

import dataclasses

import numpy as np
import pytest
from tensorflow import keras

import rigl_keras
from experiments import pages
from experiments.initialization import measures
from experiments.initialization import reproduce as script
from rigl_keras import networks
from rigl_keras.core import distributions
from rigl_keras.program import sweep

pytestmark = pytest.mark.one_keras

SCALE = measures.Scale(
    image_size=16, classes=7, width_multiplier=0.125, inputs=20, batch=4
)


def vgg(seed=0):
    return networks.vgg16((16, 16, 3), 7, 0.125, seed=seed)


@pytest.fixture(scope="module")
def measured():
    return measures.measure(measures.Setting("vgg16", "erk", 0.8, 0), SCALE)


def test_settings_are_distinct_and_those_of_the_layer_by_layer_figures_come_first():
    settings = script.all_settings(seeds=(0, 1))
    assert len(set(settings)) == len(settings)
    for network in script.NETWORKS:
        own = [setting for setting in settings if setting.network == network]
        is_first = [setting.sparsity in (0.0, script.SHOWN) for setting in own]
        assert is_first == sorted(is_first, reverse=True)
        dense = {setting.masks for setting in own if setting.sparsity == 0}
        assert dense == {"uniform"}
        shown = {setting.masks for setting in own if setting.sparsity == script.SHOWN}
        assert shown == set(script.MASKS)


def test_erk_masks_have_the_counts_of_sparsify_and_name_dense_kernels_too():
    model = vgg()
    masks = measures.erk_masks(model, 0.8, seed=3)
    shapes = {path: mask.shape for path, mask in masks.items()}
    assert list(shapes) == [
        kernel.path for kernel in rigl_keras.sparse_kernels(sparse(model, 0.0))
    ]
    for path, sparsity in distributions.erk(shapes, 0.8).items():
        expected = distributions.active_count(masks[path].size, sparsity)
        assert masks[path].sum() == expected, path
    assert masks["conv1_1/kernel"].all()
    other = measures.erk_masks(model, 0.8, seed=4)
    assert any((masks[path] != other[path]).any() for path in masks)


def sparse(model, sparsity, **options):
    options = {"distribution": "uniform", "verbose": False, **options}
    return rigl_keras.sparsify(model, sparsity, **options)


def test_the_gradient_is_that_of_the_cross_entropy_of_random_labels(measured):
    model = vgg()
    model = sparse(
        model, 0.8, masks=measures.erk_masks(model, 0.8, 0), initializer="unit_scaled"
    )
    x, y = measures._random_batch(SCALE, 0)
    logits = model(x, training=True).numpy().astype(float)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    error = (probabilities - np.eye(7)[y]) / len(y)
    # The classifier is linear in the features: its gradient has a closed form.
    features = keras.Model(model.input, model.get_layer("pool").output)(x).numpy()
    gradient = features.reshape(len(y), -1).T @ error
    mask = rigl_keras.get_masks(model)["logits/kernel"][0, 0]
    unit_scaled = measured["inits"]["unit-scaled"]
    expected = np.linalg.norm(gradient[mask])
    norms = unit_scaled["kernel_norms"]
    assert norms["logits/kernel"] == pytest.approx(expected, rel=1e-4)
    assert unit_scaled["training_std"] == pytest.approx(logits.std(), rel=1e-4)
    # VGG-16 has no parameters but its kernels.
    whole = np.linalg.norm(list(norms.values()))
    assert unit_scaled["gradient_norm"] == pytest.approx(whole, rel=1e-6)


def test_what_is_measured_is_of_every_layer_and_init(measured):
    assert tuple(measured["inits"]) == script.INITS
    for init in measured["inits"].values():
        layers = [path.removesuffix("/kernel") for path in init["kernel_norms"]]
        assert layers == list(init["layer_std"])
        assert len(layers) == 14
    dense, *others = (init["output_std"] for init in measured["inits"].values())
    assert all(other > 10 * dense for other in others)


def test_only_what_is_missing_is_measured(tmp_path, monkeypatch):
    made, written = [], []

    def measure(setting, scale):
        made.append(setting)
        assert scale == measures.Scale()
        return {**dataclasses.asdict(setting), "seconds": 0}

    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr(script, "write", lambda records, _: written.append(records))
    settings = script.all_settings([0, 1])
    before = {dataclasses.astuple(settings[3]): dataclasses.asdict(settings[3])}
    sweep.write_records(tmp_path / script.FILE, before)
    arguments = [f"--out={tmp_path}", "--seeds", "0", "1"]
    assert script.main([*arguments, "--figures"]) == 0
    assert not made
    assert sum(map(len, written[0].values())) == 1
    assert script.main(arguments) == 0
    assert made == [*settings[:3], *settings[4:]]
    assert script.main(arguments) == 0
    assert len(made) == len(settings) - 1
    for records in written[1].values():
        assert [record["seed"] for record in records] == [0, 1]


def test_the_pages_tables_are_those_of_the_published_records():
    records = sweep.read_records(script.OUTPUT / script.FILE, script.IDENTITY)
    gathered = script.gather(script.all_settings(), records)
    page = (script.OUTPUT / "README.md").read_text()
    for name, table in script.sections(gathered).items():
        assert pages.with_section(page, name, table) == page


def test_figure_and_tables_show_what_is_there(measured, tmp_path):
    gathered = {
        ("vgg16", "uniform", 0.0): [measured] * 2,
        ("vgg16", "uniform", 0.8): [measured] * 2,
        ("vgg16", "erk", 0.8): [measured] * 2,
        ("vgg16", "erk", 0.9): [measured] * 2,
    }
    script.write(gathered, tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["vgg16.png"]
    page = (tmp_path / "README.md").read_text()
    output, flow = (
        script._spread([measured["inits"]["dense"][name]] * 2)
        for name in ("output_std", "gradient_norm")
    )
    # Without masks; of two kinds of masks; over two and over three sparsities.
    for number in (output, flow):
        assert page.count(number) == 1 + 2 + 2 + 3
    assert "uneven" not in page


def test_a_dense_network_stands_at_sparsity_0_of_all_masks():
    records = [{"inits": {"dense": {"output_std": std}}} for std in (1.0, 3.0)]
    gathered = {
        ("vgg16", "uniform", 0.0): records,
        ("vgg16", "erk", 0.8): records[:1],
        ("vgg16", "uniform", 0.5): records[1:],
    }
    series = script.series(gathered, "vgg16", "erk", init="dense", name="output_std")
    assert series == {0.0: [1.0, 3.0], 0.8: [1.0]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([51.6, 40.4], "46 ± 6"),
        ([0.02254], "0.023"),
        ([693.2, 707.2], "700 ± 7"),
        ([2.3e-5, 2.5e-5], "2.4e-05 ± 1e-06"),
        ([0.0, 0.0], "0 ± 0"),
    ],
)
def test_numbers_have_two_digits_and_their_deviation_one(values, expected):
    assert script._spread(values) == expected
