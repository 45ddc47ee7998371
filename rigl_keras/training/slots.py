"""An optimizer's slots: the state, such as momentum, that it keeps for every weight."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rigl_keras import compat
from rigl_keras.core.masked_kernel import Slot


class _CopiedSlot(NamedTuple):
    """A slot of an optimizer's copy and the weight that it was made for."""

    weight: Any
    variable: Any


def find_slots(
    optimizer: Any, variables: Sequence[Any], kernels: Sequence[Any]
) -> list[list[Slot]]:
    """The slots that an optimizer keeps for each kernel.

    Keras has no public way from a weight to its slots. So a copy of the optimizer is
    built on the same variables, and every call of `add_variable_from_reference` tells
    a slot and its weight. The slots of the optimizer itself stand at the same places
    of `optimizer.variables`.

    Args:
      optimizer: an optimizer, perhaps in wrappers; it is built when it is not yet.
      variables: the model's trainable variables.
      kernels: those among `variables` whose slots are wanted.

    Returns:
      A list of the `Slot`s of each kernel.

    Raises:
      TypeError: for what is no optimizer of the Keras in use.
      ValueError: naming the optimizer, when it keeps state whose entries do not belong
        to one weight each.
    """
    compat.check_optimizer(optimizer)
    compat.build_optimizer(optimizer, variables)
    optimizer = compat.innermost_optimizer(optimizer)
    copy, copied_slots = _build_copy(optimizer, variables)
    # Scalars aside: whether the learning rate is among them depends on its kind.
    state, copied_state = _not_scalar(optimizer.variables), _not_scalar(copy.variables)
    if _shapes(state) != _shapes(copied_state):
        raise ValueError(
            f"Optimizer {optimizer.name!r} was built on other variables than the "
            "model's trainable ones. Compile the model again after changing what is "
            "trainable."
        )
    _check_layout(optimizer, copied_state, copied_slots)
    position = {id(variable): index for index, variable in enumerate(copied_state)}
    return [
        [
            Slot(state[position[id(slot.variable)]], _initial_value(optimizer, slot))
            for slot in copied_slots
            if slot.weight is kernel
        ]
        for kernel in kernels
    ]


def _not_scalar(variables: Sequence[Any]) -> list[Any]:
    return [variable for variable in variables if len(variable.shape) > 0]


def _shapes(variables: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in variables]


def _build_copy(
    optimizer: Any, variables: Sequence[Any]
) -> tuple[Any, list[_CopiedSlot]]:
    """A copy of an optimizer, built on the same variables, and its slots."""
    # The learning rate does not matter here, and not every schedule can be copied.
    config = {**optimizer.get_config(), "learning_rate": 0.0}
    try:
        copy = type(optimizer).from_config(config)
    except TypeError as error:
        raise ValueError(
            f"Optimizer {optimizer.name!r} ({type(optimizer).__name__}) cannot be made "
            "anew from its config, so it is not known which state it keeps for which "
            "weight. Use an optimizer such as SGD, Adam, AdamW or RMSprop."
        ) from error
    add_variable = copy.add_variable_from_reference
    signature = inspect.signature(add_variable)
    slots: list[_CopiedSlot] = []

    def add_and_note(*args: Any, **kwargs: Any) -> Any:
        variable = add_variable(*args, **kwargs)
        # The weight is the first argument, under another name in each Keras.
        arguments = signature.bind(*args, **kwargs).arguments
        slots.append(_CopiedSlot(next(iter(arguments.values())), variable))
        return variable

    copy.add_variable_from_reference = add_and_note
    compat.build_optimizer(copy, variables)
    return copy, slots


def _check_layout(
    optimizer: Any, state: Sequence[Any], slots: Sequence[_CopiedSlot]
) -> None:
    """Refuses an optimizer with state that has no entry for each weight."""
    known = {id(slot.variable) for slot in slots}
    unknown = [variable for variable in state if id(variable) not in known]
    unknown += [
        slot.variable
        for slot in slots
        if tuple(slot.variable.shape) != tuple(slot.weight.shape)
    ]
    if unknown:
        names = [f"{compat.variable_name(v)} {tuple(v.shape)}" for v in unknown]
        raise ValueError(
            f"Optimizer {optimizer.name!r} ({type(optimizer).__name__}) keeps state "
            f"that does not have one entry a weight: {names}. Such state cannot follow "
            "a mask. Use an optimizer such as SGD, Adam, AdamW or RMSprop."
        )


def _initial_value(optimizer: Any, slot: _CopiedSlot) -> float:
    values = compat.raw(slot.variable).numpy()
    first = float(values.flat[0])
    if (values == first).all():
        return first
    # A moving average of the weights starts as the weights, and an inactive one is 0.
    if np.array_equal(values, compat.raw(slot.weight).numpy()):
        return 0.0
    raise ValueError(
        f"Optimizer {optimizer.name!r} starts {compat.variable_name(slot.variable)!r} "
        "at different values for different weights, so what a new connection's should "
        "be is unknown. Use an optimizer such as SGD, Adam, AdamW or RMSprop."
    )
