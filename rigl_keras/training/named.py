"""The callbacks of the field's algorithms: `MaskUpdates`, each by its own."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rigl_keras.algorithms import MaskUpdater, dynamic
from rigl_keras.training.dynamic import MaskUpdates

_Class = TypeVar("_Class", bound=type)


class _ByClass(MaskUpdates):
    """Mask updates by the algorithm of the class attribute `updater`."""

    updater: type[MaskUpdater]

    def __init__(
        self,
        update_freq: int = 100,
        drop_fraction: float = 0.3,
        *,
        schedule: str | Callable[[int], float] = "cosine",
        last_update_step: int | None = None,
        grow_data: Any = None,
        seed: int = 0,
        drop_noise: float = 0.0,
        skip_weight_step: bool = False,
        kernels: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            self.updater,
            update_freq,
            drop_fraction,
            schedule=schedule,
            last_update_step=last_update_step,
            grow_data=grow_data,
            seed=seed,
            drop_noise=drop_noise,
            skip_weight_step=skip_weight_step,
            kernels=kernels,
        )

    def __repr__(self) -> str:
        """The call that makes it; its noise is the algorithm's."""
        algorithm = getattr(self, "algorithm", None)
        return self._shown({"drop_noise": getattr(algorithm, "drop_noise", 0.0)})


def _with_arguments(cls: _Class) -> _Class:
    """Has `help` show the arguments, which are those of `MaskUpdates`."""
    if cls.__doc__ is None:  # python -OO
        return cls
    arguments = inspect.cleandoc(MaskUpdates.__doc__ or "")
    arguments = arguments.split("\n  update_freq:")[1].split("\n\n")[0]
    summary, source = inspect.cleandoc(cls.__doc__).split("\n\nSource:")
    cls.__doc__ = (
        f"{summary}\n\nArgs:\n  update_freq:{arguments}\n\n"
        "Attributes, logs and errors are those of `MaskUpdates`.\n\n"
        f"Example:\n  model.fit(x, y, callbacks=[rigl_keras.{cls.__name__}()])\n\n"
        f"Source:{source}\n"
    )
    return cls


@_with_arguments
class SET(_ByClass):
    """Sparse evolutionary training: drops small weights, grows at random.

    `grow_data` is refused.

    Source: Mocanu et al. 2018; Evci et al. 2022, section 4.
    """

    updater = dynamic.SET


@_with_arguments
class RigL(_ByClass):
    """RigL: drops small weights, grows where the loss gradient is largest.

    RigL itself draws nothing but noise.

    Source: Evci et al. 2020, section 3 and Algorithm 1.
    """

    updater = dynamic.RigL


@_with_arguments
class RigLInverted(_ByClass):
    """RigL that grows where the gradient is *smallest*: a control, not a method.

    Source: Evci et al. 2022, section 4 and Figure 3.
    """

    updater = dynamic.RigLInverted


@_with_arguments
class SNFS(_ByClass):
    """Sparse networks from scratch: grows where the gradient's average is largest.

    New connections are those whose dense gradient, averaged over the training steps
    with a share of 0.9 for the past, has the largest magnitude. The average costs 4
    bytes a weight and one pass over the weights in every step. How many connections a
    layer has stays the same: the redistribution of the original method is left out.

    `grow_data` is refused.

    Source: Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch", section 3.
    """

    updater = dynamic.SNFS
