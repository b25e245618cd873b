"""Winners are believed when the gain exceeds the noise of seeds."""

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from train.tuning.confirm import DEFAULT, best_trials, judge

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
