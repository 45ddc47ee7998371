import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigl_keras import schedules

STEPS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("step", "fraction"), [(0, 0.4), (25, 0.34142136), (50, 0.2), (100, 0.0)]
)
def test_cosine_at_hand_worked_steps(step, fraction):
    assert schedules.cosine(0.4, step, 100) == pytest.approx(fraction)
    # The same, begun later.
    later = schedules.cosine(0.4, step + 70, 170, first_step=70)
    assert later == pytest.approx(fraction)


def test_cosine_stays_at_0_after_its_end():
    assert schedules.cosine(0.3, 150, 100) == pytest.approx(0, abs=1e-12)


@given(st.floats(0, 1), STEPS, st.integers(1, 10**6), STEPS)
def test_cosine_is_a_fraction_of_the_first(fraction, after, length, first):
    value = schedules.cosine(fraction, first + after, first + length, first)
    assert 0 <= value <= fraction + 1e-12


def test_relative_follows_the_rate():
    assert schedules.relative(0.3, 0.01, 0.1) == pytest.approx(0.03)
    assert schedules.relative(0.3, 0.0, 0.1) == 0


def test_relative_never_exceeds_the_fraction_when_the_rate_rises():
    assert schedules.relative(0.3, 0.2, 0.1) == pytest.approx(0.3)


def test_relative_at_rate_0_from_the_start_is_0():
    assert schedules.relative(0.3, 0.0, 0.0) == 0


@given(STEPS, st.integers(1, 1000), st.integers(-1, 10**6))
def test_next_update_is_the_first_due_step(step, every, last):
    due = [
        s for s in range(step + 1, step + every + 1) if schedules.is_due(s, every, last)
    ]
    assert schedules.next_update(step, every, last) == (due[0] if due else None)


def test_updates_are_due_at_multiples_up_to_and_with_the_last_step():
    due = [s for s in range(20) if schedules.is_due(s, 4, 12)]
    assert due == [4, 8, 12]
    assert [s for s in range(9) if schedules.is_due(s, 4, schedules.FOREVER)] == [4, 8]
    assert not any(schedules.is_due(s, 1, schedules.NEVER) for s in range(9))


def test_default_last_update_step_is_three_quarters():
    assert schedules.default_last_update_step(32_000) == 24_000
    assert schedules.default_last_update_step(7) == 5


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, math.inf, "a", None, True])
def test_check_fraction_refuses(fraction):
    with pytest.raises(ValueError, match=r"drop_fraction .*\[0, 1\]"):
        schedules.check_fraction(fraction)


@pytest.mark.parametrize("fraction", [0, 1, 0.3])
def test_check_fraction_accepts(fraction):
    value = schedules.check_fraction(fraction)
    assert isinstance(value, float) and value == fraction


@given(
    start=st.integers(0, 30),
    epochs=st.integers(1, 4),
    steps=st.integers(1, 12),
    size=st.integers(1, 6),
    freq=st.integers(1, 9),
    last=st.integers(-1, 60),
)
def test_updates_inside_executions_are_found(start, epochs, steps, size, freq, last):
    ends = set()
    for epoch in range(epochs):
        begin = start + epoch * steps
        ends |= {begin + min(done + size, steps) for done in range(0, steps, size)}
    due = [
        step
        for step in range(start + 1, start + epochs * steps + 1)
        if step % freq == 0 and last != 0 and (last == -1 or step <= last)
    ]
    inside = [step for step in due if step not in ends]
    found = schedules.update_inside_execution(start, epochs, steps, size, freq, last)
    assert found == (inside[0] if inside else None)
