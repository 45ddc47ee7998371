#!/usr/bin/env bash
# Sets up, trains a LeNet5 on real handwritten digits that need no download, dense, 95 %
# sparse with masks that stay, and with RigL from the same masks, and shows the three
# beside each other: a table and a figure.
#
#   scripts/run.sh [FOLDER]   FOLDER is runs/digits unless given; a run that was broken
#                             off goes on, a finished one is only shown
set -euo pipefail

runs_dir=$(realpath -m -- "${1:-"$(dirname -- "${BASH_SOURCE[0]}")/../runs/digits"}")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
python=$PWD/.venv/bin/python

train() { # FOLDER FILE
  echo "== $1"
  "$python" -m rigl_keras.train --logdir="$runs_dir/$1" \
    --gin_config="digits/$2.gin" --gin_bindings=training.save_freq=1500 \
    --gin_bindings=training.save_mask_updates=False
  echo
}

train Dense dense
train Static static
train RigL rigl
"$python" -m rigl_keras.report "$runs_dir"/{Dense,Static,RigL} \
  --figure="$runs_dir/curves.png"
