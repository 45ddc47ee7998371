"""The Hessian of a model's loss over its active weights: products, rows, spectrum."""

import os

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.common.checks import check_has_loss, check_int
from rigl_keras.common.graphs import own_function
from rigl_keras.core.masks import sparse_kernels
from rigl_keras.training.batch_gradients import BatchGradients
from rigl_keras.training.batches import check_batch

MAX_SIZE = 20_000  # rows of an exact Hessian: 1.6 GB, and hours for its eigenvalues
EXAMPLES_AT_ONCE = 1000
# By how much a row may differ when it is computed again: sums have another order.
_TOLERANCE = 1e-3


def active_indices(model, dense=False):
    """Where the active weights are among all parameters that a model trains.

    Args:
      model: a built model, sparse or dense.
      dense: whether masked weights count as active too.

    Returns:
      Ascending int array [n], positions in the concatenation of the flattened
      `model.trainable_variables`: the active entries of masked kernels, and all of
      every other parameter.
    """
    masks = {
        id(kernel.variable): kernel.mask
        for kernel in sparse_kernels(model)
        if not kernel.is_compressed  # of those every weight exists
    }
    is_active = [
        np.ones(variable.shape, bool).ravel()
        if dense or id(variable) not in masks
        else tf.convert_to_tensor(compat.raw(masks[id(variable)])).numpy().ravel()
        for variable in model.trainable_variables
    ]
    return np.flatnonzero(np.concatenate([np.zeros(0, bool), *is_active]))


class LossHessian:
    """The Hessian of a model's loss over its active weights, by its products.

    The loss is the one that the model is compiled with, without regularisers, in
    training mode, and a mean over the examples, as Keras's losses are by default.
    Products are made with the weights of the moment; which of them are active is
    settled here. Nothing in the model changes.

    Args:
      model: a compiled, built model, sparse or dense.
      data: tuple `(x, y)` or `(x, y, sample_weight)`, as for `model.fit`.
      dense: whether to take all weights, unmasked: the Hessian that the network would
        have were all its connections there, those off the masks with weight 0.
      examples_at_once: int >= 1, examples of a forward pass; fewer take less memory.
        Batch normalisation sees that many.

    Attributes:
      indices: see `active_indices`.
      size: int, their number n.

    Raises:
      ValueError: when `data` is no such tuple, or the model is not compiled or has
        nothing to train.

    Source: Evci et al. 2022, section on the Hessian spectrum; Pearlmutter 1994.
    """

    def __init__(self, model, data, dense=False, examples_at_once=EXAMPLES_AT_ONCE):
        check_batch("data", data)
        check_int("examples_at_once", examples_at_once, minimum=1)
        check_has_loss(model, "The Hessian")
        self.indices = active_indices(model, dense)
        self.size = len(self.indices)
        if self.size == 0:
            raise ValueError(
                f"Model {model.name!r} has nothing to train, so its loss has no "
                "Hessian. Build it, or unfreeze its layers."
            )
        self._model = model
        self._variables = model.trainable_variables
        self._sizes = [int(np.prod(variable.shape)) for variable in self._variables]
        self._batches = list(_split(data, examples_at_once))
        # Autograph has nothing to convert here, and takes a second to find out.
        self._compiled = own_function(self._batch_products, autograph=False)

    def products(self, vectors):
        """The Hessian times several vectors, each over the active weights.

        Args:
          vectors: array [k, n]; every other k is compiled for, which takes seconds.

        Returns:
          Float64 array [k, n].
        """
        vectors = np.asarray(vectors)
        directions = np.zeros((len(vectors), sum(self._sizes)), np.float64)
        directions[:, self.indices] = vectors
        total = np.zeros(vectors.shape)
        with self._model.distribute_strategy.scope():
            for share, batch in self._batches:
                products = self._compiled(batch, tf.constant(directions))
                total += share * products.numpy()[:, self.indices]
        return total

    def matvec(self, vector):
        """The Hessian times one vector: float64 array [n] from array [n]."""
        return self.products(np.asarray(vector)[None])[0]

    def rows(self, rows):
        """Rows of the Hessian.

        Args:
          rows: int array [k], which of the n.

        Returns:
          Float64 array [k, n].

        Raises:
          ValueError: when an entry is not finite.
        """
        values = self.products(np.equal.outer(rows, np.arange(self.size)))
        if not np.isfinite(values).all():
            raise ValueError(
                f"The Hessian of model {self._model.name!r} is not finite: check its "
                "weights, which may have diverged, and the data."
            )
        return values

    def _batch_products(self, batch, directions):
        parts = [
            tf.cast(tf.reshape(part, (-1, *variable.shape)), variable.dtype)
            for part, variable in zip(
                tf.split(directions, self._sizes, axis=1), self._variables, strict=True
            )
        ]
        gradients = BatchGradients(
            self._model, batch, self._variables, regularized=False
        )
        products = gradients.hessian_products(parts)
        return tf.concat(
            [
                tf.cast(tf.reshape(product, (-1, size)), tf.float64)
                for product, size in zip(products, self._sizes, strict=True)
            ],
            axis=1,
        )


def _split(data, examples_at_once):
    """Yields batches of a data set, each after its share of the examples."""
    data = tf.nest.map_structure(tf.convert_to_tensor, tuple(data))
    count = len(tf.nest.flatten(data)[0])
    for start in range(0, count, examples_at_once):
        stop = min(start + examples_at_once, count)
        part = tf.nest.map_structure(lambda each, s=slice(start, stop): each[s], data)
        yield (stop - start) / count, part


def check_size(size):
    """Refuses an exact Hessian that is too large.

    Args:
      size: int, its number of rows.

    Raises:
      ValueError: for more than `MAX_SIZE`.
    """
    if size > MAX_SIZE:
        raise ValueError(
            f"The Hessian of {size} weights takes {4 * size**2 / 1e9:.1f} GB, and "
            f"exact ones end at {MAX_SIZE} weights. Estimate its spectrum by Lanczos "
            "quadrature (analysis.lanczos; on the command line method='lanczos')."
        )


def hessian(
    model,
    data,
    path=None,
    rows_at_once=10,
    dense=False,
    examples_at_once=EXAMPLES_AT_ONCE,
    on_rows=None,
):
    """The exact Hessian of a model's loss over its active weights.

    With `path` a computation that was killed goes on: rows that are finished are kept,
    after a few of them have been computed again to see that they are this Hessian's.

    Args:
      model: see `LossHessian`.
      data: likewise.
      path: of an .npy file for the rows, NaN until they are computed; None for none.
      rows_at_once: int >= 1, rows for each forward pass.
      dense: see `LossHessian`.
      examples_at_once: likewise.
      on_rows: None, or function of the number of rows that are finished and of all
        rows, called after every `rows_at_once` of them.

    Returns:
      Float32 array [n, n]; with `path` the one in the file, memory-mapped. Symmetric
      but for rounding errors.

    Raises:
      ValueError: for more than `MAX_SIZE` active weights, a file that holds something
        else, or a Hessian that is not finite; see also `LossHessian`.
    """
    check_int("rows_at_once", rows_at_once, minimum=1)
    check_size(len(active_indices(model, dense)))
    products = LossHessian(model, data, dense, examples_at_once)
    matrix = _open(path, products.size)
    is_missing = np.isnan(matrix).any(axis=1)
    _check_finished(
        matrix, np.flatnonzero(~is_missing), products, count=rows_at_once, path=path
    )
    missing = np.flatnonzero(is_missing)
    for start in range(0, len(missing), rows_at_once):
        rows = missing[start : start + rows_at_once]
        # Always as many, as TensorFlow compiles for a number of them.
        matrix[rows] = products.rows(np.resize(rows, rows_at_once))[: len(rows)]
        if isinstance(matrix, np.memmap):
            matrix.flush()
        if on_rows is not None:
            on_rows(products.size - len(missing) + start + len(rows), products.size)
    return matrix


def _open(path, size):
    """The matrix that rows go into, with those that the file has."""
    if path is None:
        return np.full((size, size), np.nan, np.float32)
    if not os.path.exists(path):
        # Under another name until all of it is NaN, which says what is missing.
        writing = f"{path}.writing"
        matrix = np.lib.format.open_memmap(writing, "w+", np.float32, (size, size))
        matrix[:] = np.nan
        matrix.flush()
        os.replace(writing, path)
        return matrix
    matrix = np.lib.format.open_memmap(path, "r+")
    if matrix.shape != (size, size) or matrix.dtype != np.float32:
        raise ValueError(
            f"{path} holds an array {matrix.shape} of {matrix.dtype}, not the rows of "
            f"a Hessian of {size} weights. Remove it, or use another path."
        )
    return matrix


def _check_finished(matrix, finished, products, *, count, path):
    """Refuses finished rows of another Hessian: of other weights, masks or data."""
    if not len(finished):
        return
    chosen = finished[np.linspace(0, len(finished) - 1, count).astype(int)]
    expected = products.rows(chosen)
    scale = np.abs(expected).max()
    if not np.allclose(matrix[chosen], expected, _TOLERANCE, _TOLERANCE * scale):
        raise ValueError(
            f"{path} holds rows of another Hessian, of other weights, masks or data. "
            "Remove it, or use another path."
        )


def eigenvalues(matrix):
    """The eigenvalues of a Hessian.

    Args:
      matrix: array [n, n], symmetric but for rounding errors, which are averaged out.

    Returns:
      Float64 array [n], ascending.

    Raises:
      ValueError: for an array that is not square, or not finite.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1]:
        raise ValueError(f"Expected an array [n, n], got shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError("The matrix has entries that are not finite.")
    return np.linalg.eigvalsh((matrix + matrix.T) / 2)
