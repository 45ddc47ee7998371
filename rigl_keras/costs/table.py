"""The costs of a network and of its training, as tables and as JSON types."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rigl_keras.core import distributions, kernels
from rigl_keras.costs.counting import ModelCost, training_flops

_TOTALS = (
    "parameters",
    "active_parameters",
    "inference_flops",
    "dense_flops",
    "size_bytes",
    "dense_size_bytes",
)
_COLUMNS = (
    "path",
    "shape",
    "active",
    "size",
    "density",
    "flops",
    "dense_flops",
    "bytes",
    "dense_bytes",
)


def planned_sparsities(
    model: Any, sparsity: float, distribution: str, *, dense: Sequence[str] = ()
) -> dict[str, float]:
    """The sparsity of each kernel, as `sparsify` would plan it.

    Args:
      model: a built model.
      sparsity: share of zeros, in [0, 1), among the kernels that do not stay dense by
        `dense`.
      distribution: "uniform", "er" or "erk".
      dense: glob patterns on the paths of kernels that stay dense.

    Returns:
      Kernel path -> sparsity, a real number in [0, 1).

    Raises:
      ValueError: for a value out of range, or a pattern that matches no kernel.
    """
    shapes = {
        kernel.path: kernel.connection_shape for kernel in kernels.find_kernels(model)
    }
    distribute = distributions.from_name(distribution)
    return distribute(shapes, sparsity, dict.fromkeys(dense, 0.0))


class CostTable(NamedTuple):
    """What a network and its trainings cost.

    Attributes:
      cost: the `ModelCost`.
      dense_training: FLOPs of a dense training of the same length.
      trainings: method -> FLOPs of a whole training by it.
    """

    cost: ModelCost
    dense_training: float
    trainings: dict[str, float]

    @classmethod
    def of(
        cls,
        cost: ModelCost,
        methods: Sequence[str],
        *,
        steps: int,
        batch_size: int,
        update_freq: int,
        schedule: Callable | None = None,
    ) -> "CostTable":
        """Counts the trainings of a network by several methods.

        Args:
          cost: what `model_cost` counted.
          methods: some of `rigl_keras.cost.METHODS`.
          steps: int >= 1, steps of the training.
          batch_size: int >= 1.
          update_freq: int >= 1, steps between two mask updates.
          schedule: that of pruning.

        Raises:
          ValueError: for a value out of range.
        """
        trainings = {
            method: training_flops(
                cost,
                method,
                steps,
                batch_size,
                update_freq,
                schedule if method == "pruning" else None,
            )
            for method in methods
        }
        dense = training_flops(cost, "dense", steps, batch_size)
        return cls(cost, dense, trainings)

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            **{name: getattr(self.cost, name) for name in _TOTALS},
            "training_flops": self.trainings,
            "rows": [
                {name: getattr(row, name) for name in _COLUMNS}
                for row in self.cost.rows
            ],
        }

    def totals(self) -> list[list[str]]:
        """Rows of a table of the whole network, its head first."""
        cost = self.cost
        numbers = {
            "parameters": (cost.parameters, cost.active_parameters),
            "inference FLOPs": (cost.dense_flops, cost.inference_flops),
            "size, bytes": (cost.dense_size_bytes, cost.size_bytes),
            **{
                f"training FLOPs, {method}": (self.dense_training, flops)
                for method, flops in self.trainings.items()
            },
        }
        return [
            ["", "dense", "sparse", "ratio"],
            *(
                [name, _number(dense), _number(sparse), f"{sparse / dense:.4f}"]
                for name, (dense, sparse) in numbers.items()
            ),
        ]

    def layers(self) -> list[list[str]]:
        """Rows of a table with a line for each kernel, its head first."""
        return [
            ["kernel", "shape", "density", "FLOPs", "bytes"],
            *(
                [
                    row.path,
                    "×".join(map(str, row.shape)),
                    f"{row.density:.4f}",
                    _number(row.flops),
                    _number(row.bytes),
                ]
                for row in self.cost.rows
            ),
        ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e12 else f"{value:.4e}"
