"""Settings of runs that large networks need: precision, parts of batches, tests."""

import gin
import numpy as np
import pytest
import small_runs
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.program import files
from rigl_keras.program.network import compile_network

SPARSE = ["masks.sparsity = 0.8", "network.weight_init_method = 'unit_scaled'"]


@pytest.fixture(autouse=True)
def no_gin_left():
    yield
    gin.clear_config()


def records(folder):
    return files.read_jsonl(folder / "metrics.jsonl")


def assert_zero_off_the_masks(model):
    for each in rigl_keras.sparse_kernels(model):
        assert not each.kernel.numpy()[~each.mask.numpy()].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "jit_compile"),
    [
        pytest.param("mixed_bfloat16", True, marks=pytest.mark.release),
        ("mixed_float16", False),
    ],
)
def test_a_run_in_half_precision(precision, jit_compile, tmp_path):
    bindings = [
        *SPARSE,
        *small_runs.RIGL,
        f"training.precision = '{precision}'",
        f"training.jit_compile = {jit_compile}",
    ]
    made = small_runs.make(tmp_path / "run", bindings)
    assert made._model.dtype_policy.name == precision or not tiny.IS_KERAS_3
    layer = made._model.get_layer("sparse_conv1").layer
    assert layer.compute_dtype == precision.removeprefix("mixed_")
    assert made._model.output.dtype in ("float32", tf.float32)
    before = rigl_keras.get_masks(made._model)
    made.train()
    after = rigl_keras.get_masks(made._model)
    assert any((after[path] != before[path]).any() for path in before)
    assert_zero_off_the_masks(made._model)
    assert all(
        np.isfinite(record["gradient_norm"]) for record in records(tmp_path / "run")
    )


@pytest.mark.release
@pytest.mark.skipif(not tiny.IS_KERAS_3, reason="only Keras 3 accumulates gradients")
def test_batches_in_parts_are_the_same_steps(tmp_path):
    bindings = [*SPARSE, *small_runs.RIGL, "mask_updater.grow_gradient = 'step'"]
    whole = small_runs.make(tmp_path / "whole", bindings)
    parts = [*bindings, "optimizer.gradient_accumulation_steps = 4"]
    whole.train()
    made = small_runs.make(tmp_path / "parts", parts)
    made.train()
    steps = [record["step"] for record in records(tmp_path / "whole")]
    assert [record["step"] for record in records(tmp_path / "parts")] == steps
    assert (tmp_path / "parts" / "ckpt-18.index").exists()
    tiny.assert_same_masks(*(rigl_keras.get_masks(r._model) for r in (whole, made)))
    for one, other in zip(
        whole._model.trainable_weights, made._model.trainable_weights, strict=True
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_test_set_is_evaluated_every_few_epochs(tmp_path):
    # 1,438 digits: half an epoch of 32 is 22 steps.
    bindings = ["training.eval_epochs = 0.5", "training.log_freq = 8"]
    folder = small_runs.train(tmp_path / "run", bindings)
    tested = {r["step"]: "test_accuracy" in r for r in records(folder)}
    assert tested == {0: False, 8: False, 16: False, 22: True, 24: True}


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"training\.batch_size=32 .* such as 33"):
        small_runs.make(tmp_path, ["optimizer.gradient_accumulation_steps = 3"])


def compiled(**options):
    model = tiny.mlp()
    compile_network(model, keras.optimizers.SGD(), **options)
    return model


def test_smoothed_labels():
    model = compiled(label_smoothing=0.1, top_k=2)
    x, labels = tiny.data()[0], np.arange(32) % 3
    logits = model.predict(x, verbose=0).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smoothed = np.full((32, 3), 0.1 / 3) + 0.9 * np.eye(3)[labels]
    found = model.evaluate(x, labels, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(-(smoothed * log_p).sum(-1).mean(), rel=1e-5)
    plain = -log_p[np.arange(32), labels].mean()
    assert found["cross_entropy"] == pytest.approx(plain, rel=1e-5)
    best = logits.argsort(-1)[:, -2:]
    expected = np.mean((best == labels[:, np.newaxis]).any(-1))
    assert found["top2_accuracy"] == pytest.approx(expected)


def test_examples_of_weight_0_count_in_no_metric():
    model = compiled(top_k=2)
    x, labels = tiny.data()[0], np.arange(32) % 3
    weights = (np.arange(32) < 20).astype(np.float32)
    part = model.evaluate(x[:20], labels[:20], verbose=0, return_dict=True)
    data = tf.data.Dataset.from_tensors((x, labels, weights))
    filled = model.evaluate(data, verbose=0, return_dict=True)
    for name in ("accuracy", "cross_entropy", "top2_accuracy"):
        assert filled[name] == pytest.approx(part[name], rel=1e-5)


def test_too_many_for_top_k_are_refused():
    with pytest.raises(ValueError, match=r"training\.top_k=3 of 3 classes"):
        compiled(top_k=3)
