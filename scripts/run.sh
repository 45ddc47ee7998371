#!/usr/bin/env bash
# Sets up, trains a 95 % sparse LeNet5 with RigL on real handwritten digits that need no
# download, and shows the result: a table and a figure.
#
#   scripts/run.sh [FOLDER]   FOLDER is runs/digits_rigl unless given; a run that was
#                             broken off goes on, a finished one is only shown
set -euo pipefail

run_dir=$(realpath -m -- "${1:-"$(dirname -- "${BASH_SOURCE[0]}")/../runs/digits_rigl"}")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
python=$PWD/.venv/bin/python
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

# TensorFlow's native code writes such lines at import, whatever the log level.
without_noise() {
  "$@" 2> >(grep -vE '^(WARNING: All log messages before absl|[IWE][0-9]{4} )' >&2)
}

without_noise "$python" -m rigl_keras.train --logdir="$run_dir" \
  --gin_config=digits/rigl.gin
echo
without_noise "$python" -m rigl_keras.report "$run_dir" --figure="$run_dir/curves.png"
