"""Figures of loss and accuracy along lines in weight space."""

import numpy as np

from rigl_keras.plots import style

_CONFIDENCE = 0.8
# ending of the name, title of the axis, factor to its unit
_PANELS = (("loss", "cross-entropy (nats)", 1), ("accuracy", "accuracy (%)", 100))


def one(coefficients, values, path, *, log=True):
    """Draws loss and accuracy along one line.

    Args:
      coefficients: floats [n].
      values: dict from names such as "train_loss" and "test_accuracy" to floats [n].
      path: where to write the figure; the ending says the format.
      log: whether the loss has a logarithmic axis.
    """
    with style.figure(path, columns=2) as axes:
        for axis, (ending, title, factor) in zip(axes, _PANELS, strict=True):
            shown = [name for name in values if name.endswith(f"_{ending}")]
            for index, name in enumerate(shown):
                axis.plot(
                    coefficients,
                    factor * np.asarray(values[name]),
                    marker=".",
                    label=name.removesuffix(f"_{ending}"),
                    **style.line(index),
                )
            _mark_ends(axis)
            axis.set_ylabel(title)
            axis.legend()
        axes[0].set_yscale("log" if log else "linear")


def several(coefficients, groups, path, *, methods=None, log=False):
    """Draws the mean loss along the lines of groups of pairs, with confidence bands.

    Args:
      coefficients: floats [n].
      groups: dict from labels to losses in nats, floats [pairs, n].
      path: where to write the figure; the ending says the format.
      methods: dict from labels to names of methods, each of which has one color; see
        `style.looks`.
      log: whether the axis is logarithmic; mean and band are then those of the
        logarithms.

    Source: Evci et al. 2022, Figure 5.
    """
    looks = style.looks(groups, methods)
    with style.figure(path, width=6) as [axis]:
        for label, losses in groups.items():
            half_width = confidence_half_width(np.log10(losses) if log else losses)
            style.curve(
                axis,
                coefficients,
                losses,
                label=label,
                look=looks[label],
                half_width=half_width,
                log=log,
            )
        axis.set_yscale("log" if log else "linear")
        _mark_ends(axis)
        axis.set_ylabel("cross-entropy (nats)")
        style.legend_beside(
            axis, title=f"mean, {_CONFIDENCE:.0%} confidence", alignment="left"
        )


def confidence_half_width(values, confidence=_CONFIDENCE):
    """Half the width of Student's confidence interval of a mean.

    Args:
      values: floats [runs, n].
      confidence: float in (0, 1), the share of such intervals that hold the mean.

    Returns:
      Floats [n]; 0 for one run alone, of which nothing is known.
    """
    from scipy import stats  # Comes with scikit-learn, which is optional.

    values = np.asarray(values, float)
    runs = len(values)
    if runs == 1:
        return np.zeros(values.shape[1])
    quantile = stats.t.ppf((1 + confidence) / 2, runs - 1)
    return quantile * values.std(0, ddof=1) / np.sqrt(runs)


def _mark_ends(axis):
    """Vertical lines at the two ends, with names above."""
    for position, name in enumerate(("start", "end")):
        axis.axvline(position, color="black", lw=0.8)
        above = {"xycoords": axis.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        axis.annotate(name, (position, 1.01), **above)
    axis.set_xlabel("position on the line")
