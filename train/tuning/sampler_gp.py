"""Bayesian optimisation: what a Gaussian process expects to gain most from."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import qmc

from train.tuning import gaussian_process as gp
from train.tuning.history import History, key
from train.tuning.parameters import Choice
from train.tuning.space import Params, Space

# Candidates over the whole cube (a power of 2, as Sobol sequences want it),
# around each of the best trials, and the width of their cloud.
_GLOBAL, _BEST, _AROUND, _CLOUD = 2_048, 5, 100, 0.1
# Local search: starts, rounds, tries of each in a round, how they shrink.
_STARTS, _ROUNDS, _TRIES, _SHRINK = 8, 30, 16, 0.85
# Weight of the sum beside the maximum (Knowles 2006, "ParEGO").
_SUM = 0.05


def suggest_gp(
  space: Space, history: History, rng: np.random.Generator
) -> Iterator[Params]:
  """Yields params, the most promising first.

  Args:
    space: of the search.
    history: at least one finished trial.
    rng: source of the candidates and of the weights of several metrics.
  """
  x_ND = np.stack([space.units(params) for params in history.finished])
  categorical_D = np.array([isinstance(p, Choice) for p in space.parameters])
  process = gp.fit(x_ND, _outcomes(history.costs_NM, rng), categorical_D)
  if history.pending:
    process = process.believe(
      np.stack([space.units(params) for params in history.pending])
    )
  expected_N, _ = process.predict(process.x_ND)
  best = expected_N.min()

  def gain(unit_MD: np.ndarray) -> np.ndarray:
    gain_M = gp.log_expected_improvement(*process.predict(unit_MD), best)
    return np.where(space.allowed_at(unit_MD), gain_M, -np.inf)

  centres_KD = process.x_ND[np.argsort(expected_N, kind='stable')[:_BEST]]
  start_ND = space.snapped(_candidates(centres_KD, rng))
  start_N = gain(start_ND)
  order_N = np.argsort(-start_N, kind='stable')
  tops = order_N[:_STARTS]
  found_ND, found_N = _climb(space, gain, start_ND[tops], start_N[tops], rng)
  best_first = np.argsort(-found_N, kind='stable')
  # Where there are few values, the best ones may have been tried.
  for unit_D in np.concatenate([found_ND[best_first], start_ND[order_N]]):
    params = space.from_units(unit_D)
    if key(params) not in history.tried:
      yield params


def _outcomes(costs_NM: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """One standardised outcome a trial, out of its costs.

  Several metrics are weighed at random, anew for each suggestion, so that the
  suggestions spread along the front (Knowles 2006, "ParEGO").
  """
  cost_NM = np.stack([gp.compressed(cost_N) for cost_N in costs_NM.T], axis=1)
  if cost_NM.shape[1] == 1:
    return gp.standardised(cost_NM[:, 0])
  highest_M = cost_NM.max(axis=0)
  weight_M = rng.dirichlet(np.ones(cost_NM.shape[1]))
  part_NM = weight_M * cost_NM / np.where(highest_M > 0, highest_M, 1.0)
  return gp.standardised(part_NM.max(axis=1) + _SUM * part_NM.sum(axis=1))


def _candidates(centres_KD: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Places all over the unit cube, and some around the centres."""
  dimensions = centres_KD.shape[1]
  spread_ND = qmc.Sobol(dimensions, scramble=True, rng=rng).random(_GLOBAL)
  around_ND = np.repeat(centres_KD, _AROUND, axis=0)
  around_ND += rng.normal(0, _CLOUD, around_ND.shape)
  return np.clip(np.concatenate([spread_ND, around_ND]), 0, 1)


def _climb(
  space: Space,
  gain: Callable[[np.ndarray], np.ndarray],
  place_SD: np.ndarray,
  gain_S: np.ndarray,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Moves each place to the best of some around it, ever closer ones.

  Choices stay as they are: none is near to another.

  Returns:
    The places, place_SD, and their gains, gain_S.
  """
  place_SD, gain_S = place_SD.copy(), gain_S.copy()
  starts, dimensions = place_SD.shape
  ordered_D = np.array([not isinstance(p, Choice) for p in space.parameters])
  width = _CLOUD
  for _ in range(_ROUNDS):
    move_SKD = rng.normal(0, width, (starts, _TRIES, dimensions))
    try_SKD = np.clip(place_SD[:, None] + move_SKD * ordered_D, 0, 1)
    try_SKD = space.snapped(try_SKD.reshape(-1, dimensions)).reshape(
      starts, _TRIES, dimensions
    )
    gain_SK = gain(try_SKD.reshape(-1, dimensions)).reshape(starts, _TRIES)
    best_S = gain_SK.argmax(axis=1)
    better_S = gain_SK.max(axis=1) > gain_S
    rows_S = np.arange(starts)
    place_SD[better_S] = try_SKD[rows_S, best_S][better_S]
    gain_S[better_S] = gain_SK.max(axis=1)[better_S]
    width *= _SHRINK
  return place_SD, gain_S
