#!/usr/bin/env bash
# From a bare clone to a trained model: environment, dataset, training, report
# and a sample. Arguments go to the training, e.g. --config.steps=100.
. "$(dirname "$0")/env.sh" base

python main.py train --config=configs/tiny.py --workdir=runs/tiny "$@"
python main.py sample --workdir=runs/tiny --prompt='def' --temperature=0.6
python main.py report --workdir=runs/tiny
