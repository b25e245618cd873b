# shellcheck shell=bash
# Sourced by the other scripts with the name of a requirements file: makes .venv
# with exactly the pinned packages of requirements/NAME.txt, once, and activates
# it. PYTHON names the interpreter to make it with.
set -eu
pins="requirements/$1.txt"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -x .venv/bin/python ]; then
  if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python3.11 || command -v python3)
  fi
  "$PYTHON" -m venv .venv
fi
. .venv/bin/activate

# A copy of the pins is left when they have been installed: a later run, or a
# run after an interruption, can tell.
installed=".venv/$(basename "$pins").installed"
if ! cmp -s "$pins" "$installed"; then
  echo "Installing the packages of $pins into .venv ..." >&2
  python -m pip install --quiet --disable-pip-version-check \
    --require-hashes -r "$pins"
  cp "$pins" "$installed"
fi
shift
