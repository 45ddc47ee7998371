"""The command that prints what a network costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rigl_keras
from rigl_keras import cost_table, networks

pytestmark = pytest.mark.one_keras

ROOT = Path(__file__).resolve().parents[2]
LENET = ["--network=lenet5", "--input_shape=28,28,1", "--num_classes=10"]


def printed(capsys, *arguments):
    assert cost_table.main([*LENET, *arguments]) == 0
    return capsys.readouterr().out


def cells(text):
    """A Markdown table as a dict from first cells to the others."""
    rows = [line.strip("| ").split("|") for line in text.splitlines() if "|" in line]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def lenet5_flops(density=1.0):
    """conv1 and conv2 on 24x24 and 8x8 pixels, then the dense layers."""
    outputs = [576 * 6, 64 * 16, 120, 84, 10]
    products = [576 * 150, 64 * 2400, 30720, 10080, 840]
    return 2 * density * sum(products) + sum(outputs)


def test_the_table_of_a_dense_network(capsys):
    table = cells(printed(capsys))
    assert table["parameters"] == ["44,426", "44,426", "1.0000"]
    flops = f"{lenet5_flops():,.0f}"
    assert table["inference FLOPs"] == [flops, flops, "1.0000"]
    size = f"{4 * 44_426:,}"
    assert table["size, bytes"] == [size, size, "1.0000"]


def test_the_table_of_a_sparse_network_and_its_training(capsys):
    arguments = ["--sparsity=0.9", "--distribution=uniform", "--steps=10"]
    arguments += ["--batch_size=2", "--update_freq=4", "--method=rigl", "--method=snfs"]
    table = cells(printed(capsys, *arguments))
    dense, sparse = lenet5_flops(), lenet5_flops(0.1)
    assert table["parameters"] == ["44,426", f"{4419 + 236:,}", "0.1048"]
    assert table["inference FLOPs"][1] == f"{sparse:,.0f}"
    size = 4 * (4419 + 236) + 44_190 / 8
    assert table["size, bytes"][1] == f"{size:,.0f}"
    rigl = 20 * (3 * sparse * 4 + 2 * sparse + dense) / 5
    assert table["training FLOPs, rigl"][:2] == [f"{60 * dense:,.0f}", f"{rigl:,.0f}"]
    snfs = 20 * (2 * sparse + dense)
    assert table["training FLOPs, snfs"][1] == f"{snfs:,.0f}"


def test_json_has_every_number(capsys):
    arguments = ["--sparsity=0.8", "--dense=conv1/*", "--method=static", "--json"]
    found = json.loads(printed(capsys, *arguments))
    assert found["network"] == "lenet5" and found["sparsity"] == 0.8
    by_path = {row["path"]: row for row in found["rows"]}
    assert by_path["conv1/kernel"]["density"] == 1
    model = networks.lenet5((28, 28, 1), 10)
    shapes = {
        path: row["shape"] for path, row in by_path.items() if path != "conv1/kernel"
    }
    plan = rigl_keras.distributions.erk(shapes, 0.8)
    expected = rigl_keras.model_cost(model, plan)
    assert found["inference_flops"] == pytest.approx(expected.inference_flops)
    assert found["size_bytes"] == pytest.approx(expected.size_bytes)
    training = rigl_keras.training_flops(expected, "static", 32_000, 4096)
    assert found["training_flops"] == {"static": pytest.approx(training)}
    assert "rigl_keras" in found["versions"]


def test_a_line_for_each_kernel(capsys):
    table = cells(printed(capsys, "--layers", "--sparsity=0.5"))
    assert table["conv1/kernel"][0] == "5×5×1×6"
    assert len([name for name in table if name.endswith("/kernel")]) == 5


def test_pruning_follows_its_cubic(capsys):
    arguments = ["--sparsity=0.8", "--distribution=uniform", "--steps=40"]
    arguments += ["--batch_size=1", "--method=pruning", "--update_freq=10"]
    arguments += ["--begin_step=10", "--end_step=30", "--json"]
    found = json.loads(printed(capsys, *arguments))
    sparsity = (10 * 0.8 * (1 - 0.5**3) + 11 * 0.8) / 40
    expected = 3 * 40 * lenet5_flops(1 - sparsity)
    assert found["training_flops"]["pruning"] == pytest.approx(expected)


def test_arguments_of_the_network(capsys):
    text = printed(capsys, "--network_args=hidden_sizes=(3, 3, 27, 20)")
    assert cells(text)["parameters"][0] == "2,399"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network=lenet6"], "lenet6"),
        (["--input_shape=28x28"], "28x28"),
        (["--input_shape=8,8,1"], "at least 16x16"),
        (["--num_classes=many"], "many"),
        (["--sparsity=1.5"], "[0, 1)"),
        (["--distribution=eerk"], "eerk"),
        (["--dense=conv9*"], "conv9*"),
        (["--method=grow"], "grow"),
        (["--steps=0", "--method=rigl"], "steps"),
        (["--method=pruning"], "--begin_step"),
        (["--network_args=width"], "--network_args"),
        (["--network_args=depth=3"], "depth"),
        (["--nonsense"], "--nonsense"),
        (["extra"], "extra"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert cost_table.main([*LENET, *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith("error: ") and message in output.err


def test_missing_arguments_are_named(capsys):
    assert cost_table.main([]) == 2
    assert "--network, --input_shape, --num_classes" in capsys.readouterr().err


@pytest.mark.release
def test_the_command_runs_in_a_process_of_its_own():
    command = [sys.executable, "-m", "rigl_keras.cost_table", *LENET]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=True
    )
    assert cells(done.stdout)["parameters"][0] == "44,426"
