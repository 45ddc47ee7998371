import csv
import html.parser
import json
import re

import made_up_runs
import numpy as np
import pytest

from rigl_keras import report
from rigl_keras.reporting import groups

RIGL = ["mask_updater.update_alg = 'rigl'"]
SET = ["mask_updater.update_alg = 'set'"]
ACCURACIES = [0.96, 0.97, 0.99]


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


def test_each_figure_is_a_link_to_itself_and_dark_in_the_dark(runs, tmp_path):
    out = tmp_path / "out"
    assert report.main([str(runs), "--out", str(out)]) == 0
    text = (out / "report.html").read_text()
    figures = re.findall(r'<figure id="(\w+)".*?</figure>', text)
    links = re.findall(r'<a href="#(\w+)" title="Full size"><img ', text)
    assert figures == links and len(set(links)) == 4
    [dark] = re.findall(
        r"@media screen and .*?dark\) \{ img \{(.*?)\}", text, re.DOTALL
    )
    assert "invert" in dark
    assert "figure:target img { max-width: none; }" in " ".join(text.split())


@pytest.mark.parametrize(("shown", "titles"), [("rigl", 0), ("set <b>", 1)])
def test_what_an_analysis_shows_is_not_drawn_again(
    runs, analyses, tmp_path, shown, titles
):
    path = analyses / "ensembles.json"
    found = json.loads(path.read_text())
    config = {"group": [["RigL", str(runs / shown)]]}
    found |= {"analysis": "mask_updates", "title": "Changes", "config": config}
    path.write_text(json.dumps(found))
    out = tmp_path / "out"
    arguments = [str(runs), "--analyses", str(analyses), "--out", str(out)]
    assert report.main(arguments) == 0
    text = (out / "report.md").read_text()
    assert text.count("## Gradient norm at mask updates") == titles
    assert text.count("## Changes") == text.count("## Gradient norm\n") == 1


def test_notes_are_shown_with_the_results(runs, tmp_path, capsys):
    out = tmp_path / "out"
    note = "One seed & few images."
    assert report.main([str(runs), f"--out={out}", f"--note={note}"]) == 0
    assert note in capsys.readouterr().out
    assert note in " ".join(Page((out / "report.html").read_text()).words)


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


def test_a_range_of_numbers_is_in_their_order(tmp_path, capsys):
    for seed, steps in enumerate([100, 50]):
        made_up_runs.write(tmp_path / f"rigl{seed}", RIGL, seed, steps=steps)
    assert report.main([str(tmp_path)]) == 0
    [row] = table(capsys.readouterr().out)
    assert row["steps"] == "50–100"
