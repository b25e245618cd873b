"""A landscape that behaves as a small language model's loss does.

Five hyper-parameters. The loss falls slowly towards the best learning rate and
rises fast beyond it, until runs diverge; where the best one lies depends on
weight decay and warm-up. The other three matter less, and runs differ by their
seeds. All of it is made up; only the shape is taken from real runs.
"""

import math
import time

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from configs import base, check
from configs.search import get_search, integer, log, one_minus_log
from train.tuning.samplers import ask, make_sampler
from train.tuning.search_config import SearchConfig, search_config

# The loss at the best point, and its standard deviation over seeds.
LOWEST, NOISE = 3.0, 0.0013
DIRECTIONS = {'min': StudyDirection.MINIMIZE, 'max': StudyDirection.MAXIMIZE}


def loss(point: dict[str, float]) -> float:
  """Without noise, in nats; infinite where a run diverges."""
  rate = math.log2(point['optimizer.learning_rate'] / 4e-3)
  decay = math.log2(point['optimizer.weight_decay'] / 0.08)
  memory = math.log2((1 - point['optimizer.b2']) / 0.02)
  warmup = (point['optimizer.warmup_steps'] - 80) / 100
  epsilon = math.log2(point['optimizer.epsilon'] / 1e-8)
  # More weight decay wants a lower rate, more warm-up bears a higher one.
  off = rate + 0.35 * decay - 0.5 * warmup
  if off > 3.5:
    return math.inf
  return (
    LOWEST
    + (0.006 if off < 0 else 0.018) * off**2
    + 0.004 * max(off, 0) ** 4
    + 0.0025 * decay**2
    + 0.003 * memory**2
    + 0.012 * warmup**2
    + 0.0002 * epsilon**2
    + 0.001 * rate * memory
  )


def measured(point: dict[str, float], seed: int) -> float:
  """What a run with this seed tells."""
  logarithms = np.log2([point[field] for field in sorted(point)])
  digits = np.round(logarithms, 6).view(np.uint64)
  return loss(point) + np.random.default_rng([seed, *digits]).normal(0, NOISE)


def search_of(**fields) -> SearchConfig:
  """A search of the landscape."""
  search = get_search()
  search.space = (
    log('optimizer.learning_rate', 1e-4, 1e-1),
    log('optimizer.weight_decay', 1e-3, 1.0),
    one_minus_log('optimizer.b2', 2e-3, 1e-1),
    integer('optimizer.warmup_steps', 10, 200),
    log('optimizer.epsilon', 1e-10, 1e-6),
  )
  search.update(fields)
  known = check.fields(base.get_config())
  defaults = {name: value for name, (value, _) in known.items()}
  return search_config(search, defaults, law=lambda field: None)


def study_of(search: SearchConfig, storage=None) -> optuna.Study:
  """The study of a search, in memory if there is no storage."""
  return optuna.create_study(
    study_name='landscape',
    storage=storage,
    load_if_exists=True,
    directions=[DIRECTIONS[mode] for mode in search.modes],
    sampler=make_sampler(search),
  )


def run_trials(study: optuna.Study, search: SearchConfig, count: int) -> float:
  """Runs more trials of a study.

  Returns:
    Seconds of CPU that they took to be suggested.
  """
  seconds = 0.0
  for _ in range(count):
    begin = time.process_time()
    trial, point = ask(study, search.space)
    seconds += time.process_time() - begin
    value = measured(point, search.seed)
    if math.isfinite(value):
      study.tell(trial, value)
    else:
      study.tell(trial, state=TrialState.FAIL)
  return seconds


def regret(study: optuna.Study, search: SearchConfig) -> float:
  """Nats between the trial that measured best and the best point."""
  return loss(search.space.point(study.best_trial.params)) - LOWEST
