"""Figures of distances between networks in weight space."""

import numpy as np

from rigl_keras.plots import style

_MARKERS = {"start": "o", "end": "s"}


def start_and_end(groups, path):
    """Draws the mean distance to a reference at the start and at the end of training.

    Bars are standard deviations over the runs (ddof 0).

    Args:
      groups: dict from labels to dicts of "start" and "end": L2 distances, one a run.
      path: where to write the figure; the ending says the format.

    Source: Evci et al. 2022, Figure 5b.
    """
    looks = style.looks(groups)
    # The numbers above the bars need their place.
    with style.figure(path, width=max(4.5, 1.1 * len(groups))) as [axis]:
        width = 0.8 / len(groups)
        for index, (label, moments) in enumerate(groups.items()):
            places = np.arange(2) + (index - (len(groups) - 1) / 2) * width
            means = [np.mean(moments[name]) for name in _MARKERS]
            bars = axis.bar(
                places,
                means,
                width,
                yerr=[np.std(moments[name]) for name in _MARKERS],
                capsize=3,
                label=label,
                color=looks[label]["color"],
            )
            axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        axis.set_xticks(range(2), ["at initialisation", "after training"])
        axis.set_ylabel("L2 distance to the reference")
        axis.margins(y=0.15)
        axis.set_axisbelow(True)
        style.legend_beside(axis)


def solution_map(groups, star, path, *, reference, stress):
    """Draws start and end points in the plane, an arrow from each start to its end.

    Args:
      groups: dict from labels to dicts of "start" and "end": arrays [runs, 2].
      star: array [2], where the reference is.
      path: where to write the figure; the ending says the format.
      reference: its name, for the legend.
      stress: Kruskal's normalised stress of the map.

    Source: Evci et al. 2022, Figure 5a.
    """
    looks = style.looks(groups)
    with style.figure(path, width=5.5, height=4.5) as [axis]:
        for label, moments in groups.items():
            color = looks[label]["color"]
            for begin, finish in zip(moments["start"], moments["end"], strict=True):
                axis.annotate(
                    "",
                    finish,
                    begin,
                    arrowprops={"arrowstyle": "->", "color": color, "alpha": 0.5},
                )
            for name, marker in _MARKERS.items():
                axis.scatter(
                    *np.transpose(moments[name]),
                    marker=marker,
                    s=40,
                    edgecolors=color,
                    facecolors="white" if name == "start" else color,
                    label=f"{label}, {name}",
                    zorder=2,
                )
        axis.scatter(*star, marker="*", s=250, color="black", label=reference, zorder=3)
        axis.set_aspect("equal", "datalim")
        axis.set_xlabel(f"MDS, first axis (stress-1: {stress:.2f})")
        axis.set_ylabel("MDS, second axis")
        style.legend_beside(axis)
