"""Subclassed models: copied by their config, or wrapped whole."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow import keras

import rigl_keras
from rigl_keras import SET, RigL, Sparse, SparseModel

LAYERS = keras.layers


@keras.utils.register_keras_serializable("test_sparse_model")
class Towers(keras.Model):
    """Words and numbers in a dict, layers in a list, an argument in the config."""

    def __init__(self, width=6, **options):
        super().__init__(**options)
        self.width = width
        self.words = LAYERS.Embedding(9, 4, name="words")
        self.towers = [LAYERS.Dense(width, "relu", name=f"tower_{i}") for i in (0, 1)]
        self.drop = LAYERS.Dropout(0.5)
        self.out = LAYERS.Dense(3, name="out")

    def call(self, inputs, training=None):
        words = tf.reduce_mean(self.words(inputs["words"]), 1)
        sides = zip(self.towers, (words, inputs["numbers"]), strict=True)
        x = sum(tower(side) for tower, side in sides)
        return self.out(self.drop(x, training=training))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Bare(keras.Model):
    """As people write them: no config, two inputs in a list, built by a call."""

    def __init__(self):
        super().__init__()
        self.left, self.right = LAYERS.Dense(5, name="a"), LAYERS.Dense(5, name="b")
        self.out = keras.Sequential([LAYERS.ReLU(), LAYERS.Dense(3)], name="top")

    def call(self, inputs):
        left, right = inputs
        return self.out(self.left(left) + self.right(right))


def towers_data(samples=16):
    words = np.random.RandomState(0).randint(0, 9, (samples, 5))
    return {"words": words, "numbers": tiny.integers((samples, 7))}, targets(samples)


def bare_data(samples=16):
    return [tiny.integers((samples, 4)), tiny.integers((samples, 6), 1)], targets(
        samples
    )


def targets(samples):
    return tiny.integers((samples, 3), 2)


def built_towers():
    model = Towers(width=8, name="towers")
    model(towers_data()[0])
    return model


def train(model, data, callback, epochs=2):
    """Trains, with the invariants of every step."""
    x, y = data
    counts, changes = tiny.counts(model), tiny.UpdateSteps()
    callbacks = [callback, tiny.EveryStep(tiny.assert_zero_off_masks), changes]
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks)
    assert changes.steps
    assert tiny.counts(model) == counts


PATHS = ["tower_0/kernel", "tower_1/kernel", "out/kernel"]


def test_a_model_with_a_config_is_copied_and_computes_with_masked_weights(capsys):
    model = built_towers()
    x, _ = towers_data()
    sparse = rigl_keras.sparsify(model, 0.5, "uniform")
    dense = "left dense: words/embeddings (an embedding, not in `include`)"
    assert dense in capsys.readouterr().out
    assert isinstance(sparse, SparseModel) and sparse.name == "towers"
    masks = rigl_keras.get_masks(sparse)
    assert sorted(masks) == sorted(PATHS)
    assert all(mask.mean() == 0.5 for mask in masks.values())
    before = [weight.numpy() for weight in model.weights]
    expected = model.get_weights()
    for each in rigl_keras.sparse_kernels(sparse):
        index = [tuple(w.shape) for w in expected].index(masks[each.path].shape)
        expected[index] = expected[index] * masks[each.path]
    other = built_towers()
    other.set_weights(expected)
    np.testing.assert_allclose(sparse(x), other(x), rtol=1e-5, atol=1e-6)
    for left, right in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(left, right.numpy())


def test_a_copied_model_trains_is_saved_and_goes_on(tmp_path):
    data = towers_data()
    sparse = tiny.compiled(tiny.sparsify(built_towers()))
    train(sparse, data, tiny.forever(RigL))
    path = os.path.join(tmp_path, "towers.keras")
    sparse.save(path)
    loaded = keras.models.load_model(path)
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), rigl_keras.get_masks(sparse))
    np.testing.assert_allclose(
        loaded.predict(data[0], verbose=0), sparse.predict(data[0], verbose=0), 1e-5
    )
    assert loaded.sparse.layer.width == 8
    train(loaded, data, tiny.forever(RigL))


def test_strip_gives_the_class_back():
    x, _ = towers_data()
    sparse = tiny.sparsify(built_towers(), include="words/embeddings")
    plain = rigl_keras.strip(sparse)
    assert type(plain) is Towers and plain.width == 8
    np.testing.assert_allclose(plain(x), sparse(x), rtol=1e-5, atol=1e-6)
    assert (plain.words.embeddings.numpy() == 0).mean() == 0.5


def test_distributions_overrides_and_masks_go_by_the_models_paths():
    sparse = rigl_keras.sparsify(
        built_towers(), 0.5, overrides={"out/*": 0}, initializer="unit_scaled"
    )
    assert sorted(rigl_keras.get_masks(sparse)) == PATHS[:2]
    masks = rigl_keras.get_masks(tiny.sparsify(built_towers(), seed=5))
    again = rigl_keras.sparsify(built_towers(), masks=masks, verbose=False)
    tiny.assert_same_masks(masks, rigl_keras.get_masks(again))


def test_a_model_without_a_config_is_refused_with_the_way_out():
    model = Bare()
    model(bare_data()[0])
    with pytest.raises(ValueError, match=r"SparseModel\(rigl_keras.Sparse\(model"):
        rigl_keras.sparsify(model)


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("callback", [RigL, SET])
def test_a_model_without_a_config_is_wrapped_whole(tmp_path, built, callback):
    def make(seed=0):
        keras.utils.set_random_seed(seed)
        net = Bare()
        if built:
            net(bare_data()[0])
        model = SparseModel(Sparse(net, 0.5, seed=1))
        model(bare_data()[0])  # which builds it
        return tiny.compiled(model)

    data, model = bare_data(), make()
    assert sorted(rigl_keras.get_masks(model)) == sorted(
        ["a/kernel", "b/kernel", f"top/{model.sparse.layer.out.layers[-1].name}/kernel"]
    )
    train(model, data, tiny.forever(RigL))
    path = os.path.join(tmp_path, "bare.weights.h5")
    model.save_weights(path)
    other = make(seed=3)
    other.load_weights(path)
    masks = list(rigl_keras.get_masks(model).values())
    for left, right in zip(masks, rigl_keras.get_masks(other).values(), strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_allclose(
        other.predict(data[0], verbose=0), model.predict(data[0], verbose=0), 1e-5
    )


def test_a_model_that_no_call_has_built_is_refused_with_the_way_out():
    model = tiny.compiled(SparseModel(Sparse(Bare(), 0.5)))
    with pytest.raises(ValueError, match="model on a batch"):
        model.fit(*bare_data(), verbose=0, callbacks=[tiny.forever(RigL)])
    model(bare_data()[0])
    train(model, bare_data(), tiny.forever(RigL))


def test_a_tensorflow_checkpoint_keeps_all_of_it(tmp_path):
    model = tiny.compiled(tiny.sparsify(built_towers()))
    train(model, towers_data(), tiny.forever(RigL))
    saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = saved.save(os.path.join(tmp_path, "ckpt"))
    other = tiny.compiled(tiny.sparsify(built_towers(), seed=7))
    rigl_keras.Static().prepare(other)
    checkpoint = tf.train.Checkpoint(model=other, optimizer=other.optimizer)
    checkpoint.restore(path).assert_existing_objects_matched()
    tiny.assert_same_masks(rigl_keras.get_masks(model), rigl_keras.get_masks(other))


def test_inside_a_functional_model():
    inputs = {
        "words": keras.Input((5,), dtype="int32", name="words"),
        "numbers": keras.Input((7,), name="numbers"),
    }
    model = keras.Model(inputs, Towers(name="towers")(inputs))
    sparse = tiny.compiled(tiny.sparsify(model))
    assert sorted(rigl_keras.get_masks(sparse)) == sorted(
        f"towers/{path}" for path in PATHS
    )
    train(sparse, towers_data(), tiny.forever(RigL))
    x, _ = towers_data()
    np.testing.assert_allclose(
        rigl_keras.strip(sparse).predict(x, verbose=0),
        sparse.predict(x, verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )


# What is refused


def test_what_is_no_sparse_model_is_refused():
    with pytest.raises(TypeError, match="Sparse"):
        SparseModel(Bare())
    with pytest.raises(ValueError, match="layer"):
        SparseModel(Sparse(LAYERS.Dense(3)))


def test_strip_of_a_model_that_wraps_its_own_layers_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = Sparse(LAYERS.Dense(4), 0.5)

        def call(self, inputs):
            return self.hidden(inputs)

    model = Own()
    model(tiny.integers((2, 3)))
    with pytest.raises(ValueError, match="SparseModel"):
        rigl_keras.strip(model)
