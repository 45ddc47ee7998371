"""What a run leaves behind: its setting, its measurements, its result."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rigl_keras import compat
from rigl_keras.version import __version__

RUN_FILE = "run.json"
RESULTS_FILE = "results.json"
# The member of an NPZ file that says, as JSON, what its arrays are.
_DESCRIPTION = "description"
_PACKAGES = ("numpy", "tensorflow-datasets", "gin-config")


def write_text(path, text):
    """Writes a file whole or not at all."""
    temporary = f"{path}.writing"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def write_json(path, value):
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path):
    """Reads a JSON file; None when there is none."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def append_jsonl(path, record):
    """Adds one record to a file of JSON lines."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_jsonl(path):
    """Reads a file of JSON lines, without a last one that was not written whole."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def drop_records_after(path, step):
    """Removes the records of later steps from a file of JSON lines."""
    kept = [record for record in read_jsonl(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def write_arrays(path, arrays, description):
    """Writes an NPZ file, whole or not at all, that loads without pickle.

    Args:
      path: ends in ".npz".
      arrays: dict from names to arrays of numbers, bools or strings.
      description: what JSON can hold, such as a dict with the configuration.

    Raises:
      ValueError: for an array of Python objects.
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects or _DESCRIPTION in arrays:
        raise ValueError(
            f"Expected arrays of numbers, bools or strings, none of them named "
            f"{_DESCRIPTION!r}; got {objects or [_DESCRIPTION]}."
        )
    members: dict[str, Any] = {**arrays, _DESCRIPTION: json.dumps(description)}
    temporary = f"{path}.writing"
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **members)
    os.replace(temporary, path)


def read_arrays(path):
    """Reads what `write_arrays` wrote.

    Returns:
      The dict of arrays, and the description.

    Raises:
      OSError: when there is no such file.
      ValueError: when it is no file of `write_arrays`.
    """
    with np.load(path, allow_pickle=False) as file:
        if _DESCRIPTION not in file:
            raise ValueError(f"{path} has no description; it is another program's.")
        arrays = {name: file[name] for name in file.files if name != _DESCRIPTION}
        return arrays, json.loads(str(file[_DESCRIPTION]))


def environment():
    """Versions, revision and machine, for a result to carry.

    Returns:
      A dict of strings and a dict of versions.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "versions": {
            "rigl_keras": __version__,
            "python": platform.python_version(),
            "keras": compat.keras_version(),
            # On TPUs it comes by another name.
            "tensorflow": tf.__version__,
            **versions,
        },
        "git_revision": _git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _git_revision():
    """Revision of the source checkout, "-dirty" when changed; None when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.stdout.strip()
