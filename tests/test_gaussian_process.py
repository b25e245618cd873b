"""The Gaussian process: its gradient, its posterior and what it hopes for."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from train.tuning.gaussian_process import (
  Scales,
  compressed,
  condition,
  fit,
  log_expected_improvement,
  negative_log_posterior,
  standardised,
)

SCALES = Scales(
  lengths_D=np.array([0.3, 0.8, 1.5]),
  signal=1.7,
  noise=0.01,
  categorical_D=np.array([False, False, True]),
)


def matern(x_D, z_D):
  """The kernel written out, for two places."""
  apart_D = np.abs(x_D - z_D)
  apart_D[2] = apart_D[2] > 0
  far = math.sqrt(5 * sum((apart_D / SCALES.lengths_D) ** 2))
  return SCALES.signal * (1 + far + far**2 / 3) * math.exp(-far)


@pytest.fixture
def seen():
  rng = np.random.default_rng(3)
  x_ND = rng.random((12, 3))
  x_ND[:, 2] = rng.choice([0.25, 0.75], 12)
  return x_ND, np.sin(5 * x_ND[:, 0]) + x_ND[:, 1] * x_ND[:, 2]


def test_the_posterior_is_that_of_the_textbook(seen):
  x_ND, y_N = seen
  new_MD = np.random.default_rng(4).random((5, 3))
  known_NN = np.array([[matern(x, z) for z in x_ND] for x in x_ND])
  cross_MN = np.array([[matern(x, z) for z in x_ND] for x in new_MD])
  inverse_NN = np.linalg.inv(known_NN + 0.01 * np.eye(12))
  mean_M, deviation_M = condition(SCALES, x_ND, y_N).predict(new_MD)
  np.testing.assert_allclose(mean_M, cross_MN @ inverse_NN @ y_N, rtol=1e-5)
  variance_M = 1.7 - np.einsum('mi,ij,mj->m', cross_MN, inverse_NN, cross_MN)
  np.testing.assert_allclose(deviation_M**2, variance_M, rtol=1e-5)


def test_it_goes_through_what_it_saw_and_knows_nothing_far_away(seen):
  x_ND, y_N = seen
  process = condition(dataclasses.replace(SCALES, noise=1e-8), x_ND, y_N)
  mean_N, deviation_N = process.predict(x_ND)
  np.testing.assert_allclose(mean_N, y_N, atol=1e-5)
  assert deviation_N.max() < 1e-3
  mean_M, deviation_M = process.predict(np.full((1, 3), 60.0))
  assert abs(mean_M[0]) < 1e-6
  assert deviation_M[0] == pytest.approx(math.sqrt(1.7))


@pytest.mark.parametrize('seed', range(4))
def test_the_gradient_is_that_of_differences(seen, seed):
  x_ND, y_N = seen
  squares_NND = (x_ND[:, None] - x_ND) ** 2
  squares_NND[..., 2] = squares_NND[..., 2] > 0
  place = np.random.default_rng(seed).normal(-1, 1, 5)
  _, gradient = negative_log_posterior(place, squares_NND, y_N)
  wanted = optimize.approx_fprime(
    place, lambda p: negative_log_posterior(p, squares_NND, y_N)[0], 1e-6
  )
  np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-4)


def test_a_fit_tells_dimensions_that_matter_from_those_that_do_not():
  x_ND = np.random.default_rng(0).random((40, 3))
  y_N = standardised(np.cos(6 * x_ND[:, 1]))
  process = fit(x_ND, y_N, np.zeros(3, bool))
  lengths_D = process.scales.lengths_D
  assert lengths_D[1] < 0.5 * min(lengths_D[0], lengths_D[2])
  again = fit(x_ND, y_N, np.zeros(3, bool))
  np.testing.assert_array_equal(process.weights_N, again.weights_N)


def test_a_fit_finds_the_noise():
  rng = np.random.default_rng(1)
  x_ND = rng.random((50, 1))
  smooth_N = np.sin(3 * x_ND[:, 0])
  for noise in (0.01, 0.3):
    y_N = standardised(smooth_N + rng.normal(0, noise * smooth_N.std(), 50))
    found = fit(x_ND, y_N, np.zeros(1, bool)).scales.noise
    assert found == pytest.approx(noise**2, rel=0.7)


def test_equal_and_repeated_outcomes_are_no_trouble():
  x_ND = np.tile([[0.2, 0.8], [0.5, 0.5]], (6, 1))
  for y_N in (np.zeros(12), np.tile([-1.0, 1.0], 6)):
    process = fit(x_ND, y_N, np.zeros(2, bool))
    mean_N, deviation_N = process.predict(x_ND)
    assert np.isfinite([mean_N, deviation_N]).all()


def test_what_is_pending_is_believed(seen):
  x_ND, y_N = seen
  process = condition(SCALES, x_ND, y_N)
  pending_MD = np.array([[0.5, 0.5, 0.25], [0.9, 0.1, 0.75]])
  believed = process.believe(pending_MD)
  near_MD = np.concatenate([pending_MD, pending_MD + 0.02, x_ND])
  mean_M, deviation_M = process.predict(near_MD)
  mean_after_M, deviation_after_M = believed.predict(near_MD)
  np.testing.assert_allclose(mean_after_M, mean_M, atol=1e-6)
  # All that is left there is the noise of an outcome.
  assert (deviation_after_M[:2] < SCALES.noise**0.5).all()
  assert (deviation_after_M <= deviation_M + 1e-9).all()


@pytest.mark.parametrize('z', [3.0, 0.5, 0.0, -0.99, -1.01, -3.0, -6.0])
def test_the_expected_improvement_is_the_integral(z):
  deviation, best = 0.7, 0.2
  mean = best - z * deviation
  improvement, _ = integrate.quad(
    lambda y: (best - y) * stats.norm.pdf(y, mean, deviation),
    mean - 12 * deviation,
    best,
    epsabs=0,
    limit=200,
  )
  found = log_expected_improvement(
    np.array([mean]), np.array([deviation]), best
  )
  assert found[0] == pytest.approx(math.log(improvement), rel=1e-6)


def test_far_away_the_improvement_still_has_a_slope():
  z_M = -np.logspace(0, 8, 4_000)
  log_M = log_expected_improvement(-z_M, np.ones(4_000), 0.0)
  assert np.isfinite(log_M).all()
  assert (np.diff(log_M) < 0).all()
  # phi(z) / z^2, in logarithms.
  tail_M = -0.5 * z_M**2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(-z_M)
  far = z_M < -1e3
  np.testing.assert_allclose(log_M[far], tail_M[far], rtol=1e-9)


def test_compressed_outcomes_keep_their_order_and_lose_their_extremes():
  y_N = np.array([3.0, 3.1, 3.2, 3.6, 11.0, 3.05, 1e9])
  found_N = compressed(y_N)
  np.testing.assert_array_equal(np.argsort(found_N), np.argsort(y_N))
  np.testing.assert_allclose(found_N[[0, 1, 2]], [0, 0.5, 1], atol=1e-6)
  assert found_N[3] == pytest.approx(1 + math.log(3))
  assert found_N.max() < 25


@pytest.mark.parametrize('y', [[2.0] * 4, [1.0, 1.0, 1.0, 5.0], [0.0]])
def test_outcomes_that_hardly_differ_are_scaled_all_the_same(y):
  found_N = standardised(compressed(np.array(y)))
  assert np.isfinite(found_N).all()
  assert (
    np.argsort(found_N, kind='stable') == np.argsort(y, kind='stable')
  ).all()
