"""The records of the runs that compare patterns: docs/results/patterns/runs.jsonl."""

import shlex

from rigl_keras.program import sweep

FILE = "runs.jsonl"
IDENTITY = ("cell", "seed")
FOLDER = "runs/patterns"  # what records call the folder of the runs


def read(output):
    """All records in a folder: dict from (cell, seed) to records."""
    return sweep.read_records(output / FILE, IDENTITY)


def update(settings, folder, output):
    """Adds the records of finished runs.

    Args:
      settings: list of `cells.Setting`.
      folder: path of the folder of the runs.
      output: path of the folder of the records.

    Returns:
      All records, as `read`.
    """
    records = read(output)
    found = {}
    for run in sweep.all_runs([setting.cell() for setting in settings], folder):
        result = run.result()
        if result is not None:
            found[run.cell.name, run.seed] = _record(run, result)
    if any(records.get(key) != record for key, record in found.items()):
        records |= found
        sweep.write_records(output / FILE, records)
    return records


def _record(run, result):
    folder = str(run.folder.parents[1])
    command = shlex.join(["python", *run.command(None)[1:]])
    record = {"cell": run.cell.name, "seed": run.seed, "command": command} | result
    # Where the runs and their data lay says nothing, and is not for others to read.
    if "config" in record:
        lines = record["config"].splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("data.data_dir =")]
        record["config"] = "".join(kept)
    return {name: _without_folder(value, folder) for name, value in record.items()}


def _without_folder(value, folder):
    return value.replace(folder, FOLDER) if isinstance(value, str) else value
