"""Folders of runs that were never trained, with numbers that a test knows."""

import json

RESULT = {
    "data": "digits",
    "network": "lenet5",
    "method": "RigL",
    "sparsity": {"all": 0.95, "conv1/kernel": 0.9},
    "active_weights": 2446,
    "weights": 44426,
    "test_accuracy": 0.9749,
    "test_loss": 0.0821,
    "steps": 20,
    "steps_per_second": 150.4,
    "versions": {"rigl_keras": "0.1.0"},
    "git_revision": "abc",
    "machine": "here",
}


def write(folder, config=(), seed=0, is_finished=True, updates=False, **result):
    """Writes the folder of a run.

    Args:
      folder: path of it.
      config: lines of gin's configuration.
      seed: its init, data and mask seed.
      is_finished: whether there is a result.
      updates: whether there are mask updates.
      **result: what differs from `RESULT`.
    """
    folder.mkdir(parents=True)
    seeds = dict.fromkeys(("init_seed", "data_seed", "mask_seed"), seed)
    run = {"config": "\n".join(config), "seeds": seeds}
    (folder / "run.json").write_text(json.dumps(run))
    if is_finished:
        text = json.dumps({**RESULT, **run, **result})
        (folder / "results.json").write_text(text)
    record = {"cross_entropy": 1.0, "accuracy": 0.5, "gradient_norm": 0.1}
    record |= {"test_cross_entropy": 2.0, "test_accuracy": 0.25}
    records = [{"step": 0, "gradient_norm": 0.2}]
    records += [{"step": step, **record} for step in (10, 20)]
    write_lines(folder / "metrics.jsonl", records)
    if updates:
        changes = [{"step": step, "change": 0.1} for step in (5, 10)]
        write_lines(folder / "mask_updates.jsonl", changes)
    return folder


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
