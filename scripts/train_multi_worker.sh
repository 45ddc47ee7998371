#!/usr/bin/env bash
# Trains with several workers: one on each host, or all of them on this machine.
#
# On every host, each with its own --index, from 0 in the order of --hosts:
#   scripts/train_multi_worker.sh --hosts=host1:2222,host2:2222 --index=0 -- \
#     --logdir=/shared/runs/rigl80 --gin_config=imagenet_resnet50/rigl.gin
#
# Three processes on this machine, to try it:
#   scripts/train_multi_worker.sh --local=3 -- --logdir=runs/try \
#     --gin_config=digits/rigl.gin
#
#   --max_restarts=10    how often the workers are started again, from the last
#                        checkpoint, when one is lost
#   --restart_pause=10   seconds before that
#   --dry_run            prints the command of every process and runs none
#
# What follows -- goes to rigl_keras.train. All workers share --logdir, where the first
# one writes; their output is in logs/worker-<index>.log there. What is left out of the
# text here is in: scripts/launch_workers.py --help
#
# Exit status: that of the training; 2 for wrong settings.
set -euo pipefail
# shellcheck source=scripts/launch.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh"

setup=("$root/scripts/setup.sh")
if command -v nvidia-smi >/dev/null; then setup+=(gpu); fi
launcher=("$root/scripts/launch_workers.py" --python="$python" "$@")

for argument in "$@"; do
  case $argument in
    --) break ;;
    -h | --help)
      usage
      exit
      ;;
    --dry_run) dry_run=true ;;
  esac
done

run "${setup[@]}"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# The launcher itself needs no more than Python, and prints the commands of a dry run.
if $dry_run; then python=${PYTHON:-python3}; fi
exec "$python" "${launcher[@]}"
