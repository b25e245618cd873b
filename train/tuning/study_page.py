"""The page of a study: what was tried, what came of it, and what it says."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from train.report_page import render_page, section


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRow:
  """A trial, as the page shows it.

  Attributes:
    number: in the study.
    state: 'complete', 'pruned', 'failed' or 'running'.
    point: values of the fields that were searched there.
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
    choices: its values as text, where it is a choice; else ().
    default: the configuration's value.
  """

  name: str
  log: bool
  choices: tuple[str, ...]
  default: Any


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
    confirming: rows of the table of seeds: name of the candidate, and its
      value with each seed as text.
    winner: number of the trial whose values are to be used; None: the default.
    difference: lines 'field: default -> value' of the winner.
  """

  title: str
  metrics: tuple[str, ...]
  modes: tuple[str, ...]
  fields: tuple[FieldColumn, ...]
  trials: tuple[TrialRow, ...]
  facts: tuple[tuple[str, str], ...]
  verdict: str
  confirming: tuple[tuple[str, ...], ...]
  winner: int | None
  difference: tuple[str, ...]


def render_study(page: StudyPage) -> str:
  """Returns the complete page."""
  return render_page(page.title, section('Verdict', page.verdict))
