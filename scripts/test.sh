#!/usr/bin/env bash
# Checks format, lint and types, then runs the tests in Keras 3 and again in Keras 2.
# Every stage runs, whatever the others say; the exit status is 0 if all passed.
#
#   scripts/test.sh                what CI runs: the default tier
#   scripts/test.sh --all          all tests, both Kerases in full: before a release
#   scripts/test.sh -k selection   other arguments go to pytest
#   scripts/test.sh tests/core
#
# The default tier leaves out tests marked `release`; in Keras 2 it is those of
# tests/{compat,layers,conversion,contract} and those marked `both_kerases`. Tests named
# by a path or -k run in both Kerases whatever their marks, as under a plain `pytest`.
set -uo pipefail
trap 'exit 130' INT # Else a test run that is interrupted counts as one failed stage.

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
python=$PWD/.venv/bin/python
failed=()
times=()

stage() {
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  "$@" || failed+=("$name")
  note_time "$name" $((SECONDS - start))
}

note_time() {
  times+=("$(printf '%4d min %02d s  %s' $(($2 / 60)) $(($2 % 60)) "$1")")
}

for argument in "$@"; do
  shift
  [[ $argument == --all ]] && argument=--tier=all
  set -- "$@" "$argument"
done
# Two processes, for the two cores of a small machine; a later -n overrides it.
run_tests=("$python" -m pytest -n 2 --dist worksteal "$@")

scripts/setup.sh || exit
note_time "installation" "$SECONDS"
stage "format" "$python" -m ruff format --check
stage "lint" "$python" -m ruff check
stage "types" "$python" -m mypy
stage "tests in Keras 3" env -u TF_USE_LEGACY_KERAS "${run_tests[@]}"
stage "tests in Keras 2" env TF_USE_LEGACY_KERAS=1 "${run_tests[@]}"

note_time "in all" "$SECONDS"
printf '\n'
printf '%s\n' "${times[@]}"
if ((${#failed[@]})); then
  printf '\ntest.sh: FAILED:%s\n' "$(printf ' [%s]' "${failed[@]}")"
  exit 1
fi
printf '\ntest.sh: every stage passed\n'
