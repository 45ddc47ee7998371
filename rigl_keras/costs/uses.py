"""How often a forward pass uses each weight: a trace of the model, observed."""

import contextlib
import functools
import math
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from rigl_keras import compat
from rigl_keras.core import kernels
from rigl_keras.core.tfmot_wrappers import is_pruning_wrapper

_LAYERS = keras.layers
_TRANSPOSED = (
    _LAYERS.Conv1DTranspose,
    _LAYERS.Conv2DTranspose,
    _LAYERS.Conv3DTranspose,
)
_DEPTHWISE = (_LAYERS.DepthwiseConv1D, _LAYERS.DepthwiseConv2D)
_SEPARABLE = (_LAYERS.SeparableConv1D, _LAYERS.SeparableConv2D)
_CONVOLUTIONS = (_LAYERS.Conv1D, _LAYERS.Conv2D, _LAYERS.Conv3D)
# Their cells have a `kernel` and a `recurrent_kernel`, each used once a step.
_RECURRENT = (
    _LAYERS.SimpleRNN,
    _LAYERS.GRU,
    _LAYERS.LSTM,
    _LAYERS.ConvLSTM1D,
    _LAYERS.ConvLSTM2D,
    _LAYERS.ConvLSTM3D,
)
_CELLS = (_LAYERS.SimpleRNNCell, _LAYERS.GRUCell, _LAYERS.LSTMCell)
# Their weights of rank 2 or more are neither kernels nor tables.
_WITHOUT_PRODUCTS = (_LAYERS.PReLU, _LAYERS.SpectralNormalization)


class Use(NamedTuple):
    """What a forward pass does with a kernel, for each example.

    Attributes:
      uses: how often each weight is multiplied, such as the pixels of a convolution's
        output.
      outputs: how many sums the kernel makes that get a bias and an activation.
      units: how many different biases that are.
    """

    uses: float
    outputs: float
    units: int


NO_PRODUCTS = Use(0, 0, 0)


class Found(NamedTuple):
    """What a trace shows of a model's kernels, by the ids of their variables.

    Attributes:
      uses: a dict to the `Use` of each kernel of which it is known.
      reasons: a dict to texts that say why it is not known of the others.
      otherwise: the reason for kernels in neither.
    """

    uses: dict[int, Use]
    reasons: dict[int, str]
    otherwise: str


_NO_INPUTS = "the model has no inputs of its own (give `input_shape`)"
_NO_SIZE = "the size of its inputs is not known (give `input_shape`)"
_NO_STEPS = "the number of time steps is not known (give `input_shape`)"
_IN_LOOP = "its layer is called inside a loop or a condition"
_NOT_CALLED = "its layer is not called"
_OWN_CELL = "its recurrent cell is of a type of its own"


def find_uses(model, input_shape=None):
    """Traces one forward pass and counts how each kernel is used in it.

    Args:
      model: a built model or layer.
      input_shape: shape of one example, without the batch; for several inputs a list or
        dict of shapes, as the model takes them. None for the model's own inputs.

    Returns:
      A `Found`. It is not known how a kernel is used in a layer of a type of its own,
      in one that was not called or called inside a loop, for inputs of unknown shape.
    """
    specs = _specs(model, input_shape)
    if specs is None:
        return Found({}, {}, _NO_INPUTS)
    batch = tf.nest.flatten(specs)[0].shape[0]
    recorder = _Recorder()
    with _observed(model, recorder):
        compat.trace(functools.partial(recorder.forward, model), specs)
    uses = {
        key: Use(_share(use.uses, batch), _share(use.outputs, batch), use.units)
        for key, use in recorder.found.items()
        if key not in recorder.reasons
    }
    return Found(uses, recorder.reasons, _NOT_CALLED)


def _share(total, batch):
    return total // batch if total % batch == 0 else total / batch


def _specs(model, input_shape):
    """The inputs of one forward pass, or None where nothing is known of them."""
    own = _own_inputs(model)
    if input_shape is not None:
        return _given_specs(input_shape, own)
    if own is None:
        return None
    return tf.nest.map_structure(
        lambda each: tf.TensorSpec((each.shape[0] or 1, *each.shape[1:]), each.dtype),
        own,
    )


def _own_inputs(model):
    """The symbolic inputs of a model in the structure that it takes, or None."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return None
    own = getattr(model, "input", None)  # Keras 3 has none for Sequential.
    return (inputs[0] if len(inputs) == 1 else inputs) if own is None else own


def _given_specs(shape, own):
    if isinstance(shape, dict):
        own = own if isinstance(own, dict) else {}
        return {key: _given_specs(part, own.get(key)) for key, part in shape.items()}
    if not all(size is None or isinstance(size, int) for size in shape):
        own = own if isinstance(own, list | tuple) else [None] * len(shape)
        pairs = zip(shape, own, strict=True)
        return [_given_specs(part, like) for part, like in pairs]
    return tf.TensorSpec((1, *shape), getattr(own, "dtype", tf.float32))


class _Recorder:
    """Adds up what the layers do while they are called."""

    def __init__(self):
        self.found: dict[int, Use] = {}
        self.reasons: dict[int, str] = {}  # Why some are not known.
        self._graph = None
        self._is_muted = False
        self._times = 1

    def forward(self, model, inputs):
        """Calls the model; what is called in the same graph is called once."""
        self._graph = tf.compat.v1.get_default_graph()
        return model(inputs)

    def observe(self, layer, inputs, outputs):
        """Notes one call of a layer that is no loop over others."""
        if self._is_muted:
            return
        uses = _uses(layer, inputs, outputs)
        reason = _why_unknown(layer, inputs, outputs)
        if tf.compat.v1.get_default_graph() is not self._graph:
            uses, reason = {}, _IN_LOOP
        for weight in _weights(layer):
            self._add(weight, uses.get(compat.variable_name(weight)), reason)

    def observe_loop(self, layer, call, args, *, kwargs):
        """Calls a layer that loops over others, and notes what these do."""
        outputs = self.unobserved(call, args, kwargs)
        if not self._is_muted:
            inputs = _first(args, kwargs)
            if isinstance(layer, _LAYERS.TimeDistributed):
                self._repeat(layer, inputs)
            else:
                self._unroll(layer, inputs, outputs)
        return outputs

    def unobserved(self, call, args, kwargs):
        """Calls something whose calls of layers are not noted."""
        was_muted, self._is_muted = self._is_muted, True
        try:
            return call(*args, **kwargs)
        finally:
            self._is_muted = was_muted

    def _repeat(self, layer, inputs):
        """Calls the layer of a `TimeDistributed` once, and counts it for every step."""
        before = self._times
        self._times = _times(before, inputs.shape[1])
        layer.layer(inputs[:, 0])
        self._times = before

    def _unroll(self, layer, inputs, outputs):
        steps = _steps(layer, tf.nest.flatten(inputs)[0], tf.nest.flatten(outputs)[0])
        for cell, _ in kernels.walk(layer):
            is_known = isinstance(layer, _RECURRENT) or isinstance(cell, _CELLS)
            reason = _NO_STEPS if is_known and steps is None else _OWN_CELL
            for weight in _weights(cell):
                name, units = compat.variable_name(weight), weight.shape[-1]
                use = None
                if is_known and steps is not None and name == "kernel":
                    use = Use(steps, steps * units, units)
                elif is_known and steps is not None and name == "recurrent_kernel":
                    # Its products are added to the kernel's, before the one bias.
                    use = Use(steps, 0, 0)
                self._add(weight, use, reason)

    def _add(self, weight, use, reason):
        """Adds a use, or the reason why it is not known."""
        if use is None or self._times is None:
            reason = reason if use is None else _NO_STEPS
            self.reasons.setdefault(id(weight), reason)
            return
        before = self.found.get(id(weight), NO_PRODUCTS)
        self.found[id(weight)] = Use(
            before.uses + self._times * use.uses,
            before.outputs + self._times * use.outputs,
            use.units,
        )


def _weights(layer):
    if is_pruning_wrapper(layer):
        return []  # Its own weights are masks.
    return [
        weight for weight in kernels.own_weights(layer) if kernels.is_maskable(weight)
    ]


@contextlib.contextmanager
def _observed(model, recorder):
    """Has all layers below a model report their calls within the context."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(compat.unchanged_trace_seeds(model))
        stack.enter_context(compat.unchanged_losses(model))
        seen = set()
        for layer, _ in kernels.walk(model):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            for name, function in _observers(layer, recorder).items():
                stack.enter_context(_replaced(layer, name, function))
        yield


def _observers(layer, recorder):
    """Methods of a layer, by name, that do what its own do and tell the recorder."""
    call = layer.call
    if isinstance(layer, (_LAYERS.RNN, _LAYERS.TimeDistributed)):
        compute_mask = layer.compute_mask
        return {
            "call": lambda *args, **kwargs: recorder.observe_loop(
                layer, call, args, kwargs=kwargs
            ),
            # For it Keras 2's `TimeDistributed` calls a whole model once more.
            "compute_mask": lambda *args, **kwargs: recorder.unobserved(
                compute_mask, args, kwargs
            ),
        }
    if not _weights(layer):
        return {}

    def observed(*args, **kwargs):
        outputs = call(*args, **kwargs)
        recorder.observe(layer, _first(args, kwargs), outputs)
        return outputs

    return {"call": observed}


def _first(args, kwargs):
    return args[0] if args else next(iter(kwargs.values()), None)


@contextlib.contextmanager
def _replaced(layer, name, function):
    """Gives a layer another method within the context."""
    before = vars(layer).get(name)
    # Past Keras, which tracks attributes; it looks at signatures.
    function = functools.wraps(getattr(layer, name))(function)
    object.__setattr__(layer, name, function)
    try:
        yield
    finally:
        object.__delattr__(layer, name)
        if before is not None:
            object.__setattr__(layer, name, before)


def _size(tensor):
    """How many numbers a tensor of static shape has, or None."""
    shape = getattr(tensor, "shape", None)
    if shape is None or tf.TensorShape(shape).num_elements() is None:
        return None
    return math.prod(shape)


def _times(*factors):
    return None if None in factors else math.prod(factors)


def _steps(layer, inputs, outputs):
    """How often a recurrent layer uses its kernels: steps, times pixels if any."""
    if getattr(layer, "time_major", False):
        return None
    length = inputs.shape[1]
    if len(inputs.shape) <= 3:
        return _times(inputs.shape[0], length)
    # A convolution: one use for each pixel of the output, which may have all steps.
    size, filters = _size(outputs), layer.filters
    repeated = 1 if layer.return_sequences else length
    return None if size is None else _times(size // filters, repeated)


def _uses(layer, inputs, outputs):
    """What one call of a layer does with its kernels, by their names."""
    if isinstance(layer, _LAYERS.Embedding) and _is_lookup(layer, inputs, outputs):
        return {"embeddings": NO_PRODUCTS}
    given, made = _size(inputs), _size(outputs)
    if given is None or made is None:
        return {}
    compressed = kernels.compressed_kernel(layer)
    if compressed is not None:
        units = math.prod(compressed.shape[axis] for axis in compressed.out_axes)
        return {"kernel": Use(made // units, made, units)}
    if isinstance(layer, _LAYERS.EinsumDense):
        return {"kernel": _einsum_use(layer, inputs, made)}
    if isinstance(layer, _LAYERS.Dense):
        n_in, units = layer.kernel.shape
        return {"kernel": Use(given // n_in, made, units)}
    if isinstance(layer, _TRANSPOSED):
        units, n_in = layer.kernel.shape[-2:]
        return {"kernel": Use(given // n_in, made, units)}
    if isinstance(layer, _DEPTHWISE):
        (kernel,) = _weights(layer)
        units = math.prod(kernel.shape[-2:])
        return {compat.variable_name(kernel): Use(made // units, made, units)}
    if isinstance(layer, _SEPARABLE):
        pixels = made // layer.filters
        return {
            "depthwise_kernel": Use(pixels, 0, 0),
            "pointwise_kernel": Use(pixels, made, layer.filters),
        }
    if isinstance(layer, _CONVOLUTIONS):
        return {"kernel": Use(made // layer.filters, made, layer.filters)}
    if isinstance(layer, _WITHOUT_PRODUCTS):
        names = map(compat.variable_name, _weights(layer))
        return dict.fromkeys(names, NO_PRODUCTS)
    return {}


def _why_unknown(layer, inputs, outputs):
    """Why `_uses` does not say what a layer does with one of its weights."""
    if _size(inputs) is None or _size(outputs) is None:
        return _NO_SIZE
    return f"what {type(layer).__name__} does with it is not known"


def _is_lookup(layer, inputs, outputs):
    """False where the table of embeddings is used the other way round, as a kernel."""
    is_deeper = len(outputs.shape) == len(inputs.shape) + 1
    return is_deeper and outputs.shape[-1] == layer.embeddings.shape[-1]


def _einsum_use(layer, inputs, made):
    """Each weight is used once for all indices of the input that it does not have."""
    operands, output = layer.equation.replace(" ", "").split("->")
    given, kernel = operands.split(",")
    before, _, after = given.partition("...")
    letters = dict(zip(reversed(after), reversed(inputs.shape), strict=False))
    letters |= dict(zip(before, inputs.shape, strict=False))
    shared = math.prod(letters[letter] for letter in letters if letter in kernel)
    sizes = zip(kernel, layer.kernel.shape, strict=True)
    units = math.prod(size for letter, size in sizes if letter in output)
    return Use(_size(inputs) // shared, made, units)
