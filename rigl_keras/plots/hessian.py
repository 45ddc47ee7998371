"""Figures of Hessian spectra."""

import numpy as np

from rigl_keras.analysis import lanczos
from rigl_keras.plots import style

_POINTS = 2000
_SMOOTHING = 0.005  # standard deviation of the smoothing, in parts of the range
_FLOOR = 1e-2  # of the least density that is shown to that of one single eigenvalue


def spectra(by_label, path, methods=None):
    """Draws the densities of spectra, and how many eigenvalues each has below 0.

    The densities, on a logarithmic scale, are smoothed as Lanczos needs it, all by the
    same width. The negative side shows counts instead, where one new eigenvalue is a
    step.

    Args:
      by_label: dict from labels to `(values, weights, n)`: float arrays [probes, m] as
        of `analysis.lanczos.spectrum`, and the number of eigenvalues. Those of an exact
        Hessian are one probe, each with the weight 1 / n.
      path: where to write the figure; the ending says the format.
      methods: dict from labels to names of methods, each of which has one color; see
        `style.looks`.

    Source: Evci et al. 2022, the figures of Hessian spectra before and after updates.
    """
    looks = style.looks(by_label, methods)
    smallest = min(values.min() for values, _, _ in by_label.values())
    largest = max(values.max() for values, _, _ in by_label.values())
    width = max(largest - smallest, np.finfo(np.float32).tiny)
    with style.figure(path, columns=2, width=5) as [whole, negative]:
        top = 0.0
        for label, (values, weights, size) in by_label.items():
            look = {"label": label, "alpha": 0.8, **looks[label]}
            top = max(
                top,
                _draw_density(
                    whole, values, weights, smallest=smallest, width=width, look=look
                ),
            )
            _draw_counts(negative, values, weights, size=size, look=look)
        most = max(size for _, _, size in by_label.values())
        single = 1 / (most * _SMOOTHING * width * np.sqrt(2 * np.pi))
        whole.set_yscale("log")
        whole.set_ylim(_FLOOR * single, 3 * top)
        whole.set_xlabel("eigenvalue λ of the loss Hessian")
        whole.set_ylabel("density of eigenvalues")
        whole.set_title("whole spectrum, smoothed")
        negative.set_yscale("log")
        negative.set_ylim(bottom=0.5)
        negative.set_xlim(min(1.05 * smallest, -1e-3 * width), 0)
        negative.set_xlabel("eigenvalue λ")
        negative.set_ylabel("number of eigenvalues up to λ")
        negative.set_title("negative eigenvalues")
        style.legend_beside(whole)


def _draw_density(axis, values, weights, *, smallest, width, look):
    """Returns the largest density."""
    sigma = _SMOOTHING * width
    grid = np.linspace(smallest - 4 * sigma, smallest + width + 4 * sigma, _POINTS)
    density = lanczos.density(values, weights, grid, sigma)
    axis.plot(grid, density, **look)
    return density.max()


def _draw_counts(axis, values, weights, *, size, look):
    is_negative = values < 0
    order = np.argsort(values[is_negative])
    below = np.cumsum(weights[is_negative][order]) * size / len(values)
    axis.step(values[is_negative][order], below, where="post", **look)
