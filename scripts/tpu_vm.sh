#!/usr/bin/env bash
# What train_imagenet_tpu.sh has a TPU VM do; it runs there, in the home folder.
#
#   tpu_vm.sh install REQUIREMENT...       makes .venv here, TensorFlow as required
#   tpu_vm.sh prepare ARCHIVES DATA_DIR    has TFDS prepare ImageNet
#   tpu_vm.sh train BUCKET_FOLDER LOGDIR ARGUMENT...
#                                          goes on with the run in the bucket's folder
#   tpu_vm.sh start JOB COMMAND...         runs a command that outlives the connection
#   tpu_vm.sh follow JOB                   prints its output until it ends
#   tpu_vm.sh status JOB                   "running", "exit N", "lost" or "none"
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
bin=$root/.venv/bin
jobs_folder=$HOME/rigl_jobs
upload_seconds=${UPLOAD_SECONDS:-600}

say() { printf 'tpu_vm.sh: %s\n' "$*" >&2; }

pip_install() { "$bin/python" -m pip install -qq --disable-pip-version-check "$@"; }

# TensorFlow for TPUs is the distribution tensorflow-tpu. What requires `tensorflow` would
# install the one for CPUs over it, so that is installed without its requirements.
install() {
  if ! python3 -c 'import ensurepip' 2>/dev/null; then
    sudo apt-get -qq update
    sudo apt-get -qq install -y python3-venv
  fi
  python3 -m venv -- "$root/.venv"
  pip_install --upgrade pip
  pip_install "$@"
  (cd -- "$root" && pip_install --no-deps --editable .)
  "$bin/python" - >"$root/.venv/requirements" <<'END'
import importlib.metadata, re

for requirement in importlib.metadata.requires("rigl_keras"):
    name = re.match(r"[\w.-]+", requirement)[0]
    if "extra ==" not in requirement and name not in (
        "tensorboard", "tensorflow", "tf_keras"
    ):
        print(requirement)
END
  pip_install --requirement "$root/.venv/requirements"
  pip_install --no-deps "tf_keras==$("$bin/python" -c 'import importlib.metadata as m
print(*m.version("tensorflow-tpu").split(".")[:2], "*", sep=".")')"
}

prepare() {
  "$bin/tfds" build imagenet2012 --manual_dir="$1" --data_dir="$2" \
    --file_format=tfrecord
}

# Once on a VM, which then has what is newest.
download() {
  local remote=$1 logdir=$2
  mkdir -p -- "$logdir"
  # With this in it the folder exists, and a download that fails is a failure: a run
  # must not begin anew, and remove what it did not see, because a network was away.
  date --utc +%FT%TZ >"$logdir/last_vm"
  gcloud storage cp "$logdir/last_vm" "$remote/last_vm"
  gcloud storage rsync --recursive "$remote" "$logdir"
  touch -- "$logdir.downloaded"
}

# The index of a checkpoint makes it one: it follows the rest. Then what the run has
# removed is removed.
upload() {
  local logdir=$1 remote=$2 writing='(^|.*/)ckpt\.writing/.*'
  gcloud storage rsync --recursive --exclude="$writing|.*\.index$" "$logdir" "$remote" &&
    gcloud storage rsync --recursive --exclude="$writing" "$logdir" "$remote" &&
    gcloud storage rsync --recursive --exclude="$writing" \
      --delete-unmatched-destination-objects "$logdir" "$remote"
}

keep_uploading() {
  while sleep "$upload_seconds"; do
    upload "$@" || say "the upload failed, the next is in $upload_seconds s"
  done
}

train() {
  local remote=$1 logdir=$2 uploader code=0
  shift 2
  if [[ ! -f $logdir.downloaded ]]; then download "$remote" "$logdir"; fi
  set -m # A process group of its own, so that all of it can be ended.
  keep_uploading "$logdir" "$remote" &
  uploader=$!
  set +m
  "$bin/python" "$root/scripts/launch_workers.py" --single -- --logdir="$logdir" "$@" ||
    code=$?
  kill -- "-$uploader"
  wait "$uploader" || true
  upload "$logdir" "$remote"
  return "$code"
}

start() {
  local folder=$jobs_folder/$1
  if [[ $(status "$1") == running ]]; then
    say "$1 is running already"
    return
  fi
  shift
  rm -rf -- "$folder"
  mkdir -p -- "$folder"
  # shellcheck disable=SC2016 # The inner shell expands it.
  setsid nohup bash -c '"${@:2}"; echo "exit $?" >"$1"' \
    bash "$folder/end" "$@" >"$folder/log" 2>&1 </dev/null &
  echo "$!" >"$folder/pid"
}

status() {
  local folder=$jobs_folder/$1
  if [[ ! -f $folder/pid ]]; then
    echo none
  elif [[ -s $folder/end ]]; then
    cat -- "$folder/end"
  elif kill -0 "$(<"$folder/pid")" 2>/dev/null; then
    echo running
  else
    echo lost
  fi
}

follow() {
  tail --lines=50 --follow --pid="$(<"$jobs_folder/$1/pid")" -- "$jobs_folder/$1/log"
}

case ${1:-} in
  install | prepare | train | start | follow | status) "$@" ;;
  *)
    say "unknown command ${1:-}"
    exit 2
    ;;
esac
