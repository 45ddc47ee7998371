"""Runs of the command line on two devices of one machine, and on one after two."""

import json

import gin
import numpy as np
import pytest
import small_runs
import tensorflow as tf
import tiny

import rigl_keras
from rigl_keras.program.devices import StrategyConfig

pytestmark = pytest.mark.slow

TWO_CPUS = "strategy.devices = ('CPU:0', 'CPU:1')"


@pytest.fixture(autouse=True)
def no_gin_left(monkeypatch):
    # Others in one process would mix up their collectives.
    monkeypatch.setattr(StrategyConfig, "_mirrored", lambda self: tiny.two_replicas())
    yield
    gin.clear_config()


def variables(folder, step):
    """All that a checkpoint holds."""
    reader = tf.train.load_checkpoint(str(folder / f"ckpt-{step}"))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name.endswith("VALUE")}


def test_two_devices_hold_the_same_masks_and_weights(tmp_path):
    bindings = ["masks.sparsity = 0.8", *small_runs.RIGL, TWO_CPUS]
    made = small_runs.make(tmp_path / "run", bindings)
    before = rigl_keras.get_masks(made._model)
    result = made.train()
    assert result["replicas"] == 2
    for each in rigl_keras.sparse_kernels(made._model):
        for variable in (each.mask, each.kernel):
            one, other = tiny.raw(variable).values
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        assert np.any(each.mask.numpy() != before[each.path])


@pytest.mark.release
def test_a_run_goes_on_with_other_devices(tmp_path, monkeypatch):
    bindings = ["masks.sparsity = 0.8", *small_runs.RIGL]
    small_runs.train(tmp_path / "whole", bindings)
    folder = small_runs.train(tmp_path / "run", [*bindings, TWO_CPUS])
    for name in ("results.json", "ckpt-24.index", "ckpt-18.index"):
        (folder / name).unlink()
    small_runs.train(folder, bindings)
    assert (folder / "ckpt-24.index").exists()
    found = json.loads((folder / "results.json").read_text())
    assert found["replicas"] == 1
    # Sums in another order, of the same batches.
    one, other = variables(tmp_path / "whole", 6), variables(folder, 6)
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=1e-3, err_msg=name)
