"""Winners are believed when the gain exceeds the noise of seeds."""

import math

import cases
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from configs.check import to_dict
from configs.search import get_search, log
from train.config import train_config
from train.tuning.command import dry_run_text, read_search
from train.tuning.confirm import (
  CANDIDATE,
  DEFAULT,
  SEED,
  best_trials,
  judge,
  widened,
)
from train.tuning.study import Trial

CHOICES = optuna.distributions.CategoricalDistribution


def confirming(values):
  """Trials of the confirming study: candidate -> value of each seed."""
  space = {
    'candidate': CHOICES(tuple(values)),
    'seed': CHOICES(tuple(range(3))),
  }
  return [
    create_trial(
      params={'candidate': candidate, 'seed': seed},
      distributions=space,
      **(
        {'value': value} if math.isfinite(value) else {'state': TrialState.FAIL}
      ),
    )
    for candidate, found in values.items()
    for seed, value in enumerate(found)
  ]


@pytest.mark.parametrize(
  ('gain', 'noise', 'wins'),
  # Two standard errors of a difference of means of three: 1.63 deviations.
  [(0.10, 0.01, True), (0.017, 0.01, True), (0.016, 0.01, False),
   (-0.10, 0.01, False), (0.10, 0.10, False)],
)  # fmt: skip
def test_a_gain_counts_if_it_exceeds_the_noise(gain, noise, wins):
  spread = np.array([-noise, 0, noise])
  trials = confirming({DEFAULT: 3.0 + spread, 7: 3.0 - gain + spread})
  verdict = judge(trials, 'min', seed_noise=None)
  assert verdict.noise == pytest.approx(noise)
  assert verdict.gain == pytest.approx(gain)
  assert verdict.winner == (7 if wins else None)
  assert ('The default stands' in verdict.text()) == (not wins)
  # A greater metric may be the better one.
  mirrored = confirming({DEFAULT: -3.0 + spread, 7: -3.0 + gain + spread})
  assert judge(mirrored, 'max', seed_noise=None).winner == verdict.winner


def test_noise_that_is_given_counts_and_one_seed_tells_none():
  trials = confirming({DEFAULT: [3.0], 7: [2.9]})
  assert judge(trials, 'min', seed_noise=None).winner is None
  assert judge(trials, 'min', seed_noise=0.01).winner == 7
  assert judge(trials, 'min', seed_noise=0.08).winner is None


def test_what_fails_with_a_seed_does_not_win():
  trials = confirming(
    {DEFAULT: [3.0, 3.0, 3.01], 7: [1.0, 1.0, math.nan], 8: [2.9, 2.9, 2.91]}
  )
  verdict = judge(trials, 'min', seed_noise=None)
  assert verdict.winner == 8
  assert [c.number for c in verdict.candidates] == [8]
  lost = confirming({DEFAULT: [math.nan] * 3, 8: [2.9, 2.9, 2.91]})
  assert judge(lost, 'min', seed_noise=None).winner == 8


def test_the_best_trials_are_those_that_went_to_their_end():
  trials = [
    create_trial(value=3.0),
    create_trial(state=TrialState.FAIL),
    create_trial(value=1.0, state=TrialState.PRUNED),
    create_trial(value=2.0),
    create_trial(value=math.inf),
  ]
  for number, trial in enumerate(trials):
    trial.number = number
  assert best_trials(trials, 'min', 3) == [3, 0]
  assert best_trials(trials, 'max', 1) == [0]


def model_of(**fields):
  fields = {f'model.{name}': value for name, value in fields.items()}
  return to_dict(cases.tiny_config(**fields))


# Fields of the model, a factor, and what changes of them.
WIDER = [
  ({}, 2.0, {'embed_dim': 64, 'mlp_dim': 128, 'num_heads': 8}),
  ({}, 0.5, {'embed_dim': 16, 'mlp_dim': 32, 'num_heads': 2}),
  ({'num_kv_heads': 2}, 1.5, {'embed_dim': 48, 'num_heads': 6}),
  ({'moe.expert_dim': 24}, 2.0, {'embed_dim': 64, 'moe.expert_dim': 48}),
]


@pytest.mark.parametrize(('fields', 'scale', 'wanted'), WIDER)
def test_a_wider_model_keeps_its_proportions(fields, scale, wanted):
  config = model_of(**fields)
  model = widened(config, scale)['model']
  for name, value in wanted.items():
    section = model['moe'] if '.' in name else model
    assert section[name.rpartition('.')[2]] == value
  found = train_config({**config, 'model': model}).model
  assert found.head_dim == 8
  assert found.num_heads % found.num_kv_heads == 0
  assert widened(config, None) == config


def wide_search(scale):
  search = get_search()
  search.space = (log('optimizer.learning_rate', 1e-4, 1e-1),)
  search.proxy = (('model.mlp_dim', 48),)
  search.confirm.scale = scale
  return read_search(to_dict(cases.tiny_config()), search)


@pytest.mark.parametrize(
  ('scale', 'words'),
  [(1.3, '1.3 times model.embed_dim = 32 is 41.6'),
   (1.125, 'model.num_heads = 4')],
)  # fmt: skip
def test_a_width_that_there_is_not_is_an_error_before_the_first_trial(
  scale, words
):
  with pytest.raises(ValueError, match=f'search.confirm.scale = .*{words}'):
    wide_search(scale)


def test_the_search_is_made_on_the_proxy_and_confirmed_at_twice_the_width():
  search = wide_search(2.0)
  trial = Trial(0, {'optimizer.learning_rate': 0.02})
  resolved, small = search.configure(trial)
  assert (small.model.embed_dim, small.model.mlp_dim) == (32, 48)
  again = Trial(5, {CANDIDATE: 0, SEED: 7})
  resolved, large = search.configure_again(again, {0: trial.point})
  assert (large.model.embed_dim, large.model.mlp_dim) == (64, 96)
  assert resolved['model']['num_heads'] == 8
  assert (large.seed, large.optimizer.learning_rate) == (7, 0.02)
  assert '3 fresh seeds each, 64 wide' in dry_run_text(search)
  trials = confirming({DEFAULT: [3.0, 3.1, 3.2], 0: [1.0, 1.1, 1.2]})
  verdict = judge(trials, 'min', seed_noise=None, scale=2.0)
  assert 'means of 3 seeds at 2 times the width' in verdict.text()
