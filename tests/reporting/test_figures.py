"""The figures of reports."""

import subprocess
import sys

import made_up_runs
import pytest
from matplotlib.figure import Figure

from rigl_keras import report
from rigl_keras.plots import flow, training
from rigl_keras.reporting import figures, groups

RIGL = ["mask_updater.update_alg = 'rigl'"]
SET = ["mask_updater.update_alg = 'set'"]


def test_each_experiment_is_in_one_of_the_figures(tmp_path):
    drawn = []
    groups = {f"group {number}": [] for number in range(23)}
    path = str(tmp_path / "curves")
    sections = list(
        figures._parts(
            "Curves", "Text.", lambda *a: drawn.append(a), groups=groups, path=path
        )
    )
    assert [label for part, _ in drawn for label in part] == list(groups)
    assert max(len(part) for part, _ in drawn) <= 10
    files = [f"{path}_{part}.png" for part in (1, 2, 3)]
    assert [file for _, file in drawn] == files
    assert [section.text for section in sections] == ["Text.", "", ""]


def test_runs_without_a_value_leave_the_others_in_the_figure(tmp_path):
    for seed in (0, 1):
        made_up_runs.write(tmp_path / f"rigl{seed}", RIGL, seed, updates=seed == 1)
    made_up_runs.write(tmp_path / "set", SET)
    experiments, _ = groups.gather([str(tmp_path)])
    groups_with_a_value = figures._records(
        experiments, "change", lambda saved: saved.mask_updates
    )
    [runs] = groups_with_a_value.values()
    assert runs == [[{"step": step, "change": 0.1} for step in (5, 10)]]


@pytest.fixture
def panels(tmp_path, monkeypatch):
    """The panels of two runs' curves: 2 nats and 98 %, 8 nats and 50 %."""
    written = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *args, **kwargs: (
            written.append(figure),
            savefig(figure, *args, **kwargs),
        ),
    )
    runs = []
    for loss, accuracy in ((2.0, 0.98), (8.0, 0.5)):
        record = {"cross_entropy": loss, "test_cross_entropy": loss}
        record |= {"accuracy": accuracy, "test_accuracy": accuracy}
        runs.append([{"step": step, **record} for step in (10, 20)])
    training.training_curves({"RigL": runs}, tmp_path / "a.png")
    return written[0].axes[:4]


def test_curves_are_means_of_logarithms(panels):
    # Geometric means: of 2 and 8 nats, and of errors of 2 % and 50 %.
    middles = [axis.get_lines()[0].get_ydata()[0] for axis in panels]
    assert middles == pytest.approx([4, 10, 4, 10])
    bands = [axis.collections[0].get_paths()[0].vertices[:, 1] for axis in panels]
    ends = [(band.min(), band.max()) for band in bands]
    assert ends == [pytest.approx(each) for each in 2 * [(2, 8), (2, 50)]]


def test_the_axis_of_errors_shows_accuracies_and_the_best_on_top(panels):
    low, high = panels[1].get_ylim()
    assert high < 2 < 50 < low <= 100
    label = panels[1].yaxis.get_major_formatter()
    assert [label(error, 0) for error in (50, 2, 0.1)] == ["50", "98", "99.9"]


def test_no_error_at_all_is_drawn_too(tmp_path):
    names = ("cross_entropy", "test_cross_entropy", "accuracy", "test_accuracy")
    records = [{"step": step, **dict.fromkeys(names, 1.0)} for step in (10, 20)]
    training.training_curves({"RigL": [records]}, tmp_path / "a.png")
    training.final_errors({"RigL": [1.0, 0.9]}, tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert (tmp_path / "b.png").stat().st_size > 5000


def test_an_experiment_has_one_color_in_all_figures(runs, tmp_path, monkeypatch):
    looks = []
    for module, name in (
        (training, "final_errors"),
        (training, "training_curves"),
        (flow, "gradient_norms"),
        (flow, "update_changes"),
    ):
        monkeypatch.setattr(module, name, lambda *a, **k: looks.append(k["looks"]))
    experiments, _ = groups.gather([str(runs)])
    list(figures.figure_sections(experiments, str(tmp_path)))
    assert len(looks) == 4 and all(each == looks[0] for each in looks)
    assert set(looks[0]) == {"rigl", "set <b>"}


@pytest.fixture
def no_matplotlib(monkeypatch):
    """As if the extra `plots` were not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.parametrize("option", ["--figure={}/a.png", "--out={}"])
def test_without_matplotlib_figures_are_refused_before_any_work(
    runs, tmp_path, option, no_matplotlib, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    assert report.main([str(runs), option.format(out)]) == 2
    error = capsys.readouterr().err
    assert "Figures need matplotlib" in error and "rigl_keras[plots]" in error
    assert list(out.iterdir()) == []


def test_without_matplotlib_there_are_tables(runs, no_matplotlib, capsys):
    assert report.main([str(runs)]) == 0
    assert capsys.readouterr().out.startswith("| experiment ")


@pytest.mark.slow
def test_commands_start_without_matplotlib(runs, tmp_path):
    program = (
        "import sys; sys.modules['matplotlib'] = sys.modules['scipy'] = None\n"
        "from rigl_keras import analyze, interpolate, report\n"
        f"code = report.main([{str(runs)!r}])\n"
        f"print(code, analyze.main(['gradient_flow', '--out={tmp_path}/out', "
        f"'--group', 'a', {str(runs)!r}]))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("0 2\n"), done.stderr
    assert "pip install 'rigl_keras[plots]'" in done.stderr
    assert not (tmp_path / "out").exists()
