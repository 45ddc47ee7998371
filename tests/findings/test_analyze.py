"""The command line of the analyses, on small real runs."""

import json
import sys

import gin
import numpy as np
import pytest
import small_runs

from rigl_keras import analyze
from rigl_keras.program import files
from rigl_keras.program.saved_runs import SavedRun

pytestmark = pytest.mark.one_keras


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return small_runs.family(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def groups(family, *names):
    return [
        part
        for name in names
        for part in ("--group", name, *(str(folder) for folder in family[name]))
    ]


def analysed(folder, name, *arguments):
    """What an analysis wrote: arrays and JSON; there is a figure too."""
    assert analyze.main([name, f"--out={folder}", *arguments]) == 0
    assert (folder / f"{name}.png").stat().st_size > 5000
    arrays, description = files.read_arrays(folder / f"{name}.npz")
    found = json.loads((folder / f"{name}.json").read_text())
    assert found == description
    assert found["analysis"] == found["config"]["analysis"] == name
    assert {"title", "text", "versions", "git_revision"} <= found.keys()
    assert {len(row) for row in found["table"]["rows"]} == {
        len(found["table"]["columns"])
    }
    return arrays, found


def flat(run, step):
    return np.concatenate([v.ravel() for v in run.parameters(step).values()])


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [True, pytest.param(False, marks=pytest.mark.release)]
)
def test_distances_are_those_to_the_last_weights_of_the_parent(family, tmp_path, given):
    parent = family["prune"][0]
    reference = ["--reference", str(parent)] if given else []
    arrays, found = analysed(
        tmp_path, "distances", *groups(family, "lottery", "scratch"), *reference
    )
    goal = flat(SavedRun(parent), None)
    for name in ("lottery", "scratch"):
        for moment, step in (("start", 0), ("end", None)):
            expected = [
                np.linalg.norm(flat(SavedRun(folder), step) - goal)
                for folder in family[name]
            ]
            np.testing.assert_allclose(
                arrays[f"{name}/l2_{moment}"], expected, rtol=1e-5
            )
    assert [row[0] for row in found["table"]["rows"]] == ["lottery", "scratch"]


@pytest.mark.slow
def test_the_map_has_all_points_and_their_distances(family, tmp_path):
    arrays, _ = analysed(
        tmp_path,
        "map",
        *groups(family, "lottery", "scratch"),
        "--reference",
        str(family["prune"][0]),
    )
    assert arrays["coordinates"].shape == (2 * 2 * 2 + 1, 2)
    first, last = SavedRun(family["lottery"][0]), SavedRun(family["prune"][0])
    assert arrays["distances"][0, -1] == pytest.approx(
        np.linalg.norm(flat(first, 0) - flat(last, None)), rel=1e-5
    )
    assert list(arrays["moments"][:2]) == ["start", "end"]


@pytest.mark.slow
def test_ensembles_of_runs_with_their_own_accuracies(family, tmp_path):
    arrays, found = analysed(
        tmp_path,
        "ensembles",
        *groups(family, "lottery", "prune"),
        "--reference",
        str(family["prune"][0]),
    )
    expected = [
        SavedRun(folder).result["test_accuracy"] for folder in family["lottery"]
    ]
    np.testing.assert_allclose(arrays["lottery/accuracies"], expected, rtol=1e-6)
    assert arrays["lottery/disagreement"].shape == (1,)
    assert arrays["lottery/reference_disagreement"].shape == (2,)
    assert "Test accuracy, on 359 images" in found["text"]
    # The reference is not compared with itself.
    assert found["table"]["rows"][1][0] == "prune"
    assert found["table"]["rows"][1][5] == ""


@pytest.mark.slow
def test_flow_and_updates_are_those_of_the_logs(family, tmp_path):
    arrays, _ = analysed(tmp_path, "gradient_flow", *groups(family, "rigl", "lottery"))
    run = SavedRun(family["rigl"][1])
    norms = {record["step"]: record["gradient_norm"] for record in run.records}
    assert arrays["rigl/steps"].tolist() == list(norms) == [0, 12, 24]
    assert arrays["rigl/gradient_norms"][1].tolist() == list(norms.values())
    arrays, _ = analysed(tmp_path, "mask_updates", *groups(family, "rigl"))
    changes = [record["change"] for record in run.mask_updates]
    assert arrays["rigl/changes"][1].tolist() == changes


@pytest.mark.slow
def test_masks_of_a_static_run_stay_and_those_of_rigl_move(family, tmp_path):
    arrays, _ = analysed(tmp_path, "masks", *groups(family, "rigl", "scratch"))
    assert arrays["scratch/iou_first"].tolist() == [[1.0] * 5] * 2
    first, last = (SavedRun(family["rigl"][0]).masks(step) for step in (0, None))
    both = sum((first[path] & last[path]).sum() for path in first)
    either = sum((first[path] | last[path]).sum() for path in first)
    assert arrays["rigl/iou_first"][0, -1] == pytest.approx(both / either)
    assert arrays["rigl/iou_first"][0, -1] < 1
    # Tried are the connections after every update, not those of checkpoints alone.
    run = SavedRun(family["rigl"][0])
    assert run.mask_history == [0, -4, 6, -8, -12, -16, 18, -20, -24]
    tried = {path: mask.copy() for path, mask in first.items()}
    for step in (4, 8, 12, 16, 20, 24):
        for path, mask in run.masks(-step).items():
            tried[path] |= mask
    share = sum(m.sum() for m in tried.values()) / sum(m.size for m in tried.values())
    assert arrays["rigl/ever_active"][0, -1] == pytest.approx(share)


@pytest.mark.slow
def test_lines_end_at_the_losses_of_the_runs(family, tmp_path):
    arrays, found = analysed(
        tmp_path, "interpolation", *groups(family, "lottery"), "--num_train=200"
    )
    places = arrays["coefficients"].tolist()
    start, end = places.index(0), places.index(1)
    parent = SavedRun(family["prune"][0]).result["test_loss"]
    ends = arrays["lottery, from its end/test_loss"]
    np.testing.assert_allclose(ends[:, end], parent, rtol=1e-5)
    expected = [SavedRun(folder).result["test_loss"] for folder in family["lottery"]]
    np.testing.assert_allclose(ends[:, start], expected, rtol=1e-5)
    assert "on 200 records" in found["text"]
    # Both tickets start from the same weights.
    starts = arrays["lottery, from its start/test_loss"]
    np.testing.assert_allclose(starts[0], starts[1], rtol=1e-5)


@pytest.mark.slow
def test_signals_of_a_network(tmp_path):
    arrays, found = analysed(
        tmp_path,
        "signals",
        "--network=mlp",
        *["--input_shape", "4", "4", "1"],
        "--sparsities",
        "0",
        "0.9",
        "--num_networks=2",
    )
    assert arrays["even fan-in/output_std"].shape == (3, 2, 2)
    assert len(found["table"]["rows"]) == 6
    dense = arrays["even fan-in/output_std"][0]
    assert (dense[1] < dense[0]).all()
    # Also small means are told apart from 0.
    shown = float(found["table"]["rows"][0][3].partition(" ")[0])
    assert shown == pytest.approx(dense[1].mean(), rel=5e-3)


@pytest.mark.slow
def test_where_there_are_fewer_records_the_text_says_how_many(family, tmp_path):
    of = groups(family, "lottery")[:3]
    _, found = analysed(tmp_path, "interpolation", *of, "--note=A note.")
    # Four fifths of 1,797 digits.
    assert "on 1438 records" in found["text"]
    assert found["text"].endswith(" A note.")


def test_without_matplotlib_nothing_is_analysed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert analyze.main(["signals", f"--out={out}"]) == 2
    assert "pip install 'rigl_keras[plots]'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "a", "nowhere"], "There is no run in nowhere"),
        (["--group", "a"], "'a' without a run"),
        (["--group", "a", "{run}", "--group", "a", "{run}"], "'a' again"),
    ],
)
def test_wrong_groups_are_refused_before_any_work(tmp_path, arguments, message, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"config": "", "seeds": {}}')
    arguments = [each.format(run=run) for each in arguments]
    out = tmp_path / "out"
    assert analyze.main(["gradient_flow", f"--out={out}", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
