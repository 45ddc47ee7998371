"""What joins an algorithm to a model: the hook, the slots, the mask update."""

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.algorithms.base import KernelState, surviving
from rigl_keras.common.seeding import stateless_seed
from rigl_keras.core.kernels import read_mask
from rigl_keras.core.masks import assign_mask, sparse_kernels
from rigl_keras.training.batch_gradients import BatchGradients
from rigl_keras.training.gradient_hook import GradientHook
from rigl_keras.training.slots import find_slots


class Attachment:
    """Keeps a model's gradients and optimizer sparse, and updates its masks.

    `attach` it before the training step is traced.

    Args:
      model: a model with sparse kernels.
      optimizer: the one that trains it, perhaps in wrappers.
      updater: a `MaskUpdater` or `Pruner`; None for masks that stay as they are.
      paths: those of the kernels to take care of; None for all.
      grow_data: None, or the batch whose gradient masks grow by (`BatchGradients`).
      follow_learning_rate: whether `highest_learning_rate` is wanted.
      seed: int, for the updater's random draws.

    Raises:
      ValueError: when the model has no sparse kernel; when its optimizer cannot be
        used; or when there is none, or no loss for `grow_data`.
      TypeError: when model or optimizer are not of the Keras in use.
    """

    def __init__(
        self,
        model,
        optimizer,
        updater=None,
        paths=None,
        grow_data=None,
        follow_learning_rate=False,
        seed=0,
    ):
        kernels = sparse_kernels(model)
        _check_model(model, optimizer, kernels)
        if grow_data is not None:
            _check_loss(model)
        self.model = model
        self.optimizer = optimizer
        self._updater = updater
        self._seed = seed
        self._strategy = compat.strategy_of(model)
        self._loss = compat.compiled_loss(model)
        # The gradients on `grow_data` would come out with other rounding errors.
        self._suits_xla = grow_data is None and _suits_xla(updater)
        self._uses_xla = self._can_use_xla()
        variables = list(model.trainable_variables)
        trainable = {id(variable) for variable in variables}
        # Frozen kernels are masked but never updated; indices count all kernels, so
        # that freezing one does not change what is drawn for another.
        self._indexed = [
            (index, each)
            for index, each in enumerate(kernels)
            if id(each.kernel) in trainable and (paths is None or each.path in paths)
        ]
        self._trainable = trainable
        self._kernels = kernels
        # Paths of those that the loss does not depend on, known after an update.
        self.kernels_without_gradient: list[str] = []
        self._remembered: list = []
        updated = [each for _, each in self._indexed]
        with self._strategy.scope():
            self._slots = find_slots(self.optimizer, variables, updated)
            self._grow_data = None
            if grow_data is not None:
                self._grow_data = BatchGradients(
                    model, grow_data, [each.kernel for each in updated]
                )
            needs_gradient = updater is not None and updater.needs_gradient
            self._keeps_gradient = needs_gradient and grow_data is None
            self.hook = GradientHook(
                self.optimizer,
                updated,
                self._keeps_gradient,
                follow_learning_rate,
                getattr(updater, "gradient_decay", 0.0),
            )
            # Autograph has nothing to convert here, and takes a second to find out.
            self._compiled_update = tf.function(
                self._update, autograph=False, jit_compile=self._uses_xla
            )
            self._compiled_count = tf.function(self._count_active, autograph=False)

    def fits(self, model, optimizer):
        """True when it was made for this model and optimizer, trainable as it is."""
        return (
            self.model is model
            and self.optimizer is optimizer
            # Another loss may depend on other kernels, and has other gradients.
            and self._loss is compat.compiled_loss(model)
            and self._uses_xla == self._can_use_xla()
            and [id(each.kernel) for each in sparse_kernels(model)]
            == [id(each.kernel) for each in self._kernels]
            and {id(each) for each in model.trainable_variables} == self._trainable
        )

    def _can_use_xla(self):
        return self._suits_xla and _is_compiled(self.model)

    def attach(self):
        """Hooks into the optimizer; zeroes masked weights and resets their slots."""
        with self._strategy.scope():
            self._clear_inactive()
        self.hook.attach()

    def detach(self):
        """Leaves the optimizer as it was."""
        self.expect_update(None)
        self.hook.detach()

    def step(self):
        """How many steps the optimizer has made, as an int."""
        return self.batches() // self.accumulated

    def batches(self):
        """How many batches the optimizer has seen, as an int; see `step`."""
        return int(compat.raw(compat.batch_counter(self.optimizer)).numpy())

    @property
    def accumulated(self):
        """How many batches make one step of the optimizer."""
        return compat.accumulation_steps(self.optimizer)

    def sparsity(self):
        """Share of zeros among the weights of all masked kernels, in [0, 1)."""
        with self._strategy.scope():
            active = int(self._compiled_count())
        return 1 - active / sum(int(np.prod(k.kernel.shape)) for k in self._kernels)

    @property
    def paths(self):
        """The paths of the kernels whose masks may change."""
        return [each.path for _, each in self._indexed]

    def smallest_magnitudes(self):
        """The smallest magnitude among the active weights of each such kernel."""
        return [
            tf.reduce_min(tf.abs(tf.boolean_mask(compat.raw(e.kernel), _mask_of(e))))
            for _, e in self._indexed
        ]

    def expect_update(self, step):
        """Has the gradient of the step that ends at `step` kept; None keeps none."""
        with self._strategy.scope():
            self.hook.keep_at(step)

    def remember_weights(self):
        """Notes weights and optimizer state, for `take_step_back`."""
        self._remembered = [
            (variable, tf.identity(variable))
            for variable in map(compat.raw, self._moved_by_a_step())
        ]

    def take_step_back(self):
        """Puts weights and optimizer state back to what `remember_weights` noted."""
        with self._strategy.scope():
            for variable, value in self._remembered:
                variable.assign(value)
        self._remembered = []

    def _moved_by_a_step(self):
        # A step leaves the accumulators at 0; just before, there is something in them.
        others = [
            compat.batch_counter(self.optimizer),
            *compat.gradient_accumulators(self.optimizer),
        ]
        stays = {id(variable) for variable in others}
        state = compat.innermost_optimizer(self.optimizer).variables
        moved = [variable for variable in state if id(variable) not in stays]
        return [*self.model.trainable_variables, *moved]

    def update(self, step, amount):
        """Updates all masks once, between two training steps.

        Args:
          step: int, the training step that the update belongs to.
          amount: float, the drop fraction or, of a pruner, the sparsity.

        Returns:
          None when it was done, or a text that says why nothing was changed.
        """
        if self._keeps_gradient and not self.hook.has_kept(step):
            return (
                "there is no gradient of the last step: it was skipped, as loss "
                "scaling does, began before a training went on, or did not go through "
                "the model's optimizer"
            )
        with self._strategy.scope():
            # Arrays, because TensorFlow keeps every Python number that it has seen.
            *have_gradient, is_finite = self._compiled_update(
                tf.constant(np.array(step, np.int64)),
                tf.constant(np.array(amount, np.float32)),
            ).numpy()
        self.kernels_without_gradient = [
            path
            for path, has_gradient in zip(self.paths, have_gradient, strict=True)
            if not has_gradient
        ]
        if not is_finite:
            return "weights or gradients are not finite"
        return None

    def _update(self, step, amount):
        """One update in a graph.

        Returns:
          A bool tensor: for each kernel, whether it has a gradient of this step or
          needs none; and at last, whether all is finite and masks were changed.
        """
        jobs, have_gradient = [], []
        gradients, are_of_step = self._growing_gradients(step)
        for position, ((index, each), slots, gradient) in enumerate(
            zip(self._indexed, self._slots, gradients, strict=True)
        ):
            if gradient is None and self._updater.needs_gradient:
                have_gradient.append(tf.constant(False))
                continue
            has_gradient = are_of_step[position]
            have_gradient.append(has_gradient)
            state = KernelState(
                tf.convert_to_tensor(compat.raw(each.kernel)),
                _mask_of(each),
                gradient,
                stateless_seed(self._updater.name, self._seed, index, step),
            )
            jobs.append((each, slots, state, has_gradient))
        finite = tf.reduce_all(
            [tf.logical_not(has) | _is_finite(state) for *_, state, has in jobs]
            or [True]
        )
        masks = self._updater.new_masks([state for *_, state, _ in jobs], amount)
        for (each, slots, state, has_gradient), mask in zip(jobs, masks, strict=True):
            mask = tf.where(finite & has_gradient, mask, state.mask)
            _set_mask(each, slots, state.mask, mask)
        return tf.stack([*have_gradient, finite])

    def _count_active(self):
        masks = [_mask_of(each) for each in self._kernels]
        return tf.add_n([tf.math.count_nonzero(mask) for mask in masks])

    def _growing_gradients(self, step):
        """A gradient for each updated kernel, or None; and whether it is the step's."""
        if self._keeps_gradient:
            gradients, steps = self.hook.kept_gradients()
            return gradients, tf.unstack(tf.equal(steps, step))
        always = [tf.constant(True)] * len(self._indexed)
        if self._grow_data is not None:
            return self._grow_data.gradients(), always
        return [None] * len(self._indexed), always

    def _clear_inactive(self):
        for (_, each), slots in zip(self._indexed, self._slots, strict=True):
            mask = _mask_of(each)
            _set_mask(each, slots, mask, mask)


def _mask_of(kernel):
    return read_mask(compat.raw(kernel.mask))


def _check_model(model, optimizer, kernels):
    if not kernels:
        raise ValueError(
            f"Model {model.name!r} has no sparse kernel, so there is nothing to train "
            "sparsely. Make it sparse first: model = rigl_keras.sparsify(model), with "
            "sparsity=0 for pruning, then compile it. A model of Sparse layers that is "
            "not built yet has none either: call model.build(input_shape), or the "
            "model on a batch."
        )
    if optimizer is None:
        raise ValueError(
            f"Model {model.name!r} has no optimizer. Call model.compile(...) first, "
            "or, in a custom loop, pass the optimizer."
        )


def _check_loss(model):
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"grow_data needs the loss of model {model.name!r}, which is not compiled. "
            "Call model.compile(optimizer, loss) first, in a custom loop too."
        )


def _suits_xla(updater):
    """True where the algorithm's own class says so: a subclass has other scores."""
    return vars(type(updater)).get("suits_xla", False) and updater.suits_xla


def _is_compiled(model):
    """True where XLA compiles the training step, on one device.

    It can then compile an update too. That takes seconds once, and makes each update
    quicker: docs/performance.md.
    """
    is_alone = compat.strategy_of(model).num_replicas_in_sync == 1
    # Of models that are not compiled for `fit` Keras 3 would make up an answer.
    is_known = getattr(model, "optimizer", None) is not None
    return is_alone and is_known and bool(getattr(model, "jit_compile", False))


def _is_finite(state):
    finite = tf.reduce_all(tf.math.is_finite(state.weights))
    if state.gradient is None:
        return finite
    return finite & tf.reduce_all(tf.math.is_finite(state.gradient))


def _set_mask(kernel, slots, old_mask, new_mask):
    """Sets a mask; weights and slots of connections that did not stay start anew."""
    weights = compat.raw(kernel.kernel)
    weights.assign(surviving(tf.convert_to_tensor(weights), old_mask, new_mask))
    for slot in slots:
        variable = compat.raw(slot.variable)
        variable.assign(
            surviving(
                tf.convert_to_tensor(variable), old_mask, new_mask, slot.initial_value
            )
        )
    assign_mask(kernel.mask, new_mask)
