"""Whether a winner is one: the best trials again, with fresh seeds.

One trial says little: another seed moves the loss too. The best few are run
again, beside the default, each with the same fresh seeds; wider, if the search
was of a proxy.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from train.tuning.parameters import Choice
from train.tuning.search_config import SearchConfig
from train.tuning.shapes import resized
from train.tuning.space import Space

CANDIDATE, SEED = 'candidate', 'seed'
# The candidate that is no trial.
DEFAULT = -1
# A gain counts if it is more than this many of its standard errors. One in
# forty is, where there is none.
_STANDARD_ERRORS = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
  """What came of a point that was run with several seeds.

  Attributes:
    number: of its trial; DEFAULT: none.
    seeds: that it did not fail with.
    values: the metric with each of them.
  """

  number: int
  seeds: tuple[int, ...]
  values: tuple[float, ...]

  @property
  def mean(self) -> float:
    """Over the seeds."""
    return float(np.mean(self.values)) if self.values else math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """What the seeds say.

  Attributes:
    winner: number of the trial; None: the default stands.
    default: how it did.
    candidates: the others, the best first.
    failed: those of the others that failed with a seed.
    gain: of the best of them over the default, above 0 if it is better.
    noise: standard deviation over seeds.
    needed: what a gain has to exceed.
    seeds: of each.
    scale: width of these runs by that of the search; None: the same.
  """

  winner: int | None
  default: Candidate
  candidates: tuple[Candidate, ...]
  failed: tuple[Candidate, ...]
  gain: float
  noise: float
  needed: float
  seeds: int
  scale: float | None = None

  def text(self) -> str:
    """The verdict in words."""
    if not self.candidates:
      return 'No trial came to an end: the default stands.'
    best = self.candidates[0]
    wider = '' if self.scale is None else f' at {self.scale:g} times the width'
    sizes = (
      f'{best.mean:.4f} in place of {self.default.mean:.4f}, means of '
      f'{self.seeds} seeds{wider}: a gain of {self.gain:.4f}'
    )
    rule = (
      f'{_STANDARD_ERRORS:g} standard errors of such a gain are '
      f'{self.needed:.4f} (standard deviation over seeds {self.noise:.4f})'
    )
    if self.winner is None:
      return f'The default stands. The best trial comes to {sizes}; {rule}.'
    return f'Trial {self.winner} wins: {sizes}; {rule}.'


def best_trials(
  trials: Sequence[FrozenTrial], mode: str, top: int
) -> list[int]:
  """Numbers of the best trials that went to their end, the best first."""
  sign = 1 if mode == 'min' else -1
  done = [
    t
    for t in trials
    if t.state == TrialState.COMPLETE and math.isfinite(t.values[0])
  ]
  done.sort(key=lambda t: (sign * t.values[0], t.number))
  return [t.number for t in done[:top]]


def confirming(
  search: SearchConfig, candidates: Sequence[int], seed: int
) -> SearchConfig:
  """The search that runs each candidate, and the default, with each seed.

  Args:
    search: that was finished.
    candidates: numbers of its best trials.
    seed: of the configuration; fresh ones follow it.
  """
  seeds = [seed + 1 + i for i in range(search.confirm.seeds)]
  space = Space(
    parameters=(
      Choice(field=CANDIDATE, choices=(DEFAULT, *candidates)),
      Choice(field=SEED, choices=tuple(seeds)),
    ),
    constraints=(),
    defaults={CANDIDATE: DEFAULT, SEED: seeds[0]},
    laws={},
  )
  return dataclasses.replace(
    search,
    space=space,
    sampler='grid',
    pruner='none',
    trials=space.grid_size or 1,
    tokens=None,
    hours=None,
  )


def widened(config: dict[str, Any], scale: float | None) -> dict[str, Any]:
  """The configuration of a run that confirms one of a proxy.

  Args:
    config: of the run in the search, as JSON holds it.
    scale: factor of the width; None: it stays.

  Raises:
    ValueError: there is no such width.
  """
  if scale is None:
    return config
  old = config['model']['embed_dim']
  if (width := scale * old) != round(width):
    raise ValueError(
      f'search.confirm.scale = {scale:g} times model.embed_dim = {old} is '
      f'{width:g}, which is no whole number.'
    )
  try:
    return resized(config, width=round(width))
  except ValueError as error:
    raise ValueError(f'search.confirm.scale = {scale:g}: {error}') from error


def judge(
  trials: Sequence[FrozenTrial],
  mode: str,
  *,
  seed_noise: float | None,
  scale: float | None = None,
) -> Verdict:
  """Compares the candidates with the default.

  Args:
    trials: of the confirming study.
    mode: 'min' or 'max'.
    seed_noise: standard deviation over seeds; None: that of these trials,
      pooled over the candidates.
    scale: of the width, as in a `Verdict`.
  """
  values: dict[int, dict[int, float]] = {}
  for trial in trials:
    # One that was killed at once may have been given nothing.
    if SEED not in trial.params:
      continue
    found = values.setdefault(trial.params[CANDIDATE], {})
    if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0]):
      found[trial.params[SEED]] = trial.values[0]
  sign = 1 if mode == 'min' else -1
  every = [
    Candidate(number=number, seeds=tuple(found), values=tuple(found.values()))
    for number, found in values.items()
  ]
  default = next(c for c in every if c.number == DEFAULT)
  seeds = max(len(c.values) for c in every)
  # One that failed with a seed is no winner, however good its others are.
  others = sorted(
    (c for c in every if c.number != DEFAULT and len(c.values) == seeds),
    key=lambda c: (sign * c.mean, c.number),
  )
  failed = [c for c in every if c.number != DEFAULT and len(c.values) < seeds]
  noise = pooled_deviation(every) if seed_noise is None else seed_noise
  needed = _STANDARD_ERRORS * noise * math.sqrt(2 / max(seeds, 1))
  gain = sign * (default.mean - others[0].mean) if others else math.nan
  # A default that fails is beaten by what does not.
  wins = bool(others) and (gain > needed or not default.values)
  return Verdict(
    winner=others[0].number if wins else None,
    default=default,
    candidates=tuple(others),
    failed=tuple(failed),
    gain=gain,
    noise=noise,
    needed=needed,
    seeds=seeds,
    scale=scale,
  )


def pooled_deviation(candidates: Sequence[Candidate]) -> float:
  """Standard deviation over seeds, the same for all; infinite: not known."""
  squares = [
    np.sum((np.array(c.values) - c.mean) ** 2) for c in candidates if c.values
  ]
  freedom = sum(max(len(c.values) - 1, 0) for c in candidates)
  return math.sqrt(sum(squares) / freedom) if freedom else math.inf
