"""The records of the MNIST runs: what docs/results/mnist/runs.jsonl holds."""

import shlex

from experiments.mnist.cells import STUDIES
from rigl_keras.program import sweep

FILE = "runs.jsonl"
IDENTITY = ("study", "cell", "seed")


def read(output):
    """All records in a folder: dict from (study, cell, seed) to records."""
    return sweep.read_records(output / FILE, IDENTITY)


def update(study, folder, output):
    """Replaces the records of a study by those of its finished runs.

    Args:
      study: key of `STUDIES`.
      folder: path of the folder of the runs; the records stay where there is none.
      output: path of the folder of the records.

    Returns:
      All records, as `read`.
    """
    records = read(output)
    if folder.exists():
        records = {key: record for key, record in records.items() if key[0] != study}
        records |= finished(study, folder)
        sweep.write_records(output / FILE, records)
    return records


def finished(study, folder):
    """The records of a study's finished runs, each its result and its command."""
    records = {}
    for table in STUDIES[study].values():
        for cell in table:
            for run in runs_there(cell, folder):
                result = run.result()
                if result is not None:
                    key = study, cell.name, run.seed
                    records[key] = _record(key, run, result)
    return records


def runs_there(cell, folder):
    """All runs of a cell that have a folder, by seed."""
    seeds = sorted(
        int(path.name.removeprefix("seed"))
        for path in (folder / cell.name).glob("seed*")
        if path.is_dir()
    )
    return sweep.all_runs([cell], folder, seeds) if seeds else []


def _record(key, run, result):
    folder = str(run.folder.parents[1])
    command = shlex.join(["python", *run.command(None)[1:]])
    record = dict(zip(IDENTITY, key, strict=True)) | {"command": command} | result
    # Where the runs lay says nothing, and is not for others to read.
    return {name: _without_folder(value, folder) for name, value in record.items()}


def _without_folder(value, folder):
    return value.replace(folder, "runs/mnist") if isinstance(value, str) else value
