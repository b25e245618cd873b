"""What the page of a study is made of, from the trials in its database."""

import dataclasses
import itertools
import json
import math

import numpy as np
import optuna
import pytest
from html_pages import Page
from optuna.trial import TrialState, create_trial
from searches import search_of

from configs.search import choice, log, one_minus_log, real
from train.tuning.confirm import DEFAULT, judge
from train.tuning.importance import LEAST_TRIALS, importance
from train.tuning.outcome import Outcome, page_of, pareto_front
from train.tuning.parameters import Choice
from train.tuning.space import Space
from train.tuning.study_page import render_study

RATE, BETA, NAME = (
  'optimizer.learning_rate', 'optimizer.b2', 'optimizer.name',
)  # fmt: skip
MOMENTUM = 'optimizer.momentum'


@pytest.fixture(scope='module')
def search():
  return search_of(
    log(RATE, 1e-5, 1e-1),
    one_minus_log(BETA, 1e-3, 1e-1),
    choice(NAME, ('adamw', 'sgd')),
    real(MOMENTUM, 0.0, 0.99, when=(NAME, ('sgd',))),
    constraints=(f'{RATE} < 0.09',),
    hours=2.0,
  )


def frozen(search, params, number, **fields):
  known = search.space.distributions()
  trial = create_trial(
    params=params,
    distributions={name: known[name] for name in params},
    **({'state': TrialState.COMPLETE} | fields),
  )
  trial.number = number
  return trial


@pytest.fixture(scope='module')
def trials(search):
  space = search.space
  default = space.params(space.default_point())
  sgd = default | {NAME: 'sgd', MOMENTUM: 0.5, RATE: 0.01}
  return [
    frozen(
      search, default, 0, value=3.5, intermediate_values={80: 3.5, 40: 4.0}
    ),
    frozen(
      search, sgd, 1, value=3.25, user_attrs={'seconds': 9.5, 'tokens': 77}
    ),
    frozen(
      search, default | {RATE: 0.05}, 2, state=TrialState.PRUNED,
      intermediate_values={40: 5.0},
    ),
    frozen(
      search, {}, 3, state=TrialState.FAIL, user_attrs={'reason': 'killed'}
    ),
    frozen(search, default | {RATE: 0.02}, 4, state=TrialState.RUNNING),
    frozen(search, {}, 5, state=TrialState.WAITING),
  ]  # fmt: skip


def outcome(search, trials, verdict=None):
  return Outcome(search=search, base={}, trials=trials, verdict=verdict)


def test_rows_hold_what_the_trials_do(search, trials):
  page = page_of(outcome(search, trials), 'name')
  assert page.title == 'name'
  assert [(row.number, row.state) for row in page.trials] == [
    (0, 'complete'), (1, 'complete'), (2, 'pruned'), (3, 'failed'),
    (4, 'running'), (5, 'waiting'),
  ]  # fmt: skip
  assert page.default == 0
  assert page.trials[0].curve == ((40, 4.0), (80, 3.5))
  assert page.trials[0].values == (3.5,)
  assert page.trials[1].point == {
    RATE: 0.01,
    BETA: search.space.defaults[BETA],
    NAME: 'sgd',
    MOMENTUM: 0.5,
  }
  assert MOMENTUM not in page.trials[0].point
  assert (page.trials[1].seconds, page.trials[1].tokens) == (9.5, 77)
  assert page.trials[2].values == ()
  assert (page.trials[3].point, page.trials[3].reason) == ({}, 'killed')


def test_columns_and_facts_are_those_of_the_search(search, trials):
  page = page_of(outcome(search, trials))
  rate, beta, name, momentum = page.fields
  assert (rate.bounds, rate.log, rate.one_minus) == ((1e-5, 1e-1), True, False)
  assert (beta.bounds, beta.log, beta.one_minus) == ((1e-3, 1e-1), True, True)
  assert (name.bounds, name.choices) == (None, ('adamw', 'sgd'))
  assert (momentum.bounds, momentum.log) == ((0.0, 0.99), False)
  for column in page.fields:
    assert column.default == search.space.defaults[column.name]
  facts = dict(page.facts)
  assert facts['sampler'] == search.sampler
  assert facts['budget, hours'] == '2'
  assert facts['constraint'] == f'{RATE} < 0.09'


def test_choices_are_told_apart_and_secrets_hidden(search):
  mode = Choice(field='x.mode', choices=('none', None, 'gs://a:b@c/d'))
  space = Space(
    parameters=(mode,), constraints=(), defaults={'x.mode': None}, laws={}
  )
  told = frozen(dataclasses.replace(search, space=space), {'x.mode': None}, 0,
                value=3.0)  # fmt: skip
  page = page_of(outcome(dataclasses.replace(search, space=space), [told]))
  [column] = page.fields
  assert column.choices == ('none (1)', 'none (2)', 'gs://a:(hidden)@c/d')
  assert column.default == page.trials[0].point['x.mode'] == 'none (2)'
  assert page.default == 0


def test_the_best_wins_where_nothing_was_confirmed(search, trials):
  page = page_of(outcome(search, trials))
  assert page.winner == 1
  assert page.difference == (
    (RATE, json.dumps(search.space.defaults[RATE]), '0.01'),
    (NAME, 'adamw', 'sgd'),
    (MOMENTUM, str(search.space.defaults[MOMENTUM]), '0.5'),
  )
  assert (page.verdict, page.seeds, page.confirming) == ('', (), ())
  assert (page.front, page.importance) == ((), ())
  text = Page(render_study(page)).text
  assert 'Trial 1 is the best' in text


def again(values):
  """Trials of a confirming study, the last seed first; None: it failed."""
  space = {
    'candidate': optuna.distributions.CategoricalDistribution(tuple(values)),
    'seed': optuna.distributions.CategoricalDistribution((1, 2)),
  }
  told = [
    create_trial(
      params={'candidate': candidate, 'seed': seed},
      distributions=space,
      **({'state': TrialState.FAIL} if value is None else {'value': value}),
    )
    for candidate, found in values.items()
    for seed, value in ((2, found[1]), (1, found[0]))
  ]
  return [*told, create_trial(state=TrialState.FAIL)]


@pytest.mark.parametrize(('gain', 'winner'), [(0.3, 1), (0.001, None)])
def test_each_value_stands_under_its_seed(search, trials, gain, winner):
  verdict = judge(
    again({0: (3.5, None), DEFAULT: (3.5, 3.6), 1: (3.5 - gain, 3.6 - gain)}),
    'min',
    seed_noise=0.01,
  )
  page = page_of(outcome(search, trials, verdict))
  assert (page.winner, page.seeds) == (winner, (1, 2))
  assert page.verdict == verdict.text()
  assert bool(page.difference) == (winner is not None)
  default, best, failed = page.confirming
  assert (default.name, default.values) == ('default', (3.5, 3.6))
  assert (best.name, best.values) == ('trial 1', (3.5 - gain, 3.6 - gain))
  assert (failed.name, failed.values[0]) == ('trial 0', 3.5)
  assert math.isnan(failed.values[1])
  text = Page(render_study(page)).text
  assert ('Trial 1 wins' if winner else 'The default stands') in text


@pytest.mark.parametrize(
  'modes', [*itertools.product(('min', 'max'), repeat=2), ('min', 'max', 'min')]
)
def test_the_front_is_what_no_other_beats(modes):
  values_NM = np.random.default_rng(len(modes)).integers(0, 6, (40, len(modes)))
  trials = [create_trial(values=row.astype(float)) for row in values_NM]
  trials[7] = create_trial(state=TrialState.FAIL)
  study = optuna.create_study(
    directions=[f'{mode}imize' for mode in modes],
    storage=optuna.storages.InMemoryStorage(),
  )
  study.add_trials(trials)
  for number, trial in enumerate(trials):
    trial.number = number
  assert pareto_front(trials, modes) == [t.number for t in study.best_trials]


def test_a_search_for_two_metrics_has_a_front_and_no_winner(trials):
  search = search_of(
    log(RATE, 1e-5, 1e-1),
    metrics=('loss', 'parameters'),
    modes=('min', 'min'),
    pruner='none',
  )
  told = [
    frozen(search, {RATE: 1e-3}, number, values=values)
    for number, values in enumerate([(3.0, 5e6), (3.2, 6e6), (3.4, 1e6)])
  ]
  page = page_of(outcome(search, told))
  assert (page.front, page.winner, page.verdict) == ((0, 2), None, '')
  assert 'in all metrics: 0, 2.' in render_study(page)


def landscape(count, seed, sign=1):
  """Trials that are good by the first parameter, and bad by the second."""
  noise = np.random.default_rng(seed)
  float_0_1 = optuna.distributions.FloatDistribution(0, 1)
  return [
    create_trial(
      params=dict(zip('abc', unit_3, strict=True)),
      distributions=dict.fromkeys('abc', float_0_1),
      value=sign * (unit_3[0] if unit_3[0] < 0.3 else 1 + unit_3[1]),
    )
    for unit_3 in noise.random((count, 3))
  ]


@pytest.mark.parametrize(('mode', 'sign'), [('min', 1), ('max', -1)])
@pytest.mark.parametrize('seed', range(3))
def test_the_field_that_matters_is_the_most_important(seed, mode, sign):
  trials = landscape(40, seed, sign)
  trials += [create_trial(state=TrialState.FAIL) for _ in range(3)]
  shares = importance(trials, (mode,))
  assert next(iter(shares)) == 'a'
  assert shares['a'] > 0.6
  assert set(shares) == {'a', 'b', 'c'}
  assert sum(shares.values()) == pytest.approx(1)
  assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_few_trials_tell_no_importance():
  trials = landscape(LEAST_TRIALS, 0)
  assert importance(trials, ('min',))
  assert importance(trials[1:], ('min',)) == {}
  spoiled = landscape(LEAST_TRIALS, 0)
  spoiled[0].values = [math.inf]
  assert importance(spoiled, ('min',)) == {}
