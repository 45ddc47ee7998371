import csv
import html.parser
import json

import made_up_runs
import numpy as np
import pytest
from matplotlib.figure import Figure

from rigl_keras import report
from rigl_keras.plots import training
from rigl_keras.reporting import figures, groups

RIGL = ["mask_updater.update_alg = 'rigl'"]
SET = ["mask_updater.update_alg = 'set'"]
ACCURACIES = [0.96, 0.97, 0.99]


@pytest.fixture
def runs(tmp_path):
    """Three seeds by RigL and one run by SET."""
    folder = tmp_path / "runs"
    for seed, accuracy in enumerate(ACCURACIES):
        path = folder / "rigl" / f"seed{seed}"
        made_up_runs.write(path, RIGL, seed, updates=True, test_accuracy=accuracy)
    made_up_runs.write(folder / "set <b>", SET, method="SET")
    return folder


@pytest.fixture
def analyses(tmp_path):
    """A folder with one analysis, and a file that is none."""
    folder = tmp_path / "analyses"
    folder.mkdir()
    found = {
        "analysis": "ensembles",
        "title": "Similar <solutions>",
        "text": "How alike they are.",
        "table": {"columns": ["group", "share"], "rows": [["a & b", "0.5 ± 0.1"]]},
    }
    (folder / "ensembles.json").write_text(json.dumps(found))
    (folder / "ensembles.png").write_bytes(PNG)
    (folder / "other.json").write_text("[]")
    return folder


# One white pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8ffff3f0005fe02fea72d1e5f0000000049454e44ae426082"
)


def table(text):
    """The rows of the first Markdown table of a text, dicts by column."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_seeds_are_a_row_of_means_and_deviations(runs, capsys):
    assert report.main([str(runs)]) == 0
    rigl, other = table(capsys.readouterr().out)
    mean, std = 100 * np.mean(ACCURACIES), 100 * np.std(ACCURACIES)
    assert rigl["experiment"] == "rigl"
    assert rigl["runs"] == "3"
    assert rigl["test accuracy (%)"] == f"{mean:.2f} ± {std:.2f}"
    assert rigl["active / all weights"] == "2446 / 44426"
    assert other["test accuracy (%)"] == "97.49"
    assert other["method"] == "SET"


def test_a_run_alone_and_its_figure(runs, tmp_path, capsys):
    figure = tmp_path / "curves.png"
    assert report.main([str(runs / "rigl" / "seed0"), f"--figure={figure}"]) == 0
    [row] = table(capsys.readouterr().out)
    assert row["test accuracy (%)"] == "96.00"
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


class Page(html.parser.HTMLParser):
    """What a browser would load, show and refer to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_escapes_what_it_shows(runs, analyses, tmp_path):
    out = tmp_path / "out"
    arguments = [str(runs), "--analyses", str(analyses), "--out", str(out)]
    assert report.main(arguments) == 0
    page = Page((out / "report.html").read_text())
    text = " ".join(page.words)
    assert "set <b>" in text and "Similar <solutions>" in text and "a & b" in text
    assert "b" not in page.tags and "solutions" not in page.tags
    assert "script" not in page.tags
    # Test errors, training, gradient norms, updates, the analysis.
    assert page.tags.count("img") == 5
    data = [each for each in page.references if each.startswith("data:image/png")]
    assert len(data) == 5
    assert all(each[0] == "#" for each in page.references if each not in data)
    anchors = {each[1:] for each in page.references if each[0] == "#"}
    assert all(
        f'id="{anchor}"' in (out / "report.html").read_text() for anchor in anchors
    )


def test_tables_as_csv_hold_full_precision(runs, tmp_path):
    out = tmp_path / "out"
    assert report.main([str(runs), "--out", str(out)]) == 0
    with open(out / "groups.csv", newline="", encoding="utf-8") as file:
        rigl, other = csv.DictReader(file)
    assert float(rigl["test_accuracy_mean"]) == pytest.approx(
        np.mean(ACCURACIES), 1e-15
    )
    assert float(rigl["test_accuracy_std"]) == pytest.approx(np.std(ACCURACIES), 1e-15)
    assert (rigl["runs"], other["runs"]) == ("3", "1")
    with open(out / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows] == [*ACCURACIES, 0.9749]
    assert {row["seeds/init_seed"] for row in rows} == {"0", "1", "2"}
    assert rows[0]["mask_updater.update_alg"] == "'rigl'"


def test_the_markdown_report_links_to_figures_that_are_there(runs, analyses, tmp_path):
    out = tmp_path / "out"
    arguments = [str(runs), "--analyses", str(analyses), "--out", str(out)]
    assert report.main(arguments) == 0
    text = (out / "report.md").read_text()
    links = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert len(links) == 5
    assert all((out / link).exists() for link in links)
    assert "mask\\_updater" in text or "mask_updater.update_alg" in text


def test_the_same_seeds_twice_are_said(tmp_path, capsys):
    for name in ("a1", "a2"):
        made_up_runs.write(tmp_path / name, RIGL, seed=3)
    assert report.main([str(tmp_path)]) == 0
    assert "the same experiment with the same seeds" in capsys.readouterr().out


def test_what_is_not_finished_is_said(runs, capsys):
    made_up_runs.write(runs / "later", SET, is_finished=False)
    assert report.main([str(runs)]) == 0
    assert "Not finished, and left out: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{runs}/nowhere"], "There is no folder"),
        (["{runs}", "--analyses", "{runs}"], "give that too"),
        (["{runs}", "--analyses", "{runs}", "--out", "{out}"], "holds no analysis"),
        (["{runs}", "--out", "{file}"], "is a file; give a folder"),
        (["{runs}", "--figure", "{runs}/no/where.png"], "lies in no folder"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    runs, tmp_path, arguments, message, capsys
):
    places = {"runs": runs, "out": tmp_path / "out"}
    places["file"] = runs / "rigl" / "seed0" / "run.json"
    arguments = [each.format(**places) for each in arguments]
    assert report.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"title": 3},
        {"table": {"columns": ["a"], "rows": [["1", "2"]]}},
        {"table": {"rows": []}},
    ],
)
def test_a_broken_analysis_is_refused_by_name(runs, analyses, tmp_path, change, capsys):
    path = analyses / "ensembles.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    out = str(tmp_path / "out")
    assert report.main([str(runs), "--analyses", str(analyses), "--out", out]) == 2
    assert "ensembles.json is no analysis" in capsys.readouterr().err


def test_an_analysis_without_its_figure_is_refused(runs, analyses, tmp_path, capsys):
    (analyses / "ensembles.png").unlink()
    out = str(tmp_path / "out")
    assert report.main([str(runs), "--analyses", str(analyses), "--out", out]) == 2
    assert "lacks its figure" in capsys.readouterr().err


def labels(folder):
    return [group.label for group in groups.gather([str(folder)])[0]]


def test_an_experiment_in_several_folders_is_named_by_its_settings(tmp_path):
    for number, name in enumerate(("lottery", "similar")):
        for seed in (0, 1):
            folder = tmp_path / name / f"seed{seed}"
            made_up_runs.write(folder, RIGL, 10 * number + seed)
    made_up_runs.write(tmp_path / "set" / "seed0", SET)
    made_up_runs.write(tmp_path / "set" / "seed1", SET, 1)
    assert labels(tmp_path) == ["mask_updater.update_alg='rigl'", "set"]


def test_experiments_in_one_folder_are_named_by_their_settings(tmp_path):
    for seed in range(6):
        config = RIGL if seed < 2 else SET
        made_up_runs.write(tmp_path / "prune" / f"seed{seed}", config, seed)
    assert labels(tmp_path) == [
        "mask_updater.update_alg='rigl'",
        "mask_updater.update_alg='set'",
    ]


def test_many_experiments_are_spread_over_figures(tmp_path):
    for number in range(23):
        made_up_runs.write(tmp_path / "runs" / f"run_{number}_", [f"a.b = {number}"])
    out = tmp_path / "out"
    assert report.main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    curves = {path.name for path in out.glob("training_curves*")}
    assert curves == {f"training_curves_{part}.png" for part in (1, 2, 3)}
    assert "Training (3 of 3)" in (out / "report.md").read_text()


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


def test_a_range_of_numbers_is_in_their_order(tmp_path, capsys):
    for seed, steps in enumerate([100, 50]):
        made_up_runs.write(tmp_path / f"rigl{seed}", RIGL, seed, steps=steps)
    assert report.main([str(tmp_path)]) == 0
    [row] = table(capsys.readouterr().out)
    assert row["steps"] == "50–100"
