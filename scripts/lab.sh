#!/usr/bin/env bash
# Sets up, then runs the whole laboratory small, on real handwritten digits that need no
# download: trains every method, makes every analysis, writes one HTML page.
#
#   scripts/lab.sh [FOLDER]   FOLDER is runs/lab unless given; what is finished in it is
#                             not made again
set -euo pipefail

lab_dir=$(realpath -m -- "${1:-"$(dirname -- "${BASH_SOURCE[0]}")/../runs/lab"}")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# TensorFlow's native code writes such lines at import, whatever the log level.
.venv/bin/python scripts/lab.py "$lab_dir" \
  2> >(grep -vE '^(WARNING: All log messages before absl|[IWE][0-9]{4} )' >&2)
