"""The comparison of seeds with the paper's mean and deviation, by a stated rule."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from experiments import pages
from experiments.mnist import figures, records, reproduce
from experiments.mnist import tables as mnist_tables
from experiments.mnist.cells import STUDIES, Paper
from rigl_keras.program import sweep

# Five numbers of mean 0 and population standard deviation 1.
FIVE = np.array([-2, -1, 0, 1, 2]) / np.sqrt(2)


def test_the_interval_is_that_of_welchs_test():
    ours = np.array([98.1, 97.9, 98.4, 98.0])
    theirs = 98.26 + 0.27 * FIVE
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    interval = mnist_tables.welch(ours, Paper(98.26, 0.27))
    assert interval == pytest.approx((expected.low, expected.high))


def test_the_deviation_of_seeds_that_trained_beside_stuck_ones_is_taken_to_be_ours():
    ours = np.array([97.3, 97.5, 98.0])
    paper = Paper(62.99, 42.16, stuck=2)
    # Three seeds of theirs with the unbiased variance of ours.
    theirs = paper.trained + ours.std() * np.array([-1, 0, 1]) * np.sqrt(1.5)
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    interval = mnist_tables.welch(ours, paper)
    assert interval == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("accuracies", "paper", "verdict"),
    [
        ([98.2, 98.3, 98.1, 98.4, 98.2], Paper(98.26, 0.27), "agrees"),
        ([98.8, 98.9, 98.7, 98.9, 98.8], Paper(98.26, 0.27), "higher"),
        ([97.1, 97.2, 97.0, 97.1, 97.2], Paper(98.26, 0.27), "lower"),
        ([97.1], Paper(98.26, 0.27), "too few seeds"),
        ([97.1, 97.3], None, ""),
        ([11.35] * 5, Paper(11.35, 0.0, 5), "agrees"),
        ([97.0, 97.1, 97.2, 97.0, 97.1], Paper(11.35, 0.0, 5), "fewer stuck"),
        ([11.35] * 5, Paper(97.7, 0.1), "more stuck"),
        # 1 of 5 and 2 of 5 are no difference.
        ([97.3, 97.4, 11.35, 97.6, 97.3], Paper(62.99, 42.16, 2), "agrees"),
    ],
)
def test_verdicts(accuracies, paper, verdict):
    assert mnist_tables.compare(accuracies, paper).verdict == verdict


def test_stuck_seeds_are_counted_and_left_out_of_the_mean():
    compared = mnist_tables.compare([97.0, 11.35, 98.0], Paper(97.0, 0.5))
    assert (compared.stuck, compared.mean, compared.std) == (1, 97.5, 0.5)
    assert compared.difference == pytest.approx(0.5)


def test_a_section_that_is_not_there_is_added():
    text = pages.with_section("A page.\n", "table", "new\n")
    assert text == "A page.\n\n<!-- table -->\nnew\n<!-- end of table -->\n"
    again = pages.with_section(text, "table", "newer\n")
    assert again == text.replace("new", "newer")


@pytest.mark.parametrize("study", STUDIES)
def test_the_pages_tables_are_those_of_the_published_records(study, tmp_path):
    shutil.copy(reproduce.OUTPUT / f"{study}.md", tmp_path)
    shutil.copy(reproduce.OUTPUT / records.FILE, tmp_path)
    no_runs = f"--runs={tmp_path / 'none'}"
    arguments = ["--tables", f"--study={study}", no_runs]
    assert reproduce.main(arguments, output=tmp_path) == 0
    for name in (f"{study}.md", records.FILE):
        published = reproduce.OUTPUT / name
        assert (tmp_path / name).read_bytes() == published.read_bytes()


def test_the_tables_beside_the_figures_are_those_of_the_analyses():
    page = (reproduce.OUTPUT / "paper.md").read_text()
    for name, table in figures.figure_tables(reproduce.OUTPUT / "figures").items():
        assert pages.with_section(page, name, table) == page


def write_result(folder, accuracy):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"test_accuracy": accuracy}))


def test_records_and_tables_are_those_of_the_finished_runs(tmp_path):
    runs, output = tmp_path / "runs", tmp_path / "out"
    for seed, accuracy in enumerate([0.9741, 0.1135, 0.9743]):
        write_result(runs / "scratch95_dense" / f"seed{seed}", accuracy)
    (runs / "dense" / "seed0").mkdir(parents=True)  # Not finished.
    output.mkdir()
    page = output / "pilot.md"
    page.write_text("before\n<!-- pilot -->\nold\n<!-- end of pilot -->\nafter\n")
    others = {
        ("paper", "dense", 0): {"study": "paper", "cell": "dense", "seed": 0},
        ("pilot", "dense", 0): {"study": "pilot", "cell": "dense", "seed": 0},
    }
    sweep.write_records(output / records.FILE, others)
    arguments = ["--tables", "--study=pilot", f"--runs={runs}"]
    assert reproduce.main(arguments, output=output) == 0
    stored = records.read(output)
    assert list(stored) == [
        ("paper", "dense", 0),
        *(("pilot", "scratch95_dense", seed) for seed in range(3)),
    ]
    command = stored["pilot", "scratch95_dense", 1]["command"]
    assert "--logdir=runs/mnist/scratch95_dense/seed1 --seed=101" in command
    assert str(tmp_path) not in command
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "97.41, 11.35, 97.43 | 1 of 3 | 97.42 ± 0.01" in text
    assert "old" not in text and "Dense" not in text
