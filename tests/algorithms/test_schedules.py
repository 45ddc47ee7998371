import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from pruning_reference import decay

from rigl_keras.algorithms import schedules

STEPS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("step", "fraction"), [(0, 0.4), (25, 0.34142136), (50, 0.2), (100, 0.0)]
)
def test_cosine_at_hand_worked_steps(step, fraction):
    assert schedules.cosine(0.4, step, 100) == pytest.approx(fraction)
    # The same, begun later.
    later = schedules.cosine(0.4, step + 70, 170, first_step=70)
    assert later == pytest.approx(fraction)


def test_cosine_is_the_first_before_its_beginning():
    assert schedules.cosine(0.3, 100, 1250, first_step=500) == 0.3
    assert schedules.cosine(0.3, 100, 500, first_step=500) == 0.3


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


def test_check_fraction_asks_after_a_percentage():
    with pytest.raises(ValueError, match=r"got 30: did you mean 0\.3\?"):
        schedules.check_fraction(30)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (schedules.cosine, "cosine is none: it takes.*drop_fraction"),
        (schedules.constant_sparsity(0.5, 2), "schedule of pruning.*rigl_keras.Prun"),
        (["cosine"], "got .'cosine'."),
        ("linear", "got 'linear'"),
        (0.3, "got 0.3"),
    ],
)
def test_check_schedule_refuses(schedule, message):
    with pytest.raises(ValueError, match=rf"function from the step.*{message}"):
        schedules.check_schedule(schedule, 10)


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


# Pruning


def asked(schedule, steps):
    answers = [schedule(tf.constant(step, tf.int64)) for step in steps]
    return [bool(due) for due, _ in answers], [float(share) for _, share in answers]


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize(("initial", "final"), [(0.0, 0.9), (0.25, 0.5), (0.5, 0.5)])
def test_polynomial_decay_is_that_of_the_paper(initial, final, power):
    schedule = schedules.polynomial_decay(initial, final, 10, 50, power, frequency=8)
    steps = range(1, 70)
    due, sparsity = asked(schedule, steps)
    steps_due = [s for s, is_due in zip(steps, due, strict=True) if is_due]
    assert steps_due == [10, 18, 26, 34, 42, 50]
    expected = [decay(step, initial, final, 10, 50, power) for step in steps]
    np.testing.assert_allclose(sparsity, expected, atol=1e-6)


def test_polynomial_decay_is_cubic_every_100_steps_by_default():
    due, sparsity = asked(schedules.polynomial_decay(0.0, 0.8, 0, 200), [100, 150, 200])
    assert due == [True, False, True]
    assert sparsity == pytest.approx([0.7, 0.7875, 0.8])


def test_constant_sparsity():
    schedule = schedules.constant_sparsity(0.75, 2, 9, frequency=3)
    due, sparsity = asked(schedule, range(1, 13))
    assert [step for step, is_due in enumerate(due, start=1) if is_due] == [2, 5, 8]
    assert set(sparsity) == {0.75}
    due, _ = asked(schedules.constant_sparsity(0.75, 2), [1, 2, 102, 103, 10**6 + 2])
    assert due == [False, True, True, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_sparsity": -0.1}, "initial_sparsity"),
        ({"initial_sparsity": math.nan}, "initial_sparsity"),
        ({"final_sparsity": 1.0}, "final_sparsity"),
        ({"begin_step": -1}, "begin_step"),
        ({"end_step": -1}, "end_step"),
        ({"end_step": 3}, "end_step"),
        ({"begin_step": 9}, r"end_step > begin_step.*constant_sparsity\(0.9, 9, 9\)"),
        ({"frequency": 0}, "frequency"),
        ({"final_sparsity": 90}, r"final_sparsity.*did you mean 0\.9\?"),
        ({"initial_sparsity": 50}, r"initial_sparsity.*did you mean 0\.5\?"),
        ({"begin_step": 10}, "end_step=9 and begin_step=10"),
        ({"begin_step": 4.0}, r"begin_step to be an int >= 0, got 4\.0"),
        ({"frequency": -100}, "frequency to be an int >= 1, got -100"),
        ({"power": 0}, "power to be a number > 0"),
    ],
)
def test_polynomial_decay_refuses(options, message):
    good = {
        "initial_sparsity": 0,
        "final_sparsity": 0.9,
        "begin_step": 4,
        "end_step": 9,
    }
    asked(schedules.polynomial_decay(**good), [4])
    with pytest.raises(ValueError, match=message):
        schedules.polynomial_decay(**{**good, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sparsity": 1.0}, "target_sparsity"),
        ({"target_sparsity": -0.1}, "target_sparsity"),
        ({"begin_step": -1}, "begin_step"),
        ({"end_step": -2}, "end_step"),
        ({"end_step": 3}, "end_step"),
        ({"frequency": -1}, "frequency to be an int >= 1, got -1"),
        ({"target_sparsity": 50}, r"target_sparsity.*did you mean 0\.5\?"),
        ({"end_step": 3}, "to come after begin_step.*end_step=3 and begin_step=4"),
    ],
)
def test_constant_sparsity_refuses(options, message):
    good = {"target_sparsity": 0.5, "begin_step": 4, "end_step": 4}
    assert asked(schedules.constant_sparsity(**good), [4, 5])[0] == [True, False]
    with pytest.raises(ValueError, match=message):
        schedules.constant_sparsity(**{**good, **options})


@pytest.mark.slow
@pytest.mark.parametrize("switch", [None, pytest.param("1", marks=pytest.mark.release)])
def test_the_environment_and_keras_stay_as_they_were(switch):
    """TFMOT, from which the schedules are, switches Keras 2 on when it is imported."""
    program = """
import os, sys
import rigl_keras
from tensorflow import keras
before = keras.Model
assert "tensorflow_model_optimization" not in sys.modules
rigl_keras.schedules.constant_sparsity(0.5, 1)
assert "tensorflow_model_optimization" in sys.modules
import tensorflow as tf
assert tf.keras.Model is keras.Model is before
print(os.environ.get("TF_USE_LEGACY_KERAS"), before.__module__.split(".")[0])
"""
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    if switch is not None:
        environment["TF_USE_LEGACY_KERAS"] = switch
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    package = "tf_keras" if switch == "1" else "keras"
    assert result.stdout.split() == [str(switch), package]
