"""Schedules of the learning rate, by themselves and in a saved model."""

import numpy as np
import pytest
import tiny
from tensorflow import keras

from rigl_keras.learning_rates import WarmUp


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
