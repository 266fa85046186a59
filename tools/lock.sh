#!/usr/bin/env bash
# Write constraints.txt: resolve settings.ini in a fresh environment and keep the versions.
# To move PyTorch, change TORCH; the other versions are the newest that settings.ini allows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
TORCH=2.13.0
PYTHON=${PYTHON:-python3.11}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$PYTHON" -m venv "$dir/venv"
# soupsieve 3 and later want Python 3.11.5; word splitting is meant: one requirement per word
# shellcheck disable=SC2046
"$dir/venv/bin/python" -m pip install -qq "torch==$TORCH" "soupsieve<3" $("$PYTHON" - <<'PY'
from configparser import ConfigParser
cfg = ConfigParser(delimiters=["="]); cfg.read("settings.ini"); cfg = cfg["DEFAULT"]
print(cfg["requirements"], cfg["dev_requirements"])
PY
)
{
  echo "# Every package that dln_nb and its development tools install, at the version they were tested with."
  echo "# Made by \`make constraints\` (tools/lock.sh): a fresh environment of Python $("$PYTHON" -c 'import platform; print(platform.python_version())'),"
  echo "# pip install of the requirements in settings.ini with torch==$TORCH (and soupsieve<3, for Python below 3.11.5), then pip freeze."
  echo "# Local version labels (+cpu) are cut, so that any build of that PyTorch fits."
  # pip itself is no requirement; what PyTorch brings for one accelerator only is its own matter
  "$dir/venv/bin/python" -m pip freeze --all --exclude pip --exclude wheel |
    sed -E 's/\+[A-Za-z0-9.]+$//' | grep -E '^[A-Za-z0-9_.-]+==' | grep -v -E '^(nvidia-|cuda-|triton==)'
} > "$dir/constraints.txt"
mv "$dir/constraints.txt" constraints.txt
