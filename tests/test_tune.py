"""The command tune, killed at any moment and started again."""

import random
import re
import shutil
import signal
import subprocess
import time

import optuna
import pytest
import runs
from etils import epath

from train.metrics import read_metrics
from train.tuning.study import open_storage

pytestmark = pytest.mark.slow

SEED, KILLS = 3, 2
# More than the longest warm-up of the search.
FIELDS = {
  'steps': 120,
  'evaluation__every': 30,
  'checkpoint__every': 30,
  'data__validation_split': 'validation[:2%]',
}
TRIALS, AGAIN = 6, 4
# One trial after the other: what is suggested, and what is pruned, depends on
# all trials before.
SEARCH = {
  'trials': TRIALS,
  'startup': 2,
  'sampler': 'gp',
  'keep': 0.4,
  'population': 1,
  'confirm.top': 1,
  'confirm.seeds': 2,
}


def command(folder, *flags):
  return runs.command(
    'tune',
    folder,
    'study',
    *(f'--search.{name}={value}' for name, value in SEARCH.items()),
    *flags,
    config='tune_tiny',
    **FIELDS,
  )


def told(folder, workdir='study'):
  """What the database knows of the trials, but not how long they took."""
  storage = open_storage(epath.Path(folder / workdir), None)
  names = sorted(study.study_name for study in storage.get_all_studies())
  return [
    [
      (t.state, t.params, t.values, t.intermediate_values)
      for t in optuna.load_study(study_name=name, storage=storage).trials
    ]
    for name in names
  ]


def trials(folder):
  return list((folder / 'study').glob('*/[0-9]*'))


def steps_made(folder):
  return sum(len(runs.records(trial, 'train')) for trial in trials(folder))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The folder of a study that nobody disturbed, and what it said."""
  folder = tmp_path_factory.mktemp('whole')
  dry = runs.run(folder, command(folder, '--dry-run')).stdout
  assert '6 trials at most' in dry
  assert re.search('optimizer.learning_rate: .*low 0.0001, high 0.03', dry)
  assert '2 fresh seeds each' in dry
  assert not (folder / 'study').exists()
  return folder, runs.run(folder, command(folder)).stdout


def test_a_study_that_is_done_is_not_done_again(whole):
  folder, said = whole
  before, steps = told(folder), steps_made(folder)
  assert list(map(len, before)) == [TRIALS, AGAIN]
  again = runs.run(folder, command(folder))
  assert 'The search was done before: 6 trials; none' in again.stderr
  assert 'The confirmation was done before: 4 trials; none' in again.stderr
  assert said.endswith(again.stdout)
  assert (told(folder), steps_made(folder)) == (before, steps)
  assert (folder / 'study/study.html').exists()


def test_kills_lose_nothing_and_do_nothing_twice(whole, tmp_path_factory):
  folder, said = whole
  here, moments = tmp_path_factory.mktemp('killed'), random.Random(SEED)
  for name in ('data', 'compiled'):
    shutil.copytree(folder / name, here / name)
  total, kills = steps_made(folder), 0
  for kill in range(KILLS):
    after = moments.uniform(kill, kill + 1) / KILLS * total
    with subprocess.Popen(
      command(here),
      cwd=here,
      env=runs.environment(),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    ) as process:
      while process.poll() is None and steps_made(here) < after:
        time.sleep(0.01)
      time.sleep(moments.uniform(0, 0.3))
      kills += process.poll() is None
      process.send_signal(signal.SIGKILL)
  last = runs.run(here, command(here))
  assert said.endswith(last.stdout)
  assert told(here) == told(folder)
  begun = 0
  for trial in trials(here):
    records = read_metrics(trial)
    steps = [r['step'] for r in records if r['kind'] == 'train']
    assert len(steps) == len(set(steps))
    begun += [r['kind'] for r in records].count('session')
  assert steps_made(here) == total
  # No trial was begun again but the one that was on its way.
  assert TRIALS + AGAIN <= begun <= TRIALS + AGAIN + kills
