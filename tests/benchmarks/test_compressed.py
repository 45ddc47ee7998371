"""The benchmark of compressed kernels: what is timed and counted, and its tables."""

import shutil

import pytest

from benchmarks import compressed, compressed_memory, compressed_tables, setups
from benchmarks import run as benchmark
from rigl_keras import networks
from rigl_keras.program import files

pytestmark = pytest.mark.one_keras
DOCS = benchmark.ROOT / "docs"
NO_ORIGIN = {
    "environment": {
        "machine": "m",
        "git_revision": None,
        "versions": dict.fromkeys(("python", "tensorflow", "keras", "numpy"), "1.0"),
    }
}
COMPRESSED = ["dense", "masked", "compressed 0.9", "compressed 0.95"]


def test_compressed_layers_are_timed_beside_dense_and_masked_ones():
    part = compressed.measure_layers(
        [32, 64, 16], rows=4, threads=1, sparsities=[0.9, 0.95], calls=1, rounds=2
    )
    for clock in ("wall", "cpu"):
        assert list(part[clock]) == COMPRESSED
        assert all(len(times) == 2 for times in part[clock].values())


@pytest.mark.slow
def test_every_compressed_training_is_timed(monkeypatch):
    def small_mlp(shape, classes):
        return networks.build("mlp", shape, classes, hidden_sizes=(256,))

    small = setups.Setup("small", small_mlp, (4, 4, 1), 4, warm_up=1)
    monkeypatch.setitem(setups.SETUPS, "small", small)
    part = compressed.measure_fit(
        "Adam", threads=2, sparsities=[0.9, 0.95], setup="small", steps=2, rounds=1
    )
    assert list(part["wall"]) == [*COMPRESSED, "RigL", "RigL, always updating"]
    assert part["update"]["dense"] == [0]
    assert part["update"]["RigL, always updating"][0] > 0


@pytest.mark.slow
def test_bytes_of_compressed_kernels_are_counted():
    part = compressed_memory.measure_memory(sparsities=[0.95], hidden=(64,))
    of_layers = part["sparse layers"]
    # Weights, their two slots and biases; a byte a weight of masks.
    assert of_layers["dense"] == 12 * (784 * 64 + 64)
    assert of_layers["masked 0.95"] - of_layers["dense"] == 784 * 64
    # Of 64 units in each of 49 groups 3 exist, of 16 weights and an int32 each.
    assert of_layers["compressed 0.95"] == 49 * 3 * (16 * 12 + 4) + 12 * 64
    # What the last layer has, and the optimizer's two numbers.
    rest = {part["variables"][name] - of_layers[name] for name in of_layers}
    assert len(rest) == 1 and part["file"]["dense"] > part["file"]["compressed 0.95"]


@pytest.mark.slow
def test_a_large_layer_is_updated_and_timed():
    part = compressed_memory.measure_large(width=64, sparsity=0.9, batch_size=4)
    assert part["weights"] == 4 * 6 * 16 and part["dense_weights"] == 64 * 64
    assert min(part["peak"], part["step"], part["update"]) > 0


def test_speed_ups_are_over_dense_and_targets_say_what_was_reached():
    times = {"dense": [9.0] * 9, "compressed 0.95": [2.0] * 9}
    times["compressed 0.98"] = [1.0, 2.0] * 4 + [2.0]
    part = {
        "widths": [8, 8],
        "rows": 4,
        "threads": 2,
        "jit_compile": False,
        "sparsities": [0.9, 0.95, 0.98],
        "wall": {**times, "masked": [9.0] * 9, "compressed 0.9": [9.0] * 9},
    }
    text = compressed_tables.sections({"compressed/layer/8/2": {**part, **NO_ORIGIN}})
    rows = text["compressed: targets"].splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows]
    assert cells == [
        ["≥ 3", "4.50 (4.50–4.50)", "met", "wall time"],
        ["≥ 5", "4.50 (4.50–9.00)", "undecided", "wall time"],
    ]


def test_the_page_of_compressed_kernels_has_the_tables_of_its_numbers(tmp_path):
    shutil.copy(DOCS / "compressed.md", tmp_path)
    numbers = files.read_json(DOCS / "results" / "performance" / "benchmark.json")
    page = compressed_tables.write(tmp_path, numbers["parts"])
    assert page.read_text() == (DOCS / "compressed.md").read_text()
