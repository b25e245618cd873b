"""Pruners: who is worse ends, at a rung and nowhere else."""

import collections
import math

import numpy as np
import optuna
import pytest
from searches import search_of

from configs.search import choice, integer, log
from train.tuning.pruners import (
  PRUNERS,
  Rungs,
  Told,
  make_pruner,
  rung_steps,
  should_prune,
)

RUNGS = Rungs(steps=(25, 50), keep=0.5)
RATE = log('optimizer.learning_rate', 1e-4, 1e-1)


def prunes(name, curve, others, *, number=0, complete=(), rungs=RUNGS):
  told = Told(
    number=number,
    curve=curve,
    others=dict(enumerate(others, start=number + 1)),
    complete=frozenset(complete),
  )
  return should_prune(name, rungs, told)


@pytest.mark.parametrize(
  ('fractions', 'steps', 'warmup', 'wanted'),
  [
    ((0.25, 0.5), 100, 0, (25, 50)),
    ((0.25, 0.5), 101, 0, (26, 51)),
    ((0.25, 0.5), 100, 25, (25, 50)),
    ((0.25, 0.5), 100, 30, (30, 50)),
    ((0.25, 0.5), 100, 60, (60,)),
    ((0.25, 0.5), 100, 100, ()),
    ((0.25, 0.3, 0.9), 10, 0, (3, 9)),
  ],
)
def test_rungs_lie_after_the_warmup(fractions, steps, warmup, wanted):
  assert rung_steps(fractions, steps, warmup) == wanted


@pytest.mark.parametrize('keep', [0.3, 0.5, 0.7])
@pytest.mark.parametrize('rung', [25, 50])
def test_halving_keeps_the_best_fraction_rounded_up(keep, rung):
  for count in range(1, 12):
    others = [{25: 1.0 * i, 50: 1.0 * i} for i in range(count)]
    rungs = Rungs(steps=(25, 50), keep=keep)
    for better in range(count + 1):
      curve = {25: -1.0, rung: better - 0.5}
      wanted = count + 1 >= 4 and better >= math.ceil(keep * (count + 1))
      assert prunes('asha', curve, others, rungs=rungs) == wanted


@pytest.mark.parametrize('name', sorted(PRUNERS))
@pytest.mark.parametrize(
  'curve', [{}, {10: 9.0}, {10: 9.0, 24: math.inf}, {5: math.nan}]
)
def test_nobody_ends_before_the_first_rung(name, curve):
  others = [{10: 0.0, 20: 0.0, 25: 0.0, 50: 0.0, 100: 0.0}] * 20
  assert not prunes(name, curve, others, complete=range(1, 21))


@pytest.mark.parametrize(
  ('curve', 'wanted'),
  [
    ({25: 9.0}, True),
    ({25: math.nan}, True),
    ({25: math.inf}, True),
    # The first value after a rung counts for it.
    ({20: 0.0, 30: 9.0}, True),
    # Later ones do not, up to the next rung.
    ({25: 0.0, 30: 9.0}, False),
    ({25: 0.0, 30: 9.0, 49: 9.0}, False),
    ({25: 0.0, 50: 9.0}, True),
    ({25: 0.0, 60: 9.0}, True),
    ({25: 0.0, 50: 0.0, 60: 9.0}, False),
    ({25: 1.0}, False),
  ],
)
def test_halving_judges_at_rungs(curve, wanted):
  others = [{25: 1.0, 50: 1.0}] * 3 + [{25: 2.0}] * 3
  assert prunes('asha', curve, others) == wanted


def test_a_rung_compares_only_those_that_came_to_it():
  others = [{25: 1.0}] * 20 + [{25: 1.0, 50: 3.0}] * 3
  assert not prunes('asha', {25: 1.0, 50: 2.0}, others)
  assert prunes('asha', {25: 1.0, 50: 4.0}, others)


def test_what_is_not_a_number_does_not_compete():
  others = [{25: math.nan}] * 3 + [{25: math.inf}] * 3
  assert not prunes('asha', {25: 1e9}, others)


def test_the_median_is_that_of_the_complete_trials():
  others = [{25: 1.0 * i, 30: 1.0 * i} for i in range(1, 6)]
  others += [{25: 0.0, 30: 0.0}] * 20
  for value, step, complete, wanted in [
    (2.9, 25, range(1, 6), False),
    (3.1, 25, range(1, 6), True),
    (3.1, 30, range(1, 6), True),
    (9.0, 25, range(1, 3), False),
    (9.0, 26, range(1, 6), False),
    (math.nan, 25, range(1, 6), True),
  ]:
    found = prunes('median', {step: value}, others, complete=complete)
    assert found == wanted, (value, step)


def test_hyperband_has_brackets_that_start_later():
  """Of ten trials four meet both rungs, three the second, and three none."""
  others = [{25: 0.0, 50: 0.0}] * 40
  first = [prunes('hyperband', {25: 1.0}, others, number=n) for n in range(20)]
  second = [
    prunes('hyperband', {25: -1.0, 50: 1.0}, others, number=n)
    for n in range(20)
  ]
  assert first == ([True] * 4 + [False] * 6) * 2
  assert second == ([True] * 7 + [False] * 3) * 2


def test_hyperband_compares_within_a_bracket():
  # Trials 1 to 3, 10 to 13 and so on are in the bracket of trial 0.
  same = {n for n in range(1, 40) if n % 10 < 4}
  others = [{25: 1.0 if n in same else -1.0} for n in range(1, 40)]
  assert not prunes('hyperband', {25: 0.0}, others)
  assert prunes('hyperband', {25: 2.0}, others)


@pytest.mark.parametrize(
  ('name', 'spent'),
  [('none', 1.0), ('median', 0.9), ('asha', 0.8), ('hyperband', 0.9)],
)
def test_a_study_ends_the_worse_trials_and_keeps_the_best(name, spent):
  """Losses that fall as 1 / step, with ranks that are noise at first."""
  rng = np.random.default_rng(0)
  quality_N = rng.permutation(24) / 24
  search = search_of(RATE, pruner=name)
  study = optuna.create_study(
    study_name='curves', pruner=make_pruner(search, steps=100, warmup_steps=12)
  )
  ended = collections.Counter()
  last = {}
  for number, quality in enumerate(quality_N):
    trial = study.ask()
    for step in range(5, 101, 5):
      noise = rng.normal(0, 5.0 if step <= 12 else 0.02)
      trial.report(2 + quality + 10 / step + noise, step)
      last[number] = step
      if trial.should_prune():
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        ended[step] += 1
        break
    else:
      study.tell(trial, 2 + quality)
  assert last[int(quality_N.argmin())] == 100
  assert not [step for step in ended if step < 25]
  assert name == 'median' or set(ended) <= {25, 50}
  assert bool(ended) == (name != 'none')
  assert sum(last.values()) <= spent * 24 * 100


def test_of_a_metric_that_rises_the_highest_stay():
  search = search_of(RATE, modes=('max',))
  study = optuna.create_study(
    direction='maximize', pruner=make_pruner(search, 100, 0)
  )
  for value, wanted in [(5.0, False)] * 3 + [(6.0, False), (4.0, True)]:
    trial = study.ask()
    trial.report(value, 25)
    assert trial.should_prune() == wanted


@pytest.mark.parametrize(
  ('entry', 'first'),
  [
    (RATE, 250),
    (integer('optimizer.warmup_steps', 50, 300), 300),
    (integer('optimizer.warmup_steps', 50, 300, log=True), 300),
    (choice('optimizer.warmup_steps', (100, 400)), 400),
    (integer('optimizer.warmup_steps', 50, 150), 250),
  ],
)
def test_the_longest_warmup_of_a_search_counts(entry, first):
  pruner = make_pruner(search_of(entry), steps=1000, warmup_steps=100)
  assert pruner._rungs.steps == (first, 500)


def test_a_warmup_to_the_end_leaves_nothing_to_prune():
  with pytest.raises(ValueError, match='warm-up of 1000 steps'):
    make_pruner(search_of(RATE), steps=1000, warmup_steps=1000)
  make_pruner(search_of(RATE, pruner='none'), steps=1000, warmup_steps=1000)
