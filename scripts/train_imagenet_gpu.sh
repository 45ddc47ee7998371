#!/usr/bin/env bash
# Trains on ImageNet, on all GPUs of this machine. Run again, it goes on where it was.
#
#   scripts/train_imagenet_gpu.sh --data_dir=/data/tfds --logdir=runs/rigl80
#
#   --data_dir=DIR     holds imagenet2012/5.*.*, as TFDS prepares it
#   --logdir=DIR       of the run: checkpoints, logs, results
#   --config=FILE      imagenet_resnet50/rigl.gin unless given; repeatable, for what the
#                      gin files call second files
#   --batch_size=N     of all GPUs together, 4096 unless given; with fewer images in a
#                      step there are more steps, and the learning rate is lower
#   --length=X         trains X times as long; 5 for the 5x of the RigL paper
#   --seed=N           0 unless given
#   --gin_binding=...  such as training.precision="'mixed_bfloat16'"; repeatable
#   --dry_run          prints every command and runs none
#
# Exit status: that of the training; 2 when something is missing.
set -euo pipefail
# shellcheck source=scripts/launch.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh"

# A ResNet-50's checkpoint takes 0.3 GB, and a run of 32,000 steps keeps 32 of them.
readonly free_gb=20
logdir=''

read_options() {
  local option
  for option in "$@"; do
    if training_option "$option"; then continue; fi
    case $option in
      --logdir=*) logdir=${option#*=} ;;
      *) problem "unknown argument $option; --help lists what there is" ;;
    esac
  done
  check_training_options
  if [[ -z $logdir ]]; then
    problem "--logdir=... is missing: the folder of the run"
  fi
  refuse_problems
  logdir=$(realpath -m -- "$logdir")
  if [[ $data_dir != *://* ]]; then data_dir=$(realpath -m -- "$data_dir"); fi
  local index
  for index in "${!configs[@]}"; do
    if [[ ! -f $root/gin/${configs[index]} ]]; then
      configs[index]=$(realpath -- "${configs[index]}")
    fi
  done
}

check_machine() {
  if ! nvidia-smi --list-gpus 2>/dev/null | grep -q .; then
    problem "nvidia-smi lists no GPU: install NVIDIA's driver, or run this where there" \
      "is one"
  fi
  if [[ $data_dir != *://* ]] &&
    ! compgen -G "$data_dir/imagenet2012/5.*.*/dataset_info.json" >/dev/null; then
    problem "$data_dir/imagenet2012/5.*.* holds no prepared data set: see" \
      "docs/imagenet.md, \"Data\""
  fi
  local folder=$logdir
  while [[ ! -e $folder ]]; do folder=$(dirname -- "$folder"); done
  if (($(df --output=avail -BG -- "$folder" | tail -n 1 | tr -dc 0-9) < free_gb)); then
    problem "less than $free_gb GB are free at $folder, for checkpoints: make room, or" \
      "take another --logdir"
  fi
}

check_tensorflow() {
  local program='import sys, tensorflow as tf; '
  program+='sys.exit(not tf.config.list_physical_devices("GPU"))'
  if run "$python" -c "$program"; then return; fi
  problem "TensorFlow sees no GPU, though nvidia-smi does: the driver must be new" \
    "enough for TensorFlow's CUDA, see https://www.tensorflow.org/install/pip"
  refuse_problems
}

read_options "$@"
check_machine
refuse_problems_of_machine
make_train_arguments

run "$root/scripts/setup.sh" gpu
check_tensorflow
run cd -- "$root" # Where Python takes no other folder for the package.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
become "$python" "$root/scripts/launch_workers.py" --single -- \
  --logdir="$logdir" "${train_arguments[@]}"
