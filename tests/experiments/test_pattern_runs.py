"""The runs that compare patterns: settings, tables, the published records."""

import shlex
import shutil
from pathlib import Path

import gin
import pytest

from experiments.patterns import records, reproduce, tables
from experiments.patterns.cells import METHODS, N_OF_M, NETWORKS, Setting, settings
from rigl_keras.program import algorithm, files, sweep
from rigl_keras.program import network as network_of_gin

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_there_once():
    found = settings()
    assert len({setting.name for setting in found}) == len(found)
    own = {(s.network, s.pattern, s.sparsity, s.method) for s in found}
    for network, shown in NETWORKS.items():
        for method in METHODS:
            for pattern in shown.patterns:
                sparsities = {50} if pattern == N_OF_M else {90, 95, 98}
                assert {
                    sparsity
                    for name, of, sparsity, by in own
                    if (name, of, by) == (network, pattern, method)
                } == sparsities


def test_n_of_m_alone_has_its_own_sparsity():
    assert {s.pattern for s in settings() if s.sparsity == 50} == {N_OF_M}


def test_commands_name_files_that_are_there_and_bind_what_gin_reads(tmp_path):
    # What gin knows, once it is imported.
    assert network_of_gin.MaskConfig and algorithm.PruningConfig
    for setting in settings():
        cell = setting.cell()
        assert all((ROOT / "gin" / file).exists() for file in cell.configs)
        try:
            gin.parse_config([f"{k} = {v!r}" for k, v in cell.bindings.items()])
        finally:
            gin.clear_config()
    run = sweep.Run(cell, 1, tmp_path / cell.name / "seed1")
    command = run.command(None)
    assert shlex.split(shlex.join(command)) == command


def made_up(accuracies):
    """Records of test accuracies in %, by setting."""
    return {
        (setting.name, seed): {"test_accuracy": accuracy / 100}
        for setting, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    }


def test_the_table_has_means_intervals_and_differences():
    made = made_up(
        {
            Setting("mlp", None, 0, "dense"): [98.0],
            Setting("mlp", "unstructured", 95, "rigl"): [97.0, 97.0, 97.3],
            Setting("mlp", "blocks(16, 1)", 95, "rigl"): [96.8, 97.0, 97.2],
        }
    )
    head, *rows = tables.table("mlp", "rigl", made)
    assert head == ["pattern", "90 %", "95 %", "98 %"]
    by_pattern = {row[0]: row[1:] for row in rows}
    # Student's t of 2 degrees at 95 % is 4.303: of deviation 0.2, 0.497.
    mean = by_pattern["`blocks(16, 1)`"][1]
    assert mean.startswith("97.00 ± 0.50 (")
    # Welch: -0.1 with an error of sqrt(0.04 / 3 + 0.03 / 3) = 0.1528 and 3.92 degrees,
    # whose t is 2.798.
    low, high = mean.split("(")[1].rstrip(")").split(" to ")
    assert float(low) == pytest.approx(-0.1 - 2.798 * 0.1528, abs=0.006)
    assert float(high) == pytest.approx(-0.1 + 2.798 * 0.1528, abs=0.006)
    assert by_pattern["`blocks(4, 1)`"] == ["–"] * 3
    assert by_pattern["dense"] == ["98.00 (1 seed)", "", ""]
    assert by_pattern["`n_of_m(2, 4)`"] == ["at 50 %: –", "", ""]


def test_equal_seeds_differ_by_nothing():
    assert tables.mean_text([97.0, 97.0]) == "97.00 ± 0.00"
    assert tables.difference([97.0, 97.0], [97.0]) is None


def test_records_are_those_of_finished_runs_and_stay(tmp_path):
    setting = settings()[0]
    run = sweep.all_runs([setting.cell()], tmp_path / "runs", [0])[0]
    run.folder.mkdir(parents=True)
    output = tmp_path / "docs"
    output.mkdir()
    assert records.update([setting], tmp_path / "runs", output) == {}
    (run.folder / files.RESULTS_FILE).write_text('{"test_accuracy": 0.5}')
    found = records.update([setting], tmp_path / "runs", output)
    assert list(found) == [(setting.name, 0)]
    record = found[setting.name, 0]
    assert record["test_accuracy"] == 0.5
    assert str(tmp_path) not in record["command"]
    # Runs that are gone keep their records.
    shutil.rmtree(tmp_path / "runs")
    assert records.update([setting], tmp_path / "runs", output) == found


def test_the_pages_tables_are_those_of_the_published_records(tmp_path):
    for name in (tables.PAGE, records.FILE):
        shutil.copy(reproduce.OUTPUT / name, tmp_path / name)
    before = (tmp_path / tables.PAGE).read_text()
    assert reproduce.main(["--tables", f"--runs={tmp_path / 'none'}"], tmp_path) == 0
    assert (tmp_path / tables.PAGE).read_text() == before
