"""ResNet-50, 80 % sparse by RigL, on a small ImageNet that TFDS's own builder made."""

import os
import sys
from pathlib import Path

import clusters
import gin
import imagenet_runs
import numpy as np
import pytest
import tiny

import rigl_keras
from rigl_keras.program import files
from rigl_keras.program.devices import StrategyConfig

TESTS = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.release


@pytest.fixture(autouse=True)
def no_gin_left(monkeypatch):
    # Others in one process would mix up their collectives.
    monkeypatch.setattr(StrategyConfig, "_mirrored", lambda self: tiny.two_replicas())
    yield
    gin.clear_config()


def check(folder, masks):
    """What every run of that file shows."""
    records = files.read_jsonl(folder / "metrics.jsonl")
    losses = [record["cross_entropy"] for record in records[1:]]
    assert losses[-1] < losses[0] - 1
    result = files.read_json(folder / "results.json")
    assert result["sparsity"]["all"] == pytest.approx(0.8, abs=2e-3)
    assert "conv1/kernel" not in result["sparsity"]
    assert {"test_accuracy", "test_top5_accuracy"} <= set(result)
    updates = files.read_jsonl(folder / "mask_updates.jsonl")
    assert [update["step"] for update in updates] == [5, 10]
    for path, mask in masks.items():
        assert result["sparsity"][path] == pytest.approx(1 - mask.mean())
    return result


def test_it_trains_on_two_devices_of_one_machine(imagenet_dir, tmp_path):
    if not tiny.IS_KERAS_3:
        pytest.skip("in Keras 2 it is shown on two workers")
    bindings = ["strategy.devices = ('CPU:0', 'CPU:1')"]
    made = imagenet_runs.make(tmp_path / "run", imagenet_dir, bindings)
    before = imagenet_runs.masks(made)
    made.train()
    after = imagenet_runs.masks(made)
    assert check(tmp_path / "run", after)["replicas"] == 2
    assert sum(np.any(after[path] != before[path]) for path in before) > 40
    for each in rigl_keras.sparse_kernels(made._model):
        for variable in (each.mask, each.kernel):
            one, other = tiny.raw(variable).values
            np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_it_trains_on_two_workers_with_the_same_masks(imagenet_dir, tmp_path):
    if tiny.IS_KERAS_3:
        pytest.skip("several workers train with Keras 2")

    def command(index):
        program, out = imagenet_runs.__file__, tmp_path / f"masks{index}.npz"
        return [sys.executable, program, tmp_path / "run", imagenet_dir, out]

    paths = os.pathsep.join([str(TESTS / "support"), str(TESTS.parent)])
    with clusters.two_workers(command, tmp_path, PYTHONPATH=paths) as processes:
        clusters.wait_for(processes, tmp_path)
    one, other = (dict(np.load(tmp_path / f"masks{index}.npz")) for index in range(2))
    tiny.assert_same_masks(one, other)
    assert check(tmp_path / "run", one)["replicas"] == 2
