"""How near each sampler comes to the best point of a landscape.

python benchmarks/samplers.py [--seeds=8] [--trials=40]

The landscape is made up, in the shape of a small language model's loss over
five hyper-parameters; see tests/landscape.py. Regret is the loss of the trial
that measured best, without the noise of measuring, above the best there is.
Milliseconds are of CPU, for a suggestion.
"""

import argparse
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.machine import describe_machine
from tests import landscape

SAMPLERS = ('random', 'qmc', 'cmaes', 'tpe', 'gp')


def main() -> None:
  """Prints a row for each sampler."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--seeds', type=int, default=8)
  parser.add_argument('--trials', type=int, default=40)
  arguments = parser.parse_args()
  print(describe_machine())
  print(f'{arguments.trials} trials, {arguments.seeds} seeds; regret in nats')
  print(f'{"sampler":8} {"median":>8} {"max":>8} {"ms/trial":>9}')
  for name in SAMPLERS:
    regrets, seconds = [], 0.0
    for seed in range(arguments.seeds):
      search = landscape.search_of(
        sampler=name, seed=seed, trials=arguments.trials
      )
      study = landscape.study_of(search)
      seconds += landscape.run_trials(study, search, arguments.trials)
      regrets.append(landscape.regret(study, search))
    each = 1e3 * seconds / arguments.seeds / arguments.trials
    print(
      f'{name:8} {statistics.median(regrets):8.4f} {max(regrets):8.4f} '
      f'{each:9.1f}'
    )


if __name__ == '__main__':
  main()
