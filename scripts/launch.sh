# shellcheck shell=bash
# What the launchers of trainings share; they source it.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034 # Those that source this use it.
python=$root/.venv/bin/python
dry_run=false
# What keeps a launcher from starting, all of it.
problems=()

# What every training on ImageNet can be told.
configs=()
data_dir=''
batch_size=''
length=1
seed=0
bindings=()

# The batch that gin/imagenet_*/base.gin counts its steps for.
readonly base_batch_size=4096

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Prints the comment at the head of the script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# Prints a command as it could be pasted.
quoted() {
  local word words=()
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then word=${word@Q}; fi
    words+=("$word")
  done
  printf '%s\n' "${words[*]}"
}

# Shows a command and runs it, unless this is a dry run.
run() {
  if $dry_run; then
    quoted "$@"
  else
    printf '+ %s\n' "$(quoted "$@")" >&2
    "$@"
  fi
}

# The same for the last command of a script, which gets its signals then.
become() {
  if $dry_run; then quoted "$@"; else exec "$@"; fi
}

problem() { problems+=("$*"); }

# Names all problems and exits with 2, if there are any.
refuse_problems() {
  if ((${#problems[@]} == 0)); then return; fi
  say "cannot start:"
  printf '  - %s\n' "${problems[@]}" >&2
  exit 2
}

# The same for what the machine lacks, which is no reason not to show the commands.
refuse_problems_of_machine() {
  if $dry_run && ((${#problems[@]})); then
    printf '# would not start: %s\n' "${problems[@]}"
    problems=()
  fi
  refuse_problems
}

# Reads one of the options above; fails for another one.
training_option() {
  case $1 in
    --config=*) configs+=("${1#*=}") ;;
    --data_dir=*) data_dir=${1#*=} ;;
    --batch_size=*) batch_size=${1#*=} ;;
    --length=*) length=${1#*=} ;;
    --seed=*) seed=${1#*=} ;;
    --gin_binding=*) bindings+=("${1#*=}") ;;
    --dry_run) dry_run=true ;;
    -h | --help)
      usage
      exit
      ;;
    *) return 1 ;;
  esac
}

check_training_options() {
  local config
  if ((${#configs[@]} == 0)); then configs=(imagenet_resnet50/rigl.gin); fi
  for config in "${configs[@]}"; do
    if [[ ! -f $root/gin/$config && ! -f $config ]]; then
      problem "--config=$config is no file, in gin/ or by its path; see gin/imagenet_*"
    fi
  done
  if [[ -z $data_dir ]]; then
    problem "--data_dir=... is missing: the folder that holds imagenet2012/5.*.*," \
      "see docs/imagenet.md"
  fi
  if [[ ! $batch_size =~ ^([1-9][0-9]*)?$ ]]; then
    problem "--batch_size=$batch_size must be a number of images, of all devices" \
      "together"
  fi
  if [[ ! $length =~ ^[0-9]*\.?[0-9]+$ || ! $length =~ [1-9] ]]; then
    problem "--length=$length must be a number above 0; 5 trains five times as long"
  fi
  if [[ ! $seed =~ ^[0-9]+$ ]]; then
    problem "--seed=$seed must be a number, 0 or more"
  fi
}

# A string of gin.
gin_string() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# Sets train_arguments from the options, all but --logdir.
make_train_arguments() {
  local stretch
  # Steps of other batches see as many images as those of the configuration.
  stretch=$(LC_ALL=C awk -v length_="$length" -v base="$base_batch_size" \
    -v batch="${batch_size:-$base_batch_size}" \
    'BEGIN { printf "%.10g", length_ * base / batch }')
  train_arguments=("${configs[@]/#/--gin_config=}" --seed="$seed"
    --gin_bindings="data.data_dir=$(gin_string "$data_dir")")
  if [[ -n $batch_size ]]; then
    train_arguments+=(--gin_bindings="training.batch_size=$batch_size")
  fi
  if [[ $stretch != 1 ]]; then
    train_arguments+=(--gin_bindings="training.length=$stretch")
  fi
  local binding
  for binding in ${bindings[@]+"${bindings[@]}"}; do
    train_arguments+=(--gin_bindings="$binding")
  done
}
