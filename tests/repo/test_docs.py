"""The Python examples of the README and of docs/ run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def examples(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


# The examples of the README's "Your own model" build on one another; the first stands
# alone. So do those of each page.
FIRST, *REST = examples("README.md")
PAGES = {
    "README, first": [FIRST],
    "README, own": REST,
    **{
        name: examples(f"docs/{name}")
        for name in ("cost.md", "extending.md", "training.md")
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(PAGES[page]), page, "exec"), {})
    if page.startswith("README"):
        assert list(tmp_path.glob("*.keras"))


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
