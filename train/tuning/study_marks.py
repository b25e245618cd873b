"""How trials are drawn: marks, the axis of a metric, numbers as text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from train.report_axes import Axis
from train.report_page import format_value
from train.report_plot import Shape, path_of, percent, render_legend
from train.tuning.study_data import StudyPage, TrialRow

# Each kind has a shape of its own: colours alone do not tell them apart.
MARKS = {
  'complete': ('<circle r="4"/>', 'complete'),
  'pruned': ('<path d="M-4 -4L4 4M-4 4L4 -4"/>', 'pruned, at its last value'),
  'failed': ('<path d="M-4 -4H4V4H-4Z"/>', 'failed'),
  'running': ('<circle r="4"/>', 'running, at its last value'),
  'above': ('<path d="M-5 5H5L0 -4Z"/>', 'beyond the axis'),
  'below': ('<path d="M-5 -5H5L0 4Z"/>', 'beyond the axis'),
  'default': ('<path d="M0 -9L9 0L0 9L-9 0Z"/>', 'the default'),
  'winner': ('<circle r="8"/>', 'the winner'),
}
_UNITS = {
  'loss': 'nats per token',
  'bits_per_byte': 'bits per byte',
  'step_seconds': 'seconds per step',
  'parameters': 'count',
}
# Fewer values have no outliers.
_LEAST = 8
# Larger ones are no numbers of a picture.
_HUGE = 1e30


@dataclass(frozen=True)
class Spot:
  """A mark of a trial: its kind, and where it lies in the plot."""

  kind: str
  across: float
  up: float


def metric_unit(page: StudyPage, metric: int) -> str:
  """Returns the unit of a metric, and which way it is better."""
  unit = _UNITS.get(page.metrics[metric].partition('/')[0], '')
  better = 'lower' if page.modes[metric] == 'min' else 'higher'
  return f'{unit}, {better} is better'.removeprefix(', ')


def axis_name(page: StudyPage, metric: int) -> str:
  """Returns the name of a metric with its unit."""
  name = page.metrics[metric]
  unit = _UNITS.get(name.partition('/')[0], '')
  return f'{name}, {unit}' if unit else name


def number_text(value: float) -> str:
  """Returns a metric's value: '3.2178', '124,668,672', '1.2e-06', 'nan'."""
  if math.isfinite(value) and abs(value) < 1e15 and value == int(value):
    return f'{value:,.0f}'
  if 1e-3 <= abs(value) < 1e15:
    return f'{value:,.4f}' if abs(value) < 1e4 else f'{value:,.0f}'
  return f'{value:.4g}'


def field_text(value: Any) -> str:
  """Returns a field's value in few digits; nobody knows more of it."""
  return f'{value:.4g}' if isinstance(value, float) else format_value(value)


def metric_axis(
  values: Iterable[float], mode: str, *, outliers: bool = False
) -> Axis | None:
  """Returns the axis of a metric; None: there is no finite value.

  Args:
    values: of the metric.
    mode: 'min' or 'max'.
    outliers: whether it reaches to all values. Else it ends before bad
      outliers, which would flatten everything else: those further from the
      third quartile than three times what that is from the best.
  """
  sign = 1 if mode == 'min' else -1
  costs = sorted(
    sign * v for v in values if math.isfinite(v) and abs(v) < _HUGE
  )
  if not costs:
    return None
  best, upper = costs[0], costs[3 * (len(costs) - 1) // 4]
  if not outliers and len(costs) >= _LEAST and upper > best:
    costs = [cost for cost in costs if cost <= upper + 3 * (upper - best)]
  low, high = sorted((sign * best, sign * costs[-1]))
  margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
  return Axis(low - margin, high + margin, log=False)


def shown_value(trial: TrialRow, metric: int) -> float | None:
  """Returns what is drawn of a trial: its value, else the last of its curve."""
  if trial.state == 'complete':
    return trial.values[metric]
  if trial.state in ('pruned', 'running') and metric == 0 and trial.curve:
    return trial.curve[-1][1]
  return None


def trials_axis(page: StudyPage, metric: int) -> Axis | None:
  """Returns the axis of a metric for what is drawn of all trials."""
  values = (shown_value(trial, metric) for trial in page.trials)
  return metric_axis(
    (value for value in values if value is not None), page.modes[metric]
  )


def spots_of(
  page: StudyPage, trial: TrialRow, metric: int, across: float, axis: Axis
) -> list[Spot]:
  """Returns the marks of a trial, at a place across the plot.

  One that has no value, or a value beyond the axis, lies on its worst edge.
  """
  lower = page.modes[metric] == 'min'
  value = shown_value(trial, metric)
  kind, up = trial.state, 1.0 if lower else 0.0
  if value is not None and math.isfinite(value):
    fraction = axis.fraction(value)
    up = min(max(fraction, 0.0), 1.0)
    beyond = fraction != up
  else:
    beyond = value is not None
  if kind == 'waiting' or (kind == 'running' and value is None):
    return []
  if beyond and kind == 'complete':
    kind = 'above' if up else 'below'
  kinds = [kind]
  if trial.number == page.default:
    kinds.append('default')
  if trial.number == page.winner:
    kinds.append('winner')
  return [Spot(kind, across, up) for kind in kinds]


def render_spots(
  spots: Mapping[int, Sequence[Spot]], titles: Mapping[int, str]
) -> str:
  """Returns the marks of trials, by their numbers."""
  placed = [(s, number) for number, each in spots.items() for s in each]
  placed.sort(key=lambda item: (_depth(item[0]), item[1]))
  return ''.join(
    f'<svg class="trial {spot.kind}" x="{percent(spot.across)}"'
    f' y="{percent(1 - spot.up)}" data-trial="{number}">'
    f'<title>{escape(titles[number])}</title>{MARKS[spot.kind][0]}</svg>'
    for spot, number in placed
  )


def _depth(spot: Spot) -> int:
  """What went to its end lies before what did not, and rings before all."""
  return {'complete': 1, 'default': 2, 'winner': 2}.get(spot.kind, 0)


def render_line(
  page: StudyPage, trial: TrialRow, kind: str, shape: Shape
) -> str:
  """Returns the line of a trial, for a picture of `stretched`."""
  return (
    f'<path class="curve {kind}" data-trial="{trial.number}"'
    f' d="{path_of(shape)}"><title>{escape(title_of(page, trial))}</title>'
    '</path>'
  )


def spot_legend(
  spots: Mapping[int, Sequence[Spot]], *others: tuple[str, str]
) -> str:
  """Returns the legend of the kinds that are there, and of others."""
  kinds = {spot.kind for each in spots.values() for spot in each}
  if {'above', 'below'} <= kinds:
    kinds.remove('below')
  return render_legend(
    [
      *(
        (f'<svg class="trial {kind}" x="11" y="6">{shape}</svg>', name)
        for kind, (shape, name) in MARKS.items()
        if kind in kinds
      ),
      *others,
    ]
  )


def title_of(page: StudyPage, trial: TrialRow) -> str:
  """Returns what a mark of a trial says to who points at it."""
  text = f'trial {trial.number}, {trial.state}'
  for name, value in zip(page.metrics, trial.values, strict=False):
    text += f', {name} {number_text(value)}'
  return text
