"""Patterns as objects and as texts; a pattern of a user's own."""

import dataclasses

import hypothesis
import numpy as np
import own_pattern
import pytest
from hypothesis import strategies as st

from rigl_keras import patterns
from rigl_keras.core.patterns import to_text
from rigl_keras.patterns import Blocks, ConstantFanIn, NOfM, Unstructured, from_text

SIZES = st.integers(1, 64)
PATTERNS = st.one_of(
    st.builds(Unstructured),
    st.builds(
        Blocks, SIZES, SIZES, st.sampled_from([False, True, "inputs", "outputs"])
    ),
    st.builds(Blocks, st.just("all"), SIZES),
    st.tuples(SIZES, SIZES).map(lambda pair: NOfM(pair[0], sum(pair))),
    st.builds(ConstantFanIn, st.floats(0, 1)),
    st.builds(own_pattern.Woven),
)


@hypothesis.given(pattern=PATTERNS, other=PATTERNS)
def test_texts_stand_for_patterns(pattern, other):
    text = str(pattern)
    assert from_text(text) == pattern
    assert hash(from_text(text)) == hash(pattern)
    assert to_text(pattern) == text
    assert (pattern == other) == (text == str(other))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (Unstructured(), "unstructured"),
        (Blocks(), "blocks(16, 1)"),
        (Blocks(4), "blocks(4, 1)"),
        (Blocks(4, 2, True), "blocks(4, 2, 'inputs')"),
        (Blocks(1, 4, "outputs"), "blocks(1, 4, 'outputs')"),
        (Blocks("all", 1), "blocks('all', 1)"),
        (NOfM(2, 4), "n_of_m(2, 4)"),
        (ConstantFanIn(), "constant_fan_in"),
        (ConstantFanIn(0.3), "constant_fan_in(0.3)"),
        (own_pattern.Woven(), "woven"),
    ],
)
def test_the_text_of_a_pattern(pattern, text):
    assert str(pattern) == text


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("blocks", Blocks(16, 1)),
        ("blocks()", Blocks(16, 1)),
        (" blocks( 4 )\n", Blocks(4, 1)),
        ("blocks(4, balanced='inputs')", Blocks(4, 1, "inputs")),
        ("blocks(outputs=2, inputs='all')", Blocks("all", 2)),
        ("n_of_m(m=4, n=2)", NOfM(2, 4)),
        ("constant_fan_in(0)", ConstantFanIn()),
    ],
)
def test_other_texts_of_a_pattern(text, pattern):
    assert from_text(text) == pattern


def test_true_stands_for_balanced_inputs():
    assert Blocks(4, 1, True) == Blocks(4, 1, "inputs") != Blocks(4, 1, "outputs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("block(4)", "Expected the name of a pattern, one of .*'n_of_m'"),
        ("", "Expected the name of a pattern"),
        ("dense", "Expected the name of a pattern"),
        ("2 of 4", "Expected the name of a pattern"),
        ("blocks(4", "Expected the name of a pattern"),
        ("blocks(open('x'))", "Expected the name of a pattern"),
        ("patterns.blocks(4)", "Expected the name of a pattern"),
        ("n_of_m", "'n_of_m' makes no pattern: missing .*Expected n_of_m\\(n: int, m"),
        ("n_of_m(1, 2, 3)", "makes no pattern"),
        ("blocks(rows=4)", "makes no pattern: .*unexpected keyword.*'rows'"),
        ("blocks(0)", "`inputs` of Blocks, if it is not 'all',"),
        ("n_of_m(4, 4)", "`n` of NOfM to be less than m=4, got 4"),
        (
            "constant_fan_in(2)",
            r"`ablation` of ConstantFanIn to be a number in \[0, 1\], got 2",
        ),
    ],
)
def test_a_text_of_no_pattern(text, message):
    with pytest.raises(ValueError, match=message):
        from_text(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blocks(-1), "`inputs` of Blocks"),
        (lambda: Blocks(2.0), "`inputs` of Blocks"),
        (lambda: Blocks("some"), "`inputs` of Blocks"),
        (lambda: Blocks(4, 0), "`outputs` of Blocks"),
        (lambda: Blocks(4, "all"), "`outputs` of Blocks"),
        (lambda: Blocks(4, 1, "rows"), "`balanced` of Blocks to be one of .*'rows'"),
        (lambda: Blocks(4, 1, None), "`balanced` of Blocks"),
        (lambda: Blocks("all", 1, True), "balanced=False of blocks that have all"),
        (lambda: NOfM(0, 4), "`n` of NOfM"),
        (lambda: NOfM(1, 1), "`m` of NOfM"),
        (lambda: NOfM(3, 2), "to be less than m=2, got 3"),
        (lambda: ConstantFanIn(-0.1), "`ablation` of ConstantFanIn"),
        (lambda: ConstantFanIn("0.3"), "`ablation` of ConstantFanIn"),
        (lambda: ConstantFanIn(float("nan")), "`ablation` of ConstantFanIn"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks(4, 1)", "its 6 inputs are no multiple of 4"),
        ("blocks(2, 4)", "its 9 outputs are no multiple of 4"),
        ("blocks('all', 2)", "its 9 outputs are no multiple of 2"),
        ("n_of_m(2, 4)", "its 6 inputs are no multiple of 4"),
        ("woven", "are no pairs"),
    ],
)
def test_kernels_that_a_pattern_does_not_suit(text, message):
    with pytest.raises(ValueError, match=message):
        from_text(text).grouping((3, 3, 6, 9), (2,), (3,))


def test_joint_axes_count_together():
    # 4 heads of 2 units are 8 inputs.
    grouping = NOfM(2, 8).grouping((4, 2, 5), (0, 1), (2,))
    assert (grouping.groups, grouping.units) == (5, 8)


def test_the_sparsity_that_a_pattern_sets():
    assert NOfM(1, 4).own_sparsity == 0.75
    for pattern in (Unstructured(), Blocks(4), ConstantFanIn(0.3), own_pattern.Woven()):
        assert pattern.own_sparsity is None


@hypothesis.given(units=st.integers(1, 10_000), sparsity=st.floats(0, 0.999))
def test_how_many_units_exist(units, sparsity):
    for pattern in (Unstructured(), Blocks(4, 1, "outputs"), ConstantFanIn()):
        expected = max(1, round((1 - sparsity) * units))
        assert pattern.active_units(units, sparsity) == expected
        assert pattern.least_units(units) == 1
    # 3.5 and 2.5 are rounded to the even numbers.
    of_four = 4 if sparsity <= 0.125 else 3 if sparsity < 0.375 else 2
    assert NOfM(2, 4).active_units(4, sparsity) == of_four
    assert NOfM(2, 4).least_units(4) == 2


@pytest.mark.parametrize(
    ("pattern", "counts", "message"),
    [
        (Unstructured(), [3], None),
        (Blocks(4, 1, "inputs"), [2, 2], None),
        (Blocks(4, 1, "inputs"), [2, 1], "all 2 groups of 4 .* have 1 to 2"),
        (NOfM(2, 4), [2, 2, 2], None),
        (NOfM(2, 4), [3, 3, 3], None),  # on the way of pruning
        (NOfM(2, 4), [1, 1, 1], "2 of every 4 weights, but it has 1"),
        (NOfM(2, 4), [2, 3, 2], "all 3 groups of 4 .* have 2 to 3"),
        (ConstantFanIn(), [2, 0], "all 2 groups of 4 .* have 0 to 2"),
        (ConstantFanIn(0.3), [2, 0, 3, 3], None),
        (ConstantFanIn(0.3), [2, 0, 4], "all outputs that are on .* have 2 to 4"),
    ],
)
def test_counts_that_suit(pattern, counts, message):
    if message is None:
        pattern.check_counts(np.array(counts), 4)
        return
    with pytest.raises(ValueError, match=message):
        pattern.check_counts(np.array(counts), 4)


def own(**attributes):
    """A new class of patterns with these attributes."""

    def layout(self, taps, inputs, outputs):
        return patterns.Layout((taps, inputs, outputs), groups=(), units=(1,))

    return type("Own", (patterns.Pattern,), {"layout": layout, **attributes})


def test_a_registered_pattern_is_known():
    assert patterns.named()["woven"] is own_pattern.Woven
    assert patterns.register(own_pattern.Woven) is own_pattern.Woven


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        (own(name=""), ValueError, "Own has no name to be registered by"),
        (own(name="two words"), ValueError, "it is 'two words'"),
        (own(name="blocks"), ValueError, r"Blocks is registered as 'blocks' already"),
        (int, TypeError, "Expected a subclass of Pattern to register"),
        (Unstructured(), TypeError, "Expected a subclass of Pattern to register"),
    ],
)
def test_patterns_that_cannot_be_registered(pattern, error, message):
    with pytest.raises(error, match=message):
        patterns.register(pattern)


@pytest.mark.parametrize("name", ["", "own", "blocks"])
def test_a_pattern_that_is_not_registered_has_no_text_for_files(name):
    with pytest.raises(ValueError, match="Own is not registered"):
        to_text(own(name=name)())


@pytest.mark.parametrize(
    "layout",
    [
        patterns.Layout((2, 5), groups=(), units=(0,)),
        patterns.Layout((2, 6), groups=(1,), units=(1,)),
        patterns.Layout((2, 6), groups=(), units=(2,)),
        patterns.Layout((2, 6), groups=(-1,), units=(0,)),
    ],
)
def test_a_layout_that_does_not_arrange_the_kernel(layout):
    pattern = own(layout=lambda *_: layout)()
    with pytest.raises(TypeError, match=r"Own.layout returns .*= \[1, 3, 4\]"):
        pattern.grouping((3, 4), (0,), (1,))


def test_the_example_of_the_documentation():
    @dataclasses.dataclass(frozen=True)
    class InputChannels(patterns.Pattern):
        name = "input_channels"

        def layout(self, taps, inputs, outputs):
            shape = (taps, inputs, outputs)
            return patterns.Layout(shape, groups=(), units=(1,))

    grouping = InputChannels().grouping((3, 3, 6, 9), (2,), (3,))
    assert (grouping.groups, grouping.units, grouping.elements) == (1, 6, 81)
    assert str(InputChannels()) == "input_channels"
