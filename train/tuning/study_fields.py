"""Charts of the fields of a study: slices, parallel coordinates, importance."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from train.report_axes import Axis
from train.report_page import note
from train.report_plot import (
  Ticks,
  axis_ticks,
  percent,
  render_figure,
  render_frame,
  render_x_ticks,
  render_y_ticks,
  stretched,
)
from train.tuning.study_data import FieldColumn, StudyPage, TrialRow
from train.tuning.study_marks import (
  Spot,
  axis_name,
  metric_axis,
  metric_unit,
  render_line,
  render_spots,
  spot_legend,
  spots_of,
  title_of,
  trials_axis,
)

# More lines than these are a carpet.
MAX_LINES = 300
# Shades of the style sheet, from the best to the worst.
SHADES = 7
# Letters that fit below the plot of a slice on a phone.
_LETTERS = 40
# Where lines pass a field that their trial does not search.
_NOT_SEARCHED = -0.1


@dataclass(frozen=True)
class FieldAxis:
  """Places of a field's values, from 0 to 1.

  Attributes:
    column: the field.
    axis: of its numbers; None: it is a choice, whose values lie in columns.
  """

  column: FieldColumn
  axis: Axis | None

  def fraction(self, value: Any) -> float | None:
    """Returns where a value lies; None: it is none of the field."""
    if self.axis is None:
      choices = self.column.choices
      if value not in choices:
        return None
      return (choices.index(value) + 0.5) / len(choices)
    number = _coordinate(self.column, value)
    return None if number is None else self.axis.fraction(number)

  def ticks(self, count: int) -> Ticks:
    """Returns places and labels, of a choice of all its values."""
    if self.axis is not None:
      return axis_ticks(self.axis, count)
    choices = self.column.choices
    return [((i + 0.5) / len(choices), text) for i, text in enumerate(choices)]


def _coordinate(column: FieldColumn, value: Any) -> float | None:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  number = 1 - value if column.one_minus else float(value)
  known = math.isfinite(number) and (number > 0 or not column.log)
  return number if known else None


def field_axis(page: StudyPage, column: FieldColumn) -> FieldAxis | None:
  """Returns the axis of a field; None: it has no values."""
  if column.choices:
    return FieldAxis(column, None)
  found = [_coordinate(column, t.point.get(column.name)) for t in page.trials]
  found.append(_coordinate(column, column.default))
  numbers = [*(column.bounds or ()), *(x for x in found if x is not None)]
  if not numbers:
    return None
  low, high = min(numbers), max(numbers)
  if column.log:
    margin = (high / low) ** 0.03 if high > low else 2.0
    return FieldAxis(column, Axis(low / margin, high * margin, log=True))
  span = 0.03 * (high - low) or 0.5 * abs(high) or 1.0
  return FieldAxis(column, Axis(low - span, high + span, log=False))


def short_names(names: Sequence[str]) -> list[str]:
  """Returns the last words of dotted names, where these tell them apart."""
  last = [name.rpartition('.')[2] for name in names]
  return [
    name if last.count(short) > 1 else short
    for name, short in zip(names, last, strict=True)
  ]


def render_slices(page: StudyPage, metric: int) -> str:
  """Returns a metric over each field, a figure each below one legend."""
  y_axis = trials_axis(page, metric)
  if y_axis is None:
    return note('No trial has a finite value yet.')
  figures: list[str] = []
  seen: dict[int, list[Spot]] = {}
  names = short_names([column.name for column in page.fields])
  for column, name in zip(page.fields, names, strict=True):
    axis = field_axis(page, column)
    if axis is not None:
      spots = _slice_spots(page, metric, axis, y_axis)
      figures.append(_render_slice(page, metric, axis, y_axis, name, spots))
      seen |= spots
  key = '<line class="default" x1="11" x2="11" y1="0" y2="12"/>'
  legend = spot_legend(seen, (key, "the default's value"))
  return f'{legend}<div class="grid2 slices">{"".join(figures)}</div>'


def _slice_spots(
  page: StudyPage, metric: int, axis: FieldAxis, y_axis: Axis
) -> dict[int, list[Spot]]:
  spots = {}
  for trial in page.trials:
    across = axis.fraction(trial.point.get(axis.column.name))
    if across is not None:
      across += _aside(axis, trial)
      spots[trial.number] = spots_of(page, trial, metric, across, y_axis)
  return spots


def _render_slice(
  page: StudyPage,
  metric: int,
  axis: FieldAxis,
  y_axis: Axis,
  name: str,
  spots: Mapping[int, Sequence[Spot]],
) -> str:
  column = axis.column
  ticks = axis.ticks(5)
  parts, below = [], []
  if sum(len(label) + 2 for _, label in ticks) > _LETTERS and column.choices:
    items = ''.join(f'<li>{escape(choice)}</li>' for choice in column.choices)
    below = [f'<ol class="choices">{items}</ol>']
    ticks = [(at, str(i)) for i, (at, _) in enumerate(ticks, 1)]
  at = axis.fraction(column.default)
  if at is not None and axis.axis is not None:
    parts.append(
      f'<line class="default" x1="{percent(at)}" x2="{percent(at)}" y1="0"'
      ' y2="100%"/>'
    )
  text = f'1 − {column.name}' if column.one_minus else column.name
  scale = ' (log scale)' if column.log else ''
  return render_figure(
    f'{page.metrics[metric]} over {name}',
    metric_unit(page, metric),
    render_frame(
      f'{axis_name(page, metric)}, of {len(spots)} trials over {text}.',
      render_y_ticks(axis_ticks(y_axis, 5)),
      render_x_ticks(ticks, f'{text}{scale}'),
      *parts,
      render_spots(spots, {t.number: title_of(page, t) for t in page.trials}),
      attributes={},
    ),
    *below,
  )


def _aside(axis: FieldAxis, trial: TrialRow) -> float:
  """Moves marks of a choice apart, within the column of their value.

  Multiples of the golden ratio fall far from each other.
  """
  if axis.axis is not None:
    return 0.0
  return (trial.number * 0.618034 % 1 - 0.5) * 0.6 / len(axis.column.choices)


@dataclass(frozen=True)
class _Upright:
  """An upright axis: what it is called, and how high each trial passes it.

  `ups` has None where a trial does not search the field, or has no number.
  """

  name: str
  ticks: Ticks
  ups: Mapping[int, float | None]


def render_parallel(page: StudyPage) -> str:
  """Returns a line for each complete trial over all fields and the metrics."""
  drawn = page.ranked(0)[:MAX_LINES]
  if not drawn:
    return note('No trial has come to its end with a finite value yet.')
  uprights = [*_field_uprights(page, drawn), *_metric_uprights(page, drawn)]
  # The best is the last to be drawn, but for the winner.
  lines = [
    (trial.number == page.winner, _render_trial(page, trial, place, uprights))
    for place, trial in enumerate(drawn)
  ][::-1]
  lines.sort(key=lambda line: line[0])
  texts, done = [], len(page.ranked(0))
  if done > len(drawn):
    texts.append(f'Of {done} trials, the best {MAX_LINES} are drawn.')
  if any(up is None for upright in uprights for up in upright.ups.values()):
    texts.append('Trials that do not search a field pass below its axis.')
  return render_figure(
    f'Fields and {" and ".join(page.metrics)} of each complete trial',
    metric_unit(page, 0),
    _render_shades(page),
    f'<div class="across"><div style="min-width:{92 * len(uprights)}px">',
    render_frame(
      f'Parallel coordinates of {len(drawn)} trials over'
      f' {", ".join(upright.name for upright in uprights)}.',
      stretched(line for _, line in lines),
      *(
        _render_upright(upright, place, len(uprights))
        for place, upright in enumerate(uprights)
      ),
      attributes={},
    ),
    '</div></div>',
    *(f'<p class="unit">{text}</p>' for text in texts),
  )


def _field_uprights(
  page: StudyPage, drawn: Sequence[TrialRow]
) -> Iterator[_Upright]:
  names = short_names([column.name for column in page.fields])
  for column, name in zip(page.fields, names, strict=True):
    axis = field_axis(page, column)
    if axis is not None:
      yield _Upright(
        f'1 − {name}' if column.one_minus else name,
        axis.ticks(5),
        {t.number: axis.fraction(t.point.get(column.name)) for t in drawn},
      )


def _metric_uprights(
  page: StudyPage, drawn: Sequence[TrialRow]
) -> Iterator[_Upright]:
  for metric, (name, mode) in enumerate(
    zip(page.metrics, page.modes, strict=True)
  ):
    values = {t.number: t.values[metric] for t in drawn}
    axis = metric_axis(values.values(), mode)
    if axis is not None:
      yield _Upright(
        name,
        axis_ticks(axis, 5),
        {
          number: None if math.isnan(value) else axis.fraction(value)
          for number, value in values.items()
        },
      )


def _place(place: int, count: int) -> float:
  """Where an axis stands across the plot, of so many."""
  return place / max(count - 1, 1)


def _render_trial(
  page: StudyPage, trial: TrialRow, rank: int, uprights: Sequence[_Upright]
) -> str:
  shape = []
  for place, upright in enumerate(uprights):
    up = upright.ups[trial.number]
    up = _NOT_SEARCHED if up is None else min(max(up, 0.0), 1.0)
    shape.append((_place(place, len(uprights)), up))
  # By the root: the best few have a shade of their own.
  share = rank / len(uprights[0].ups)
  kind = f'shade{int(math.sqrt(share) * SHADES)}'
  if trial.number == page.winner:
    kind = 'winner'
  elif trial.number == page.default:
    kind += ' default'
  return render_line(page, trial, kind, [shape])


def _render_upright(upright: _Upright, place: int, count: int) -> str:
  at = percent(_place(place, count))
  # Names of neighbours lie in two rows, so that they have room.
  above = 26 if place % 2 else 10
  labels = ''.join(
    f'<text class="label" x="{at}" y="{percent(1 - up)}" dx="5"'
    f' dy="4">{escape(_cut(label))}</text>'
    for up, label in upright.ticks
  )
  return (
    f'<line class="axis" x1="{at}" x2="{at}" y1="0" y2="100%"/>{labels}'
    f'<text class="tick" x="{at}" y="0" dy="-{above}" text-anchor="middle">'
    f'{escape(upright.name)}</text>'
  )


def _cut(text: str) -> str:
  return text if len(text) <= 12 else f'{text[:11]}…'


def _render_shades(page: StudyPage) -> str:
  shades = ''.join(
    f'<line class="curve shade{i}" x1="{12 * i}" x2="{12 * i + 12}" y1="6"'
    ' y2="6"/>'
    for i in range(SHADES)
  )
  kinds = [('winner', 'the winner', page.winner)]
  kinds.append(('default', 'the default', page.default))
  keys = ''.join(
    '<li><svg class="key" aria-hidden="true"><line class="curve'
    f' {kind}" x1="0" x2="22" y1="6" y2="6"/></svg>{name}</li>'
    for kind, name, number in kinds
    if number is not None
  )
  return (
    '<ul class="legend"><li>best <svg class="shades" aria-hidden="true">'
    f'{shades}</svg> worst {escape(page.metrics[0])}, by rank</li>{keys}</ul>'
  )


def render_importance(page: StudyPage) -> str:
  """Returns a bar for each field, the most important first."""
  most = max((share for _, share in page.importance), default=0.0) or 1.0
  names = short_names([name for name, _ in page.importance])
  rows = ''.join(
    f'<tr><th scope="row">{escape(name)}</th><td class="bars"><svg'
    ' aria-hidden="true" width="100%" height="14"><rect class="share"'
    f' width="{percent(share / most)}" height="14" rx="2"/></svg></td>'
    f'<td>{share:.0%}</td></tr>'
    for name, (_, share) in zip(names, page.importance, strict=True)
  )
  return (
    f'<div class="card"><table class="shares"><tbody>{rows}</tbody></table>'
    '</div>'
  )
