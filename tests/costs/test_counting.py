"""What models cost: uses of every kind of kernel, and the conventions."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import networks
from rigl_keras.costs import counting

LAYERS = keras.layers


def model_of(shape, *layers, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def counted(model, **options):
    """Uses, outputs and units of every kernel, by the end of its path."""
    rows = rigl_keras.model_cost(model, **options).rows
    return {
        "/".join(row.path.split("/")[1:]): (row.uses, row.outputs, row.units)
        for row in rows
    }


# Models


def test_shared_and_nested_layers_count_as_often_as_they_are_called():
    shared = LAYERS.Dense(3, name="shared")
    inner_inputs = keras.Input((4, 3))
    inner = keras.Model(inner_inputs, shared(shared(inner_inputs)), name="inner")
    inputs = keras.Input((4, 3))
    x = LAYERS.Add()([inner(inputs), inner(shared(inputs))])
    model = keras.Model(inputs, LAYERS.Dense(2, name="out")(x))
    rows = {row.path: row for row in rigl_keras.model_cost(model).rows}
    assert rows.pop("out/kernel").uses == 4
    (row,) = rows.values()
    assert (row.uses, row.outputs, row.units) == (20, 60, 3)


def test_a_sparse_model_counts_its_masks():
    model = tiny.sparsify(tiny.mlp(), 0.5)
    masks = {"hidden/kernel": np.zeros((6, 8)), "out/kernel": np.ones((8, 3))}
    masks["hidden/kernel"][:2] = 1
    rigl_keras.set_masks(model, masks)
    found = rigl_keras.model_cost(model)
    hidden, out = found.rows
    assert (hidden.active, hidden.size, hidden.masked) == (16, 48, True)
    assert hidden.density == pytest.approx(1 / 3)
    # 16 products and as many sums less one for each output, 8 biases and 8 ReLUs.
    assert (hidden.flops, hidden.dense_flops) == (16 + 16 - 8 + 16, 48 + 48 - 8 + 16)
    # One bit for each of 48 weights, and none where all are active.
    assert (hidden.bytes, hidden.dense_bytes) == (64 + 6 + 32, 192 + 32)
    assert (out.flops, out.bytes) == (out.dense_flops, out.dense_bytes)
    assert (out.flops, out.bytes) == (2 * 24 + 3, 4 * 27)
    assert (found.parameters, found.active_parameters) == (83, 51)
    assert (found.inference_flops, found.dense_flops) == (40 + 51, 104 + 51)
    assert (found.size_bytes, found.dense_size_bytes) == (102 + 108, 224 + 108)
    assert found.uncounted == []


def test_a_plan_takes_the_place_of_masks_and_is_not_rounded():
    for model in (tiny.mlp(), tiny.sparsify(tiny.mlp(), 0.9)):
        found = rigl_keras.model_cost(model, {"hidden/kernel": 0.7})
        hidden, out = found.rows
        assert hidden.active == pytest.approx(0.3 * 48)
        assert hidden.flops == pytest.approx(2 * 0.3 * 48 + 8)
        assert hidden.bytes == pytest.approx(4 * 0.3 * 48 + 6 + 32)
        assert (out.density, out.masked) == (1, False)


def test_batch_norm_adds_two_parameters_and_no_flops_frozen_or_not():
    dense = model_of((4, 4, 1), LAYERS.Conv2D(3, 2, name="conv"))
    norm = LAYERS.BatchNormalization()
    model = model_of((4, 4, 1), LAYERS.Conv2D(3, 2, name="conv"), norm)
    before, after = map(rigl_keras.model_cost, (dense, model))
    assert after.parameters == before.parameters + 6
    assert after.inference_flops == before.inference_flops
    assert after.size_bytes == before.size_bytes
    norm.trainable = False
    assert rigl_keras.model_cost(model) == after


def test_several_inputs_in_a_dict_and_a_batch_of_a_fixed_size():
    inputs = {"a": keras.Input((4, 3), name="a"), "b": keras.Input((2, 3), name="b")}
    shared = LAYERS.Dense(5, name="shared")
    x = LAYERS.Concatenate(axis=1)([shared(inputs["a"]), shared(inputs["b"])])
    model = keras.Model(inputs, x)
    assert counted(model) == {"kernel": (6, 30, 5)}
    fixed = keras.Input((4, 3), batch_size=8)
    assert counted(keras.Model(fixed, LAYERS.Dense(5)(fixed))) == {"kernel": (4, 20, 5)}


def test_positions_that_become_part_of_the_batch_are_counted():
    inputs = keras.Input((4, 6, 3))
    windows = LAYERS.Lambda(lambda x: tf.reshape(x, (-1, 3, 3)))(inputs)
    model = keras.Model(inputs, LAYERS.Dense(5, name="dense")(windows))
    assert counted(model) == {"kernel": (24, 120, 5)}


class Net(keras.Model):
    """Uses `twice` two times, `looped` in a loop, and `unused` never."""

    def __init__(self):
        super().__init__()
        self.twice = LAYERS.Dense(3, name="twice")
        self.looped = LAYERS.Dense(3, name="looped")
        self.unused = LAYERS.Dense(3, name="unused")
        self.unused.build((None, 3))

    def call(self, inputs):
        x = self.twice(self.twice(inputs))
        return tf.while_loop(
            lambda i, x: i < 3, lambda i, x: (i + 1, self.looped(x)), (0, x)
        )[1]


def test_a_subclassed_model_is_counted_by_the_shape_that_it_is_given():
    model = Net()
    model(np.zeros((2, 4, 3), np.float32))
    unknown = rigl_keras.model_cost(model)
    assert unknown.uncounted == [row.path for row in unknown.rows]
    found = rigl_keras.model_cost(model, input_shape=(4, 3))
    rows = {row.path.split("/")[-2]: row for row in found.rows}
    assert (rows["twice"].uses, rows["twice"].outputs) == (8, 24)
    # What is unknown is not 0, and neither are sums.
    assert rows["looped"].flops is None and rows["unused"].dense_flops is None
    assert found.inference_flops is None and found.dense_flops is None
    assert [found.reasons[path] for path in found.uncounted] == [
        "its layer is called inside a loop or a condition",
        "its layer is not called",
    ]
    assert found.size_bytes == 3 * 4 * (9 + 3)


def test_a_sparse_subclassed_model_of_several_inputs():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.left, self.right = LAYERS.Dense(4), LAYERS.Dense(4)

        def call(self, inputs):
            return self.left(inputs["x"]) + self.right(inputs["y"])

    model = rigl_keras.SparseModel(rigl_keras.Sparse(Pair(), 0.5))
    model({"x": np.zeros((2, 4, 3)), "y": np.zeros((2, 1, 6))})
    found = rigl_keras.model_cost(model, input_shape={"x": (4, 3), "y": (1, 6)})
    assert [(row.uses, row.active) for row in found.rows] == [(4, 6), (1, 12)]


def test_what_is_not_known_has_a_row_without_flops():
    @keras.utils.register_keras_serializable("test_cost")
    class Own(LAYERS.Layer):
        def build(self, input_shape):
            self.w = self.add_weight(name="w", shape=(input_shape[-1], 4))

        def call(self, inputs):
            return tf.matmul(inputs, self.w)

    class Tied(LAYERS.Layer):
        def __init__(self, embedding):
            super().__init__()
            self.embedding = embedding

        def call(self, inputs):
            return tf.matmul(inputs, self.embedding.embeddings, transpose_b=True)

    found = rigl_keras.model_cost(model_of((3,), Own(name="own"), LAYERS.Dense(2)))
    assert found.reasons == {"own/w": "what Own does with it is not known"}
    assert found.uncounted == ["own/w"]
    # The others are counted all the same.
    assert (found.inference_flops, found.counted_flops) == (None, 2 * 8 + 2)
    assert found.counted_dense_flops == 2 * 8 + 2
    assert (found.rows[0].units, found.rows[1].flops) == (4, 2 * 8 + 2)
    tied = rigl_keras.model_cost(model_of((3,), Tied(built_embedding())))
    assert len(tied.uncounted) == 1


def built_embedding():
    embedding = LAYERS.Embedding(5, 3, name="embedding")
    embedding.build(None)
    return embedding


def test_a_layer_after_inputs_of_unknown_size_is_counted_if_it_can_be():
    layers = [
        LAYERS.Conv2D(2, 3, name="conv"),
        LAYERS.GlobalAveragePooling2D(),
        LAYERS.Dense(3, name="dense"),
    ]
    model = model_of((None, None, 1), *layers)
    found = rigl_keras.model_cost(model)
    assert found.uncounted == ["conv/kernel"] and found.rows[1].uses == 1
    assert rigl_keras.model_cost(model, input_shape=(9, 8, 1)).rows[0].uses == 42


def test_a_lookup_of_unknown_length_multiplies_nothing_and_the_reverse_is_unknown():
    class Reversible(LAYERS.Embedding):
        def call(self, inputs, reverse=False):
            if reverse:
                return tf.matmul(inputs, self.embeddings, transpose_b=True)
            return super().call(inputs)

    class Tied(keras.Model):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def call(self, inputs):
            return self.table(self.table(inputs), reverse=True)

    table = Reversible(5, 3, name="table")
    found = rigl_keras.model_cost(model_of((None,), table, dtype="int32"))
    assert found.inference_flops == 0
    tied = rigl_keras.model_cost(Tied(table), input_shape=(4,))
    assert len(tied.uncounted) == len(tied.rows) == 1


@pytest.mark.parametrize(
    ("name", "shape", "flops"),
    [("embeddings", (5, 4), 0), ("token", (1, 1, 4), 0), ("table", (5, 4), None)],
)
def test_positions_and_vectors_that_a_layer_adds_multiply_nothing(name, shape, flops):
    class Adding(LAYERS.Layer):
        def build(self, input_shape):
            self.added = self.add_weight(name=name, shape=shape)

        def call(self, inputs):
            return inputs + self.added

    (row,) = rigl_keras.model_cost(model_of((5, 4), Adding())).rows
    assert row.flops == flops
    if flops == 0:
        assert row.bytes == 4 * np.prod(shape)


def test_counting_leaves_the_model_as_it_was():
    model = model_of(
        (4, 4, 1),
        LAYERS.Conv2D(3, 2, activity_regularizer="l2"),
        LAYERS.BatchNormalization(),
        LAYERS.Dropout(0.5),
        LAYERS.Flatten(),
        LAYERS.Dense(2, kernel_regularizer="l2"),
    )
    x = tiny.integers((3, 4, 4, 1))
    model(x)
    losses = [float(loss) for loss in model.losses]
    weights = model.get_weights()
    for _ in range(2):
        rigl_keras.model_cost(model)
        assert [float(loss) for loss in model.losses] == losses
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any("call" in vars(layer) for layer in [model, *model.layers])
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((3, 2)), verbose=0)
    rigl_keras.model_cost(model)


def test_a_trace_that_fails_leaves_the_layers_as_they_were():
    model = model_of((4, 4, 1), LAYERS.Conv2D(3, 2), LAYERS.Flatten(), LAYERS.Dense(2))
    with pytest.raises(Exception, match=r"(?i)shape|incompatible|dimension|axis"):
        rigl_keras.model_cost(model, input_shape=(5, 5, 1))
    assert not any("call" in vars(layer) for layer in model.layers)


def test_the_same_is_counted_under_mixed_precision_and_a_strategy():
    expected = rigl_keras.model_cost(networks.lenet5((16, 16, 1), 4))
    try:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        half = networks.lenet5((16, 16, 1), 4)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    with tiny.two_replicas().scope():
        mirrored = tiny.sparsify(networks.lenet5((16, 16, 1), 4), 0.0)
    for model in (half, mirrored):
        found = rigl_keras.model_cost(model)
        assert found.dense_flops == expected.inference_flops
        assert found.parameters == expected.parameters


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("model",), TypeError, "a model"),
        ((keras.Sequential([LAYERS.Dense(2)]),), ValueError, "no kernel|not yet been"),
        ((tiny.mlp(), {"conv/kernel": 0.5}), ValueError, r"conv/kernel.*hidden/kernel"),
        ((tiny.mlp(), {"out/kernel": 1.0}), ValueError, r"out/kernel.*\[0, 1\)"),
        ((tiny.mlp(), {"out/kernel": "most"}), TypeError, "must be a number"),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        rigl_keras.model_cost(*arguments)


# Training


def test_training_flops_are_the_papers_formulas():
    plan = {"hidden/kernel": 0.75, "out/kernel": 0.5}
    found = rigl_keras.model_cost(tiny.mlp(), plan)
    sparse, dense = 2 * 12 + 8 + 2 * 12 + 3, 2 * 48 + 8 + 2 * 24 + 3
    assert (found.inference_flops, found.dense_flops) == (sparse, dense)
    examples = 50 * 8
    expected = {
        "dense": 3 * dense,
        "static": 3 * sparse,
        "set": 3 * sparse,
        "snip": 3 * sparse,
        "snfs": 2 * sparse + dense,
        "rigl": (3 * sparse * 4 + 2 * sparse + dense) / 5,
    }
    assert {*expected, "pruning"} == set(counting.METHODS)
    for method, example in expected.items():
        options = {"steps": 50, "batch_size": 8, "update_freq": 4}
        flops = rigl_keras.training_flops(found, method, **options)
        assert flops == pytest.approx(examples * example)
        again = rigl_keras.training_flops(
            tiny.mlp(), method, sparsities=plan, **options
        )
        assert again == flops


def pruned(schedule, steps=40):
    plan = {"hidden/kernel": 0.5}
    flops = rigl_keras.training_flops(
        tiny.mlp(), "pruning", steps, 2, schedule=schedule, sparsities=plan
    )
    # Of the dense kernel `out` 48 + 3 FLOPs, of `hidden` 96 products and sums, and 8.
    mean = (flops / (3 * 2 * steps) - 51 - 8) / 96
    return 1 - mean  # of the sparsity


def test_pruning_costs_the_mean_over_its_schedule():
    # Nothing before step 10, then 0, 0.7 and from step 30 on 0.8, each for ten steps.
    schedule = rigl_keras.schedules.polynomial_decay(0.0, 0.8, 10, 30, frequency=10)
    middle = 0.8 * (1 - 0.5**3)
    assert pruned(schedule) == pytest.approx((10 * middle + 11 * 0.8) / 40, abs=1e-6)
    assert pruned(lambda step: 0.5 if step > 30 else 0.1) == pytest.approx(
        (10 * 0.5 + 30 * 0.1) / 40
    )
    constant = rigl_keras.schedules.constant_sparsity(0.6, 20, frequency=50)
    assert pruned(constant) == pytest.approx(21 * 0.6 / 40, abs=1e-6)


def test_pruning_starts_from_masks_of_ones():
    model = tiny.sparsify(tiny.mlp(), 0.0)
    flops = rigl_keras.training_flops(model, "pruning", 1, 1, schedule=lambda _: 0.5)
    assert flops == pytest.approx(3 * (48 + 24 + 11))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gmp"}, "method.*'gmp'"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"update_freq": 0}, "update_freq"),
        ({"method": "pruning"}, "schedule"),
        ({"method": "pruning", "schedule": lambda _: 0.5}, "No kernel has a mask"),
        (
            {
                "method": "pruning",
                "schedule": lambda _: 1.0,
                "sparsities": {"out/kernel": 0.5},
            },
            r"\[0, 1\)",
        ),
        (
            {
                "model": rigl_keras.model_cost(tiny.mlp()),
                "sparsities": {"out/kernel": 0.5},
            },
            "give them to model_cost",
        ),
    ],
)
def test_training_flops_refuses(arguments, message):
    defaults = {"model": tiny.mlp(), "method": "rigl", "steps": 5, "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        rigl_keras.training_flops(**{**defaults, **arguments})


def test_training_flops_of_an_uncounted_model_are_refused_by_name():
    model = model_of((None, 3), LAYERS.Dense(2, name="wide"))
    with pytest.raises(ValueError, match=r"wide/kernel.*input_shape"):
        rigl_keras.training_flops(model, "dense", 5, 2)
    flops = rigl_keras.training_flops(model, "dense", 5, 2, input_shape=(7, 3))
    assert flops == 5 * 2 * 3 * 7 * (2 * 6 + 2)
