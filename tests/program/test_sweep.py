"""The runner of experiments: parents first, nothing twice, failures named."""

import pytest

from rigl_keras.program import sweep

pytestmark = pytest.mark.one_keras

SMALL = {
    "data.name": "digits",
    "training.total_steps": 4,
    "training.save_freq": 4,
    "training.log_freq": 4,
}


@pytest.mark.slow
def test_runs_are_made_after_their_parents_and_only_once(tmp_path, capsys):
    pruning = {"begin_step": 1, "end_step": 3, "frequency": 1}
    parent = sweep.Cell(
        "parent",
        "Parent",
        ("mnist/prune.gin",),
        {**SMALL, **{f"pruning.{name}": value for name, value in pruning.items()}},
    )
    child = sweep.Cell(
        "child", "Child", ("mnist/scratch.gin",), SMALL, parent="parent", steps=4
    )
    broken = sweep.Cell("broken", "Broken", ("no_such.gin",))
    runs = sweep.all_runs([child, broken, parent], tmp_path, seeds=[0])
    done = []
    first = sweep.Runner(runs, None)
    first.run(when_done=lambda: done.append([run.result() is not None for run in runs]))
    assert [run.cell.name for run in first.failed] == ["broken"]
    assert done == [[False, False, True], [True, False, True]]
    # 5 % of the weights, and the biases.
    assert runs[0].result()["active_weights"] == 2210 + 236
    assert "0 runs left" in capsys.readouterr().out
    again = sweep.Runner([runs[0], runs[2]], None)
    again.run(when_done=lambda: pytest.fail("nothing was to do"))
    assert again.failed == []
