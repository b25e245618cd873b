# Sourced by the other scripts: makes .venv with exactly the pinned packages of
# requirements/$1.txt, once, and activates it. PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3.11}" -m venv .venv
fi
. .venv/bin/activate

pins="requirements/$1.txt"
stamp=".venv/installed-$1"
if ! cmp -s "$pins" "$stamp"; then
  echo "Installing the pinned packages of $pins into .venv ..." >&2
  python -m pip install --quiet --disable-pip-version-check \
    --require-hashes -r "$pins"
  cp "$pins" "$stamp"
fi
