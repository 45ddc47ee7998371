"""Models of every kind of layer that has kernels, trained sparsely."""

import model_checks
import pytest
import tiny
from tensorflow import keras

LAYERS = keras.layers


def around(layer, shape, *after):
    """A model of one layer and a small head."""
    head = [*after, LAYERS.Dense(3, name="out")]
    return keras.Sequential([keras.Input(shape), layer, *head])


def projections(name):
    return {f"{name}/{each}/kernel" for each in ("query", "key", "value")} | {
        f"{name}/attention_output/kernel"
    }


# Attention


def attending(layer, query=(5, 6), value=(7, 4)):
    inputs = [keras.Input(query, name="query"), keras.Input(value, name="value")]
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(layer(*inputs)))


def self_attention():
    inputs = keras.Input((5, 6))
    layer = LAYERS.MultiHeadAttention(2, 3, name="attention")
    x = LAYERS.LayerNormalization()(layer(inputs, inputs, use_causal_mask=True))
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x + inputs))


def cross_attention():
    layer = LAYERS.MultiHeadAttention(
        2, 3, value_dim=5, output_shape=7, name="attention"
    )
    return attending(layer)


def attention_over_axes():
    layer = LAYERS.MultiHeadAttention(
        2, 3, attention_axes=(1, 2), use_bias=False, name="attention"
    )
    return attending(layer, (2, 3, 6), (2, 3, 4))


def separate_keys():
    names = {"query": (5, 6), "value": (7, 4), "key": (7, 3)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in names.items()}
    layer = LAYERS.MultiHeadAttention(2, 3, name="attention")
    x = layer(inputs["query"], inputs["value"], key=inputs["key"])
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))


def grouped_queries():
    layer = LAYERS.GroupQueryAttention(4, 4, 2, name="attention")
    return attending(layer, (5, 6), (7, 6))


ATTENTION = [
    self_attention,
    cross_attention,
    attention_over_axes,
    separate_keys,
    pytest.param(
        grouped_queries,
        marks=pytest.mark.skipif(
            not tiny.IS_KERAS_3, reason="Keras 2 has no GroupQueryAttention"
        ),
    ),
]


@pytest.mark.parametrize("make", ATTENTION)
def test_attention_is_trained_sparsely(tmp_path, make):
    paths = projections("attention") | {"out/kernel"}
    model_checks.check_model(make(), tmp_path, paths)


# Dense layers in other layers


@keras.utils.register_keras_serializable("test_models_layers")
class Branches(LAYERS.Layer):
    """Layers in a list and a dict; lists and dicts in its config and outputs."""

    def __init__(self, widths, heads, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.heads = list(widths), dict(heads)
        self.trunk = [LAYERS.Dense(n, name=f"trunk_{n}") for n in self.widths]
        self.ends = {
            name: LAYERS.Dense(n, name=name) for name, n in sorted(self.heads.items())
        }

    def build(self, input_shape):
        shape = input_shape
        for layer in self.trunk:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        for layer in self.ends.values():
            layer.build(shape)
        super().build(input_shape)

    def call(self, inputs):
        for layer in self.trunk:
            inputs = layer(inputs)
        return {name: layer(inputs) for name, layer in self.ends.items()}

    def compute_output_shape(self, input_shape):
        return {name: (*input_shape[:-1], n) for name, n in self.heads.items()}

    def get_config(self):
        own = {"widths": list(self.widths), "heads": dict(self.heads)}
        return {**super().get_config(), **own}


@keras.utils.register_keras_serializable("test_models_layers")
class Gated(LAYERS.Layer):
    """Takes a list or a dict of two tensors; it is built by `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.values = LAYERS.Dense(4, name="values")
        self.gates = LAYERS.Dense(4, activation="sigmoid", name="gates")

    def build(self, input_shape):
        values, gates = self._pair(input_shape)
        self.values.build(values)
        self.gates.build(gates)
        super().build(input_shape)

    def call(self, inputs):
        values, gates = self._pair(inputs)
        return self.values(values) * self.gates(gates)

    def compute_output_shape(self, input_shape):
        return (*self._pair(input_shape)[0][:-1], 4)

    def _pair(self, inputs):
        if isinstance(inputs, dict):
            return inputs["values"], inputs["gates"]
        return inputs


def branches():
    inputs = keras.Input((5,))
    outputs = Branches([6, 4], {"left": 3, "right": 2}, name="branches")(inputs)
    return keras.Model(inputs, outputs)


def gated(of_dicts):
    inputs = {
        "values": keras.Input((5,), name="values"),
        "gates": keras.Input((6,), name="gates"),
    }
    if not of_dicts:
        inputs = [inputs["values"], inputs["gates"]]
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(Gated(name="gated")(inputs)))


def einsum(equation="abc,cde->abde", shape=(5, 2, 4)):
    layer = LAYERS.EinsumDense(equation, shape, bias_axes=equation[-1], name="einsum")
    return around(layer, (5, 6), LAYERS.Flatten())


def time_distributed():
    block = [keras.Input((6,)), LAYERS.Dense(5, name="first"), LAYERS.ReLU()]
    layer = LAYERS.TimeDistributed(keras.Sequential(block, name="block"), name="each")
    return around(layer, (4, 6))


def normalised():
    layers = [
        keras.Input((6,)),
        LAYERS.Dense(8, name="a", use_bias=False),
        LAYERS.BatchNormalization(),
        LAYERS.Dense(8, name="b"),
        LAYERS.UnitNormalization(),
        LAYERS.Dense(8, name="c"),
        LAYERS.LayerNormalization(),
        LAYERS.PReLU(),
        LAYERS.Dense(3, name="out"),
    ]
    return keras.Sequential(layers)


def spectral():
    layer = LAYERS.Dense(5, name="dense")
    return around(LAYERS.SpectralNormalization(layer, name="spectral"), (6,))


COMPOSED = {
    "lists and dicts": (
        branches,
        {f"branches/{name}" for name in ("trunk_6", "trunk_4", "left", "right")},
    ),
    "inputs in a list": (lambda: gated(False), {"gated/values", "gated/gates", "out"}),
    "inputs in a dict": (lambda: gated(True), {"gated/values", "gated/gates", "out"}),
    "EinsumDense": (einsum, {"einsum", "out"}),
    "EinsumDense, with the outputs first": (
        lambda: einsum("...c,dc->...d", 4),
        {"einsum", "out"},
    ),
    "TimeDistributed": (time_distributed, {"each/block/first", "out"}),
    "normalisation": (normalised, {"a", "b", "c", "out"}),
    "SpectralNormalization": (spectral, {"spectral/dense", "out"}),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_layers_of_layers_are_trained_sparsely(tmp_path, name):
    make, layers = COMPOSED[name]
    paths = {f"{layer}/kernel" for layer in layers}
    # Without its name Keras 2 does not find it when it loads a model.
    known = {"SpectralNormalization": LAYERS.SpectralNormalization}
    with keras.utils.custom_object_scope(known):
        model_checks.check_model(make(), tmp_path, paths)


# Models in models, and what is shared


def nested():
    inner = [keras.Input((4,)), LAYERS.Dense(5, name="d"), LAYERS.ReLU()]
    inner = keras.Sequential(inner, name="inner")
    inputs = keras.Input((6,))
    x = inner(LAYERS.Dense(4, name="d")(inputs))
    middle = keras.Model(inputs, LAYERS.Dense(4, name="e")(x), name="middle")
    inputs = keras.Input((6,))
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(middle(inputs)))


def shared_layer():
    shared = LAYERS.Dense(6, activation="tanh", name="shared")
    inputs = keras.Input((6,))
    x = shared(LAYERS.Dense(6, name="between")(shared(inputs)))
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))


def shared_by_models():
    shared = LAYERS.Dense(6, activation="tanh", name="shared")
    models = []
    for name in ("left", "right"):
        inputs = keras.Input((6,))
        x = shared(LAYERS.Dense(6, name="own")(inputs))
        models.append(keras.Model(inputs, x, name=name))
    inputs = keras.Input((6,))
    x = LAYERS.Concatenate()([model(inputs) for model in models])
    return keras.Model(inputs, LAYERS.Dense(3, name="out")(x))


def twins():
    tower = [keras.Input((6,)), LAYERS.Dense(5, name="a"), LAYERS.Dense(4, name="b")]
    tower = keras.Sequential(tower, name="tower")
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    distance = LAYERS.Subtract()([tower(left), tower(right)])
    return keras.Model([left, right], LAYERS.Dense(3, name="out")(distance))


OF_MODELS = {
    "nested": (nested, {"middle/d", "middle/inner/d", "middle/e", "out"}),
    "a layer at two places": (shared_layer, {"shared", "between", "out"}),
    "a model at two places": (twins, {"tower/a", "tower/b", "out"}),
}


@pytest.mark.parametrize("name", OF_MODELS)
def test_models_of_models_are_trained_sparsely(tmp_path, name):
    make, layers = OF_MODELS[name]
    paths = {f"{layer}/kernel" for layer in layers}
    model_checks.check_model(make(), tmp_path, paths)


@keras.utils.register_keras_serializable("test_models_layers")
class Tower(keras.Model):
    """A Functional model of a class with a config and a method of its own."""

    def __init__(self, width, **kwargs):
        inputs = keras.Input((6,))
        hidden = LAYERS.Dense(width, name="hidden")
        super().__init__(inputs, LAYERS.Dense(3, name="end")(hidden(inputs)), **kwargs)
        self.width, self.hidden = width, hidden

    def hidden_units(self, x):
        return self.hidden(x)

    def get_config(self):
        return {"width": self.width, "name": self.name}


def test_a_functional_model_of_its_own_class_is_trained_sparsely(tmp_path):
    paths = {"hidden/kernel", "end/kernel"}
    plain = model_checks.check_model(Tower(5), tmp_path, paths)
    assert isinstance(plain, Tower)
    assert plain.hidden_units(tiny.integers((2, 6))).shape == (2, 5)


def test_such_a_model_in_another_keeps_its_class(tmp_path):
    """In Keras 3; in Keras 2 only a Functional model can take its place."""
    inputs = keras.Input((6,))
    x = LAYERS.Dense(2, name="out")(Tower(5, name="tower")(inputs))
    paths = {f"{name}/kernel" for name in ("tower/hidden", "tower/end", "out")}
    plain = model_checks.check_model(keras.Model(inputs, x), tmp_path, paths)
    assert isinstance(plain.get_layer("tower"), Tower) == tiny.IS_KERAS_3


def test_a_layer_shared_by_two_models_has_one_mask(tmp_path):
    paths = {f"{name}/kernel" for name in ("left/own", "left/shared", "right/own")}
    paths.add("out/kernel")
    model_checks.check_model(shared_by_models(), tmp_path, paths, is_loaded=False)
