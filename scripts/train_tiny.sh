#!/usr/bin/env bash
# From a bare clone to a trained model: environment, data, training, report and
# a sample. Further arguments go to main.py, e.g. --config.steps=100.
env_of() { . "$(dirname "$0")/env.sh" "$1"; }
set -eu
. "$(dirname "$0")/env.sh" base
python main.py train --config=configs/tiny.py --workdir=runs/tiny "$@"
python main.py sample --workdir=runs/tiny
