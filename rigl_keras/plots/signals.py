"""Figures of signal propagation at initialisation."""

import numpy as np

from rigl_keras.plots import style

_TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
_MEASURES = (
    ("output_std", "std of the output"),
    ("neuron_std", "std per dense unit"),
)


def signal_propagation(by_title, path):
    """Draws how large signals are at initialisation, over sparsity.

    Lines are means over the networks, bands reach from the least to the greatest. The
    size is on a logarithmic scale: a band leaves its panel below where a network passes
    no signal at all, a line where none passes any.

    Args:
      by_title: dict from titles, such as "even fan-in", to `SignalPropagation` of the
        analysis, each of a network with Dense layers.
      path: where to write the figure; the ending says the format.

    Source: Evci et al. 2022, Figure 1c.
    """
    with style.figure(path, columns=len(by_title), rows=len(_MEASURES)) as axes:
        panels = iter(axes)
        for name, label in _MEASURES:
            values = {
                title: getattr(signals, name) for title, signals in by_title.items()
            }
            limits = _limits(values.values())
            for title, std in values.items():
                axis = next(panels)
                axis.axhline(1, color="black", lw=0.8)
                density = 1 - by_title[title].sparsities
                for index, initializer in enumerate(by_title[title].initializers):
                    _curve(axis, density, std[index], label=initializer, index=index)
                axis.set_yscale("log", nonpositive="clip")
                axis.set_ylim(limits)
                axis.set_ylabel(label)
                axis.set_title(title)
                _sparsity_axis(axis, density)
        axes[0].legend(loc="lower left")


def _curve(axis, density, std, *, label, index):
    """Draws an array [sparsities, networks].

    Not with a standard deviation, which may exceed the mean of so few positive numbers.
    """
    look = style.line(index)
    axis.plot(density, std.mean(1), label=label, **look)
    axis.fill_between(
        density, std.min(1), std.max(1), color=look["color"], alpha=0.2, lw=0
    )


def _limits(tables):
    """The range that shows the mean of every line, and the inputs' size, 1."""
    means = np.concatenate([table.mean(-1).ravel() for table in tables])
    means = np.append(means[means > 0], 1.0)
    return means.min() / 3, means.max() * 3


def _sparsity_axis(axis, density):
    """Sparsity to the right, in powers of the density."""
    axis.set_xscale("log")
    axis.set_xlim(max(density) * 1.05, min(density) / 1.05)
    ticks = [tick for tick in _TICKS if min(density) <= 1 - tick + 1e-9]
    axis.set_xticks([1 - tick for tick in ticks], [f"{100 * t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("sparsity (%)")
