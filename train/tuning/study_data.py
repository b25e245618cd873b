"""What the page of a study is made of, in plain values."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRow:
  """A trial, as the page shows it.

  Attributes:
    number: in the study.
    state: 'complete', 'pruned', 'failed', 'running' or 'waiting'.
    point: values of the fields that were searched there: numbers, and of a
      choice its text; empty where the trial was given none.
    values: of the metrics; () unless it is complete.
    curve: first metric by step.
    reason: why it failed.
    seconds: of a worker's time.
    tokens: that it trained on.
  """

  number: int
  state: str
  point: Mapping[str, Any]
  values: tuple[float, ...]
  curve: tuple[tuple[int, float], ...]
  reason: str
  seconds: float
  tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldColumn:
  """A field that was searched.

  Attributes:
    name: dotted.
    log: whether its axis is logarithmic.
    one_minus: whether the axis is that of one minus the value.
    bounds: of what was searched, on the axis; None: it is a choice.
    choices: its values as text, where it is a choice; else ().
    default: the configuration's value; of a choice, its text.
  """

  name: str
  log: bool
  one_minus: bool
  bounds: tuple[float, float] | None
  choices: tuple[str, ...]
  default: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confirmed:
  """A point that was run again with fresh seeds.

  Attributes:
    name: of the candidate.
    values: the first metric with each seed; NaN where it failed.
  """

  name: str
  values: tuple[float, ...]

  @property
  def mean(self) -> float:
    """Over the seeds that did not fail; NaN: all did."""
    finite = [value for value in self.values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyPage:
  """All that the page is made of.

  Attributes:
    title: of the study.
    metrics, modes: of the search, the first is the one that curves are of.
    fields: that were searched.
    trials: in their order.
    facts: name and value of what a reader should know: sampler, pruner, budget.
    verdict: on the best, in words; '' where nothing was confirmed.
    seeds: that the best were run again with.
    confirming: what came of it, the default among them.
    winner: number of the trial whose values are to be used; None: the default,
      or nothing, where there are several metrics.
    difference: field, default and value of what the winner changes.
    importance: share of each field in what makes a trial good, the largest
      first; () where there are too few trials to tell.
    front: numbers of the trials that no other beats in all metrics; () where
      there is one metric.
  """

  title: str
  metrics: tuple[str, ...]
  modes: tuple[str, ...]
  fields: tuple[FieldColumn, ...]
  trials: tuple[TrialRow, ...]
  facts: tuple[tuple[str, str], ...]
  verdict: str
  seeds: tuple[int, ...]
  confirming: tuple[Confirmed, ...]
  winner: int | None
  difference: tuple[tuple[str, str, str], ...]
  importance: tuple[tuple[str, float], ...]
  front: tuple[int, ...]

  @functools.cached_property
  def default(self) -> int | None:
    """Number of the first trial with the configuration's values; None: none."""
    for trial in self.trials:
      if trial.point and all(
        _same(trial.point[field.name], field.default)
        for field in self.fields
        if field.name in trial.point
      ):
        return trial.number
    return None

  def finite(self, metric: int) -> list[TrialRow]:
    """The complete trials with a finite value of a metric."""
    return [
      trial
      for trial in self.trials
      if trial.state == 'complete' and math.isfinite(trial.values[metric])
    ]

  def ranked(self, metric: int) -> list[TrialRow]:
    """The same, the best first."""
    sign = 1 if self.modes[metric] == 'min' else -1
    return sorted(
      self.finite(metric), key=lambda t: (sign * t.values[metric], t.number)
    )


def _same(value: Any, default: Any) -> bool:
  if isinstance(value, float) and isinstance(default, int | float):
    return math.isclose(value, default, rel_tol=1e-9)
  return value == default
