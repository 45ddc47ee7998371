"""Figures are drawn, with every label that they need."""

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

from rigl_keras.analysis import ensembles, mask_dynamics
from rigl_keras.plots import (
    distances,
    flow,
    hessian,
    interpolation,
    masks,
    style,
    training,
)
from rigl_keras.plots import ensembles as ensemble_plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    figures, savefig = [], Figure.savefig

    def save(figure, *args, **kwargs):
        figures.append(figure)
        return savefig(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", save)
    return figures


def texts(figure):
    """All that is written in a figure."""
    return {text.get_text() for text in figure.findobj(match=Text)}


def records(name, values):
    return [{"step": 100 * i, name: value} for i, value in enumerate(values)]


def test_a_band_is_the_mean_and_the_deviation(tmp_path, drawn):
    with style.figure(tmp_path / "a.png") as [axis]:
        style.curve(
            axis, [0, 1], [[1.0, 2.0], [3.0, 6.0]], label="runs", look={"color": "C0"}
        )
    [line] = axis.get_lines()
    assert line.get_ydata().tolist() == [2.0, 4.0]
    band = axis.collections[0].get_paths()[0].vertices
    assert {(0.0, 1.0), (0.0, 3.0), (1.0, 2.0), (1.0, 6.0)} <= set(map(tuple, band))


def test_on_a_logarithmic_scale_mean_and_band_are_geometric(tmp_path, drawn):
    with style.figure(tmp_path / "a.png") as [axis]:
        style.curve(
            axis, [0], [[1.0], [100.0]], label="runs", look={"color": "C0"}, log=True
        )
    assert axis.get_lines()[0].get_ydata() == pytest.approx([10.0])
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((1.0, 100.0))


def test_many_lines_look_different():
    looks = [tuple(style.line(index).values()) for index in range(40)]
    assert len(set(looks)) == 40


def test_a_method_has_one_color_however_many_others_are_drawn_and_it_is_spelled():
    alone = style.looks(["RigL"])["RigL"]
    among = style.looks(["Dense", "other", "rigl", "SET", "Pruned"])
    assert among["rigl"] == alone
    assert len({look["color"] for look in among.values()}) == 5
    both = style.looks(["RigL+", "RigL"])
    assert both["RigL"] == alone
    assert both["RigL+"] == {**alone, "linestyle": "--"}


def test_lines_of_one_method_differ_in_style_only():
    moments = ("RigL, before", "RigL, after", "SET, before")
    looks = style.looks(moments, {label: label.partition(",")[0] for label in moments})
    before, after, other = (looks[label] for label in moments)
    assert before == style.looks(["RigL"])["RigL"]
    assert after["color"] == before["color"] != other["color"]
    assert after["linestyle"] != before["linestyle"] == other["linestyle"]


def test_two_names_of_one_method_and_unknown_names_look_different():
    labels = ["RigL", "rigl", *(f"mine {number}" for number in range(20))]
    looks = [tuple(look.values()) for look in style.looks(labels).values()]
    assert len(set(looks)) == 22


def colors(axis):
    """The colors of an axis's lines, by their labels."""
    return {line.get_label(): line.get_color() for line in axis.get_lines()}


def test_every_figure_draws_a_method_in_its_color(tmp_path, drawn):
    rigl = style.looks(["RigL"])["RigL"]["color"]
    path = tmp_path / "a.png"
    changes = {"SET": [records("change", [1])], "RigL": [records("change", [1])]}
    flow.update_changes(changes, path)
    norms = {"mine": [records("gradient_norm", [1])]}
    flow.gradient_norms({**norms, "RigL": norms["mine"]}, path)
    interpolation.several([0, 1], {"mine": np.ones((1, 2)), "RigL": [[1, 1]]}, path)
    assert [colors(figure.axes[0])["RigL"] for figure in drawn] == [rigl] * 3
    spectrum = (np.array([[-1.0, 4.0]]), np.full((1, 2), 0.5), 2)
    labels = {"RigL, before": "RigL", "RigL, after": "RigL"}
    hessian.spectra(dict.fromkeys(labels, spectrum), path, labels)
    assert set(colors(drawn[-1].axes[0]).values()) == {rigl}


def test_a_long_legend_is_whole_and_leaves_the_panels_their_width(tmp_path, drawn):
    with style.figure(tmp_path / "a.png", width=4) as [axis]:
        for index in range(40):
            axis.plot([0, 1], label=f"a rather long label, number {index}")
        style.legend_beside(axis)
    figure = drawn[0]
    [legend] = figure.legends
    low, high = legend.get_window_extent().get_points()
    size = figure.get_size_inches() * figure.dpi
    assert (low >= 0).all() and (high <= size + 1).all()
    assert axis.get_window_extent().width > 3 * figure.dpi


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), style.figure(tmp_path / "a.png"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_users_backend_and_figures_are_left_alone(tmp_path):
    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        figures = pyplot.get_fignums()
        with style.figure(tmp_path / "a.png") as [axis]:
            axis.plot([0, 1])
        assert matplotlib.get_backend() == "svg"
        assert pyplot.get_fignums() == figures
    finally:
        matplotlib.use(before)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_no_module_of_figures_takes_pyplot():
    folder = Path(style.__file__).parents[1]
    for package in ("plots", "reporting", "findings", "program"):
        for path in (folder / package).glob("*.py"):
            assert "pyplot" not in path.read_text().replace("by pyplot", ""), path


def test_gradient_norms(tmp_path, drawn):
    groups = {
        "RigL": [records("gradient_norm", [1, 2]), records("gradient_norm", [1, 3])],
        "SET": [records("gradient_norm", [2, 0.0])],
    }
    flow.gradient_norms(groups, tmp_path / "a.png")
    assert {"RigL", "SET", "training step"} <= texts(drawn[0])
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_update_changes(tmp_path, drawn):
    flow.update_changes({"RigL": [records("change", [1, -2])]}, tmp_path / "a.png")
    assert "RigL" in texts(drawn[0])


def test_series_takes_the_steps_that_all_runs_have():
    steps, values = flow.series(
        [records("change", [1, 2, 3]), [{"step": 0}, *records("change", [4, 5])[1:]]],
        "change",
    )
    assert steps.tolist() == [100]
    assert values.tolist() == [[2], [5]]
    with pytest.raises(ValueError, match="at the same steps"):
        flow.series([records("change", [1]), []], "change")


def test_distances_at_start_and_end(tmp_path, drawn):
    groups = {
        "lottery": {"start": [13.0, 14.0], "end": [8.0, 8.5]},
        "scratch": {"start": [17.0], "end": [25.0]},
    }
    distances.start_and_end(groups, tmp_path / "a.png")
    assert {"lottery", "scratch", "13.50", "25.00"} <= texts(drawn[0])
    start, end = drawn[0].axes[0].collections[0].get_segments()
    assert start[:, 1] == pytest.approx([13.0, 14.0])
    assert end[:, 1] == pytest.approx([8.0, 8.5])


def test_many_distances_have_numbers_that_do_not_overlap(tmp_path, drawn):
    groups = {str(i): {"start": [17.0 + i], "end": [25.0]} for i in range(8)}
    distances.start_and_end(groups, tmp_path / "a.png")
    drawn[0].canvas.draw()
    boxes = [each.get_window_extent() for each in drawn[0].axes[0].texts]
    assert len(boxes) == 16
    ends = sorted((box.x0, box.x1) for box in boxes)
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(ends))


def test_a_map_has_every_point_and_the_star(tmp_path, drawn):
    points = np.arange(4.0).reshape(2, 2)
    groups = {"lottery": {"start": points, "end": points + 1}}
    distances.solution_map(
        groups, np.zeros(2), tmp_path / "a.png", reference="pruned", stress=0.123
    )
    shown = texts(drawn[0])
    assert {"lottery, start", "lottery, end", "pruned"} <= shown
    assert any("0.12" in each for each in shown)
    assert sum(len(each.get_offsets()) for each in drawn[0].axes[0].collections) == 5


def test_similarities(tmp_path, drawn):
    predicted = np.full((2, 3, 2), 0.5)
    groups = {
        "alone": ensembles.similarity(predicted[:1], [0, 0, 1]),
        "pair": ensembles.similarity(predicted, [0, 0, 1], predicted[0]),
    }
    ensemble_plots.similarities(groups, tmp_path / "a.png")
    wanted = {"alone", "pair", "ensemble", "between pairs", "with the reference"}
    assert wanted <= texts(drawn[0])
    # The rows of both panels are at the same height, the first on top.
    accuracy, disagreement = drawn[0].axes
    assert accuracy.get_ylim() == disagreement.get_ylim() == (1.5, -0.5)


def test_training_curves_skip_the_record_of_step_0(tmp_path, drawn):
    names = ("cross_entropy", "accuracy", "test_cross_entropy", "test_accuracy")
    later = [{"step": step, **dict.fromkeys(names, 0.5)} for step in (10, 20)]
    runs = [[{"step": 0, "gradient_norm": 1.0}, *later]] * 2
    training.training_curves({"RigL": runs}, tmp_path / "a.png")
    for axis in drawn[0].axes:
        assert [line.get_xdata().tolist() for line in axis.get_lines()] == [[10, 20]]
    assert "RigL" in texts(drawn[0])


def test_final_errors(tmp_path, drawn):
    groups = {"RigL": [0.98, 0.99], "SET": [0.97]}
    training.final_errors(groups, tmp_path / "a.png")
    lines = drawn[0].axes[0].get_lines()
    means = [line.get_xdata()[0] for line in lines if line.get_marker() == "|"]
    assert means == pytest.approx([1.5, 3.0])
    assert {"RigL", "SET"} <= texts(drawn[0])


def test_hessian_spectra(tmp_path, drawn):
    values = np.array([[-1.0, 0.0, 0.5, 4.0]])
    found = {"before": (values, np.full((1, 4), 0.25), 4)}
    found["after"] = (values - 1, np.full((1, 4), 0.25), 4)
    hessian.spectra(found, tmp_path / "a.png")
    assert {"before", "after", "negative eigenvalues"} <= texts(drawn[0])
    counts = drawn[0].axes[1].get_lines()[1]
    assert counts.get_ydata().tolist() == [1, 2, 3]


def test_lines_to_a_reference(tmp_path, drawn):
    losses = np.array([[1.0, 2.0], [3.0, 2.0]])
    interpolation.several([0, 1], {"lottery": losses}, tmp_path / "a.png")
    [curve] = [
        line for line in drawn[0].axes[0].get_lines() if line.get_label() == "lottery"
    ]
    assert curve.get_ydata().tolist() == [2.0, 2.0]


def test_a_confidence_interval_is_students():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    found = interpolation.confidence_half_width(values)
    expected = stats.t.interval(0.8, 2, loc=4, scale=stats.sem([1.0, 3.0, 8.0]))
    assert found == pytest.approx([(expected[1] - expected[0]) / 2, 0])


def test_masks(tmp_path, drawn):
    first, last = np.eye(3, dtype=bool), np.ones((3, 3), bool)
    found = mask_dynamics.dynamics([(0, {"a": first}), (10, {"a": last})])
    masks.dynamics({"RigL": [found]}, tmp_path / "a.png")
    assert drawn[0].axes[0].get_lines()[0].get_ydata() == pytest.approx([1, 1 / 3])
