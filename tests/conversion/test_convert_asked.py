"""What `sparsify` says of the sparsity that it was asked for, and of dense kernels."""

import gc
import weakref

import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.core import asked

LAYERS = keras.layers
EMBEDDING = "an embedding, not in `include`"
DEPTHWISE = "a depthwise kernel, not in `include`"


def printed(capsys, model, *arguments, **options):
    """The lines that `sparsify` prints, and the reasons that the model keeps."""
    sparse = rigl_keras.sparsify(model, *arguments, **options)
    rows = rigl_keras.summary(sparse, print_fn=None).rows
    reasons = {row.path: row.reason for row in rows if row.reason}
    return capsys.readouterr().out.splitlines(), reasons


def test_an_override_makes_the_model_denser_than_was_asked(capsys):
    lines, reasons = printed(
        capsys, tiny.mlp(), 0.8, "uniform", overrides={"hidden/*": 0}
    )
    # Of 48 weights none, and of 24 all but round(4.8).
    assert lines == [
        "sparsify: 1 sparse kernels; left dense: hidden/kernel (overridden to 0).",
        "sparsify: asked for 80.00%; zeros: 79.17% of masked kernels, "
        f"{19 / 72:.2%} of all kernels.",
    ]
    assert reasons == {"hidden/kernel": "overridden to 0"}


def test_what_erk_leaves_dense_makes_the_others_sparser(capsys):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            LAYERS.Dense(300, name="wide"),
            LAYERS.Dense(10, name="out"),
        ]
    )
    # 11,100 of 22,200 stay, more than 3,000 of them in `out` by its 310 of 674 shares.
    lines, reasons = printed(capsys, model, 0.5)
    assert lines == [
        "sparsify: 1 sparse kernels; left dense: out/kernel (ERK needs all of it).",
        f"sparsify: asked for 50.00%; zeros: {11_100 / 19_200:.2%} of masked kernels, "
        "50.00% of all kernels.",
    ]
    assert reasons == {"out/kernel": "ERK needs all of it"}


def test_nothing_is_said_of_a_sparsity_that_was_reached(capsys):
    lines, reasons = printed(capsys, tiny.mlp(), 0.5, "uniform")
    assert lines == ["sparsify: 2 sparse kernels; left dense: none."]
    assert reasons == {}
    lines, _ = printed(capsys, tiny.mlp(), 0)
    assert len(lines) == 1
    lines, _ = printed(capsys, tiny.mlp(), 0.8, overrides={"out/*": 0}, verbose=False)
    assert lines == []


def many_types():
    inputs = keras.Input((12,), dtype="int32")
    x = LAYERS.Embedding(9, 4, name="words")(inputs)
    x = LAYERS.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = LAYERS.SeparableConv1D(6, 3, name="separable")(x)
    return keras.Model(inputs, LAYERS.Dense(5, name="out")(x))


def test_reasons_by_type_and_by_pattern_also_inside_a_layer(capsys):
    overrides = {"attention/query/*": 0.0, "attention/*": 0.5}
    lines, reasons = printed(capsys, many_types(), 0.5, "uniform", overrides=overrides)
    assert reasons == {
        "words/embeddings": EMBEDDING,
        "attention/query/kernel": "overridden to 0",
        "separable/depthwise_kernel": DEPTHWISE,
    }
    for path, reason in reasons.items():
        assert f"{path} ({reason})" in lines[0]
    _, reasons = printed(
        capsys, many_types(), 0.5, "uniform", include=["words/*", "*depthwise*"]
    )
    assert reasons == {}


def test_reasons_by_a_mapping_masks_or_a_function(capsys):
    def first_alone(shapes, sparsity, overrides):
        return {path: sparsity if "hidden" in path else 0.0 for path in shapes}

    half = np.arange(48).reshape(6, 8) % 2
    for options, reason in (
        ({"distribution": {"hidden/kernel": 0.5}}, "not in `distribution`"),
        (
            {"distribution": {"hidden/kernel": 0.5, "out/kernel": 0}},
            "0 in `distribution`",
        ),
        ({"masks": {"hidden/kernel": half}}, "no mask was given"),
        (
            {"distribution": first_alone, "sparsity": 0.5},
            "`distribution` gives it 0",
        ),
    ):
        lines, reasons = printed(capsys, tiny.mlp(), **options)
        assert reasons == {"out/kernel": reason}
        # Without one number for all, none was asked for.
        wish = "asked for 50.00%; " if "sparsity" in options else ""
        assert lines[1] == (
            f"sparsify: {wish}zeros: 50.00% of masked kernels, {24 / 72:.2%} of all "
            "kernels."
        )


def test_a_kernel_that_is_too_small_to_lose_a_weight_has_that_reason(capsys):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            LAYERS.Dense(2, name="small"),
            LAYERS.Dense(30, name="big"),
        ]
    )
    _, reasons = printed(capsys, model, 0.1, "uniform")
    assert reasons == {"small/kernel": "too small to lose a weight"}
    sparse = rigl_keras.sparsify(model, 0.1, "uniform", verbose=False)
    rigl_keras.set_masks(sparse, {"small/kernel": np.eye(2)})
    rows = rigl_keras.summary(sparse, print_fn=None).rows
    assert not any(row.reason for row in rows)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_summary_shows_what_was_asked_while_it_is_known(tmp_path, is_loaded):
    sparse = tiny.sparsify(tiny.mlp(), 0.8, overrides={"hidden/*": 0})
    if is_loaded:
        sparse.save(tmp_path / "sparse.keras")
        sparse = keras.models.load_model(tmp_path / "sparse.keras")
    lines = []
    data = rigl_keras.summary(sparse, lines.append)
    assert data.asked == (None if is_loaded else 0.8)
    assert data.kernel_sparsity == pytest.approx(19 / 24)
    assert data.all_kernels_sparsity == pytest.approx(19 / 72)
    (row,) = [line for line in lines if line.startswith("hidden/kernel")]
    assert row.endswith("overridden to 0") == (not is_loaded)
    said = [line for line in lines if line.startswith("sparsify was asked for 80.00%")]
    assert len(said) == (not is_loaded)


def test_what_was_asked_goes_with_the_model():
    sparse = tiny.sparsify(tiny.mlp())
    assert asked.noted(sparse) == asked.Asked(0.5, {})
    assert asked.noted(rigl_keras.strip(sparse)) is None
    noted = weakref.ref(sparse)
    del sparse
    gc.collect()
    assert noted() is None
