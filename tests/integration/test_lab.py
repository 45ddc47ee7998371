"""The whole laboratory, small: trained, analysed, reported, and looked at."""

import html.parser
import json
import subprocess
import sys
from pathlib import Path

import lab as lab_script
import pytest

from rigl_keras.program import files

ROOT = Path(__file__).resolve().parents[2]

# Its parts are tested in both Kerases, all of it together in one.
pytestmark = [pytest.mark.release, pytest.mark.one_keras]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The folder of a laboratory that has run."""
    folder = tmp_path_factory.mktemp("lab")
    command = [sys.executable, str(ROOT / "scripts" / "lab.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def arrays(lab, name):
    return files.read_arrays(lab / "analyses" / f"{name}.npz")[0]


def result(lab, name, seed=0):
    path = lab / "runs" / name / f"seed{seed}" / "results.json"
    return json.loads(path.read_text())


def test_every_method_trains(lab):
    for name in ("Dense", "Pruned", "Lottery", "Scratch", "SET", "RigL", "SNIP"):
        assert result(lab, name)["test_accuracy"] > 0.9, name
    for name in ("Pruned", *lab_script.EVOLVING, *lab_script.SIMILAR, "SNIP"):
        assert result(lab, name)["sparsity"]["all"] == pytest.approx(0.95, abs=0.001)


def test_a_lottery_ticket_starts_and_ends_nearer_to_the_pruned_solution(lab):
    found = arrays(lab, "distances")
    assert found["Lottery/l2_start"].max() < found["Scratch/l2_start"].min()
    assert found["Lottery/l2_end"].max() < found["Scratch/l2_end"].min()


def test_lottery_tickets_disagree_less_than_networks_from_scratch(lab):
    found = arrays(lab, "ensembles")
    for name in ("disagreement", "reference_disagreement", "kl", "jsd"):
        lottery, scratch = found[f"Lottery/{name}"], found[f"Scratch/{name}"]
        assert lottery.shape == scratch.shape == (3,)
        assert lottery.mean() < scratch.mean(), name


def test_scratch_meets_a_barrier_and_the_lottery_ticket_none(lab):
    found = arrays(lab, "interpolation")
    lottery = found["Lottery, from its end/barrier"]
    assert lottery.max() < found["Scratch, from its end/barrier"].min()


def test_the_dense_init_loses_the_signal_and_the_sparse_one_does_not(lab):
    found = arrays(lab, "signals")
    names = found["initializers"].tolist()
    dense, unit = names.index("dense"), names.index("unit-scaled")
    # Beyond, LeNet5's first convolution has only a handful of connections left.
    sparse = found["sparsities"].tolist().index(0.95)
    for title in ("even fan-in", "uneven fan-in"):
        std = found[f"{title}/output_std"].mean(-1)
        assert std[dense, sparse] < 0.1 * std[dense, 0]
        assert std[unit, sparse] > 0.3 * std[unit, 0]


def test_masks_of_evolving_runs_move(lab):
    found = arrays(lab, "masks")
    assert found["RigL/iou_first"][0, -1] < 0.9
    assert found["RigL/ever_active"][0, -1] > found["RigL/ever_active"][0, 0]


def test_the_hessian_around_an_update_has_curvature_of_both_signs(lab):
    found = arrays(lab, "hessian")
    for moment in ("before", "after"):
        name = f"RigL, step 100, {moment} the update"
        values, weights = found[f"{name}/values"], found[f"{name}/weights"]
        assert values.shape == weights.shape == (2, 60)
        assert (values.min(1) < 0).all() and (values.max(1) > 0).all()
        assert weights.sum(1) == pytest.approx(1)


class _Page(html.parser.HTMLParser):
    """Counts a page's images and collects what it refers to."""

    def __init__(self):
        super().__init__()
        self.images, self.references, self.text = 0, [], []

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.references += [v for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_page_with_every_analysis(lab):
    page = _Page()
    page.feed((lab / "report" / "report.html").read_text())
    analyses = sorted((lab / "analyses").glob("*.json"))
    assert len(analyses) == 9
    assert page.images >= len(analyses)
    assert all(each.startswith(("data:", "#")) for each in page.references)
    text = " ".join(page.text)
    for path in analyses:
        assert json.loads(path.read_text())["title"] in text, path.name
    assert all(note in text for note in lab_script.NOTES)


def test_no_plot_is_shown_twice(lab):
    own = {path.name for path in (lab / "report").glob("[!a]*.png")}
    assert own == {"test_errors.png", "training_curves.png"}
