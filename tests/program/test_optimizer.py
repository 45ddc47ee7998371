"""The optimizer that gin describes: learning rates step by step, and refusals."""

import gin
import numpy as np
import pytest
import tiny

import rigl_keras
from rigl_keras.program.optimizer import OptimizerConfig

MOMENTUM = ("optimizer.name = 'momentum'", "optimizer.momentum = 0.9")
STEPS = 100


@pytest.fixture(autouse=True)
def no_gin_left():
    yield
    gin.clear_config()


def made(*bindings, steps=STEPS, batch_size=256):
    gin.parse_config(bindings)
    return OptimizerConfig().make(steps, batch_size)


def rates(optimizer, steps=STEPS):
    return [
        float(rigl_keras.compat.learning_rate(optimizer, step)) for step in range(steps)
    ]


@pytest.mark.parametrize(
    ("bindings", "setting"),
    [
        (["optimizer.name = 'lion'"], "optimizer.name"),
        (["optimizer.name = 'momentum'"], "optimizer.momentum"),
        (["optimizer.momentum = 0.9"], "optimizer.momentum"),
        (["optimizer.nesterov = True"], "optimizer.nesterov"),
        (["optimizer.learning_rate = -0.1"], "optimizer.learning_rate"),
        (["optimizer.learning_rate = 'fast'"], "optimizer.learning_rate"),
        (["optimizer.clipnorm = 0"], "optimizer.clipnorm"),
        (["optimizer.schedule = 'steps'"], "optimizer.schedule"),
        (["optimizer.schedule = 'step'"], "optimizer.decay_points"),
        (["optimizer.decay_points = (0.5,)"], "optimizer.decay_points"),
        (["optimizer.warmup = 1.5"], "optimizer.warmup"),
        (["optimizer.decay_factor = 2."], "optimizer.decay_factor"),
        (["optimizer.base_batch_size = 0"], "optimizer.base_batch_size"),
        (["optimizer.gradient_accumulation_steps = 0"], "accumulation_steps"),
        (
            ["optimizer.schedule = 'step'", "optimizer.decay_points = (0.7, 0.3)"],
            "optimizer.decay_points",
        ),
        (
            ["optimizer.schedule = 'step'", "optimizer.decay_points = (30, 70)"],
            "optimizer.decay_points",
        ),
    ],
)
def test_an_optimizer_that_makes_no_sense_is_refused(bindings, setting):
    with pytest.raises(ValueError, match=setting.replace(".", r"\.")):
        made(*bindings)


def test_the_learning_rate_falls_to_0_by_a_half_cosine():
    optimizer = made(*MOMENTUM, "optimizer.learning_rate = 0.05", steps=200)
    for step in (0, 50, 100, 200):
        expected = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 200))
        rate = float(rigl_keras.compat.learning_rate(optimizer, step))
        assert rate == pytest.approx(expected, abs=1e-8)
    assert optimizer.momentum == 0.9
    assert not optimizer.nesterov


def test_the_recipe_of_imagenet():
    # Warm-up over 5 of 100 epochs, then a tenth from epochs 30, 70 and 90 on.
    optimizer = made(
        *MOMENTUM,
        "optimizer.nesterov = True",
        "optimizer.learning_rate = 0.1",
        "optimizer.base_batch_size = 256",
        "optimizer.schedule = 'step'",
        "optimizer.decay_points = (0.3, 0.7, 0.9)",
        "optimizer.warmup = 0.05",
        batch_size=1024,
    )
    assert optimizer.nesterov
    expected = np.repeat([0.4, 0.04, 0.004, 0.0004], [30, 40, 20, 10])
    expected[:5] *= np.arange(1, 6) / 6
    np.testing.assert_allclose(rates(optimizer), expected, rtol=1e-6)


def test_a_constant_learning_rate():
    found = rates(made("optimizer.schedule = 'constant'", "optimizer.warmup = 0.02"))
    expected = np.full(STEPS, 0.001)
    expected[:2] *= [1 / 3, 2 / 3]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_accumulating_gradients_is_for_keras_3():
    binding = "optimizer.gradient_accumulation_steps = 4"
    if tiny.IS_KERAS_3:
        assert made(binding).gradient_accumulation_steps == 4
    else:
        with pytest.raises(ValueError, match="Keras 3"):
            made(binding)
