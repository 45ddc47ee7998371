"""The layer that stores its kernel without the zeros, and computes without them."""

import numpy as np
import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.common.seeding import random_integers, stateless_seed
from rigl_keras.core import distributions
from rigl_keras.core.choosing import DEFAULT_SPARSITY
from rigl_keras.core.compressed_init import (
    check_compressed_initializer,
    compressed_values,
    with_axes,
)
from rigl_keras.core.compressed_kernel import CompressedKernel, is_compressible
from rigl_keras.core.compressed_units import random_indices
from rigl_keras.core.gradient_tap import GradientTap
from rigl_keras.core.kernels import join
from rigl_keras.core.pattern_kinds import Blocks
from rigl_keras.core.patterns import Pattern, from_text, to_text
from rigl_keras.layers.block_product import block_product
from rigl_keras.layers.products import problem_of, product_of
from rigl_keras.layers.untracked import Untracked

# Of the config. Raise it when an older reader would misunderstand a newer file.
CONFIG_VERSION = 0


@compat.register_serializable
class Compressed(keras.layers.Layer):
    """A Dense, EinsumDense or 1×1 convolution layer whose kernel is stored sparsely.

    It holds the weights that exist and where they are, and no dense kernel, mask or
    gradient at any time. At high sparsity it trains faster than the dense layer, and
    takes as much less memory, its optimizer's state included. It is trained by the same
    callbacks as `Sparse` layers.

    Args:
      layer: a `keras.layers.Dense`; an `EinsumDense` that is a matrix product; or a
        `Conv1D`, `Conv2D` or `Conv3D` of kernel size 1. It says what is computed and is
        not built itself.
      sparsity: share of zeros in the kernel, in [0, 1).
      initializer: None draws as the layer's own `kernel_initializer` does for the dense
        kernel; "unit_scaled" or "layer_scaled" draw for the weights that exist, see
        `sparsify`.
      seed: int, for the places and values of the weights. None draws one from NumPy's
        global generator, which `keras.utils.set_random_seed` sets. An initializer of
        the layer that does not scale by fans, such as `RandomNormal`, has its own.
      pattern: `rigl_keras.patterns.Blocks(n, 1, balanced="inputs")` or its text: blocks
        of n consecutive inputs of one output, equally many for each n inputs.
      **kwargs: of `keras.layers.Layer`, such as `name`.

    Attributes:
      layer: the layer that says what is computed.

    Raises:
      TypeError: when `layer` is no layer of the Keras in use.
      ValueError: for a layer that cannot be compressed, another pattern, or an argument
        out of range; once built, when the pattern does not suit the kernel.

    Example:
      rigl_keras.Compressed(keras.layers.Dense(1024, activation="relu"), 0.95)
    """

    def __init__(
        self,
        layer,
        sparsity=DEFAULT_SPARSITY,
        initializer=None,
        *,
        seed=None,
        pattern="blocks(16, 1, 'inputs')",
        **kwargs,
    ):
        compat.check_layer(layer, "a layer for Compressed to stand in for")
        problem = problem_of(layer)
        if problem:
            raise ValueError(
                f"The kernel of layer {layer.name!r} cannot be stored without its "
                f"zeros: {problem}. Wrap it in rigl_keras.Sparse, which masks it."
            )
        check_compressed_initializer(initializer, layer.kernel_initializer)
        kwargs.setdefault("name", f"compressed_{layer.name}")
        kwargs.setdefault("trainable", layer.trainable)
        if layer.activity_regularizer is not None:
            kwargs["activity_regularizer"] = layer.activity_regularizer
        super().__init__(dtype=layer.dtype_policy, **kwargs)
        # Keras would track the layer, which is never built.
        self._held = Untracked({"layer": layer, "pattern": _checked_pattern(pattern)})
        self.sparsity = distributions.check_sparsity(sparsity)
        self.initializer = initializer
        self.seed = int(np.random.randint(2**31) if seed is None else seed)
        self.supports_masking = layer.supports_masking
        self.bias = None
        self._tap = GradientTap()
        self._after_loading = compat.AfterLoading(self.finalize_state)

    def __repr__(self):
        """The layer that it stands in for, how sparse it is, and its pattern."""
        return (
            f"<Compressed name={self.name}, layer={type(self.layer).__name__} "
            f"{self.layer.name!r}, sparsity={self.sparsity!r}, "
            f"pattern={self.pattern!r}, built={self.built}>"
        )

    @property
    def layer(self):
        """The layer that says what is computed; it has no weights."""
        return self._held["layer"]

    @property
    def path_name(self):
        """What stands for it in paths of weights: the name of the layer."""
        return self.layer.name

    @property
    def pattern(self):
        """The pattern of the kernel as a text."""
        return to_text(self._held["pattern"])

    @property
    def compressed_kernel(self):
        """The `CompressedKernel`; None before the layer is built."""
        if not self.built:
            return None
        return CompressedKernel(
            join(self.path_name, "kernel"),
            self.values,
            self.indices,
            self._dense["shape"],
            self._dense["in_axes"],
            self._dense["out_axes"],
            self._held["pattern"],
            self._tap,
        )

    def build(self, input_shape=None):
        """Creates the weights that exist, and their places."""
        product = product_of(self.layer, input_shape)
        self._dense = Untracked(product._asdict())
        grouping = self._grouping(product)
        count = self._held["pattern"].active_units(grouping.units, self.sparsity)
        shape = (grouping.groups, count)
        with tf.init_scope():  # A graph may be being traced; the draws are no part.
            indices = random_indices(shape, grouping.units, self._random_scores).numpy()
        block = grouping.elements
        sizes = block, grouping.groups * block, product.outputs

        self.values = self.add_weight(
            name="kernel",
            shape=(*shape, block),
            initializer=self._first_values(product, indices, sizes),
            regularizer=self.layer.kernel_regularizer,
            constraint=self.layer.kernel_constraint,
        )
        self.indices = self.add_weight(
            name="indices",
            shape=shape,
            dtype="int32",
            initializer=lambda *args, **kwargs: tf.constant(indices),
            trainable=False,
        )
        if product.bias_shape and getattr(self.layer, "use_bias", True):
            self.bias = self.add_weight(
                name="bias",
                shape=product.bias_shape,
                initializer=self.layer.bias_initializer,
                regularizer=self.layer.bias_regularizer,
                constraint=self.layer.bias_constraint,
            )
        self.built = True

    def _first_values(self, product, indices, sizes):
        """An initializer of the weights that exist."""
        own = self.layer.kernel_initializer
        if isinstance(self.layer, keras.layers.EinsumDense):
            own = with_axes(own, product.in_axes, product.out_axes)

        def draw(shape, dtype=None, **kwargs):
            values = compressed_values(
                self.initializer,
                own,
                indices,
                shape=product.shape,
                sizes=sizes,
                seed=stateless_seed("init", self.seed),
            )
            return tf.cast(values, dtype or values.dtype)

        return draw

    def _grouping(self, product):
        try:
            return self._held["pattern"].grouping(
                product.shape, product.in_axes, product.out_axes
            )
        except ValueError as error:
            raise ValueError(
                f"The pattern {self.pattern} does not suit the kernel of layer "
                f"{self.layer.name!r}, of shape {product.shape}: {error}. Use smaller "
                "blocks; or leave the layer dense, or wrap it in rigl_keras.Sparse."
            ) from None

    def _random_scores(self, shape, first):
        """Those that `Sparse` draws its masks by."""
        return random_integers(shape, stateless_seed("mask", self.seed), first)

    def call(self, inputs):
        """What the layer computes, by the weights that exist."""
        product = product_of(self.layer, inputs.shape)
        # Keras casts floats only.
        rows = product.rows(tf.cast(inputs, self.compute_dtype))
        values = tf.cast(tf.convert_to_tensor(self.values), rows.dtype)
        indices = tf.convert_to_tensor(self.indices)
        outputs = block_product(rows, values, indices, outputs=product.outputs)
        outputs = self._tap.through(outputs, rows, self.values.shape[-1])
        outputs = product.outputs_of(outputs, inputs)
        if self.bias is not None:
            outputs += tf.cast(tf.convert_to_tensor(self.bias), outputs.dtype)
        activation = self.layer.activation
        return outputs if activation is None else activation(outputs)

    def compute_output_shape(self, input_shape):
        """The layer's output shape."""
        return product_of(self.layer, input_shape).output_shape(tuple(input_shape))

    def set_weights(self, weights):
        """Sets the weights and their places.

        Raises:
          ValueError: for other shapes, and for places that are none.
        """
        super().set_weights(weights)
        self.finalize_state()

    def finalize_state(self):
        """Checks the places, after they were loaded or set; Keras calls it.

        Raises:
          ValueError: for places that are none.
        """
        if self.built:
            self.compressed_kernel.check_indices()

    def get_config(self):
        """The layer's config."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "layer": compat.serialized(self.layer),
            "sparsity": self.sparsity,
            "initializer": self.initializer,
            "seed": self.seed,
            "pattern": self.pattern,
            "version": CONFIG_VERSION,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The layer of a config.

        Raises:
          ValueError: for a config of a version to come.
        """
        config = dict(config)
        version = config.pop("version")
        if version > CONFIG_VERSION:
            raise ValueError(
                f"The Compressed layer {config.get('name')!r} was saved by a newer "
                f"rigl_keras: its config has version {version}, and this one reads "
                f"versions up to {CONFIG_VERSION}. Install a newer rigl_keras."
            )
        layer = compat.deserialized(config.pop("layer"), custom_objects)
        return cls(layer, **config)


def _checked_pattern(pattern):
    pattern = pattern if isinstance(pattern, Pattern) else from_text(pattern)
    if not is_compressible(pattern):
        raise ValueError(
            "Expected `pattern` of a Compressed layer to be "
            f"{str(Blocks(16, balanced='inputs'))!r}, with any number of inputs, got "
            f"{str(pattern)!r}. Other patterns can be masked, by rigl_keras.Sparse."
        )
    return pattern
