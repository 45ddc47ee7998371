"""What `sparsify` and `Sparse` make of the argument `pattern`, and what they refuse."""

import dataclasses

import numpy as np
import pytest
from tensorflow import keras

import rigl_keras
from rigl_keras import patterns
from rigl_keras.core import patterns as registry


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_PATTERNS", patterns.named())


def mlp():
    layers = [keras.Input((8,)), keras.layers.Dense(12, "relu", name="hidden")]
    return keras.Sequential([*layers, keras.layers.Dense(3, name="out")])


def sparsify(*args, **options):
    return rigl_keras.sparsify(mlp(), *args, verbose=False, **options)


def pattern_of(name, layout, **fields):
    """A registered pattern without arguments, but for the values of fields."""
    attributes = {"name": name, "layout": layout, **fields}
    return patterns.register(type(name, (patterns.Pattern,), attributes))()


def test_a_mapping_of_sparsities_leaves_other_kernels_dense_whatever_their_pattern():
    sparse = sparsify(distribution={"hidden/kernel": 0.5}, pattern="n_of_m(2, 4)")
    assert list(rigl_keras.get_masks(sparse)) == ["hidden/kernel"]


def test_a_mapping_of_sparsities_is_held_against_the_pattern():
    with pytest.raises(ValueError, match=r"Expected sparsity 0\.5 of 'hidden/kernel'"):
        sparsify(distribution={"hidden/kernel": 0.9}, pattern="n_of_m(2, 4)")


@pytest.mark.parametrize(
    "pattern",
    [
        [],
        16,
        (16, 1),
        patterns.Blocks,
        [["blocks(2)"], "unstructured"],
        [{"hidden/*": "blocks(2)"}],
        {"hidden/*": {"kernel": "blocks(2)"}},
        {1: "blocks(2)"},
    ],
)
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(TypeError, match="Expected `pattern` to be") as caught:
        sparsify(0.5, pattern=pattern)
    assert str(caught.value).split(", got ")[1].startswith(repr(pattern))


def test_a_class_in_place_of_a_pattern_is_refused_with_what_to_write():
    with pytest.raises(TypeError, match=r"Make an object of the class: NOfM\(\.\.\.\)"):
        sparsify(pattern=patterns.NOfM)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("block(16)", "Expected the name of a pattern, one of"),
        ("2:4", "Expected the name of a pattern, one of"),
        ("blocks(**{'inputs': 2})", "Expected the name of a pattern, one of"),
        ("n_of_m", r"missing a required argument: 'n'\. Expected n_of_m\(n: int"),
        ("blocks(2, size=3)", r"argument 'size'\. Expected blocks\(inputs: "),
    ],
)
def test_a_text_that_makes_no_pattern_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        sparsify(0.5, pattern=text)


@pytest.mark.parametrize("value", [None, b"blocks(2)", patterns.Blocks(2)])
def test_what_is_no_text_makes_no_pattern(value):
    with pytest.raises(TypeError, match="Expected a text such as"):
        patterns.from_text(value)


@pytest.mark.parametrize("balanced", [1, np.True_, np.ones(2), ["inputs"]])
def test_blocks_are_not_taken_as_balanced_by_what_only_equals_true(balanced):
    with pytest.raises(ValueError, match="Expected `balanced` of Blocks to be one of"):
        patterns.Blocks(4, balanced=balanced)


def test_numbers_of_numpy_make_the_same_pattern():
    sparse = sparsify(0.5, pattern=patterns.Blocks(np.int64(2), np.int32(3)))
    assert rigl_keras.sparse_kernels(sparse)[0].pattern == patterns.Blocks(2, 3)
    assert str(patterns.ConstantFanIn(np.float64(0.25))) == "constant_fan_in(0.25)"


FAULTY = {
    "product": patterns.Layout((8, 13), (), (0,)),
    "twice": patterns.Layout((8, 12), (0,), (0,)),
    "negative": patterns.Layout((8, 12), (), (-1,)),
    "fraction": patterns.Layout((4.0, 2, 12), (), (0,)),
    "one_axis": patterns.Layout((8, 12), (), 1),
    "plain": ((8, 12), (), (0,)),
    "nothing": None,
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_layout_is_refused_though_another_pattern_would_suit(name):
    faulty = pattern_of(name, lambda self, taps, inputs, outputs: FAULTY[name])
    with pytest.raises(TypeError, match=rf"{name}.layout returns .* = \[1, 8, 12\]"):
        sparsify(0.5, pattern=[faulty, "unstructured"])


@pytest.mark.parametrize("name", ["dense", "", "two words", 3])
def test_names_that_no_text_could_tell_are_refused(name):
    attributes = {"name": name, "layout": lambda *sizes: None}
    own = type("Own", (patterns.Pattern,), attributes)
    with pytest.raises(ValueError, match="Own has no name to be registered by"):
        patterns.register(own)


@dataclasses.dataclass(frozen=True)
class Rows(patterns.Pattern):
    """Whole inputs; its arguments change nothing."""

    is_strict: bool = True
    width: int = 0

    name = "rows"

    def layout(self, taps, inputs, outputs):
        return patterns.Layout((taps, inputs, outputs), (), (1,))


def test_a_pattern_that_is_not_registered_is_refused():
    with pytest.raises(ValueError, match=r"Put @rigl_keras\.patterns\.register before"):
        sparsify(0.5, pattern=Rows())


@pytest.mark.parametrize("rows", [Rows(), Rows(False), Rows(False, 3), Rows(width=3)])
def test_files_tell_the_arguments_of_a_pattern_of_ones_own(rows, tmp_path):
    patterns.register(Rows)
    sparse = sparsify(0.5, pattern=rows)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [kernel.pattern for kernel in rigl_keras.sparse_kernels(loaded)] == [
        rows
    ] * 2


def test_a_file_with_an_unknown_pattern_says_what_to_import(tmp_path, monkeypatch):
    patterns.register(Rows)
    sparsify(0.5, pattern=Rows()).save(tmp_path / "model.keras")
    monkeypatch.delitem(registry._PATTERNS, "rows")
    with pytest.raises((TypeError, ValueError), match="Import the module that defines"):
        keras.models.load_model(tmp_path / "model.keras")


def test_a_pattern_whose_arguments_no_text_tells_is_refused():
    def layout(self, taps, inputs, outputs):
        return patterns.Layout((taps, inputs, outputs), (), (1,))

    own = pattern_of("own", layout)
    sparsify(0.5, pattern=own)  # without arguments its name tells all
    vague = type(own)
    vague.__init__ = lambda self, needed: None
    with pytest.raises(ValueError, match=r"does not make it again\. Make own a frozen"):
        sparsify(0.5, pattern=vague(3))


@pytest.mark.parametrize("pattern", ["blocks(2)", ["blocks(2)", "dense"]])
def test_a_layer_is_printed_with_its_pattern(pattern):
    text = repr(rigl_keras.Sparse(keras.layers.Dense(4), 0.5, pattern=pattern))
    assert f"pattern={pattern!r}, built=False".replace("(2)", "(2, 1)") in text
    plain = rigl_keras.Sparse(keras.layers.Dense(4), 0.5)
    assert "pattern" not in repr(plain) + repr(sparsify(0.5).get_layer("sparse_out"))


def layers_of_every_kind():
    """Kernels of 8 or 16 inputs: convolution, attention, recurrence, Dense."""
    inputs = keras.Input((6, 8))
    x = keras.layers.Conv1D(8, 2, name="conv")(inputs)
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = keras.layers.GRU(8, name="gru")(x)
    return keras.Model(inputs, keras.layers.Dense(4, name="out")(x))


# Weights as [taps, inputs, outputs] to booleans that are True where the pattern holds.
HOLDS = {
    "blocks(4)": lambda mask: np.isin(by_inputs(mask, 4), (0, 4)),
    "blocks(4, balanced='inputs')": lambda mask: (
        np.ptp(by_inputs(mask, 4).sum(axis=2), axis=(0, 1)) == 0
    ),
    "n_of_m(2, 4)": lambda mask: by_inputs(mask, 4) == 2,
    "constant_fan_in": lambda mask: np.ptp(mask.sum(axis=(0, 1))) == 0,
    "blocks('all')": lambda mask: np.isin(mask.mean(axis=(0, 1)), (0, 1)),
}


def by_inputs(mask, block):
    """How many weights each block of inputs has, of shape [taps, blocks, outputs]."""
    taps, inputs, outputs = mask.shape
    return mask.reshape(taps, inputs // block, block, outputs).sum(axis=2)


def as_taps_inputs_outputs(kernel):
    mask = kernel.mask.numpy()
    connected = (*kernel.in_axes, *kernel.out_axes)
    taps = [axis for axis in range(mask.ndim) if axis not in connected]
    inputs = np.prod([mask.shape[axis] for axis in kernel.in_axes])
    outputs = np.prod([mask.shape[axis] for axis in kernel.out_axes])
    return mask.transpose(*taps, *connected).reshape(-1, inputs, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", HOLDS)
def test_layers_of_every_kind_are_trained_by_a_pattern(pattern):
    keras.utils.set_random_seed(0)
    sparsity = None if pattern.startswith("n_of_m") else 0.5
    sparse = rigl_keras.sparsify(
        layers_of_every_kind(), sparsity, "uniform", pattern=pattern, verbose=False
    )
    before = rigl_keras.get_masks(sparse)
    sparse.compile("sgd", "mse")
    x = np.random.RandomState(0).randn(16, 6, 8).astype("float32")
    set_ = rigl_keras.SET(update_freq=2, drop_fraction=0.5)
    sparse.fit(x, x[:, 0, :4], batch_size=2, verbose=0, callbacks=[set_])
    for kernel in rigl_keras.sparse_kernels(sparse):
        mask = as_taps_inputs_outputs(kernel)
        assert np.all(HOLDS[pattern](mask))
        assert mask.sum() == before[kernel.path].sum()
    after = rigl_keras.get_masks(sparse)
    assert any((after[path] != before[path]).any() for path in after)


def test_masks_on_the_way_to_two_of_four_are_saved_and_loaded(tmp_path):
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
    three = np.ones((8, 4), bool)
    three[::4] = False
    masks = {"hidden/kernel": three}
    model = rigl_keras.sparsify(net, masks=masks, pattern="n_of_m(2, 4)")
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(rigl_keras.get_masks(loaded)["hidden/kernel"], three)
    layer = rigl_keras.Sparse(
        keras.layers.Dense(4), {"kernel": 0.75}, pattern="n_of_m(2, 4)"
    )
    with pytest.raises(ValueError, match=r"sparsity 0\.5 of 'kernel'.*got 0\.75"):
        layer.build((1, 8))
