"""The examples of the README and of docs/ run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).resolve().parents[2]


def blocks(path, language):
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, (ROOT / path).read_text(), re.DOTALL)


def examples(path):
    """The Python of a page; blocks that begin with "# Keras 3" are for that alone."""
    return [
        block
        for block in blocks(path, "python")
        if tiny.IS_KERAS_3 or not block.startswith("# Keras 3\n")
    ]


# The examples of the README's "Your own model" build on one another; the first stands
# alone. So do those of each page.
FIRST, *REST = examples("README.md")
PAGES = {
    "README, first": [FIRST],
    "README, own": REST,
    **{
        name: examples(f"docs/{name}")
        for name in (
            "compressed.md",
            "cost.md",
            "extending.md",
            "patterns.md",
            "training.md",
        )
    },
}


def run(code, name):
    variables = {}
    exec(compile(code, name, "exec"), variables)
    return variables


@pytest.mark.slow
@pytest.mark.both_kerases
@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("\n".join(PAGES[page]), page)
    if page.startswith("README"):
        assert list(tmp_path.glob("*.keras"))


@pytest.mark.slow
def test_the_first_example_shows_what_rigl_is_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    static = re.sub(r"RigL\(.*?\)", "Static()", FIRST)
    accuracies = []
    for code in (FIRST, static):
        found = run(code, "README, first")
        x, y = found["x"][6000:], found["y"][6000:]
        _, accuracy = found["model"].evaluate(x, y, verbose=0)
        accuracies.append(accuracy)
    assert accuracies[0] > 0.8 and accuracies[1] < 0.45


# The two of the section "The command line" that begin it.
FIRST_COMMANDS = [code for code in blocks("README.md", "sh") if ".report runs/" in code]


@pytest.mark.release
@pytest.mark.parametrize("commands", FIRST_COMMANDS[:2])
def test_the_first_commands_run(commands, tmp_path):
    """On little data and in few steps; nothing is installed or downloaded."""
    pytest.importorskip("sklearn")
    commands = commands.replace("pip install '.[plots]'\n", "").replace(
        "python ", "$py "
    )
    bindings = """ --gin_bindings=training.total_steps=4 \\
        --gin_bindings=training.save_freq=4 --gin_bindings=data.name=\\'digits\\'"""
    commands = re.sub(r"(?m)^(train --.*)$", lambda line: line[0] + bindings, commands)
    python_path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    ran = subprocess.run(
        ["bash", "-euc", commands],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path, "py": sys.executable},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "| experiment " in ran.stdout


NAMED_TESTS = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "README.md").read_text())


def test_every_line_of_the_support_table_names_a_test():
    text = (ROOT / "README.md").read_text()
    table = text[text.index("| | Keras 3 |") : text.index("Limits of Keras itself")]
    lines = [line for line in table.strip().splitlines()[2:] if "**" not in line]
    assert len(lines) > 30
    assert all(re.search(r"`[\w/]+\.py::\w+`", line) for line in lines)


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED_TESTS)))
def test_the_tests_that_the_readme_names_exist(file, name):
    source = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^def {name}\(", source, re.MULTILINE)
