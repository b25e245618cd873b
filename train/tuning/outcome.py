"""What a study leaves behind: its result in words, a winner's file, a page."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath
from optuna.trial import FrozenTrial, TrialState

from train.report_page import format_value, hide_secrets
from train.tuning.confirm import DEFAULT, Verdict, best_trials
from train.tuning.importance import importance
from train.tuning.parameters import Choice, Integer, Parameter, Real
from train.tuning.search_config import SearchConfig
from train.tuning.space import Space
from train.tuning.study_data import Confirmed, FieldColumn, StudyPage, TrialRow
from train.tuning.study_page import render_study
from train.tuning.winner import config_file, difference, rounded

PAGE_FILE = 'study.html'
WINNER_FILE = 'winner.py'
_LISTED = 5
_STATES = {
  TrialState.COMPLETE: 'complete',
  TrialState.PRUNED: 'pruned',
  TrialState.FAIL: 'failed',
  TrialState.RUNNING: 'running',
  TrialState.WAITING: 'waiting',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What came of a study.

  Attributes:
    search: that was made.
    base: configuration of a trial but for what is searched, as JSON holds it.
    trials: of the search.
    verdict: on the best; None: nothing was to be confirmed.
  """

  search: SearchConfig
  base: dict[str, Any]
  trials: Sequence[FrozenTrial]
  verdict: Verdict | None

  @property
  def winner(self) -> int | None:
    """The trial whose values are to be used; None: the default's are.

    Without seeds that confirm it, the best trial.
    """
    if self.verdict is not None:
      return self.verdict.winner
    best = best_trials(self.trials, self.search.modes[0], 1)
    return best[0] if best and len(self.search.metrics) == 1 else None

  def point(self, number: int) -> dict[str, Any]:
    """Values of the fields that a trial was made with."""
    return self.search.space.point(self.trials[number].params)


def text_of(outcome: Outcome) -> str:
  """The result for a terminal."""
  search = outcome.search
  states = [trial.state for trial in outcome.trials]
  lines = [
    f'{states.count(TrialState.COMPLETE)} trials went to their end, '
    f'{states.count(TrialState.PRUNED)} were pruned, '
    f'{states.count(TrialState.FAIL)} failed.'
  ]
  metric = search.metrics[0]
  if len(search.metrics) > 1:
    lines.append('Trials that no other beats in all metrics:')
    numbers = pareto_front(outcome.trials, search.modes)
  else:
    numbers = best_trials(outcome.trials, search.modes[0], _LISTED)
  for number in numbers:
    values = ', '.join(
      f'{name} {value:.4f}'
      for name, value in zip(
        search.metrics, outcome.trials[number].values, strict=True
      )
    )
    point = {k: rounded(v) for k, v in outcome.point(number).items()}
    lines.append(f'  trial {number}: {values}  {point}')
  if outcome.verdict is not None:
    lines.append(outcome.verdict.text())
  winner = outcome.winner
  if winner is not None and len(search.metrics) == 1:
    lines.append(f'{metric} of trial {winner} came from:')
    lines += [
      f'  {line}'
      for line in difference(outcome.point(winner), search.space.defaults)
    ]
  return '\n'.join(lines)


def write_outcome(
  outcome: Outcome, workdir: epath.Path, origin: str
) -> list[epath.Path]:
  """Writes the page, and the winner as a configuration file.

  Args:
    outcome: of the study.
    workdir: its folder.
    origin: path of the configuration file that it started from.

  Returns:
    The files.
  """
  files = [workdir / PAGE_FILE]
  files[0].write_text(render_study(page_of(outcome, workdir.name)))
  winner = outcome.winner
  if winner is not None:
    values = outcome.point(winner) | dict(outcome.search.proxy)
    why = (
      outcome.verdict.text()
      if outcome.verdict is not None
      else f'The best of {len(outcome.trials)} trials, not run again.'
    )
    files.append(workdir / WINNER_FILE)
    files[1].write_text(
      config_file(origin, values, outcome.search.space.defaults, why)
    )
  return files


def page_of(outcome: Outcome, title: str = 'Study') -> StudyPage:
  """All that the page of a study is made of."""
  search, winner = outcome.search, outcome.winner
  fields = {p.field: _column(p, search.space) for p in search.space.parameters}
  names = {p.name: p.field for p in search.space.parameters}
  shares = importance(outcome.trials, search.modes)
  changed = {} if winner is None else outcome.point(winner)
  verdict = outcome.verdict
  several = len(search.metrics) > 1
  return StudyPage(
    title=title,
    metrics=search.metrics,
    modes=search.modes,
    fields=tuple(fields.values()),
    trials=tuple(_row(trial, search.space) for trial in outcome.trials),
    facts=tuple(_facts(search)),
    verdict='' if verdict is None else verdict.text(),
    seeds=() if verdict is None else _seeds(verdict),
    confirming=() if verdict is None else tuple(_confirmed(verdict)),
    winner=winner,
    difference=tuple(
      (field, _text(search.space.defaults[field]), _text(value))
      for field, value in changed.items()
      if value != search.space.defaults[field]
    ),
    importance=tuple((names[name], share) for name, share in shares.items()),
    front=tuple(pareto_front(outcome.trials, search.modes)) if several else (),
  )


def _text(value: Any) -> str:
  return format_value(rounded(value))


def _choices(parameter: Choice) -> list[str]:
  """The choices as text, which tells each from the others."""
  texts = [
    format_value(hide_secrets({parameter.field: value})[parameter.field])
    for value in parameter.choices
  ]
  return [
    f'{text} ({place})' if texts.count(text) > 1 else text
    for place, text in enumerate(texts, 1)
  ]


def _shown(parameter: Parameter, value: Any) -> Any:
  if isinstance(parameter, Choice) and value in parameter.choices:
    return _choices(parameter)[parameter.choices.index(value)]
  return value


def _column(parameter: Parameter, space: Space) -> FieldColumn:
  numbers = parameter if isinstance(parameter, Real | Integer) else None
  choices = _choices(parameter) if isinstance(parameter, Choice) else ()
  return FieldColumn(
    name=parameter.field,
    log=numbers is not None and numbers.log,
    one_minus=isinstance(parameter, Real) and parameter.one_minus,
    bounds=None if numbers is None else (numbers.low, numbers.high),
    choices=tuple(choices),
    default=_shown(parameter, space.defaults[parameter.field]),
  )


def _row(trial: FrozenTrial, space: Space) -> TrialRow:
  known = space.is_complete(trial.params)
  complete = trial.state == TrialState.COMPLETE
  return TrialRow(
    number=trial.number,
    state=_STATES[trial.state],
    point={
      parameter.field: _shown(
        parameter, parameter.to_value(trial.params[parameter.name])
      )
      for parameter in (space.active(trial.params) if known else ())
    },
    values=tuple(trial.values) if complete else (),
    curve=tuple(sorted(trial.intermediate_values.items())),
    reason=trial.user_attrs.get('reason', ''),
    seconds=trial.user_attrs.get('seconds', 0.0),
    tokens=trial.user_attrs.get('tokens', 0),
  )


def _facts(search: SearchConfig) -> Iterator[tuple[str, str]]:
  for metric, mode in zip(search.metrics, search.modes, strict=True):
    yield 'metric', f'{metric}, {mode}'
  yield 'sampler', search.sampler
  yield (
    'pruner',
    search.pruner
    if search.pruner == 'none'
    else f'{search.pruner}, keeps {search.keep:g} at '
    + ' and '.join(f'{rung:g}' for rung in search.rungs)
    + ' of the steps',
  )
  yield 'budget, trials', f'{search.trials:,}'
  if search.tokens is not None:
    yield 'budget, token count', f'{search.tokens:,}'
  if search.hours is not None:
    yield 'budget, hours', f'{search.hours:g}'
  yield 'seed', str(search.seed)
  if search.confirm.scale is not None:
    yield 'confirmed at', f'{search.confirm.scale:g} times the width'
  for constraint in search.space.constraints:
    yield 'constraint', constraint.text
  for field, value in search.proxy:
    yield f'proxy, {field}', format_value(value)


def _seeds(verdict: Verdict) -> tuple[int, ...]:
  every = (verdict.default, *verdict.candidates, *verdict.failed)
  return tuple(sorted({seed for c in every for seed in c.seeds}))


def _confirmed(verdict: Verdict) -> Iterator[Confirmed]:
  seeds = _seeds(verdict)
  for candidate in (verdict.default, *verdict.candidates, *verdict.failed):
    found = dict(zip(candidate.seeds, candidate.values, strict=True))
    yield Confirmed(
      name=(
        'default'
        if candidate.number == DEFAULT
        else f'trial {candidate.number}'
      ),
      values=tuple(found.get(seed, math.nan) for seed in seeds),
    )


def pareto_front(
  trials: Sequence[FrozenTrial], modes: Sequence[str]
) -> list[int]:
  """Numbers of the complete trials that no other beats in all metrics."""
  signs = [1 if mode == 'min' else -1 for mode in modes]
  costs = {
    t.number: [s * v for s, v in zip(signs, t.values, strict=True)]
    for t in trials
    if t.state == TrialState.COMPLETE
  }

  def beats(one: list[float], other: list[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))

  return [
    number
    for number, cost in costs.items()
    if not any(beats(other, cost) for other in costs.values())
  ]
