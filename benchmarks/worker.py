"""Measures one part in this process: MODULE:FUNCTION, its arguments, a file to write.

Arguments and result are JSON. `benchmarks.run` starts it.
"""

import importlib
import json
import sys

from rigl_keras.program import files


def main():
    """Calls the function and writes what it returns, with versions and machine."""
    module, _, function = sys.argv[1].partition(":")
    measure = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    measured = measure(**json.loads(sys.argv[2]))
    measured["environment"] = files.environment()
    files.write_json(sys.argv[3], measured)


if __name__ == "__main__":
    main()
