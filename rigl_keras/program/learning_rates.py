"""Learning-rate schedules that Keras lacks."""

import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_int


class _Around(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule around another one."""

    def __init__(self, schedule):
        self.schedule = schedule

    def get_config(self):
        serialize = keras.optimizers.schedules.serialize
        return {"schedule": serialize(self.schedule)}

    @classmethod
    def from_config(cls, config):
        """Makes a schedule from what `get_config` returned."""
        deserialize = keras.optimizers.schedules.deserialize
        return cls(**{**config, "schedule": deserialize(config["schedule"])})


@compat.register_serializable
class WarmUp(_Around):
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
        super().__init__(schedule)
        self.steps = check_int("steps", steps, minimum=0)

    def __call__(self, step):
        """The learning rate of a step, a float32 scalar tensor."""
        done = (tf.cast(step, tf.float32) + 1) / (self.steps + 1)
        return tf.cast(self.schedule(step), tf.float32) * tf.minimum(done, 1.0)

    def get_config(self):
        """What `from_config` makes an equal schedule from."""
        return {**super().get_config(), "steps": self.steps}


@compat.register_serializable
class PerStep(_Around):
    """Another schedule, counted in steps where Keras counts batches.

    With gradient accumulation Keras 3 asks a schedule for the learning rate of a batch,
    of which several make a step.

    Args:
      schedule: a Keras `LearningRateSchedule` of steps.
      batches: int >= 1, how many batches make a step.

    Raises:
      ValueError: when `batches` is out of range.
    """

    def __init__(self, schedule, batches):
        super().__init__(schedule)
        self.batches = check_int("batches", batches, minimum=1)

    def __call__(self, batch):
        """The learning rate of a batch, a float32 scalar tensor."""
        return self.schedule(batch // self.batches)

    def get_config(self):
        """What `from_config` makes an equal schedule from."""
        return {**super().get_config(), "batches": self.batches}
