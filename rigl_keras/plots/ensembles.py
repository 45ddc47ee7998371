"""Figures of the similarity of networks and of their ensembles."""

import numpy as np

from rigl_keras.plots import style

# Colors stand for methods, and a method has a row here.
_DARK, _LIGHT = "0.35", "0.7"


def similarities(groups, path):
    """Draws accuracies of networks and ensembles, and disagreements, by group.

    Args:
      groups: dict from labels to `Similarity` of the analysis.
      path: where to write the figure; the ending says the format.

    Source: Evci et al. 2022, Table 3.
    """
    height = 1.2 + 0.5 * len(groups)
    with style.figure(path, columns=2, height=height) as [accuracy, disagreement]:
        for place, similarity in enumerate(groups.values()):
            _accuracies(accuracy, place, similarity)
            _disagreements(disagreement, place, similarity)
        for axis in (accuracy, disagreement):
            axis.set_yticks(range(len(groups)), list(groups))
            # The labels of the left panel name the rows of both.
            axis.set_ylim(len(groups) - 0.5, -0.5)
            axis.margins(x=0.1)
            axis.locator_params(axis="x", nbins=5)
            axis.set_axisbelow(True)
        disagreement.set_yticklabels([])
        accuracy.set_xlabel("test accuracy (%)")
        disagreement.set_xlabel("share of test images predicted differently")
        disagreement.set_xlim(left=0)
        for axis in (accuracy, disagreement):
            handles, labels = axis.get_legend_handles_labels()
            unique = dict(zip(labels, handles, strict=True))
            above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 2}
            axis.legend(unique.values(), unique, frameon=False, **above)


def _accuracies(axis, place, similarity):
    values = 100 * similarity.accuracies
    axis.plot(
        values, [place] * len(values), "o", color=_DARK, alpha=0.5, label="network"
    )
    # Hollow, as a network of the same accuracy may lie below it.
    hollow = {"markerfacecolor": "none", "markersize": 9, "markeredgewidth": 1.5}
    axis.plot(
        100 * similarity.ensemble_accuracy,
        place,
        "D",
        color="black",
        label="ensemble",
        **hollow,
    )


def _disagreements(axis, place, similarity):
    shown = (
        ("between pairs", similarity.disagreement, _DARK, -0.15),
        ("with the reference", similarity.reference_disagreement, _LIGHT, 0.15),
    )
    for label, values, color, shift in shown:
        if values is not None and len(values):
            axis.barh(
                place + shift,
                np.mean(values),
                0.28,
                xerr=np.std(values),
                capsize=2,
                color=color,
                label=label,
            )
