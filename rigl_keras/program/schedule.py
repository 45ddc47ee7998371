"""How long a run trains, by what loss, and how often it writes, as gin says it."""

import dataclasses

import gin

from rigl_keras.common.checks import (
    check_int,
    check_not_negative,
    check_positive,
    choice,
)
from rigl_keras.core import distributions
from rigl_keras.program import algorithm

_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@gin.configurable("training", module="rigl_keras.training_config")
@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long a run trains, by what loss, and how often it writes.

    Attributes:
      total_steps: int >= 1, training steps where `length` is 1.
      batch_size: int >= 1, examples in each step, of all devices together.
      val_batch_size: int >= 1, examples evaluated at a time, and training records in
        each of the two fixed batches on which gradient flow is measured and by which
        RigL grows.
      save_freq: int >= 1, steps between two checkpoints.
      log_freq: int >= 1, steps between two records of metrics.
      use_metainit: whether MetaInit rescales the initial weights.
      oneshot_prune_fraction: float in [0, 1), the share of weights that is pruned
        before training, by the criterion of mask_updater.update_alg.
      gradient_regularization: float >= 0, factor of half the squared norm of the
        gradient that is added to the loss.
      log_mask_updates: this package's own, as are those below: whether the norm of the
        gradient is measured before and after every mask update.
      save_mask_updates: whether checkpoints are saved then too.
      oneshot_ranking: "global" ranks the weights of all kernels together before
        training, "layer" those of each kernel; the latter always by the paper's code's
        names "rigl_s" and "rigl_grasp".
      length: float > 0, by which every schedule is stretched: total_steps, the last
        update of masks, and the steps of pruning; 5 is the RigL paper's 5×.
      eval_epochs: float > 0, epochs between two evaluations on the test set; None
        evaluates for every record of metrics.
      label_smoothing: float in [0, 1), the share of each label that is spread over all
        classes.
      top_k: int >= 2, also measures how often the label is among the k most likely; or
        None.
      precision: "float32", "mixed_bfloat16" or "mixed_float16", Keras's policy.
      jit_compile: whether XLA compiles the training step; None leaves it to Keras.
    """

    total_steps: int = 5000
    batch_size: int = 128
    val_batch_size: int = 1000
    save_freq: int = 5
    log_freq: int = 250
    use_metainit: bool = False
    oneshot_prune_fraction: float = 0.0
    gradient_regularization: float = 0.0
    oneshot_ranking: str = "global"
    log_mask_updates: bool = True
    save_mask_updates: bool = True
    length: float = 1.0
    eval_epochs: float | None = None
    label_smoothing: float = 0.0
    top_k: int | None = None
    precision: str = "float32"
    jit_compile: bool | None = None

    def __post_init__(self):
        """Refuses what is out of range.

        Raises:
          ValueError: naming it.
        """
        for name in (
            "total_steps",
            "batch_size",
            "val_batch_size",
            "save_freq",
            "log_freq",
        ):
            check_int(f"training.{name}", getattr(self, name), minimum=1)
        distributions.check_sparsity(
            self.oneshot_prune_fraction, "training.oneshot_prune_fraction"
        )
        check_not_negative(
            "training.gradient_regularization", self.gradient_regularization
        )
        check_positive("training.length", self.length)
        check_int("training.total_steps times training.length", self.steps, minimum=1)
        if self.eval_epochs is not None:
            check_positive("training.eval_epochs", self.eval_epochs)
        # The same range, and the same mistake of a percentage.
        distributions.check_sparsity(self.label_smoothing, "training.label_smoothing")
        if self.top_k is not None:
            check_int("training.top_k", self.top_k, minimum=2)
        choice("training.precision", self.precision, dict.fromkeys(_PRECISIONS))

    @property
    def steps(self):
        """The steps that the training has."""
        return algorithm.stretched(self.total_steps, self.length)

    def eval_freq(self, num_examples):
        """Steps between two evaluations.

        Args:
          num_examples: int, of an epoch.

        Returns:
          An int >= 1, or None for one with every record.
        """
        if self.eval_epochs is None:
            return None
        return max(1, round(self.eval_epochs * num_examples / self.batch_size))
