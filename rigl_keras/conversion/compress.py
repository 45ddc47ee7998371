"""Between the two ways to store sparse kernels: with a mask, or without the zeros."""

import math

from rigl_keras import compat
from rigl_keras.conversion.copies import (
    copy_layer,
    copy_model,
    copy_weights,
    scope_of,
)
from rigl_keras.core import asked, kernels
from rigl_keras.core.compressed_init import suits_compressed
from rigl_keras.core.compressed_kernel import is_compressible
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.layers.compressed import Compressed
from rigl_keras.layers.products import problem_of
from rigl_keras.layers.sparse import Sparse
from rigl_keras.layers.sparse_model import SparseModel


def compress(model, verbose=True):
    """Makes a copy of a sparse model that stores kernels without their zeros.

    A kernel can be stored so that has the pattern `Blocks(n, 1, balanced="inputs")` and
    belongs to a Dense layer, an EinsumDense layer that is a matrix product, or a 1×1
    convolution. All others keep their masks in the same model and training. Weights and
    masks are those of the model, and so are predictions, to rounding. The copy is to be
    compiled anew.

    Args:
      model: a model with `Sparse` layers, such as `sparsify` returns.
      verbose: bool, whether to print which kernels keep their masks, and why.

    Returns:
      A model whose layers are `Compressed` where they can be.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when none of its kernels can be compressed, saying why.

    Example:
      model = rigl_keras.compress(model)
    """
    compat.check_model(model, "Compress the whole model.")
    problems = problems_by_path(model)
    if all(problems.values()):
        reasons = "; ".join(f"{path}: {why}" for path, why in problems.items())
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel that can be stored without its "
            f"zeros. {reasons or 'It has no sparse kernel at all'}. Make it sparse by "
            "such a pattern: rigl_keras.sparsify(model, 0.95, pattern=rigl_keras."
            "patterns.Blocks(16, balanced='inputs'), storage='compressed')."
        )
    if verbose:
        _print(problems)
    return _copied(model, _compressed)


def decompress(model):
    """Makes a copy of a model whose kernels are all stored in full, with masks.

    It undoes `compress`: weights, masks and predictions are the same.

    Args:
      model: a model with `Compressed` layers.

    Returns:
      A model with `Sparse` layers in their place, to be compiled anew.

    Raises:
      TypeError: when `model` is no model of the Keras in use.
      ValueError: when it has no `Compressed` layer.

    Example:
      model = rigl_keras.decompress(model)
    """
    compat.check_model(model, "Decompress the whole model.")
    if not any(kernel.is_compressed for kernel in sparse_kernels(model)):
        raise ValueError(
            f"Model {model.name!r} has no Compressed layer, so there is nothing to "
            "decompress."
        )
    return _copied(model, _decompressed)


def problems_by_path(model):
    """Why the sparse kernels of a model cannot be stored without their zeros.

    Args:
      model: a model with `Sparse` layers.

    Returns:
      A dict from the kernels' paths to texts; None for those that can be stored so.
    """
    wrappers = {
        id(weight): layer
        for layer, _ in kernels.walk(model)
        if isinstance(layer, Sparse)
        for weight in compat.weights(layer)
    }
    return {
        kernel.path: _problem(kernel, wrappers.get(id(kernel.variable)), model)
        for kernel in sparse_kernels(model)
        if not kernel.is_compressed
    }


def _problem(kernel, wrapper, model):
    if not is_compressible(kernel.pattern):
        return (
            f"its pattern is {kernel.pattern}, and not blocks of inputs × 1 output, "
            "equally many for each block of inputs"
        )
    if wrapper is None or isinstance(model, SparseModel):
        return "its layer cannot be replaced by another one"
    return problem_of(wrapper.layer)


def _copied(model, convert):
    """A copy of a model whose kernels are stored in another way."""
    with scope_of(model):
        copy = copy_model(model, convert)
    copy_weights(model, copy)
    noted = asked.noted(model)
    if noted is not None:
        asked.note(copy, noted)
    compat.refuse_fit(copy)
    return copy


def _compressed(layer):
    """The `Compressed` layer in place of a `Sparse` one; None where there is none."""
    if not isinstance(layer, Sparse):
        return None
    sparse = sparse_kernels(layer)
    if len(sparse) != 1 or _problem(sparse[0], layer, None) is not None:
        return None
    kernel = sparse[0]
    # Those that need the whole kernel have drawn it already.
    is_known = suits_compressed(layer.layer.kernel_initializer)
    return Compressed(
        copy_layer(layer.layer),
        1 - kernel.active / math.prod(kernel.shape),
        initializer=None if is_known else "layer_scaled",
        seed=layer.seed,
        pattern=kernel.pattern,
        trainable=layer.trainable,
    )


def _decompressed(layer):
    """The `Sparse` layer in place of a `Compressed` one; None for others."""
    if not isinstance(layer, Compressed):
        return None
    kernel = layer.compressed_kernel
    name = compat.variable_name(kernel.variable)
    sparse = Sparse(
        copy_layer(layer.layer),
        {name: layer.sparsity},
        seed=layer.seed,
        pattern={name: kernel.pattern},
        trainable=layer.trainable,
    )
    sparse.plan_masks({name: kernel.mask.numpy()})
    return sparse


def _print(problems):
    masked = [f"{path} ({why})" for path, why in problems.items() if why]
    count = len(problems) - len(masked)
    print(
        f"compress: {count} kernel{'s' if count != 1 else ''} stored without zeros; "
        f"left with masks: {'; '.join(masked) if masked else 'none'}."
    )
