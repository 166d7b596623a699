#!/usr/bin/env bash
# Sets up a virtual environment with everything: bash scripts/setup.sh [FOLDER]. Idempotent; nothing outside FOLDER changes.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

python=""
for candidate in python3.13 python3.12 python3.11 python3 python; do
  if command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14)))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "setup: Python 3.11, 3.12 or 3.13 is needed on PATH; found: $(python3 --version 2>&1 || echo none)" >&2
  exit 2
fi

echo "setup: $("$python" --version), environment in $venv (the first time several GB are downloaded)"
if command -v uv >/dev/null 2>&1; then
  [ -x "$venv/bin/python" ] || uv venv --quiet --python "$(command -v "$python")" "$venv"
  install=(uv pip install --quiet --python "$venv/bin/python")
else
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  if "$venv/bin/python" -m pip install --quiet uv; then
    install=("$venv/bin/uv" pip install --quiet --python "$venv/bin/python")
  else
    echo "setup: uv could not be installed; going on with pip (slower)"
    install=("$venv/bin/python" -m pip install --quiet)
  fi
fi
# Ray starts a Python per worker: each would compile every module anew where none is compiled and none may be written.
case ${install[0]} in */python) ;; *) install+=(--compile-bytecode) ;; esac
"${install[@]}" --constraint constraints.txt --editable '.[all]'
echo "setup: done"
