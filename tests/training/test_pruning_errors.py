"""What `Pruning` says of a schedule that is none."""

import pytest
import tensorflow as tf
import tiny

import rigl_keras
from rigl_keras import Pruning, RigL, schedules


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        0.5,
        "cosine",
        lambda step: 0.5,
        lambda step: (True, 0.5, 1),
        lambda step: (True, "half"),
        lambda step: (True, None),
        lambda step: (0.5, True),
        lambda step: (tf.constant([True, False]), 0.5),
        lambda: (True, 0.5),
    ],
)
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match=r"Expected `schedule`.*polynomial_decay"):
        Pruning(schedule)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("rigl", r"got 'rigl'.*rigl_keras\.MaskUpdates\('rigl'\)"),
        (0.9, r"got 0\.9.*constant_sparsity\(0\.9, step\)"),
        (
            schedules.constant_sparsity,
            r"constant_sparsity is none.*begin_step.*Pruning\(constant_sparsity\(\.",
        ),
        (schedules.polynomial_decay, r"call it: Pruning\(polynomial_decay\(\.\.\."),
        (schedules.cosine, "cosine is none, since it takes"),
    ],
)
def test_what_to_write_in_its_place(schedule, message):
    with pytest.raises(ValueError, match=message):
        Pruning(schedule)


def test_a_class_in_place_of_its_object():
    cls = type(schedules.polynomial_decay(0.0, 0.9, 0, 100))  # TFMOT's
    with pytest.raises(ValueError, match=r"call it: Pruning\(PolynomialDecay\(\.\.\."):
        Pruning(cls)


def test_a_schedule_of_drop_fractions_that_needs_more_than_a_step():
    with pytest.raises(ValueError, match=r"`schedule`.*cosine is none: it takes"):
        RigL(schedule=schedules.cosine)
    RigL(schedule=lambda step: 0.1)


def test_the_flops_of_pruning_by_what_is_no_schedule():
    with pytest.raises(ValueError, match="Expected `schedule` for method 'pruning'"):
        rigl_keras.training_flops(
            tiny.sparse_mlp(), "pruning", 4, 1, schedule=schedules.constant_sparsity
        )
