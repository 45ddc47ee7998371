#!/usr/bin/env bash
# Checks format, lint and types, then runs the tests in Keras 3 and again in Keras 2.
# Every stage runs, whatever the others say; the exit status is 0 if all passed.
#
#   scripts/test.sh                everything
#   scripts/test.sh -k selection   arguments go to pytest
set -uo pipefail
trap 'exit 130' INT # Else a test run that is interrupted counts as one failed stage.

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
scripts/setup.sh || exit
python=$PWD/.venv/bin/python
failed=()

stage() {
  local name=$1
  shift
  printf '\n== %s\n' "$name"
  "$@" || failed+=("$name")
}

# Two processes, for the two cores of a small machine; a later -n overrides it.
run_tests=("$python" -m pytest -n 2 --dist worksteal "$@")

stage "format" "$python" -m ruff format --check
stage "lint" "$python" -m ruff check
stage "types" "$python" -m mypy
stage "tests in Keras 3" env -u TF_USE_LEGACY_KERAS "${run_tests[@]}"
stage "tests in Keras 2" env TF_USE_LEGACY_KERAS=1 "${run_tests[@]}"

if ((${#failed[@]})); then
  printf '\ntest.sh: FAILED:%s\n' "$(printf ' [%s]' "${failed[@]}")"
  exit 1
fi
printf '\ntest.sh: every stage passed\n'
