"""Schedules of the learning rate, by themselves and in a saved model."""

import numpy as np
import pytest
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras.program.learning_rates import PerStep, WarmUp


def cosine(rate=0.5, steps=10):
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def test_the_first_steps_rise_to_the_schedule():
    schedule = WarmUp(cosine(), 3)
    found = [float(schedule(step)) for step in range(11)]
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(11) / 10))
    expected[:3] *= [0.25, 0.5, 0.75]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_without_steps_it_is_the_schedule():
    assert float(WarmUp(cosine(), 0)(0)) == 0.5


@pytest.mark.parametrize("steps", [-1, 1.5, "3"])
def test_a_number_of_steps_that_makes_no_sense_is_refused(steps):
    with pytest.raises(ValueError, match="steps"):
        WarmUp(cosine(), steps)


def test_batches_of_a_step_have_its_learning_rate():
    schedule = PerStep(cosine(), 4)
    found = [float(schedule(batch)) for batch in range(12)]
    expected = np.repeat([float(cosine()(step)) for step in range(3)], 4)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="batches"):
        PerStep(cosine(), 0)


@pytest.mark.skipif(not tiny.IS_KERAS_3, reason="only Keras 3 accumulates gradients")
def test_steps_of_accumulated_gradients_are_those_of_the_schedule():
    schedule = PerStep(cosine(), 4)
    optimizer = keras.optimizers.SGD(schedule, gradient_accumulation_steps=4)
    for step in range(3):
        rate = float(rigl_keras.compat.learning_rate(optimizer, step))
        assert rate == float(cosine()(step))
    variable = keras.Variable(0.0)
    for _ in range(8):
        optimizer.apply([np.float32(1.0)], [variable])
    # Two steps by Keras itself.
    assert float(variable) == pytest.approx(-float(cosine()(0)) - float(cosine()(1)))


def test_a_saved_model_keeps_it(tmp_path):
    schedule = WarmUp(cosine(), 3)
    model = tiny.compiled(tiny.mlp(), keras.optimizers.SGD(schedule))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.optimizer.get_config()["learning_rate"]
    again = keras.optimizers.schedules.deserialize(again)
    assert isinstance(again, WarmUp)
    for step in (0, 2, 5):
        assert float(again(step)) == float(schedule(step))
