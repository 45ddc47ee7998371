"""Copies of models that TensorFlow Model Optimization has wrapped."""

import numpy as np
import pytest
import tiny
from tensorflow import keras
from wrapped_models import (
    mlp,
    nested,
    predicted,
    pruned_mlp,
    pruned_nested,
    their_masks,
    theirs,
    wrap,
    wrappers,
)

import rigl_keras
from rigl_keras import SET, GradientFlow, RigL
from rigl_keras.core.kernels import find_kernels

LAYERS, OPTIMIZERS = keras.layers, keras.optimizers
NEVER = 10**6  # as a schedule's frequency: it prunes at its first step only


@pytest.mark.slow
def test_a_copy_has_the_masks_the_outputs_and_the_plain_paths():
    model = pruned_nested()
    masks, before = their_masks(model), [w.numpy() for w in model.weights]
    sparse = rigl_keras.from_tfmot(model, verbose=False)
    paths = ["inner/conv/kernel", "hidden/kernel", "out/kernel"]
    assert [each.path for each in find_kernels(nested())] == paths
    found = rigl_keras.get_masks(sparse)
    assert list(found) == paths
    for path, (mask,) in zip(paths, masks.values(), strict=True):
        assert 0.4 < mask.mean() < 0.6
        np.testing.assert_array_equal(found[path], mask == 1)
    tiny.assert_zero_off_masks(sparse)
    np.testing.assert_array_equal(predicted(sparse), predicted(model))
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_weights_that_tfmot_would_mask_at_the_next_call_are_masked():
    model = pruned_mlp()
    kernel, mask, _ = wrappers(model)["out"].pruning_vars[0]
    dense = tiny.integers(kernel.shape) + 5
    kernel.assign(dense)
    sparse = rigl_keras.from_tfmot(model, verbose=False)
    assert (mask.numpy() == 0).any()
    np.testing.assert_array_equal(
        tiny.weights(sparse)["out/kernel"], dense * mask.numpy()
    )


@pytest.mark.slow
def test_single_layers_embeddings_and_cells_keep_their_masks(capsys):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            wrap(LAYERS.Embedding(9, 6, name="words")),
            wrap(LAYERS.LSTM(4, name="lstm")),
            LAYERS.Dense(4, name="dense"),
            wrap(LAYERS.Dense(3, name="out"), sparsity=0.75),
        ]
    )
    tiny.compiled(model)
    x = np.random.RandomState(0).randint(0, 9, (16, 5))
    model.fit(
        x,
        tiny.integers((16, 3)),
        4,
        verbose=0,
        callbacks=[theirs().UpdatePruningStep()],
    )
    sparse = rigl_keras.from_tfmot(model)
    assert "left dense: dense/kernel (no mask was given)." in capsys.readouterr().out
    found = rigl_keras.get_masks(sparse)
    assert list(found) == [
        "words/embeddings",
        "lstm/lstm_cell/kernel",
        "lstm/lstm_cell/recurrent_kernel",
        "out/kernel",
    ]
    masks = [mask for each in their_masks(model).values() for mask in each]
    for ours, mask in zip(found.values(), masks, strict=True):
        np.testing.assert_array_equal(ours, mask == 1)
    np.testing.assert_array_equal(
        sparse.predict(x, verbose=0), model.predict(x, verbose=0)
    )


class PrunedBias(LAYERS.Dense):
    """Lets TFMOT prune its bias, which can have no mask of ours."""

    def get_prunable_weights(self):
        return [self.kernel, self.bias]


def pruned_bias():
    model = keras.Sequential([keras.Input((6,)), wrap(PrunedBias(3, name="out"), 0.34)])
    wrappers(model)["out"].layer.bias.assign([0.25, 3.0, -2.0])
    tiny.compiled(model)
    tiny.fit(model, theirs().UpdatePruningStep())
    return model, wrappers(model)["out"].layer.bias


def test_pruned_biases_keep_their_zeros_and_are_named(capsys):
    model, bias = pruned_bias()
    sparse = rigl_keras.from_tfmot(model)
    assert "train densely: bias." in capsys.readouterr().out
    assert list(rigl_keras.get_masks(sparse)) == ["out/kernel"]
    copied = sparse.layers[0].layer.bias.numpy()
    np.testing.assert_array_equal(copied == 0, [True, False, False])
    np.testing.assert_array_equal(copied, bias.numpy())
    assert rigl_keras.from_tfmot(model, verbose=False) is not None
    assert capsys.readouterr().out == ""


def test_pruned_biases_stay_pruned_in_a_training():
    model, bias = pruned_bias()
    tiny.fit(model, tiny.forever(RigL), epochs=2)
    np.testing.assert_array_equal(bias.numpy() == 0, [True, False, False])


@pytest.mark.skipif(not tiny.IS_KERAS_3, reason="in Keras 2 there are such models")
def test_in_keras_3_the_error_says_how_to_get_to_keras_2():
    with pytest.raises(ValueError, match=r"Keras 2 only.*TF_USE_LEGACY_KERAS=1"):
        rigl_keras.from_tfmot(mlp())


def test_models_with_nothing_to_take_over_are_refused():
    theirs()
    dropout = keras.Sequential([keras.Input((4,)), wrap(LAYERS.Dropout(0.5))])
    for model in (mlp(), tiny.sparse_mlp(), dropout):
        with pytest.raises(ValueError, match="no weight that TFMOT prunes"):
            rigl_keras.from_tfmot(model)


def test_wrapped_layers_below_other_layers_are_refused():
    inner = LAYERS.TimeDistributed(wrap(LAYERS.Dense(3, name="dense")))
    model = keras.Sequential([keras.Input((5, 4)), inner])
    with pytest.raises(ValueError, match=r"prune_low_magnitude_dense.*cannot be"):
        rigl_keras.from_tfmot(model)


def test_wrapped_models_and_layers_take_no_second_mask():
    with pytest.raises(ValueError, match=r"rigl_keras\.from_tfmot"):
        rigl_keras.sparsify(wrap(mlp()))
    with pytest.raises(ValueError, match=r"rigl_keras\.from_tfmot"):
        rigl_keras.Sparse(wrap(LAYERS.Dense(3)))


def test_the_way_back_keeps_the_zeros():
    sparse = tiny.sparse_mlp(sparsity=0.75)
    tiny.fit(sparse, tiny.forever(SET))
    masks = list(rigl_keras.get_masks(sparse).values())
    # Zeros on the mask would be as small as those off it.
    for each, mask in zip(rigl_keras.sparse_kernels(sparse), masks, strict=True):
        each.kernel.assign(np.where(mask, each.kernel.numpy() + 9, 0))
    before = list(tiny.weights(sparse).values())
    back = wrap(rigl_keras.strip(sparse), 0.75, frequency=NEVER)
    tiny.compiled(back, OPTIMIZERS.SGD(1e-5))
    tiny.fit(back, theirs().UpdatePruningStep(), epochs=2)
    found = find_kernels(theirs().strip_pruning(back))
    for mask, kernel, value in zip(masks, found, before, strict=True):
        np.testing.assert_array_equal(kernel.variable.numpy() != 0, mask)
        assert (kernel.variable.numpy() != value).any()  # It was trained.


# In patterns


def convolutional(options):
    """A convolution in a pattern, a dense layer in another, and one in none."""
    blocks = {"block_size": (4, 1)}
    model = keras.Sequential(
        [
            keras.Input((4, 4, 4)),
            wrap(LAYERS.Conv2D(8, 3, activation="relu", name="conv"), **options),
            LAYERS.Flatten(),
            wrap(LAYERS.Dense(8, name="blocks"), **blocks),
            wrap(LAYERS.Dense(3, name="out"), 0.75),
        ]
    )
    for index, weight in enumerate(model.trainable_weights):
        generator = np.random.RandomState(index)
        weight.assign(generator.randn(*weight.shape).astype(np.float32))
    return tiny.compiled(model)


def fitted(model):
    """Has TFMOT prune a model; returns the inputs."""
    x = np.random.RandomState(5).randn(8, 4, 4, 4).astype(np.float32)
    step = theirs().UpdatePruningStep()
    model.fit(x, tiny.integers((8, 3)), 4, verbose=0, callbacks=[step])
    return x


def test_patterns_are_taken_over_with_the_masks(tmp_path):
    theirs()
    model = convolutional({"sparsity_m_by_n": (1, 4)})
    x = fitted(model)
    sparse = rigl_keras.from_tfmot(model, verbose=False)
    found = {each.path: str(each.pattern) for each in rigl_keras.sparse_kernels(sparse)}
    assert found == {
        "conv/kernel": "n_of_m(3, 4)",
        "blocks/kernel": "blocks(4, 1)",
        "out/kernel": "unstructured",
    }
    for path, (mask,) in zip(found, their_masks(model).values(), strict=True):
        np.testing.assert_array_equal(rigl_keras.get_masks(sparse)[path], mask == 1)
    # 3 of each 4 input channels, at every tap and output.
    conv = rigl_keras.get_masks(sparse)["conv/kernel"]
    np.testing.assert_array_equal(conv.sum(2), np.full((3, 3, 8), 3))
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(sparse.predict(x, verbose=0), expected)
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    tiny.assert_same_masks(rigl_keras.get_masks(loaded), rigl_keras.get_masks(sparse))
    kernels = rigl_keras.sparse_kernels(loaded)
    assert {each.path: str(each.pattern) for each in kernels} == found


def test_a_wrapper_of_n_of_m_that_has_not_pruned_yet_is_copied_with_masks_of_ones():
    theirs()
    sparse = rigl_keras.from_tfmot(
        convolutional({"sparsity_m_by_n": (2, 4)}), verbose=False
    )
    assert all(mask.all() for mask in rigl_keras.get_masks(sparse).values())
    sparse = tiny.compiled(sparse)
    rigl_keras.prune_once(sparse, "magnitude", 0.5, ranking="layer")
    conv = rigl_keras.get_masks(sparse)["conv/kernel"]
    np.testing.assert_array_equal(conv.sum(2), np.full((3, 3, 8), 2))


def test_a_file_of_tfmot_has_lost_its_n_of_m_and_the_pattern_can_be_named(tmp_path):
    """Its wrapper leaves `sparsity_m_by_n` out of its config."""
    theirs()
    model = convolutional({"sparsity_m_by_n": (1, 4)})
    fitted(model)
    model.save(tmp_path / "model.keras")
    with theirs().prune_scope():
        loaded = keras.models.load_model(tmp_path / "model.keras")
    copies = (
        rigl_keras.from_tfmot(loaded, verbose=False),
        rigl_keras.from_tfmot(
            loaded, verbose=False, pattern={"conv/*": "n_of_m(3, 4)"}
        ),
    )
    found = [rigl_keras.sparse_kernels(copy)[0].pattern for copy in copies]
    assert list(map(str, found)) == ["unstructured", "n_of_m(3, 4)"]
    masks = [rigl_keras.get_masks(copy) for copy in copies]
    tiny.assert_same_masks(*masks)


# Before a training


def test_masks_of_tfmot_are_seen_while_it_trains():
    model = pruned_nested()
    masks = [mask == 1 for (mask,) in their_masks(model).values()]
    for ours, mask in zip(rigl_keras.get_masks(model).values(), masks, strict=True):
        np.testing.assert_array_equal(ours, mask)
    table = rigl_keras.summary(model, print_fn=None)
    plain = rigl_keras.summary(nested(), print_fn=None)
    assert [row.path for row in table.rows] == [row.path for row in plain.rows]
    active = [row.active for row in table.rows if row.masked]
    assert active == [mask.sum() for mask in masks] == [45, 70, 10]


def test_a_fresh_wrapper_trains_densely_and_says_so():
    model = tiny.compiled(wrap(mlp()))
    with pytest.warns(UserWarning, match="trains densely"):
        tiny.fit(model, tiny.forever(RigL))
    rigl_keras.prune_once(model, "magnitude", 0.75, ranking="layer")
    tiny.fit(model, tiny.forever(RigL))
    assert tiny.counts(model) == {"hidden/kernel": 12, "out/kernel": 6}


def test_gradients_are_measured_only_where_that_prunes_nothing():
    data = tiny.data()
    model = pruned_mlp()
    with pytest.raises(ValueError, match=r"rigl_keras\.Static\(\)"):
        rigl_keras.FlowMeter(model, data).measure()
    flow = GradientFlow(data, every=2)
    tiny.fit(model, flow, tiny.forever(RigL))
    sparse = rigl_keras.from_tfmot(model, verbose=False)
    measured = rigl_keras.FlowMeter(model, data).measure()
    assert measured == rigl_keras.FlowMeter(tiny.compiled(sparse), data).measure()
    assert len(flow.records) == 2 and len(flow.updates) == 4
