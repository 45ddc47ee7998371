"""What sparse training costs: steps, updates, selection, memory, start-up.

Each part is measured in a process of its own, in which all contestants take turns. The
numbers go to results/performance/benchmark.json in the folder --output, the tables to
performance.md in it, and a figure beside the numbers. Parts that are not measured keep
the numbers that the folder has. --keep skips parts measured at this revision with these
arguments, so it continues a run that was stopped. More --rounds make the intervals of
steps, selections and updates narrower.

Example:
  python -m benchmarks.run                  # in less than 20 minutes on two cores
  python -m benchmarks.run --quick          # in three minutes
  python -m benchmarks.run --full --keep    # what takes longer, too
  python -m benchmarks.run --only 'steps/lenet5*' --rounds=61
  python -m benchmarks.run --output docs    # into the page of this clone
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
from benchmarks import compressed_tables, tables
from benchmarks.parts import PARTS, chosen
from rigl_keras.program import files

ROOT = Path(__file__).resolve().parents[1]
FORMAT = 2  # Of the file of numbers.
# What --rounds applies to.
_WITH_ROUNDS = ("trainings:", "selections:", "patterns:", "compressed:")


def run(part, arguments):
    """Measures a part in a process of its own.

    Args:
      part: `Part`.
      arguments: dict, of the part's function.

    Returns:
      What its function returns, with the seconds that it took, the arguments, and the
      versions, revision and machine.
    """
    began = time.time()
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TF_USE_LEGACY_KERAS": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BENCHMARK_STARTED": str(began),
        **part.environment,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "measured.json")
        command = [sys.executable, "-m", "benchmarks.worker", part.function]
        subprocess.run(
            [*command, json.dumps(arguments), path],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        measured = files.read_json(path)
    return {
        **measured,
        "seconds_in_all": time.time() - began,
        "arguments": arguments,
    }


def _arguments_of(part, args):
    """The arguments of a part, of which the command line changes some."""
    arguments = {**part.arguments, **(part.quick if args.quick else {})}
    if args.rounds and part.function.startswith(_WITH_ROUNDS):
        arguments["rounds"] = args.rounds
    return arguments


def _is_known(known, arguments, revision):
    """Whether a part's numbers are those of these arguments and this revision."""
    return (
        known is not None
        and known["arguments"] == arguments
        and known["environment"]["git_revision"] == revision
    )


def _command_line():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog=__doc__[__doc__.index("Example:") :],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="little, in three minutes")
    size.add_argument("--full", action="store_true", help="what takes long, too")
    parser.add_argument("--only", default="*", help="glob pattern of parts to measure")
    parser.add_argument("--keep", action="store_true", help="measure what is missing")
    parser.add_argument(
        "--rounds", type=int, help="turns of each, in place of a part's own number"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark"), help="folder; ./benchmark"
    )
    args = parser.parse_args()
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {args.rounds}.")
    args.kind = "quick" if args.quick else "full" if args.full else "default"
    if not chosen(args.kind, args.only):
        parser.error(f"--only={args.only!r} matches none of {chosen(args.kind)}.")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("the figure needs matplotlib: pip install matplotlib.")
    return args


def _known_parts(record):
    """The parts in a file, but for one of another version of this program."""
    known = files.read_json(record) or {}
    return known.get("parts", {}) if known.get("format") == FORMAT else {}


def _measure(part, arguments):
    """A part's numbers, or None when it failed; says how it went."""
    try:
        measured = run(part, arguments)
    except subprocess.CalledProcessError as error:
        # Such as a run on MNIST where TFDS has none: the others go on.
        print(f"failed ({error.returncode}):\n{error.stderr[-3000:]}", flush=True)
        return None
    print(f"{measured['seconds_in_all']:.0f} s", flush=True)
    return measured


def _measure_all(parts, args, record):
    """Measures the chosen parts and writes the numbers after each.

    Args:
      parts: dict from names of parts to numbers, which is changed.
      args: of the command line, which say what to measure.
      record: path of the file of numbers.

    Returns:
      The exit code: 1 when a part failed, 130 when it was interrupted.
    """
    code = 0
    arguments = {
        name: _arguments_of(PARTS[name], args) for name in chosen(args.kind, args.only)
    }
    # Before the first part: its numbers make a clone's revision a "dirty" one.
    revision = files.environment()["git_revision"]
    names = [
        name
        for name in arguments
        if not (args.keep and _is_known(parts.get(name), arguments[name], revision))
    ]
    if not names:
        print("Nothing to measure: all is there.")
    try:
        for index, name in enumerate(names, start=1):
            print(f"[{index}/{len(names)}] {name}", end=" ", flush=True)
            measured = _measure(PARTS[name], arguments[name])
            parts.pop(name, None)
            if measured is None:
                code = 1
            else:
                measured["environment"]["git_revision"] = revision
                parts[name] = measured
            files.write_json(record, {"format": FORMAT, "parts": _in_order(parts)})
    except KeyboardInterrupt:
        print("interrupted; --keep goes on from here.")
        code = 130
    return code


def _in_order(parts):
    return {name: parts[name] for name in PARTS if name in parts}


def main():
    """Measures, and writes numbers, tables and figure.

    Returns:
      The exit code: 1 when a part failed, 130 when it was interrupted.
    """
    args = _command_line()
    record = args.output / "results" / "performance" / "benchmark.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    parts = _known_parts(record)
    began = time.monotonic()
    code = _measure_all(parts, args, record)
    page = tables.write(args.output, _in_order(parts))
    compressed_tables.write(args.output, _in_order(parts))
    print(f"{page}; {time.monotonic() - began:.0f} s in all.")
    return code


if __name__ == "__main__":
    sys.exit(main())
