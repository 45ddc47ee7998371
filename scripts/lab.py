#!/usr/bin/env python3
"""The whole laboratory, small: trains every method on digits and analyses the runs.

It trains dense, pruned, lottery ticket, scratch, SET, RigL and more, makes every
analysis of them, and reports all on one HTML page. Finished runs are not made again.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from rigl_keras import analyze, report
from rigl_keras.program.sweep import Cell, Runner, all_runs

STEPS = 1000  # as in gin/digits/lab.gin
LAB = "digits/lab.gin"
SEEDS = (0, 1, 2)


def cell(name, *files, **options):
    """An experiment of the laboratory, by the files of mnist/.

    Its folder has its title, so that it has one name on all of the page.
    """
    options = {"seeds": (0,), "steps": STEPS, **options}
    return Cell(name, name, (*(f"mnist/{file}.gin" for file in files), LAB), **options)


def child(name, *files, **options):
    """One on the masks of the pruned network."""
    return cell(name, *files, parent="Pruned", parent_seed=0, **options)


CELLS = [
    Cell("Pruned", "Pruned", ("digits/prune.gin",), seeds=(0,)),
    cell("Dense", "dense"),
    child("Lottery", "lottery", parent_weights=0, seeds=SEEDS),
    child("Scratch", "scratch", seeds=SEEDS),
    child("SET", "set", "pruned_masks"),
    child("RigL", "rigl", "pruned_masks"),
    child("RigLInverted", "rigl_inverted", "pruned_masks"),
    cell("SNIP", "snip"),
]
SIMILAR = ("Lottery", "Scratch")
EVOLVING = ("Pruned", "RigL", "SET", "RigLInverted")
NOTES = (
    "This table ranks no method: Lottery and Scratch have three seeds, the others one, "
    "and the test set has 359 images, of which one is 0.28 %. Differences of a percent "
    "mean nothing.",
    "Not the methods alone differ: Lottery, Scratch, SET, RigL and RigLInverted start "
    "on the masks of the pruned network, SNIP on masks of its own, Dense has none. "
    "Weight decay is 0.0002 for SNIP and 0.0005 for the others, the learning rate 0.1 "
    "and 0.05.",
)


def analyses(runs):
    """The command lines of `rigl_keras.analyze` that analyse the runs.

    Args:
      runs: path of their folder.
    """

    def groups(names):
        return [
            part
            for member in CELLS
            if member.name in names
            for part in ("--group", member.title, str(runs / member.name))
        ]

    everything = [member.name for member in CELLS]
    reference = ["--reference", str(runs / "Pruned" / "seed0")]
    return [
        ["signals", "--num_networks=3", "--sparsities", "0.5", "0.8", "0.95", "0.98"],
        ["gradient_flow", *groups(everything)],
        ["mask_updates", *groups(EVOLVING)],
        ["masks", *groups(EVOLVING)],
        ["distances", *groups(SIMILAR), *reference],
        ["map", *groups(SIMILAR), *reference],
        ["interpolation", *groups(SIMILAR), *reference],
        ["ensembles", *groups(SIMILAR), *reference],
        ["hessian", *groups(["RigL"])],
    ]


def hessian(runs):
    """The command that finds the Hessian spectra around a mask update of RigL."""
    bindings = {
        "method": "lanczos",
        "lanczos_steps": 60,
        "num_probes": 2,
        "batch_size": 500,
        # Before and after the update at step 100.
        "ckpt_ids": [-99, -100],
    }
    return [
        sys.executable,
        "-m",
        "rigl_keras.train",
        "--mode=hessian",
        f"--logdir={runs / 'RigL' / 'seed0'}",
        *(f"--gin_bindings=hessian.{k}={v!r}" for k, v in bindings.items()),
    ]


def main():
    """Runs the command line.

    Returns:
      The exit code: 1 when something failed.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder for runs and report")
    folder = parser.parse_args().folder.resolve()
    # So that the runs end with this process, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    runner = Runner(all_runs(CELLS, folder / "runs"), None)
    runner.run(when_done=lambda: None)
    if runner.failed:
        return 1
    print("\nSpectra of the Hessian", flush=True)
    subprocess.run(hessian(folder / "runs"), check=True)
    results = folder / "analyses"
    for arguments in analyses(folder / "runs"):
        print(f"\n== {arguments[0]}", flush=True)
        if analyze.main([*arguments, f"--out={results}"]):
            return 1
    print()
    places = [str(folder / "runs"), f"--analyses={results}"]
    notes = [f"--note={note}" for note in NOTES]
    return report.main([*places, f"--out={folder / 'report'}", *notes])


if __name__ == "__main__":
    sys.exit(main())
