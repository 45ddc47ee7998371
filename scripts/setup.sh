#!/usr/bin/env bash
# Makes .venv in the repository: this package (editable) and all it needs, for its
# plots and tests too. Does nothing when nothing changed; progress goes to stderr.
#
#   scripts/setup.sh                    a Python that suits, found by name
#   PYTHON=python3.12 scripts/setup.sh  this Python
#   scripts/setup.sh gpu                CUDA for TensorFlow too
#
# Other scripts call this one and then use .venv/bin/python.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
# Written last by each of the two steps, so that one cut short is done again.
made_for=$venv/.made-for
installed=$venv/.installed${1:+-$1}
extras=test${1:+,$1}

say() { printf 'setup.sh: %s\n' "$*" >&2; }

is_suitable() {
  # Without ensurepip a Python cannot make environments (Debian packages it apart).
  "$1" -c 'import ensurepip, sys, venv
sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

version_of() { "$1" -c 'import platform; print(platform.python_version())'; }

find_python() {
  local candidates=(python3.11 python3.12 python3.13 python3.10 python3)
  if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  local candidate
  for candidate in "${candidates[@]}"; do
    if is_suitable "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  say "need Python 3.10 to 3.13 with its venv module, tried ${candidates[*]}:" \
    "install one or set PYTHON to its path"
  return 1
}

# An environment holds absolute paths, so one that was moved here does not count.
venv_is_usable() {
  [[ -f $made_for && $(<"$made_for") == "$root" ]] || return
  is_suitable "$python" || return
  [[ -z ${PYTHON:-} || $(version_of "$PYTHON") == "$(version_of "$python")" ]]
}

make_venv() {
  local base
  base=$(find_python)
  say "making .venv with Python $(version_of "$base")"
  rm -rf -- "$venv"
  "$base" -m venv -- "$venv"
  printf '%s\n' "$root" >"$made_for"
}

# What decides the contents of the environment.
fingerprint() {
  "$python" - "$root/setup.py" "$root/pyproject.toml" <<'END'
import hashlib, pathlib, sys

print(sys.version)
for name in sys.argv[1:]:
    print(hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest())
END
}

install() {
  say "installing rigl_keras and its requirements (a minute or two)"
  rm -f -- "$installed"
  # The resolver of pip 23.0, which Python 3.10 brings, finds no solution.
  "$python" -m pip install -qq --disable-pip-version-check --upgrade pip
  # A relative path, since pip splits one with extras at odd characters.
  (cd -- "$root" && "$python" -m pip install -qq --disable-pip-version-check \
    --editable ".[$extras]")
  fingerprint >"$installed"
  say "done"
}

if [[ ${1:-gpu} != gpu || $# -gt 1 ]]; then
  say "unknown arguments $*; there is only: gpu"
  exit 2
fi
if [[ -n ${PYTHON:-} ]]; then find_python >/dev/null; fi
if ! venv_is_usable; then make_venv; fi
if ! [[ -f $installed && $(<"$installed") == "$(fingerprint)" ]]; then install; fi
