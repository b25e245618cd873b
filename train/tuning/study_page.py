"""The page of a study: what was tried, what came of it, and what it says."""

import dataclasses
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from train.console import format_count, format_duration
from train.report_page import (
  data_table,
  fact_table,
  hide_secrets,
  note,
  render_page,
  section,
)
from train.tuning.study_charts import (
  render_front,
  render_history,
  render_learning,
  render_seeds,
)
from train.tuning.study_data import FieldColumn, StudyPage, TrialRow
from train.tuning.study_fields import (
  render_importance,
  render_parallel,
  render_slices,
  short_names,
)
from train.tuning.study_marks import field_text, number_text
from train.tuning.study_style import SCRIPT, STYLE

# From so many trials on, marks are smaller and lines thinner.
_MANY = 100
# A reason may be the whole text of a compiler.
_MOST_LETTERS = 2_000


def render_study(page: StudyPage) -> str:
  """Returns the complete page; the same arguments give the same text."""
  page = _without_secrets(page)
  body = [_render_headline(page)]
  if page.trials:
    body += [
      _per_metric('History', page, render_history),
      _render_curves(page),
      _per_metric('Slices', page, render_slices),
      section('All fields at once', _wide(render_parallel(page))),
      _render_importance(page),
    ]
    if len(page.metrics) > 1:
      figure = _wide(render_front(page))
      front = [t for t in page.ranked(0) if t.number in page.front]
      body.append(section('Pareto front', figure, _trial_table(page, front)))
    body.append(_render_trials(page))
  text = ''.join(body)
  if len(page.trials) > _MANY:
    text = f'<div class="many">{text}</div>'
  return render_page(
    f'{page.title} – Meshwork study', text, style=STYLE, script=SCRIPT
  )


def _without_secrets(page: StudyPage) -> StudyPage:
  """The page without what fields with secret names hold, and URLs."""
  hidden = hide_secrets
  return dataclasses.replace(
    page,
    title=hidden(page.title),
    fields=tuple(_hidden_column(column) for column in page.fields),
    trials=tuple(
      dataclasses.replace(
        t, point=hidden(dict(t.point)), reason=hidden(t.reason)
      )
      for t in page.trials
    ),
    facts=tuple((n, hidden({n: text})[n]) for n, text in page.facts),
    verdict=hidden(page.verdict),
    difference=tuple(
      (name, hidden({name: default})[name], hidden({name: value})[name])
      for name, default, value in page.difference
    ),
  )


def _hidden_column(column: FieldColumn) -> FieldColumn:
  choices = hide_secrets({column.name: list(column.choices)})[column.name]
  return dataclasses.replace(
    column,
    choices=(choices,) if isinstance(choices, str) else tuple(choices),
    default=hide_secrets({column.name: column.default})[column.name],
  )


def _wide(figure: str) -> str:
  return f'<div class="wide">{figure}</div>'


def _per_metric(
  title: str, page: StudyPage, render: Callable[[StudyPage, int], str]
) -> str:
  parts = (render(page, metric) for metric in range(len(page.metrics)))
  if render is render_history:
    parts = (_wide(part) for part in parts)
  return section(title, *parts)


def _render_headline(page: StudyPage) -> str:
  states = [trial.state for trial in page.trials]
  counts = ', '.join(
    f'{states.count(state)} {state}' for state in dict.fromkeys(states)
  )
  lead = f'{_count(len(states), "trial")}{": " if counts else ""}{counts}'
  parts = [
    f'<header><h1>{escape(page.title)}</h1><p class="lead">{escape(lead)}</p>'
    f'<p class="result">{escape(page.verdict or _verdict(page))}</p>'
    f'{_render_tiles(page)}</header>'
  ]
  if page.difference:
    parts.append(
      section(
        f'What trial {page.winner} changes',
        '<div class="narrow">',
        data_table(
          ['Field', 'Default', 'Winner'], page.difference, numbers=(1, 2)
        ),
        '</div>',
      )
    )
  if page.confirming:
    parts.append(_render_confirming(page))
  tables = [fact_table('Searched', map(_range_fact, page.fields))]
  if page.facts:
    tables.insert(0, fact_table('Search', page.facts))
  parts.append(section('Facts', f'<div class="grid2">{"".join(tables)}</div>'))
  return ''.join(parts)


def _count(number: int, noun: str) -> str:
  return f'{number:,} {noun}' + ('' if number == 1 else 's')


def _verdict(page: StudyPage) -> str:
  """What can be said where nothing was confirmed."""
  if not page.finite(0):
    return 'No trial came to its end with a value: the default stands.'
  if len(page.metrics) > 1:
    return (
      f'No other trial beats {_count(len(page.front), "trial")} in all metrics:'
      f' {", ".join(map(str, page.front))}. Choose among them.'
    )
  if page.winner is None:
    return 'The default stands.'
  which = ', the default itself,' if page.winner == page.default else ''
  return (
    f'Trial {page.winner}{which} is the best of those that came to their end;'
    ' it was not run again with other seeds.'
  )


def _render_tiles(page: StudyPage) -> str:
  tiles = []
  if len(page.metrics) == 1:
    name = 'the default' if page.winner is None else f'trial {page.winner}'
    tiles.append(('Use', name, f'of {_count(len(page.trials), "trial")}'))
  for metric, name in enumerate(page.metrics):
    ranked = page.ranked(metric)
    if ranked:
      value = number_text(ranked[0].values[metric])
      tiles.append((f'Best {name}', value, f'trial {ranked[0].number}'))
    known = [t for t in page.finite(metric) if t.number == page.default]
    if known:
      value = number_text(known[0].values[metric])
      tiles.append((f'{name} of the default', value, f'trial {page.default}'))
  seconds = sum(trial.seconds for trial in page.trials)
  tokens = sum(trial.tokens for trial in page.trials)
  tiles.append(('Time', format_duration(seconds), 'of all workers'))
  tiles.append(('Tokens', format_count(tokens), 'that trials trained on'))
  cells = ''.join(
    f'<div><dt>{escape(title)}</dt><dd>{escape(value)}'
    f'<small>{escape(remark)}</small></dd></div>'
    for title, value, remark in tiles
  )
  return f'<dl class="tiles">{cells}</dl>'


def _render_confirming(page: StudyPage) -> str:
  rows = [
    (
      candidate.name,
      *(
        'failed' if value != value else number_text(value)
        for value in candidate.values
      ),
      number_text(candidate.mean),
    )
    for candidate in page.confirming
  ]
  heads = ['Candidate', *(f'Seed {seed}' for seed in page.seeds), 'Mean']
  table = data_table(heads, rows, numbers=range(1, len(heads)))
  return section(
    'The best again, with fresh seeds',
    f'<div class="grid2"><div>{table}</div>{render_seeds(page)}</div>',
  )


def _range_fact(column: FieldColumn) -> tuple[str, str]:
  default = f'default {field_text(column.default)}'
  if column.bounds is None:
    return column.name, f'{" | ".join(column.choices)}; {default}'
  low, high = map(field_text, column.bounds)
  what = '1 − value: ' if column.one_minus else ''
  scale = ', log' if column.log else ''
  return column.name, f'{what}{low} to {high}{scale}; {default}'


def _render_curves(page: StudyPage) -> str:
  if len(page.metrics) > 1:
    text = 'Trials of a search for several metrics keep no curves.'
  elif not any(trial.curve for trial in page.trials):
    text = 'No trial has told a value on its way yet.'
  else:
    return section('Learning curves', _wide(render_learning(page)))
  return section('Learning curves', note(text))


def _render_importance(page: StudyPage) -> str:
  title = 'Importance'
  if not page.importance:
    text = 'Too few trials came to their end to tell which fields matter.'
    return section(title, note(text))
  return section(
    title,
    '<p>Where good trials lie apart from the others: shares of a field in what'
    ' tells the best quarter from the rest (PED-ANOVA).</p>',
    render_importance(page),
  )


def _trial_table(page: StudyPage, trials: Iterable[TrialRow]) -> str:
  names = short_names([column.name for column in page.fields])
  heads = ['Trial', 'State', *page.metrics, *names, 'Time']
  texts = {1} | {
    2 + len(page.metrics) + i for i, f in enumerate(page.fields) if f.choices
  }
  return data_table(
    heads,
    [_trial_cells(page, trial) for trial in trials],
    numbers=set(range(len(heads))) - texts,
  )


def _render_trials(page: StudyPage) -> str:
  table = _trial_table(page, page.trials)
  parts = [section('Trials', f'<div id="trials">{table}</div>')]
  failed = [t for t in page.trials if t.state == 'failed']
  if failed:
    rows = [(str(t.number), _reason(t)) for t in failed]
    table = data_table(['Trial', 'Reason'], rows, numbers=(0,))
    parts.append(section('Failures', f'<div class="reasons">{table}</div>'))
  return ''.join(parts)


def _trial_cells(page: StudyPage, trial: TrialRow) -> list[str]:
  state = trial.state
  if trial.number == page.default:
    state += ', the default'
  if trial.number == page.winner:
    state += ', the winner'
  values = [number_text(value) for value in trial.values]
  values += ['–'] * (len(page.metrics) - len(values))
  fields = [_cell(trial.point.get(f.name)) for f in page.fields]
  time = format_duration(trial.seconds) if trial.seconds else '–'
  return [str(trial.number), state, *values, *fields, time]


def _cell(value: Any) -> str:
  return '–' if value is None else field_text(value)


def _reason(trial: TrialRow) -> str:
  text = trial.reason or 'No reason was given.'
  surplus = len(text) - _MOST_LETTERS
  if surplus <= 0:
    return text
  return f'{text[:_MOST_LETTERS]}… ({surplus:,} letters more)'
