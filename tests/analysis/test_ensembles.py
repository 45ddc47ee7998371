import itertools
import json

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from tensorflow import keras

from rigl_keras.analysis import ensembles

MODELS, EXAMPLES, CLASSES = 3, 20, 4


def distributions(seed, *shape):
    logits = 3 * np.random.RandomState(seed).normal(size=shape)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


PREDICTED = distributions(0, MODELS, EXAMPLES, CLASSES)
REFERENCE = distributions(1, EXAMPLES, CLASSES)
LABELS = np.random.RandomState(2).randint(CLASSES, size=EXAMPLES)
PAIRS = list(itertools.combinations(range(MODELS), 2))


def share_that_differs(p, q):
    return np.mean([np.argmax(a) != np.argmax(b) for a, b in zip(p, q, strict=True)])


def symmetric_kl(p, q):
    both = [(entropy(a, b) + entropy(b, a)) / 2 for a, b in zip(p, q, strict=True)]
    return np.mean(both)


def jsd(p, q):
    return np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)])


MEASURES = {"disagreement": share_that_differs, "kl": symmetric_kl, "jsd": jsd}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_of_pairs_and_with_the_reference(name):
    found = ensembles.similarity(PREDICTED, LABELS, REFERENCE)
    pairs = [MEASURES[name](PREDICTED[i], PREDICTED[j]) for i, j in PAIRS]
    np.testing.assert_allclose(getattr(found, name), pairs)
    compared = [MEASURES[name](each, REFERENCE) for each in PREDICTED]
    np.testing.assert_allclose(getattr(found, f"reference_{name}"), compared)


def test_accuracies_of_networks_and_ensemble():
    found = ensembles.similarity(PREDICTED, LABELS)
    for accuracy, predicted in zip(found.accuracies, PREDICTED, strict=True):
        hits = [np.argmax(row) == y for row, y in zip(predicted, LABELS, strict=True)]
        assert accuracy == np.mean(hits)
    total = PREDICTED[0] + PREDICTED[1] + PREDICTED[2]
    hits = [np.argmax(row) == y for row, y in zip(total, LABELS, strict=True)]
    assert found.ensemble_accuracy == np.mean(hits)
    assert found.reference_kl is None
    assert "reference_kl" not in found.as_dict()


def test_the_ensemble_averages_probabilities_and_does_not_vote():
    sure, unsure = [0.9, 0.1], [0.4, 0.6]
    found = ensembles.similarity([[sure], [unsure], [unsure]], [0])
    assert found.ensemble_accuracy == 1
    assert found.accuracies.tolist() == [1, 0, 0]


def test_probabilities_of_exactly_0_leave_divergences_finite():
    found = ensembles.similarity([[[1.0, 0.0]], [[0.0, 1.0]]], [0])
    assert found.jsd == pytest.approx(np.log(2))
    assert np.isfinite(found.kl).all()
    assert found.kl[0] > 80
    assert found.disagreement.tolist() == [1]


@hypothesis.given(st.integers(0, 2**20))
def test_invariants(seed):
    predicted = distributions(seed, 2, 5, 3)
    labels = np.zeros(5, int)
    found = ensembles.similarity(predicted, labels)
    swapped = ensembles.similarity(predicted[::-1], labels)
    for name in MEASURES:
        np.testing.assert_allclose(getattr(found, name), getattr(swapped, name))
    assert 0 <= found.jsd[0] <= np.log(2)
    assert found.jsd[0] <= found.kl[0]
    same = ensembles.similarity(np.stack([predicted[0]] * 3), labels)
    for name in MEASURES:
        np.testing.assert_allclose(getattr(same, name), 0, atol=1e-12)
    assert same.ensemble_accuracy == same.accuracies[0]


def test_one_network_has_no_pairs():
    found = ensembles.similarity(PREDICTED[:1], LABELS)
    assert found.disagreement.shape == (0,)
    assert found.ensemble_accuracy == found.accuracies[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PREDICTED[0], LABELS), "rank 3"),
        ((PREDICTED[:0], LABELS), "rank 3"),
        ((PREDICTED * [1, 1, 1, np.nan], LABELS), "distributions"),
        ((PREDICTED, LABELS[:-1]), "a label for each of 20"),
        ((PREDICTED, LABELS.astype(float)), "float64"),
        ((PREDICTED, LABELS + CLASSES), "labels from 0 to 3"),
        ((PREDICTED, LABELS - CLASSES), "labels from 0 to 3"),
        ((PREDICTED, LABELS, REFERENCE[:-1]), r"shape \(20, 4\)"),
        ((PREDICTED - 1, LABELS), "softmax"),
        ((2 * PREDICTED, LABELS), "softmax"),
        ((PREDICTED, LABELS, 2 * REFERENCE), "reference to hold distributions"),
    ],
)
def test_what_is_no_prediction_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ensembles.similarity(*arguments)


def test_what_was_found_is_kept_in_json():
    found = ensembles.similarity(PREDICTED, LABELS, REFERENCE)
    kept = json.loads(json.dumps(found.as_dict()))
    assert len(kept) == 8
    for name, value in kept.items():
        np.testing.assert_array_equal(value, getattr(found, name))


def test_sums_that_are_rounded_change_nothing_of_weight():
    rounded = PREDICTED.astype(np.float16)
    exact = ensembles.similarity(PREDICTED, LABELS)
    found = ensembles.similarity(rounded, LABELS)
    np.testing.assert_allclose(found.kl, exact.kl, rtol=1e-2)
    np.testing.assert_allclose(found.jsd, exact.jsd, rtol=1e-2)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_predicted_probabilities_are_the_softmax_of_the_logits(batch_size):
    model = tiny.sparse_mlp()
    x, _ = tiny.data(samples=7)
    logits = model(tf.constant(x)).numpy().astype(float)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = ensembles.predict_probabilities(model, x, batch_size)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_that_ends_in_a_softmax_is_refused():
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(3, activation="softmax")]
    )
    x, _ = tiny.data(samples=4)
    with pytest.raises(ValueError, match="distributions already"):
        ensembles.predict_probabilities(model, x)


def test_a_model_with_outputs_of_another_rank_is_refused():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Reshape((2, 3))])
    x, _ = tiny.data(samples=4)
    with pytest.raises(ValueError, match=r"one output.*\(4, 2, 3\)"):
        ensembles.predict_probabilities(model, x)
