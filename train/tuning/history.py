"""What a study has tried so far, as samplers look at it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from train.tuning.space import Params, Space

Key = frozenset[tuple[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
  """Trials of a study, beside the one that is asked for.

  Attributes:
    finished: params of the trials that have ended, however they did.
    costs_NM: what each came to in each metric; lower is better.
    pending: params of the trials that run, or wait with given params.
    tried: the keys of all of them.
  """

  finished: tuple[Params, ...]
  costs_NM: np.ndarray
  pending: tuple[Params, ...]
  tried: frozenset[Key]


def key(params: Params) -> Key:
  """What two params share only if they are the same."""
  return frozenset(params.items())


def read_history(
  trials: Sequence[FrozenTrial], space: Space, modes: Sequence[str]
) -> History:
  """Reads the trials of a study.

  A trial that failed, diverged or was told no number is worse than all others
  by as much as these differ: where it ran is known to be bad. If its point was
  tried again, that counts instead. A pruned trial gets the cost it would have
  had if it had gone on like the median trial. One that ended before it had all
  its params says nothing.

  Args:
    trials: all but the one that is asked for.
    space: of the search.
    modes: 'min' or 'max' for each metric.
  """
  placed = [(t, p) for t in trials if (p := params_of(t, space)) is not None]
  latest = {key(p): t.number for t, p in placed}
  placed = [
    (t, p)
    for t, p in placed
    if t.state != TrialState.FAIL or t.number == latest[key(p)]
  ]
  finished = [t for t, _ in placed if t.state.is_finished()]
  signs_M = np.array([1.0 if mode == 'min' else -1.0 for mode in modes])
  costs_NM = np.full((len(finished), len(modes)), np.nan)
  for row, trial in enumerate(finished):
    if trial.state == TrialState.COMPLETE and trial.values is not None:
      costs_NM[row] = signs_M * np.array(trial.values)
  costs_NM[~np.isfinite(costs_NM).all(axis=1)] = np.nan
  if len(modes) == 1:
    _impute_pruned(finished, costs_NM[:, 0], signs_M[0])
  return History(
    finished=tuple(p for t, p in placed if t.state.is_finished()),
    costs_NM=_with_bad(costs_NM),
    pending=tuple(p for t, p in placed if not t.state.is_finished()),
    tried=frozenset(key(p) for _, p in placed),
  )


def params_of(trial: FrozenTrial, space: Space) -> Params | None:
  """What a trial has, or waits to get; None where it lacks some params."""
  for params in (trial.params, trial.system_attrs.get('fixed_params', {})):
    if space.is_complete(params):
      return space.only_active(params)
  return None


def _impute_pruned(
  trials: Sequence[FrozenTrial], cost_N: np.ndarray, sign: float
) -> None:
  """Writes the costs of pruned trials in place."""
  known_N = np.isfinite(cost_N)
  lowest = cost_N[known_N].min(initial=math.inf)
  for row, trial in enumerate(trials):
    if trial.state != TrialState.PRUNED or trial.last_step is None:
      continue
    step = trial.last_step
    cost = sign * trial.intermediate_values[step]
    to_come = [
      cost_N[i] - sign * other.intermediate_values[step]
      for i, other in enumerate(trials)
      if known_N[i] and step in other.intermediate_values
    ]
    if to_come and math.isfinite(cost):
      # Nobody knows whether it would have been the best; it is not the best.
      cost_N[row] = max(cost + float(np.median(to_come)), lowest)
    elif math.isfinite(cost):
      cost_N[row] = cost


def _with_bad(costs_NM: np.ndarray) -> np.ndarray:
  """Puts a bad cost where there is none."""
  bad_N = np.isnan(costs_NM).any(axis=1)
  if not bad_N.any():
    return costs_NM
  good_GM = costs_NM[~bad_N]
  if not len(good_GM):
    return np.ones_like(costs_NM)
  spread_M = np.ptp(good_GM, axis=0)
  worst_M = good_GM.max(axis=0) + np.where(spread_M > 0, spread_M, 1.0)
  return np.where(bad_N[:, None], worst_M, costs_NM)
