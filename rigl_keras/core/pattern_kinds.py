"""The patterns of the field: single weights, blocks, n of m, constant fan-in."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from rigl_keras.common.checks import check_int, is_number
from rigl_keras.core.ablation import redistributed
from rigl_keras.core.grouping import Grouping, Layout
from rigl_keras.core.patterns import Pattern, register

_BALANCES = (False, True, "inputs", "outputs")


@register
@dataclasses.dataclass(frozen=True)
class Unstructured(Pattern):
    """Single weights, anywhere in the kernel.

    Example:
      rigl_keras.sparsify(model, 0.9, pattern=[Blocks(16), Unstructured()])

    Source: Evci et al. 2020 (RigL), whose masks are these.
    """

    name = "unstructured"

    def layout(self, taps: int, inputs: int, outputs: int) -> Layout:
        """One group, of all weights."""
        return Layout((taps * inputs * outputs,), groups=(), units=(0,))

    def grouping(
        self,
        shape: Sequence[int],
        in_axes: Sequence[int] = (),
        out_axes: Sequence[int] = (),
    ) -> Grouping:
        """The weights in the order in which the kernel has them."""
        layout = self.layout(1, 1, int(np.prod(shape)))
        return Grouping(shape, range(len(shape)), layout)


@register
@dataclasses.dataclass(frozen=True)
class Blocks(Pattern):
    """Blocks of consecutive inputs × consecutive outputs.

    A block lies at one tap of a convolution's kernel, unless it has all inputs.

    Args:
      inputs: int >= 1, or "all": blocks of all inputs at all taps, which with
        `outputs=1` are whole output units or filters.
      outputs: int >= 1.
      balanced: False; or which counts are equal. "inputs", or True: every block of
        inputs (at each tap) has equally many blocks. "outputs": every block of outputs
        has equally many.

    Raises:
      ValueError: for an argument out of range.

    Example:
      rigl_keras.sparsify(model, 0.95, pattern=rigl_keras.patterns.Blocks(16))

    Source: Gray et al. 2017, "GPU kernels for block-sparse weights", for blocks; Narang
    et al. 2017, "Block-sparse recurrent neural networks", for training them.
    """

    inputs: int | str = 16
    outputs: int = 1
    balanced: bool | str = False

    name = "blocks"

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if self.inputs != "all":
            _set_int(
                self, "inputs", "`inputs` of Blocks, if it is not 'all',", minimum=1
            )
        _set_int(self, "outputs", "`outputs` of Blocks", minimum=1)
        is_known = isinstance(self.balanced, bool | str) and self.balanced in _BALANCES
        if not is_known:
            raise ValueError(
                f"Expected `balanced` of Blocks to be one of {list(_BALANCES)}, got "
                f"{self.balanced!r}."
            )
        if self.balanced is True:
            object.__setattr__(self, "balanced", "inputs")  # the dataclass is frozen
        if self.inputs == "all" and self.balanced:
            raise ValueError(
                "Expected balanced=False of blocks that have all inputs, got "
                f"{self.balanced!r}: every block of outputs is one block then."
            )

    def layout(self, taps: int, inputs: int, outputs: int) -> Layout:
        """See `Pattern`."""
        _check_divides("outputs", self.outputs, outputs)
        columns = outputs // self.outputs
        if isinstance(self.inputs, str):
            shape = (taps * inputs, columns, self.outputs)
            return Layout(shape, groups=(), units=(1,))
        _check_divides("inputs", self.inputs, inputs)
        rows = inputs // self.inputs
        groups = {"inputs": (0, 1), "outputs": (3,)}.get(str(self.balanced), ())
        return Layout(
            (taps, rows, self.inputs, columns, self.outputs),
            groups,
            units=tuple(axis for axis in (0, 1, 3) if axis not in groups),
        )


@register
@dataclasses.dataclass(frozen=True)
class NOfM(Pattern):
    """Of every m consecutive inputs of an output, n have a weight: such as 2 of 4.

    The pattern sets the sparsity, 1 - n/m. Pruning gets there from masks of ones by way
    of m-1, m-2, ... of m.

    Args:
      n: int in [1, m - 1].
      m: int >= 2.

    Raises:
      ValueError: for an argument out of range.

    Example:
      rigl_keras.sparsify(model, pattern=rigl_keras.patterns.NOfM(2, 4))

    Source: Mishra et al. 2021, "Accelerating sparse deep neural networks", for 2 of 4;
    Zhou et al. 2021, "Learning N:M fine-grained structured sparse neural networks
    from scratch".
    """

    n: int
    m: int

    name = "n_of_m"

    def __post_init__(self) -> None:
        """Checks the arguments."""
        _set_int(self, "m", "`m` of NOfM", minimum=2)
        _set_int(self, "n", "`n` of NOfM", minimum=1)
        if self.n >= self.m:
            raise ValueError(
                f"Expected `n` of NOfM to be less than m={self.m}, got {self.n}."
            )

    @property
    def own_sparsity(self) -> float:
        """See `Pattern`."""
        return 1 - self.n / self.m

    def active_units(self, units: int, sparsity: float) -> int:
        """See `Pattern`; more than n on the way of pruning, from all at sparsity 0."""
        return max(self.n, round(self.m * (1 - sparsity)))

    def least_units(self, units: int) -> int:
        """See `Pattern`."""
        return self.n

    def check_counts(self, counts: np.ndarray, units: int) -> None:
        """See `Pattern`."""
        super().check_counts(counts, units)
        if counts.min() < self.n:
            raise ValueError(
                f"at least {self.n} of every {self.m} weights, but it has "
                f"{counts.min()}"
            )

    def layout(self, taps: int, inputs: int, outputs: int) -> Layout:
        """See `Pattern`."""
        _check_divides("inputs", self.m, inputs)
        shape = (taps, inputs // self.m, self.m, outputs)
        return Layout(shape, groups=(0, 1, 3), units=(2,))


@register
@dataclasses.dataclass(frozen=True)
class ConstantFanIn(Pattern):
    """Every output has equally many inputs, over taps and input channels.

    Args:
      ablation: number in [0, 1], SRigL's γ: a mask update switches an output off where
        less than this share of its connections is salient, which are the largest
        weights that stay and the best that would grow. Its connections go to the other
        outputs, as evenly as their number allows, and it stays off. 0 for none. SRigL
        takes 0.3 for convolutional networks.

    Raises:
      ValueError: for an argument out of range.

    Example:
      rigl_keras.sparsify(model, 0.9, pattern=rigl_keras.patterns.ConstantFanIn())

    Source: Lasby et al. 2023, "Dynamic sparse training with structured sparsity"
    (SRigL), section 3.
    """

    ablation: float = 0.0

    name = "constant_fan_in"

    def __post_init__(self) -> None:
        """Checks the argument."""
        if not is_number(self.ablation) or not 0 <= self.ablation <= 1:
            raise ValueError(
                "Expected `ablation` of ConstantFanIn to be a number in [0, 1], got "
                f"{self.ablation!r}."
            )
        object.__setattr__(self, "ablation", float(self.ablation))

    def layout(self, taps: int, inputs: int, outputs: int) -> Layout:
        """See `Pattern`."""
        return Layout((taps * inputs, outputs), groups=(1,), units=(0,))

    @property
    def redistributes(self) -> bool:
        """See `Pattern`."""
        return self.ablation > 0

    def new_counts(
        self, counts: tf.Tensor, salient: tf.Tensor | None, units: int
    ) -> tf.Tensor:
        """See `Pattern`."""
        if salient is None:
            return counts
        return redistributed(counts, salient, self.ablation, units=units)

    def check_counts(self, counts: np.ndarray, units: int) -> None:
        """See `Pattern`; with ablation outputs may be off, and differ by one."""
        if not self.redistributes:
            super().check_counts(counts, units)
            return
        on = counts[counts > 0]
        if on.size and on.max() - on.min() > 1:
            raise ValueError(
                "all outputs that are on to have equally many inputs, or one more, but "
                f"they have {on.min()} to {on.max()}"
            )


UNSTRUCTURED = Unstructured()


def _check_divides(name: str, block: int, size: int) -> None:
    if size % block:
        raise ValueError(f"its {size} {name} are no multiple of {block}")


def _set_int(pattern: Pattern, field: str, name: str, *, minimum: int) -> None:
    """Checks a field and makes it an int of Python, as texts and files tell it."""
    value = check_int(name, getattr(pattern, field), minimum)
    object.__setattr__(pattern, field, value)  # the dataclass is frozen
