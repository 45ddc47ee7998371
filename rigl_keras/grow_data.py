"""The dense gradient of a fixed batch, from which RigL can grow."""

import tensorflow as tf

from rigl_keras import compat


def check_grow_data(data):
    """Refuses what is no batch.

    Raises:
      ValueError: when `data` is neither (x, y) nor (x, y, sample_weight).
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        length = f" of length {len(data)}" if hasattr(data, "__len__") else ""
        raise ValueError(
            "Expected `grow_data` to be (x, y) or (x, y, sample_weight), but got "
            f"{type(data).__name__}{length}."
        )


class GrowData:
    """Evaluates a model's loss gradient on one batch, leaving no trace in the model.

    The model runs in training mode, with its regularisers; batch-norm averages,
    dropout seeds and metrics are put back afterwards. Every replica evaluates the whole
    batch.

    Args:
      model: a compiled model.
      data: tuple `(x, y)` or `(x, y, sample_weight)`, as for `model.fit`.
      kernels: list of `SparseKernel`, whose gradients are wanted.

    Raises:
      ValueError: when `data` is no such tuple.

    Source: the paper's TF2 code grows from 1,000 fixed training examples.
    """

    def __init__(self, model, data, kernels):
        check_grow_data(data)
        self._model = model
        self._data = tf.nest.map_structure(tf.convert_to_tensor, tuple(data))
        self._kernels = kernels

    def gradients(self):
        """The gradients of the kernels, summed over the replicas.

        One tensor for each, or None when the loss does not depend on the kernel.

        Call it in a `tf.function`, under the model's strategy.
        """
        strategy = self._model.distribute_strategy
        # A function of its own, because a model may need autograph and callers do not.
        by_replica = strategy.run(tf.function(self._gradients_of_replica))
        return [
            None
            if gradient is None
            else strategy.reduce(tf.distribute.ReduceOp.SUM, gradient, axis=None)
            for gradient in by_replica
        ]

    def _gradients_of_replica(self):
        model = self._model
        x, y, *rest = self._data
        touched = [compat.raw(variable) for variable in compat.forward_state(model)]
        before = [tf.identity(variable) for variable in touched]
        variables = [compat.raw(each.kernel) for each in self._kernels]
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            loss = model.compute_loss(
                x=x, y=y, y_pred=predictions, sample_weight=rest[0] if rest else None
            )
        gradients = tape.gradient(loss, variables)
        with tf.control_dependencies([g for g in gradients if g is not None]):
            for variable, value in zip(touched, before, strict=True):
                variable.assign(value)
        return gradients
