"""Ensembles: how similar networks predict, and what they gain together."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from rigl_keras.common.checks import check_int

# In a logarithm, a probability that has underflowed to 0 counts as this.
_SMALLEST = float(np.finfo(np.float32).tiny)
_SUM_TOLERANCE = 1e-3  # Outputs of networks in half precision sum to 1 only roughly.


@dataclasses.dataclass(frozen=True, eq=False)
class Similarity:
    """How well M networks predict, alone and together, and how much alike.

    P = M (M - 1) / 2 is the number of unordered pairs, in the order of
    `itertools.combinations`; one network has none.

    Attributes:
      accuracies: array [M], share of examples that each predicts right.
      ensemble_accuracy: float, that of the class with the largest mean probability.
      disagreement: array [P], share of examples for which a pair predicts different
        classes.
      kl: array [P], Kullback-Leibler divergence between the predicted distributions of
        a pair, the mean of KL(p‖q) and KL(q‖p), in nats; mean over the examples.
      jsd: array [P], Jensen-Shannon divergence, in nats, likewise; in [0, ln 2].
      reference_disagreement: array [M], of each network and the reference; None
        without one.
      reference_kl: likewise.
      reference_jsd: likewise.
    """

    accuracies: np.ndarray
    ensemble_accuracy: float
    disagreement: np.ndarray
    kl: np.ndarray
    jsd: np.ndarray
    reference_disagreement: np.ndarray | None = None
    reference_kl: np.ndarray | None = None
    reference_jsd: np.ndarray | None = None

    def as_dict(self):
        """What is not None, as floats and lists of floats, which JSON can hold."""
        return {
            name: np.asarray(value).tolist()
            for name, value in vars(self).items()
            if value is not None
        }


def similarity(
    probabilities: ArrayLike,
    labels: ArrayLike,
    reference: ArrayLike | None = None,
) -> Similarity:
    """Compares networks by what they predict.

    Args:
      probabilities: floats [M, examples, classes], the predicted distributions of each
        network, M >= 1; see `predict_probabilities`. A 0 in a logarithm counts as
        1.2e-38, the smallest normal number of float32.
      labels: ints [examples], the true classes.
      reference: floats [examples, classes], the predicted distributions of a network,
        such as the pruned one, that all are compared with, or None.

    Returns:
      `Similarity`.

    Raises:
      ValueError: for other shapes, labels that are no classes, or rows that are no
        distributions.

    Source: Evci et al. 2022, Table 3 and its text; Lin 1991, "Divergence measures based
    on the Shannon entropy", for the Jensen-Shannon divergence.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 3 or not probabilities.size:
        raise ValueError(
            "Expected probabilities of rank 3, [networks, examples, classes], none of "
            f"these 0; got shape {probabilities.shape}."
        )
    _check_distributions("probabilities", probabilities)
    labels = _checked_labels(labels, probabilities.shape[1:])
    accuracies = np.mean(probabilities.argmax(-1) == labels, axis=1)
    together = probabilities.mean(0, dtype=np.float64).argmax(-1)
    found = Similarity(
        accuracies,
        float(np.mean(together == labels)),
        *_divergences(itertools.combinations(probabilities, 2)),
    )
    if reference is None:
        return found
    reference = _checked_reference(reference, probabilities.shape[1:])
    compared = _divergences((probability, reference) for probability in probabilities)
    names = ("reference_disagreement", "reference_kl", "reference_jsd")
    return dataclasses.replace(found, **dict(zip(names, compared, strict=True)))


def predict_probabilities(model, x, batch_size=1000):
    """The distributions that a model with logits as its outputs predicts.

    Args:
      model: a built Keras model, sparse or dense, that ends in logits: its last layer
        has no softmax.
      x: inputs, as for `model.predict`.
      batch_size: int >= 1, examples at a time; it does not change the result.

    Returns:
      Float32 array [examples, classes], the softmax of the outputs.

    Raises:
      ValueError: when the outputs are not of that shape, or are distributions already.
    """
    check_int("batch_size", batch_size, minimum=1)
    logits = model.predict(x, batch_size=batch_size, verbose=0)
    if np.ndim(logits) != 2:
        raise ValueError(
            f"Expected model {model.name!r} to have one output of shape [examples, "
            f"classes], got {tf.nest.map_structure(np.shape, logits)}."
        )
    if _are_distributions(logits):
        raise ValueError(
            f"Expected model {model.name!r} to put out logits, but its outputs are "
            "distributions already. Use those of model.predict as they are, or leave "
            "out its softmax."
        )
    return tf.nn.softmax(tf.cast(logits, tf.float32)).numpy()


def _divergences(pairs):
    """Disagreement, KL and JSD of pairs of distributions: three arrays [pairs]."""
    found = [
        (np.mean(p.argmax(-1) != q.argmax(-1)), *_kl_and_jsd(p, q)) for p, q in pairs
    ]
    return np.array(found, np.float64).reshape(-1, 3).T


def _kl_and_jsd(p, q):
    """The two divergences of two arrays [examples, classes], mean over the examples."""
    p, q = _normalized(p), _normalized(q)
    log_p, log_q = _log(p), _log(q)
    # The mean of both directions: each summand is >= 0, so no rounding makes it less.
    kl = ((p - q) * (log_p - log_q)).sum(-1) / 2
    log_middle = _log((p + q) / 2)
    jsd = (p * (log_p - log_middle) + q * (log_q - log_middle)).sum(-1) / 2
    return kl.mean(), max(jsd.mean(), 0.0)


def _normalized(p):
    p = np.asarray(p, np.float64)
    return p / p.sum(-1, keepdims=True)


def _log(p):
    return np.log(np.maximum(p, _SMALLEST))


def _are_distributions(values):
    # NaN makes every comparison false.
    sums = values.sum(-1, dtype=np.float64)
    return (values >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all()


def _check_distributions(name, values):
    if not _are_distributions(values):
        sums = values.sum(-1, dtype=np.float64)
        raise ValueError(
            f"Expected {name} to hold distributions, numbers >= 0 that sum to 1 over "
            f"the classes; got sums from {sums.min():.4g} to {sums.max():.4g} and a "
            f"smallest value of {values.min():.4g}. Of a network without softmax take "
            "predict_probabilities."
        )


def _checked_reference(reference, shape):
    reference = np.asarray(reference)
    if reference.shape != shape:
        raise ValueError(
            f"Expected reference to have the shape {shape}, [examples, classes], of "
            f"every network's probabilities; got {reference.shape}."
        )
    _check_distributions("reference", reference)
    return reference


def _checked_labels(labels, shape):
    """Returns labels as an int array, for predictions of shape [examples, classes]."""
    labels = np.asarray(labels)
    examples, classes = shape
    if labels.shape != (examples,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected labels to be ints, a label for each of {examples} examples; got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, as there are {classes} classes; "
            f"got {labels.min()} to {labels.max()}."
        )
    return labels
