"""The README's Python examples run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
# The examples of "Your own model" build on one another; the first stands alone.
FIRST, *REST = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("example", [FIRST, "\n".join(REST)], ids=["first", "own"])
def test_an_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(README), "exec"), {})
    assert list(tmp_path.glob("*.keras"))
