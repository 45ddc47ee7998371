"""Learning-rate schedules that Keras lacks."""

import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.checks import check_int


@compat.register_serializable
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, whose first steps rise to it in a straight line.

    At step t < `steps` the learning rate is (t + 1) / (steps + 1) of the other
    schedule's at t, so that no step is lost to a rate of 0.

    Args:
      schedule: a Keras `LearningRateSchedule`.
      steps: int >= 0, how many steps rise.

    Raises:
      ValueError: when `steps` is out of range.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.2.
    """

    def __init__(self, schedule, steps):
        self.schedule = schedule
        self.steps = check_int("steps", steps, minimum=0)

    def __call__(self, step):
        """The learning rate of a step, a float32 scalar tensor."""
        done = (tf.cast(step, tf.float32) + 1) / (self.steps + 1)
        return tf.cast(self.schedule(step), tf.float32) * tf.minimum(done, 1.0)

    def get_config(self):
        """What `from_config` makes an equal schedule from."""
        serialize = keras.optimizers.schedules.serialize
        return {"schedule": serialize(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        """Makes a schedule from what `get_config` returned."""
        deserialize = keras.optimizers.schedules.deserialize
        return cls(**{**config, "schedule": deserialize(config["schedule"])})
