"""The optimizer of a training run as gin describes it."""

import dataclasses

import gin
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.checks import check_int, check_positive, choice
from rigl_keras.program.learning_rates import PerStep, WarmUp

_CLASSES = {
    "adam": keras.optimizers.Adam,
    "momentum": keras.optimizers.SGD,
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
}


@gin.configurable("optimizer", module="rigl_keras.experiment_optimizer")
@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate.

    All but name, learning_rate, clipnorm, clipvalue and momentum is this package's own.

    Attributes:
      name: "adam", "momentum", "sgd" or "rmsprop".
      learning_rate: float > 0, the highest learning rate.
      clipnorm: float > 0, the largest norm of each gradient, or None.
      clipvalue: float > 0, the largest magnitude of a gradient's entries, or None.
      momentum: float > 0, needed by "momentum", an option of "rmsprop"; or None.
      nesterov: bool, Nesterov's momentum, for "momentum".
      base_batch_size: int >= 1, the batch size that `learning_rate` is meant for: with
        another it changes in proportion. None: it holds for any.
      schedule: "cosine" falls to 0 by a half cosine, "step" by `decay_factor` at each
        of `decay_points`, "constant" stays.
      decay_points: floats in (0, 1), rising: shares of the training's steps.
      decay_factor: float in (0, 1).
      warmup: float in [0, 1), the share of the steps over which the learning rate rises
        to the schedule.
      gradient_accumulation_steps: int >= 1, in how many parts each step's batch is
        passed through the network, one after the other.

    Raises:
      ValueError: for an unknown name, a value out of range, or one without use.
    """

    name: str = "adam"
    learning_rate: float = 0.001
    clipnorm: float | None = None
    clipvalue: float | None = None
    momentum: float | None = None
    nesterov: bool = False
    base_batch_size: int | None = None
    schedule: str = "cosine"
    decay_points: tuple[float, ...] = ()
    decay_factor: float = 0.1
    warmup: float = 0.0
    gradient_accumulation_steps: int = 1

    def __post_init__(self):
        """Refuses what cannot be meant."""
        choice("optimizer.name", self.name, _CLASSES)
        choice("optimizer.schedule", self.schedule, _SCHEDULES)
        check_positive("optimizer.learning_rate", self.learning_rate)
        for name in ("clipnorm", "clipvalue", "momentum"):
            if getattr(self, name) is not None:
                check_positive(f"optimizer.{name}", getattr(self, name))
        if self.base_batch_size is not None:
            check_int("optimizer.base_batch_size", self.base_batch_size, minimum=1)
        check_int(
            "optimizer.gradient_accumulation_steps",
            self.gradient_accumulation_steps,
            minimum=1,
        )
        _check_share("optimizer.decay_factor", self.decay_factor)
        if self.warmup:
            _check_share("optimizer.warmup", self.warmup)
        self._check_decay_points()
        self._check_momentum()

    def _check_decay_points(self):
        if (self.schedule == "step") != bool(self.decay_points):
            raise ValueError(
                "optimizer.decay_points says where optimizer.schedule='step' lowers "
                "the learning rate, and belongs to it alone: got decay_points="
                f"{self.decay_points} with schedule={self.schedule!r}."
            )
        for point in self.decay_points:
            _check_share("each of optimizer.decay_points", point)
        if list(self.decay_points) != sorted(set(self.decay_points)):
            raise ValueError(
                "Expected optimizer.decay_points to rise, such as (0.3, 0.7, 0.9), "
                f"got {self.decay_points}."
            )

    def _check_momentum(self):
        if (self.name == "momentum" and self.momentum is None) or (
            self.name in ("adam", "sgd") and self.momentum is not None
        ):
            raise ValueError(
                "optimizer.momentum belongs to optimizer.name='momentum', which needs "
                f"it, and 'rmsprop'; got momentum={self.momentum!r} with "
                f"name={self.name!r}."
            )
        if self.nesterov and self.name != "momentum":
            raise ValueError(
                "optimizer.nesterov=True belongs to optimizer.name='momentum', got "
                f"name={self.name!r}."
            )

    def make(self, steps, batch_size):
        """Makes the optimizer.

        Args:
          steps: int >= 1, the length of the training.
          batch_size: int >= 1, examples in each step.

        Returns:
          A Keras optimizer.

        Raises:
          ValueError: when Keras cannot do what is asked for.
        """
        names = ("clipnorm", "clipvalue", "momentum")
        options = {name: getattr(self, name) for name in names}
        options = {name: value for name, value in options.items() if value is not None}
        if self.nesterov:
            options["nesterov"] = True
        schedule = self._schedule(steps, batch_size)
        batches = self.gradient_accumulation_steps
        if batches > 1:
            options |= compat.accumulation_options(batches)
            schedule = PerStep(schedule, batches)
        return _CLASSES[self.name](schedule, **options)

    def _schedule(self, steps, batch_size):
        rate = self.learning_rate
        if self.base_batch_size is not None:
            rate *= batch_size / self.base_batch_size
        schedule = _SCHEDULES[self.schedule](self, rate, steps)
        warm_up_steps = round(self.warmup * steps)
        return WarmUp(schedule, warm_up_steps) if warm_up_steps else schedule


def _cosine(config, rate, steps):
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def _step(config, rate, steps):
    points = config.decay_points
    rates = [rate * config.decay_factor**number for number in range(len(points) + 1)]
    # Keras still has the value before a boundary at the boundary itself.
    boundaries = [round(point * steps) - 1 for point in points]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)


def _constant(config, rate, steps):
    # A half cosine from the rate down to the whole of it.
    return keras.optimizers.schedules.CosineDecay(rate, steps, alpha=1.0)


_SCHEDULES = {"cosine": _cosine, "step": _step, "constant": _constant}


def _check_share(name, value):
    check_positive(name, value)
    if value >= 1:
        raise ValueError(f"Expected {name} to lie between 0 and 1, got {value!r}.")
