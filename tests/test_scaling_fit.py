"""The fit of a law of the loss: planted laws are found, and intervals hold."""

import dataclasses
import math

import numpy as np
import pytest

from train.tuning import scaling_fit
from train.tuning.scaling_fit import (
  Forecast,
  Point,
  ScalingLaw,
  band,
  check_points,
  fit,
  forecast,
  has_two_terms,
)

SIZES = tuple(np.geomspace(1e7, 2e8, 6).tolist())
ONE = ScalingLaw(irreducible=1.8, factors=(1_150.0,), exponents=(0.355,))
TWO = ScalingLaw(
  irreducible=1.8, factors=(480.0, 2_000.0), exponents=(0.35, 0.365)
)


def runs(law, noise=0.0, seed=0, ratios=(20.0,), sizes=SIZES):
  random = np.random.default_rng(seed)
  return [
    Point(n, n * r, law.loss(n, n * r) * math.exp(noise * e))
    for r in ratios
    for n, e in zip(sizes, random.standard_normal(len(sizes)), strict=True)
  ]


@pytest.mark.parametrize(
  ('law', 'ratios'), [(ONE, (20.0,)), (TWO, (5.0, 20.0, 80.0))]
)
def test_a_planted_law_is_found(law, ratios):
  found = fit(runs(law, ratios=ratios), replicates=1).law
  assert found.irreducible == pytest.approx(law.irreducible, rel=1e-4)
  np.testing.assert_allclose(found.exponents, law.exponents, rtol=1e-3)
  np.testing.assert_allclose(found.factors, law.factors, rtol=1e-2)


@pytest.fixture(scope='module')
def noisy():
  return fit(runs(ONE, noise=2e-3, seed=3), seed=1, replicates=40)


def test_a_planted_law_lies_in_its_interval(noisy):
  low, high = noisy.interval('irreducible')
  assert low < 1.8 < high
  low, high = noisy.interval('exponents')
  assert low < 0.355 < high
  assert 5e-4 < noisy.noise < 6e-3


def test_a_forecast_holds_the_planted_loss(noisy):
  found = forecast(noisy, parameters=1e9, tokens=20e9)
  wanted = ONE.loss(1e9, 20e9)
  assert found.low < wanted < found.high
  assert found.low < found.loss < found.high
  assert not found.says_nothing
  # Amid the runs the law is surer than a run, and far from them it is not sure.
  low, high = band(noisy, 5e7, 1e9)
  near = forecast(noisy, parameters=5e7, tokens=1e9)
  far = forecast(noisy, parameters=1e12, tokens=20e12)
  widths = [f.high - f.low for f in (near, found, far)]
  assert widths == sorted(widths)
  assert high - low < 0.9 * widths[0]


def test_a_seed_makes_the_fit(noisy):
  points = runs(ONE, noise=2e-3, seed=3)
  again = fit(points, seed=1, replicates=1)
  assert again.law == noisy.law
  assert again.replicates == noisy.replicates[:1]
  other = fit(points, seed=2, replicates=1)
  assert other.replicates != again.replicates


def test_an_outlier_does_not_pull_the_law_to_itself(monkeypatch):
  points = runs(ONE, sizes=tuple(np.geomspace(1e7, 2e8, 9).tolist()))
  off = dataclasses.replace(points[4], loss=points[4].loss * 1.05)
  points[4] = off

  def miss():
    law = fit(points, replicates=1).law
    return abs(law.loss(1e9, 2e10) / ONE.loss(1e9, 2e10) - 1)

  robust = miss()
  assert robust < 2e-3
  # Least squares.
  monkeypatch.setattr(scaling_fit, '_HUBER', 1.0)
  assert miss() > 20 * robust


def test_terms_are_told_apart_where_tokens_a_parameter_differ():
  assert not has_two_terms(runs(ONE))
  assert has_two_terms(runs(TWO, ratios=(10.0, 20.0)))


@pytest.mark.parametrize(
  ('points', 'message'),
  [
    (runs(ONE)[:4], '4 sizes of models do not tell a law: at least 5'),
    (
      [*runs(ONE)[:4], *runs(TWO, ratios=(40.0,))[:4]],
      '4 sizes of models do not tell a law',
    ),
    (
      [*runs(ONE)[:4], runs(TWO, ratios=(40.0,))[4]],
      '5 runs do not tell a law of 5 constants: at least 6',
    ),
    (
      [*runs(ONE)[:5], Point(1e9, 2e10, math.nan)],
      'The run of 1,000,000,000 parameters ended with a loss of nan',
    ),
  ],
)
def test_runs_that_tell_no_law_are_refused(points, message):
  with pytest.raises(ValueError, match=message):
    check_points(points)
  with pytest.raises(ValueError, match=message):
    fit(points)


@pytest.mark.parametrize(
  ('low', 'high', 'nothing'),
  [(1.9, 2.1, False), (1.7, 2.2, True), (1.9, math.inf, True)],
)
def test_a_wide_interval_says_nothing(low, high, nothing):
  found = Forecast(parameters=1, tokens=1, loss=2.0, low=low, high=high)
  assert found.says_nothing == nothing


@pytest.mark.slow
@pytest.mark.parametrize(
  ('law', 'ratios'), [(ONE, (20.0,)), (TWO, (4.0, 20.0))]
)
def test_the_interval_covers_nine_runs_of_ten(law, ratios):
  inside, tries = 0, 30
  for seed in range(tries):
    found = forecast(
      fit(runs(law, 2e-3, seed, ratios), seed=seed, replicates=40),
      parameters=2e9,
      tokens=40e9,
    )
    noise = 2e-3 * np.random.default_rng(1_000 + seed).standard_normal()
    inside += found.low <= law.loss(2e9, 40e9) * math.exp(noise) <= found.high
  # Of 30, a fair interval holds 24 or more in 97 of 100 cases.
  assert inside >= 24
