#!/usr/bin/env bash
# A virtual environment from requirements.lock. Does nothing when it is already what the lock says.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*" >&2; }

find_python() {
  local name
  for name in "${PYTHON:-}" python3.12 python3.13 python3.11 python3; do
    [[ -n "$name" ]] && command -v "$name" >/dev/null 2>&1 || continue
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      printf '%s' "$name"
      return 0
    fi
  done
  say "needs Python 3.11, 3.12 or 3.13 with venv (on Debian and Ubuntu: apt install python3-venv); PYTHON=... names one"
  return 1
}

stamp="$(sha256sum requirements.lock pyproject.toml | sha256sum | cut -c1-16) $PWD"
if [[ -x .venv/bin/python && -x .venv/bin/osmo && "$(cat .venv/.stamp 2>/dev/null)" == "$stamp" ]]; then
  exit 0
fi
if [[ -e .venv && ! -w .venv ]]; then
  say ".venv belongs to another user and is not up to date; remove it or run make setup as that user"
  exit 1
fi

python="$(find_python)"
# An environment that was moved or half made is made again: its scripts name absolute paths.
if [[ ! -x .venv/bin/python || "$(cut -d' ' -f2- .venv/.stamp 2>/dev/null || true)" != "$PWD" ]]; then
  rm -rf .venv
  say "creating .venv with $("$python" --version)"
  if [[ "$PWD" == *" "* ]]; then
    # Ray starts its workers through a shell line that does not quote the interpreter: it must not hold a space.
    away="${XDG_CACHE_HOME:-$HOME/.cache}/osmo-ray/venv-$(printf '%s' "$PWD" | sha256sum | cut -c1-12)"
    rm -rf "$away"
    mkdir -p "$(dirname "$away")"
    "$python" -m venv "$away"
    ln -s "$away" .venv
  else
    "$python" -m venv .venv
  fi
fi
venv="$(cd .venv && pwd -P)"

# uv first, by its own hash from the lock; plain pip does the rest where uv cannot.
uv_lock="$(mktemp)"
trap 'rm -f "$uv_lock"' EXIT
awk '/^uv==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements.lock >"$uv_lock"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$uv_lock"
say "installing the locked dependencies"
"$venv/bin/python" -m uv pip sync --quiet --python "$venv/bin/python" --require-hashes requirements.lock ||
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e . ||
  "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation -e .
printf '%s' "$stamp" >.venv/.stamp
say "done"
