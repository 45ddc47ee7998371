"""An optimizer's slots: the state, such as momentum, that it keeps for every weight."""

import inspect
from typing import Any, NamedTuple

import numpy as np

from rigl_keras import compat


class Slot(NamedTuple):
    """A slot variable of a kernel's shape and the value at which its entries start."""

    variable: Any
    initial_value: float


def find_slots(optimizer, variables, kernels):
    """The slots that an optimizer keeps for each kernel.

    Keras has no public way from a weight to its slots. So a copy of the optimizer is
    built on the same variables while noting what `add_variable_from_reference` makes
    for which weight; the positions in `optimizer.variables` are the same.

    Args:
      optimizer: an optimizer, perhaps in wrappers; it is built when it is not yet.
      variables: the model's trainable variables.
      kernels: list of `SparseKernel`, all among `variables`.

    Returns:
      A list, kernel by kernel, of lists of `Slot`.

    Raises:
      TypeError: for what is no optimizer of the Keras in use.
      ValueError: naming the optimizer, when it keeps state whose entries do not belong
        to one weight each.
    """
    compat.check_optimizer(optimizer)
    compat.build_optimizer(optimizer, variables)
    optimizer = compat.innermost_optimizer(optimizer)
    copy, made = _build_copy(optimizer, variables)
    # Scalars aside: whether the learning rate is among them depends on its kind.
    real, copied = _not_scalar(optimizer.variables), _not_scalar(copy.variables)
    if [tuple(v.shape) for v in real] != [tuple(v.shape) for v in copied]:
        raise ValueError(
            f"Optimizer {optimizer.name!r} was built on other variables than the "
            "model's trainable ones. Compile the model again after changing what is "
            "trainable."
        )
    _check_layout(optimizer, copied, made)
    position = {id(variable): index for index, variable in enumerate(copied)}
    return [
        [
            Slot(real[position[id(slot)]], _initial_value(optimizer, slot, reference))
            for reference, slot in made
            if reference is kernel.kernel
        ]
        for kernel in kernels
    ]


def _not_scalar(variables):
    return [variable for variable in variables if len(variable.shape) > 0]


def _build_copy(optimizer, variables):
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
    made = []

    signature = inspect.signature(add_variable)

    def note(*args, **kwargs):
        slot = add_variable(*args, **kwargs)
        # The weight is the first argument, under another name in each Keras.
        arguments = signature.bind(*args, **kwargs).arguments
        made.append((next(iter(arguments.values())), slot))
        return slot

    copy.add_variable_from_reference = note
    compat.build_optimizer(copy, variables)
    return copy, made


def _check_layout(optimizer, copied, made):
    known = {id(slot) for _, slot in made}
    strange = [variable for variable in copied if id(variable) not in known]
    strange += [
        slot for reference, slot in made if tuple(slot.shape) != tuple(reference.shape)
    ]
    if strange:
        names = [f"{compat.variable_name(v)} {tuple(v.shape)}" for v in strange]
        raise ValueError(
            f"Optimizer {optimizer.name!r} ({type(optimizer).__name__}) keeps state "
            f"that does not have one entry a weight: {names}. Such state cannot follow "
            "a mask. Use an optimizer such as SGD, Adam, AdamW or RMSprop."
        )


def _initial_value(optimizer, slot, reference):
    values = compat.raw(slot).numpy()
    first = float(values.flat[0])
    if (values == first).all():
        return first
    # A moving average of the weights starts as the weights, and an inactive one is 0.
    if np.array_equal(values, compat.raw(reference).numpy()):
        return 0.0
    raise ValueError(
        f"Optimizer {optimizer.name!r} starts {compat.variable_name(slot)!r} at "
        "different values for different weights, so what a new connection's should be "
        "is unknown. Use an optimizer such as SGD, Adam, AdamW or RMSprop."
    )
