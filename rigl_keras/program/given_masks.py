"""Masks that a run takes from the checkpoint of another one."""

import os

from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core import kernels
from rigl_keras.core.choosing import choose_patterns, grouping_of
from rigl_keras.core.initial_masks import shuffled_mask
from rigl_keras.program import files
from rigl_keras.program.checkpoints import MASK, named_variables
from rigl_keras.program.files import RUN_FILE


def check_other_init(mask_init_path, seeds):
    """Refuses the init seed of the run that the masks come from.

    Raises:
      ValueError: when this run would begin with that run's initial weights.
    """
    folder = os.path.dirname(mask_init_path) or "."
    parent = files.read_json(os.path.join(folder, RUN_FILE))
    if parent is not None and parent["seeds"]["init_seed"] == seeds.init_seed:
        raise ValueError(
            f"The run in {folder}, whose masks network.mask_init_path takes, drew its "
            f"initial weights by init_seed {seeds.init_seed}, and so would this one: "
            "training from scratch would be training the lottery ticket. Use another "
            "--seed or seeds.init_seed, or set network.allow_same_init=True."
        )


def check_pattern_is_said(pattern, mask_init_path):
    """Refuses to lose the pattern of the run that the masks come from.

    Raises:
      ValueError: when that run set one, and this one says nothing of it.
    """
    folder = os.path.dirname(mask_init_path) or "."
    parent = files.read_json(os.path.join(folder, RUN_FILE)) or {}
    lines = parent.get("config", "").splitlines()
    if pattern is None and any(line.startswith("masks.pattern =") for line in lines):
        raise ValueError(
            f"The run in {folder}, whose masks network.mask_init_path takes, has a "
            "masks.pattern, and this one has none: its masks would lose theirs. Set "
            "masks.pattern as in that run, or to 'unstructured' to give it up."
        )


def masks_of(checkpoint, model, left_dense):
    """The masks in a checkpoint of a network like this one, by the kernels' paths.

    Args:
      checkpoint: a `SavedModel`.
      model: the network, without masks.
      left_dense: paths of the kernels that are to have no mask.

    Raises:
      ValueError: for a checkpoint of another network, without masks, or with one of a
        kernel that is to have none.
    """
    check_match(checkpoint, model)
    masks = checkpoint.masks
    if not masks:
        raise ValueError(
            f"Checkpoint {checkpoint.path} is of a dense network and has no masks. "
            "Give one of a sparse or pruned network as network.mask_init_path."
        )
    extra = [path for path in masks if path in left_dense]
    if extra:
        raise ValueError(
            f"Checkpoint {checkpoint.path} has a mask for {extra[0]}, which "
            "network.pruned_layer_types leaves dense here."
        )
    return {
        kernel.path: masks[kernel.path]
        for kernel in kernels.find_kernels(model)
        if kernel.path in masks
    }


def shuffled(masks, model, pattern, *, seed):
    """The masks with their units elsewhere, at random.

    Args:
      masks: dict from the kernels' paths to bool arrays.
      model: the network.
      pattern: the masks' pattern, as `sparsify` takes it.
      seed: int.

    Raises:
      ValueError: when the pattern does not suit a kernel.
    """
    masked = [kernel for kernel in kernels.find_kernels(model) if kernel.path in masks]
    patterns = choose_patterns(masked, pattern).of(masks)
    groupings = {
        kernel.path: grouping_of(kernel, patterns[kernel.path]) for kernel in masked
    }
    return {
        path: shuffled_mask(
            mask, groupings[path], stateless_seed("shuffle mask", seed, index)
        )
        for index, (path, mask) in enumerate(masks.items())
    }


def check_match(checkpoint, model):
    """Refuses the checkpoint of another network.

    Raises:
      ValueError: naming the first kernel, or else other variable, that differs.
    """
    here = {
        name: tuple(variable.shape)
        for name, variable in named_variables(model).items()
        if not name.endswith(MASK)
    }
    there = {
        name: value.shape
        for name, value in checkpoint.values.items()
        if not name.endswith(MASK)
    }
    names = [*here, *(name for name in there if name not in here)]
    for name in sorted(names, key=lambda name: not name.endswith("kernel")):
        if here.get(name) != there.get(name):
            raise ValueError(
                f"Checkpoint {checkpoint.path} is of another network: the shape of "
                f"{name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here. Give a checkpoint of this network, "
                "or configure the network as in that run."
            )
