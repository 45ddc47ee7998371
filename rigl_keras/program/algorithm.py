"""A training run as gin describes it: seeds, data, algorithm.

Every function here that carries `@gin.configurable` is a name in gin files. The names
and defaults are those of the paper's TF2 code; `masks`, `seeds`, `data` and what
docstrings call this package's own are not from there. Flags and files that differ are
listed in the README, under "The command line".
"""

import dataclasses

import gin

from rigl_keras import data
from rigl_keras.algorithms import (
    SNIP,
    GraSP,
    Magnitude,
    MaskUpdater,
    Pruner,
    named,
    schedules,
)
from rigl_keras.common.checks import (
    check_choice,
    check_int,
    check_not_negative,
    choice,
)
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.training.base import Static
from rigl_keras.training.dynamic import MaskUpdates
from rigl_keras.training.pruning import Pruning

load_data = gin.external_configurable(data.load, "data")

# Gin also finds a name by the end of its module and itself, as in
# `experiment.seeds.init_seed`. So the module, here and in the other files of settings,
# is the one that the name was published with, wherever the code lies now.
_MODULE = "rigl_keras.experiment"

# Pruners by the original's names of algorithms that prune before training; their other
# half, which updates masks, it has not published. Its published loop prunes every layer
# to the same sparsity.
_UNPUBLISHED = {"rigl_s": SNIP, "rigl_grasp": GraSP}


def _one_shot():
    """What prunes before training and leaves the masks so, by name."""
    by_magnitude = Magnitude.name  # the criterion of all other algorithms
    pruners = {k: v for k, v in named(Pruner).items() if k != by_magnitude}
    return {**pruners, **_UNPUBLISHED}


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Seeds of a run; separate, so that no two experiments share a draw by accident.

    Attributes:
      init_seed: int, for initial weights.
      data_seed: int, for the order of the training data.
      mask_seed: int, for random masks and random growth.
    """

    init_seed: int
    data_seed: int
    mask_seed: int


@gin.configurable("seeds", module=_MODULE, denylist=["seed"])
def make_seeds(seed, init_seed=None, data_seed=None, *, mask_seed=None):
    """The run's seeds: `seed`, the command line's, where gin sets no other.

    Returns:
      `Seeds`.

    Raises:
      ValueError: when one is no int >= 0.
    """
    chosen = {
        name: seed if value is None else value
        for name, value in {
            "init_seed": init_seed,
            "data_seed": data_seed,
            "mask_seed": mask_seed,
        }.items()
    }
    for name, value in chosen.items():
        check_int(f"seeds.{name}", value, minimum=0)
    return Seeds(**chosen)


@gin.configurable("mask_updater", module=_MODULE)
@dataclasses.dataclass(frozen=True)
class MaskUpdaterConfig:
    """How masks change while the network trains, or before it does.

    Attributes:
      update_alg: "" for masks that stay; "set", "rigl", "rigl_inverted" or "snfs" for
        masks that evolve; "snip" or "grasp" for those that
        training.oneshot_prune_fraction makes, ranked by training.oneshot_ranking; or
        "rigl_s" and "rigl_grasp", the same in the paper's code, which prunes every
        layer to that fraction.
      schedule_alg: "lr", "cosine" or "constant", how the drop fraction changes.
      update_freq: int >= 1, steps between two updates.
      init_drop_fraction: float in [0, 1], the drop fraction at the start.
      last_update_step: int; -1 never stops, 0 never starts.
      use_stateless: True; all random draws are stateless.
      grow_gradient: this package's own: "fixed_batch" lets RigL grow by the gradient of
        `grow_batch`, "step" by that of the step's own batch.
      drop_noise: this package's own, as is `skip_weight_step`; see `MaskUpdates`.
      skip_weight_step: bool.
    """

    update_alg: str = ""
    schedule_alg: str = "lr"
    update_freq: int = 100
    init_drop_fraction: float = 0.3
    last_update_step: int = -1
    use_stateless: bool = True
    grow_gradient: str = "fixed_batch"
    drop_noise: float = 0.0
    skip_weight_step: bool = False

    def __post_init__(self):
        """Refuses an unknown algorithm, stateful draws, and what is out of range.

        Raises:
          ValueError: naming what came.
        """
        choice(
            "mask_updater.update_alg",
            self.update_alg,
            {"": None, **named(MaskUpdater), **_one_shot()},
        )
        check_choice(
            "mask_updater.grow_gradient", self.grow_gradient, ("fixed_batch", "step")
        )
        if not self.use_stateless:
            raise ValueError(
                "mask_updater.use_stateless=False is not possible: all random draws "
                "are stateless. Leave it at True."
            )
        if self.evolves:
            check_int("mask_updater.update_freq", self.update_freq, minimum=1)
            schedules.check_fraction(
                self.init_drop_fraction, "mask_updater.init_drop_fraction"
            )
            check_int("mask_updater.last_update_step", self.last_update_step, -1)
            check_not_negative("mask_updater.drop_noise", self.drop_noise)
        if self.update_alg in _UNPUBLISHED and self.last_update_step != 0:
            raise ValueError(
                f"mask_updater.update_alg={self.update_alg!r} prunes before training "
                "only: set mask_updater.last_update_step=0, or use 'rigl' for masks "
                "that evolve."
            )

    @property
    def uses_fixed_batch(self):
        """Whether masks grow by the gradient of one fixed batch."""
        return self.grow_gradient == "fixed_batch"

    @property
    def evolves(self):
        """Whether masks change while the network trains."""
        return self.update_alg in named(MaskUpdater) and self.last_update_step != 0

    def stretched(self, length):
        """The same, with the last update `length` times as late."""
        last = self.last_update_step
        if last > 0:
            last = stretched(last, length)
        return dataclasses.replace(self, last_update_step=last)

    def one_shot_pruner(self, fraction, ranking):
        """The `Pruner` that prunes before training; None for none.

        Args:
          fraction: float in [0, 1), the share of weights it is to remove.
          ranking: "global" or "layer", as of algorithms by the paper's code's names.

        Raises:
          ValueError: when one of algorithm and fraction is missing.
        """
        if self.update_alg in _UNPUBLISHED:
            ranking = "layer"
        if fraction == 0:
            if self.update_alg in _one_shot():
                raise ValueError(
                    f"mask_updater.update_alg={self.update_alg!r} prunes before "
                    "training, and training.oneshot_prune_fraction=0 asks for no "
                    "pruning: the network would train densely. Set the fraction."
                )
            return None
        if not self.update_alg:
            raise ValueError(
                f"training.oneshot_prune_fraction={fraction} needs a criterion: set "
                "mask_updater.update_alg to 'snip' or 'grasp', or to an algorithm that "
                "drops by magnitude, such as 'rigl'."
            )
        return _one_shot().get(self.update_alg, Magnitude)(ranking)


def make_mask_updater(config, model, make_batch, *, seeds):
    """Makes the callback that trains the masks.

    Args:
      config: `MaskUpdaterConfig`.
      model: the network.
      make_batch: function that returns `(x, y)`, from which RigL grows where the
        configuration says so.
      seeds: `Seeds`.

    Returns:
      A callback, or None for a dense network.

    Raises:
      ValueError: for a value out of range, or an algorithm without masks.
    """
    if not sparse_kernels(model):
        if config.update_alg:
            raise ValueError(
                f"mask_updater.update_alg={config.update_alg!r} updates masks, and "
                "there are none: the network would train densely. Set masks.sparsity "
                "or network.mask_init_path."
            )
        return None
    algorithm = named(MaskUpdater).get(config.update_alg)
    if algorithm is None:
        return Static()
    options = {
        "update_freq": config.update_freq,
        "drop_fraction": config.init_drop_fraction,
        "schedule": config.schedule_alg,
        "last_update_step": config.last_update_step,
        "seed": seeds.mask_seed,
        "drop_noise": config.drop_noise,
        "skip_weight_step": config.skip_weight_step,
    }
    if algorithm.needs_gradient and not algorithm.gradient_decay:
        options["grow_data"] = make_batch() if config.uses_fixed_batch else None
    return MaskUpdates(algorithm, **options)


def flow_batch(images, size):
    """The first `size` training records, on which gradient flow is measured.

    A set of fewer than 2 * size records gives half of them.
    """
    return images.train_records(0, _batch_size(images, size))


def grow_batch(images, size):
    """The next `size` records: RigL grows, and SNIP and GraSP prune, by their gradient.

    As in the paper's TF2 code, where `size` is training.val_batch_size.
    """
    size = _batch_size(images, size)
    return images.train_records(size, 2 * size)


def _batch_size(images, size):
    return max(1, min(size, images.num_train // 2))


@gin.configurable("pruning", module=_MODULE)
@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """Gradual magnitude pruning.

    Attributes:
      mode: "prune" for TFMOT's PolynomialDecay, "constant" for its ConstantSparsity
        from `begin_step` on, every 100 steps.
      initial_sparsity: float in [0, 1).
      final_sparsity: float in [0, 1).
      begin_step: int >= 0.
      end_step: int >= begin_step.
      frequency: int >= 1, steps between two prunings.
      ranking: this package's own: "layer" prunes every kernel to that sparsity,
        "global" ranks the weights of all kernels together.
    """

    mode: str = "prune"
    initial_sparsity: float = 0.0
    final_sparsity: float = 0.8
    begin_step: int = 2000
    end_step: int = 4000
    frequency: int = 200
    ranking: str = "layer"

    def stretched(self, length):
        """The same, with begin and end `length` times as late."""
        return dataclasses.replace(
            self,
            begin_step=stretched(self.begin_step, length),
            end_step=stretched(self.end_step, length),
        )

    def schedule(self):
        """TFMOT's schedule.

        Raises:
          TypeError: for a sparsity that is no number.
          ValueError: for a value out of range.
        """
        is_constant = self.mode == "constant"
        sparsities = {"final_sparsity": self.final_sparsity}
        if not is_constant:
            sparsities["initial_sparsity"] = self.initial_sparsity
        schedules.check_pruning(
            sparsities,
            self.begin_step,
            None if is_constant else self.end_step,
            frequency=1 if is_constant else self.frequency,
            prefix="pruning.",
        )
        if not is_constant and self.begin_step == self.end_step:
            raise ValueError(
                "Expected pruning.end_step > pruning.begin_step, over which the "
                f"sparsity grows, but both are {self.end_step}. To prune to "
                "pruning.final_sparsity at once, set pruning.mode='constant'."
            )
        if is_constant:
            return schedules.constant_sparsity(self.final_sparsity, self.begin_step)
        return schedules.polynomial_decay(
            self.initial_sparsity,
            self.final_sparsity,
            self.begin_step,
            self.end_step,
            frequency=self.frequency,
        )


def make_pruning(length=1.0):
    """Makes the callback that prunes.

    Nothing is pruned where the configuration does not mention `pruning`: its default
    mode, the paper's code's, would prune every run.

    Args:
      length: float > 0, by which the steps of pruning are multiplied.

    Returns:
      A callback, or None where nothing would be pruned.

    Raises:
      ValueError: for a value out of range.
    """
    names = [field.name for field in dataclasses.fields(PruningConfig)]
    if not any(_is_bound(f"pruning.{name}") for name in names):
        return None
    config = PruningConfig().stretched(length)
    choice("pruning.mode", config.mode, {"prune": None, "constant": None})
    if config.mode == "constant" and config.final_sparsity == 0:
        return None
    return Pruning(config.schedule(), config.ranking)


def stretched(step, length):
    """A step of a schedule that is `length` times as long, to the nearest int."""
    return round(step * length)


def _is_bound(name):
    try:
        gin.query_parameter(name)
    except ValueError:
        return False
    return True
