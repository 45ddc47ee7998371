#!/usr/bin/env bash
# Trains on ImageNet on a Cloud TPU VM: makes it, installs, trains, fetches the results,
# deletes it. A VM that is preempted is made again and goes on from the bucket.
#
#   scripts/train_imagenet_tpu.sh --name=rigl80 --project=my-project \
#     --zone=us-central2-b --accelerator_type=v4-8 \
#     --runtime_version=tpu-vm-tf-2.20.0-pjrt --bucket=gs://my-bucket/runs \
#     --data_dir=gs://my-bucket/tfds
#
#   --name=NAME             of the VM, and of the run in the bucket
#   --project=, --zone=     Google Cloud's
#   --accelerator_type=     v4-8, v5litepod-8, ...
#   --runtime_version=      software of the VM; to be checked, see below
#   --bucket=gs://...       the run's checkpoints and logs are in its folder NAME
#   --data_dir=gs://...     holds imagenet2012/5.*.*, as TFDS prepares it, or will
#   --archives=gs://...     holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar,
#                           from which the VM prepares --data_dir when it is not there
#   --spot                  a VM that is cheaper and may be preempted
#   --queued                waits in the queue until there is capacity
#   --keep                  does not delete the VM at the end
#   --max_restarts=10       how often a VM that is gone is made again
#   --packages="..."        TensorFlow for TPUs: tensorflow-tpu==2.20.0 libtpu==0.0.14
#   --logdir=DIR            here, for the results; runs/NAME unless given
#   --step=STEP             only create, install, prepare, train, fetch or delete; all
#   --config=, --batch_size=, --length=, --seed=, --gin_binding=, --dry_run
#                           as in train_imagenet_gpu.sh
#
# To be checked before the first run, since it changes and none of it could be tried:
# - that --runtime_version exists in the zone:
#     gcloud compute tpus tpu-vm versions list --zone=...
#   Names are tpu-vm-tf-<TensorFlow>[-pod][-pjrt], -pod for several hosts, -pjrt for the
#   newer device interface; the TensorFlow of a pod's software and of --packages must be
#   the same.
# - that --packages suit it. tensorflow-tpu has its own releases, later than those of
#   TensorFlow; 2.20.0, the last when this was written, aborts at its import with later
#   releases of libtpu than it was made for.
#
# Exit status: that of the training; 2 when something is missing.
set -euo pipefail
# shellcheck source=scripts/launch.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/launch.sh"

name='' project='' zone='' accelerator_type='' runtime_version='' bucket='' archives=''
logdir='' step=all spot=false queued=false keep=false max_restarts=10
packages='tensorflow-tpu==2.20.0 libtpu==0.0.14'
pause_seconds=${PAUSE_SECONDS:-60}
# Not named rigl_keras: Python would take the folder for the package.
readonly vm_checkout=rigl_keras.checkout
readonly vm_script=$vm_checkout/scripts/tpu_vm.sh
child=''

read_options() {
  local option key
  for option in "$@"; do
    if training_option "$option"; then continue; fi
    key=${option%%=*}
    case $option in
      --name=* | --project=* | --zone=* | --accelerator_type=* | --runtime_version=* | \
        --bucket=* | --archives=* | --packages=* | --logdir=* | --max_restarts=* | \
        --step=*) printf -v "${key#--}" '%s' "${option#*=}" ;;
      --spot | --queued | --keep) printf -v "${key#--}" true ;;
      *) problem "unknown argument $option; --help lists what there is" ;;
    esac
  done
  check_training_options
  check_options
  refuse_problems
  logdir=${logdir:-$root/runs/$name}
  bucket=${bucket%/}
  data_dir=${data_dir%/}
}

check_options() {
  local option
  for option in name project zone accelerator_type runtime_version bucket; do
    if [[ -z ${!option} ]]; then problem "--$option=... is missing; see --help"; fi
  done
  for option in bucket data_dir archives; do
    if [[ -n ${!option} && ${!option} != gs://?* ]]; then
      problem "--$option=${!option} must be in Google Cloud Storage: gs://..."
    fi
  done
  # A file outside gin/ would not get to the VM.
  local config
  for config in "${configs[@]}"; do
    if [[ ! -f $root/gin/$config && -f $config ]]; then
      problem "--config=$config must be in gin/, and committed: the VM gets what is"
    fi
  done
  if [[ ! $max_restarts =~ ^[0-9]+$ ]]; then
    problem "--max_restarts=$max_restarts must be a number, 0 or more"
  fi
  case $step in
    create | install | prepare | train | fetch | delete | all) ;;
    *) problem "--step=$step must be create, install, prepare, train, fetch," \
      "delete or all" ;;
  esac
}

check_machine() {
  if ! command -v gcloud >/dev/null; then
    problem "gcloud is missing: install it from https://cloud.google.com/sdk"
  fi
  if [[ ! $step =~ ^(install|all)$ || -n ${RIGL_KERAS_BUNDLE:-} ]]; then return; fi
  if ! git -C "$root" rev-parse --verify --quiet HEAD >/dev/null; then
    problem "$root is no git checkout with a commit: the VM gets what is committed"
  elif [[ -n $(git -C "$root" status --porcelain) ]]; then
    problem "there are changes that are not committed: the VM gets what is committed"
  fi
}

# Runs a command on a VM's host, or on "all".
on_host() {
  local host=$1
  shift
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$host" \
    --command="$(quoted "$@")"
}

vm_is_ready() {
  [[ $(gcloud compute tpus tpu-vm describe "$name" "${place[@]}" \
    --format='value(state)') == READY ]]
}

vm_exists() {
  gcloud compute tpus "$kind" describe "$name" "${place[@]}" --format='value(name)' \
    >/dev/null 2>&1
}

create() {
  local what=("$name" "${place[@]}" --accelerator-type="$accelerator_type")
  if $spot; then what+=(--spot); fi
  if $queued; then
    run gcloud compute tpus "$kind" create "${what[@]}" --node-id="$name" \
      --runtime-version="$runtime_version"
    await_queue
  else
    run gcloud compute tpus "$kind" create "${what[@]}" --version="$runtime_version"
  fi
}

# Returns when the queued VM is there, fails when the queue refuses it.
await_queue() {
  local describe=(gcloud compute tpus "$kind" describe "$name" "${place[@]}"
    --format='value(state.state)')
  if $dry_run; then
    quoted "${describe[@]}"
    return
  fi
  while true; do
    case $("${describe[@]}") in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING)
        say "the queue refused the VM; see: $(quoted "${describe[@]}")"
        return 1
        ;;
    esac
    sleep "$pause_seconds"
  done
}

# Packs the present commit, with its history, so that results can name it.
pack() {
  export RIGL_KERAS_BUNDLE=${TMPDIR:-/tmp}/rigl_keras-$name.bundle
  run git -C "$root" bundle create --quiet "$RIGL_KERAS_BUNDLE" HEAD
}

install() {
  local requirements
  if [[ -z ${RIGL_KERAS_BUNDLE:-} ]]; then pack; fi
  read -ra requirements <<<"$packages"
  run gcloud compute tpus tpu-vm scp "$RIGL_KERAS_BUNDLE" "$name:rigl_keras.bundle" \
    "${place[@]}" --worker=all
  on_host all rm -rf "$vm_checkout"
  on_host all git -c advice.detachedHead=false clone --quiet rigl_keras.bundle \
    "$vm_checkout"
  on_host all "$vm_script" install "${requirements[@]}"
}

data_set_is_there() {
  run gcloud storage ls "$data_dir/imagenet2012/5.*.*/dataset_info.json"
}

check_data() {
  if [[ -n $archives ]] || data_set_is_there; then return; fi
  problem "$data_dir holds no imagenet2012/5.*.*: give --archives=gs://..., or prepare" \
    "it as docs/imagenet.md says"
  refuse_problems
}

prepare() {
  check_data
  if [[ -z $archives ]] || { ! $dry_run && data_set_is_there; }; then return; fi
  on_host 0 "$vm_script" start prepare "$vm_script" prepare "$archives" "$data_dir"
  await prepare
}

train() {
  local tpu=local environment=(env)
  if [[ $runtime_version == *-pod* ]]; then
    # One program, on the first host, sends its work to the servers of all hosts.
    tpu=$name
    environment+=(TPU_NAME="$name" TPU_LOAD_LIBRARY=0)
  fi
  make_train_arguments
  on_host 0 "${environment[@]}" "$vm_script" start train \
    "$vm_script" train "$bucket/$name" "runs/$name" --use_tpu \
    "${train_arguments[@]}" --gin_bindings="strategy.tpu_name=\"$tpu\""
  await train
}

# Shows a job's output until it has ended, however often the connection is lost.
# Returns its exit code, or 75 when the VM is gone or has forgotten it.
await() {
  local state
  while true; do
    on_host 0 "$vm_script" follow "$1" || true
    if $dry_run; then
      on_host 0 "$vm_script" status "$1"
      return
    fi
    state=$(on_host 0 "$vm_script" status "$1" | tail -n 1) || state=unreachable
    case $state in
      "exit "*) return "${state#exit }" ;;
      running) ;;
      *) if [[ $state =~ ^(lost|none)$ ]] || ! vm_is_ready; then return 75; fi ;;
    esac
    sleep "$pause_seconds"
  done
}

# From the bucket: all but checkpoints, and the last of these.
fetch() {
  local run_folder=$bucket/$name last=ckpt-LAST
  run mkdir -p -- "$logdir"
  run gcloud storage rsync --recursive --exclude='(^|.*/)ckpt-[^/]*$' "$run_folder" \
    "$logdir"
  if ! $dry_run; then
    last=$(gcloud storage ls "$run_folder/ckpt-*.index" |
      sed -nE 's|.*/ckpt-([0-9]+)\.index$|\1|p' | sort -n | tail -n 1)
    last=ckpt-$last
  fi
  run gcloud storage cp "$run_folder/$last.*" "$logdir/"
}

delete() {
  local force=()
  if $queued; then force=(--force); fi
  run gcloud compute tpus "$kind" delete "$name" "${place[@]}" ${force[@]+"${force[@]}"}
}

# Runs this script for one step, so that a signal can end it, and all it has started.
do_step() {
  if $dry_run; then printf '# %s\n' "$1"; fi
  set -m
  "${BASH_SOURCE[0]}" "${options[@]}" --step="$1" </dev/null &
  child=$!
  set +m
  wait "$child"
}

# Ends the step that runs and deletes the VM, whatever ended this script.
clean_up() {
  local code=$?
  trap '' INT TERM HUP
  if [[ -n $child ]]; then kill -TERM -- "-$child" 2>/dev/null || true; fi
  rm -f -- "$RIGL_KERAS_BUNDLE"
  if $keep; then
    say "the VM is kept, and costs; end it with --step=delete"
  else
    do_step delete || say "if the VM is there it costs; end it with --step=delete"
  fi
  exit "$code"
}

# Returns the code that ended the training, 75 if another VM can go on. Takes how many
# there were before: where there was one, there may be one again.
train_on_one_vm() {
  local step code=0
  do_step create || code=$?
  if (($1 > 0 && code == 1)); then return 75; fi
  if ((code != 0)); then return "$code"; fi
  for step in install prepare train; do
    code=0
    do_step "$step" || code=$?
    if ((code == 0)); then continue; fi
    if ((code != 2)) && ! vm_is_ready; then code=75; fi
    return "$code"
  done
}

all() {
  local restart code
  check_data
  if ! $dry_run && vm_exists; then
    say "there is a VM $name already: --step=train goes on with its training, and" \
      "--step=delete deletes it"
    return 2
  fi
  pack # Once: VMs made later get the same commit.
  trap clean_up EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  for ((restart = 0; ; restart++)); do
    code=0
    train_on_one_vm "$restart" || code=$?
    if ((code != 75 || restart == max_restarts)); then break; fi
    say "the VM is gone: another in $pause_seconds s, $((restart + 1)) of $max_restarts"
    do_step delete || true
    sleep "$pause_seconds"
  done
  do_step fetch || say "nothing could be fetched from $bucket/$name"
  return "$code"
}

options=("$@")
read_options "$@"
check_machine
refuse_problems_of_machine
place=(--project="$project" --zone="$zone" --quiet)
kind='tpu-vm'
if $queued; then kind='queued-resources'; fi
"$step"
