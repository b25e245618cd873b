"""Charts of a study's trials: history, learning curves, seeds, Pareto front."""

import math
from collections.abc import Mapping, Sequence

from train.report_axes import Axis
from train.report_page import note
from train.report_plot import (
  Point,
  Shape,
  axis_ticks,
  path_of,
  percent,
  render_figure,
  render_frame,
  render_legend,
  render_x_ticks,
  render_y_ticks,
  shape_of,
  stretched,
)
from train.tuning.study_data import StudyPage, TrialRow
from train.tuning.study_marks import (
  MARKS,
  Spot,
  axis_name,
  metric_axis,
  metric_unit,
  number_text,
  render_line,
  render_spots,
  spot_legend,
  spots_of,
  title_of,
  trials_axis,
)

_NO_VALUE = 'No trial has a finite value of it yet.'
_DOT = MARKS['complete'][0]
# Learning curves, from the one at the back to the one in front.
_CURVES = {
  'failed': 'failed',
  'pruned': 'pruned, where it ended',
  'running': 'running',
  'complete': 'complete',
  'default': 'the default',
  'winner': 'the winner',
}


def whole_ticks(axis: Axis, count: int) -> list[tuple[float, str]]:
  """Returns the places and labels of about `count` whole numbers."""
  return [
    (axis.fraction(value), label)
    for value, label in axis.ticks(count)
    if value == int(value)
  ]


def render_history(page: StudyPage, metric: int) -> str:
  """Returns a metric of each trial by number, with the best so far."""
  name = page.metrics[metric]
  y_axis = trials_axis(page, metric)
  title = f'{name} by trial'
  if y_axis is None:
    return render_figure(title, metric_unit(page, metric), note(_NO_VALUE))
  last = page.trials[-1].number
  x_axis = Axis(-0.5, last + 0.5, log=False)
  spots = {
    trial.number: spots_of(
      page, trial, metric, x_axis.fraction(trial.number), y_axis
    )
    for trial in page.trials
  }
  best = _best_so_far(page, metric)
  steps = shape_of(
    [*best, (last + 0.5, best[-1][1])] if best else [], x_axis, y_axis
  )
  stairs = ('<path class="curve best" d="M0 3H11V9H22"/>', 'the best so far')
  legend = spot_legend(spots, *([stairs] if best else []))
  description = f'{axis_name(page, metric)}, of {len(page.trials)} trials.'
  ranked = page.ranked(metric)
  if ranked:
    text = number_text(ranked[0].values[metric])
    description += f' The best is trial {ranked[0].number}: {text}.'
  return render_figure(
    title,
    metric_unit(page, metric),
    legend,
    render_frame(
      description,
      render_y_ticks(axis_ticks(y_axis, 8)),
      render_x_ticks(whole_ticks(x_axis, 8), 'trial'),
      stretched([f'<path class="curve best" d="{path_of(steps)}"/>']),
      render_spots(spots, {t.number: title_of(page, t) for t in page.trials}),
      attributes={},
    ),
  )


def _best_so_far(page: StudyPage, metric: int) -> list[Point]:
  """The corners of the step line."""
  better = min if page.modes[metric] == 'min' else max
  corners: list[Point] = []
  for trial in page.finite(metric):
    value = trial.values[metric]
    if corners:
      corners.append((trial.number, corners[-1][1]))
      value = better(value, corners[-1][1])
    corners.append((trial.number, value))
  return corners


def render_learning(page: StudyPage) -> str:
  """Returns the learning curves of all trials that have one."""
  drawn = [trial for trial in page.trials if trial.curve]
  values = [value for trial in drawn for _, value in trial.curve]
  y_axis = metric_axis(values, page.modes[0])
  title = f'{page.metrics[0]} by step'
  if y_axis is None:
    return render_figure(title, metric_unit(page, 0), note(_NO_VALUE))
  first = min(trial.curve[0][0] for trial in drawn)
  last = max(trial.curve[-1][0] for trial in drawn)
  x_axis = Axis(float(min(first, last - 1)), float(last), log=False)
  kinds = {trial.number: _curve_kind(page, trial) for trial in drawn}
  drawn.sort(key=lambda t: list(_CURVES).index(kinds[t.number]))
  shapes = {t.number: shape_of(t.curve, x_axis, y_axis) for t in drawn}
  paths = [
    render_line(page, t, kinds[t.number], shapes[t.number]) for t in drawn
  ]
  ends = ''.join(
    _render_end(t, kinds[t.number], shapes[t.number]) for t in drawn
  )
  legend = [
    (_curve_key(kind), name)
    for kind, name in _CURVES.items()
    if kind in kinds.values()
  ]
  return render_figure(
    title,
    metric_unit(page, 0),
    render_legend(legend),
    render_frame(
      f'Learning curves of {len(drawn)} trials: {axis_name(page, 0)}, up to'
      f' step {last:,}.',
      render_y_ticks(axis_ticks(y_axis, 8)),
      render_x_ticks(whole_ticks(x_axis, 6), 'step'),
      stretched(paths),
      ends,
      attributes={},
    ),
  )


def _curve_kind(page: StudyPage, trial: TrialRow) -> str:
  if trial.number == page.winner:
    return 'winner'
  return 'default' if trial.number == page.default else trial.state


def _curve_key(kind: str) -> str:
  line = f'<path class="curve {kind}" d="M0 6H22"/>'
  if kind in ('pruned', 'failed'):
    return (
      f'{line}<svg class="trial {kind}" x="17" y="6">{MARKS[kind][0]}</svg>'
    )
  return line


def _render_end(trial: TrialRow, kind: str, shape: Shape) -> str:
  """A mark where a curve ended early, or where it is no more than a point."""
  if not shape:
    return ''
  x, y = shape[-1][-1]
  early = trial.state in ('pruned', 'failed')
  if not 0 <= y <= 1 or (len(shape[-1]) > 1 and not early):
    return ''
  mark = MARKS[trial.state][0] if early else '<circle r="3"/>'
  return (
    f'<svg class="trial {trial.state if early else kind}" x="{percent(x)}"'
    f' y="{percent(1 - y)}" data-trial="{trial.number}">{mark}</svg>'
  )


def render_seeds(page: StudyPage) -> str:
  """Returns the values of the candidates with each fresh seed, and means."""
  values = [v for candidate in page.confirming for v in candidate.values]
  # How far the values of a candidate spread is what this shows.
  y_axis = metric_axis(values, page.modes[0], outliers=True)
  if y_axis is None:
    return ''
  count = len(page.confirming)
  parts = []
  for place, candidate in enumerate(page.confirming):
    middle = (place + 0.5) / count
    known = [v for v in candidate.values if math.isfinite(v)]
    if len(known) == len(candidate.values):
      y, half = _height(y_axis, candidate.mean), min(0.06, 0.3 / count)
      parts.append(
        f'<line class="mean" x1="{percent(middle - half)}"'
        f' x2="{percent(middle + half)}" y1="{y}" y2="{y}"/>'
      )
    parts += [
      f'<svg class="trial complete" x="{percent(middle)}"'
      f' y="{_height(y_axis, value)}"><title>{number_text(value)}</title>{_DOT}'
      '</svg>'
      for value in known
    ]
  ticks = [
    ((i + 0.5) / count, candidate.name)
    for i, candidate in enumerate(page.confirming)
  ]
  return render_figure(
    f'{page.metrics[0]} with fresh seeds',
    metric_unit(page, 0),
    render_legend(
      [
        (
          f'<svg class="trial complete" x="11" y="6">{_DOT}</svg>',
          'a seed',
        ),
        ('<line class="mean" x1="2" x2="20" y1="6" y2="6"/>', 'mean'),
      ]
    ),
    render_frame(
      f'{axis_name(page, 0)}, of {count} candidates with'
      f' {len(page.seeds)} seeds each.',
      render_y_ticks(axis_ticks(y_axis, 5)),
      render_x_ticks(ticks, 'candidate'),
      *parts,
      attributes={},
    ),
  )


def _height(axis: Axis, value: float) -> str:
  return percent(1 - min(max(axis.fraction(value), 0.0), 1.0))


def render_front(page: StudyPage) -> str:
  """Returns the first metric over the second, with the front joined."""
  first, second = page.metrics[:2]
  title = f'{first} and {second}'
  y_axis, x_axis = trials_axis(page, 0), trials_axis(page, 1)
  if x_axis is None or y_axis is None:
    return render_figure(title, metric_unit(page, 0), note(_NO_VALUE))
  spots = {}
  for trial in page.trials:
    if trial.state == 'complete':
      across = spots_of(page, trial, 1, 0.0, x_axis)[0].up
      spots[trial.number] = spots_of(page, trial, 0, across, y_axis)
  front = [t for t in page.trials if t.number in page.front]
  line = shape_of(_stairs(page, front), x_axis, y_axis)
  legend = spot_legend(
    spots,
    (
      '<path class="curve best" d="M0 6H22"/><svg class="trial front" x="11"'
      ' y="6"><circle r="5"/></svg>',
      'no other is better in all',
    ),
  )
  return render_figure(
    title,
    metric_unit(page, 0),
    legend,
    render_frame(
      f'{axis_name(page, 0)}, over {axis_name(page, 1)}; on the front are'
      f' trials {", ".join(str(n) for n in page.front) or "none"}.',
      render_y_ticks(axis_ticks(y_axis, 8)),
      render_x_ticks(
        axis_ticks(x_axis, 5), f'{second} ({metric_unit(page, 1)})'
      ),
      stretched([f'<path class="curve best" d="{path_of(line)}"/>']),
      render_spots(spots, {t.number: title_of(page, t) for t in page.trials}),
      _render_rings({t.number: spots[t.number][0] for t in front}),
      attributes={},
    ),
  )


def _render_rings(spots: Mapping[int, Spot]) -> str:
  """Rings around the front, with the numbers that have room."""
  parts, free = [], -1.0
  for number, spot in sorted(spots.items(), key=lambda item: item[1].across):
    x, y = percent(spot.across), percent(1 - spot.up)
    ring = '<circle r="8"/>'
    parts.append(f'<svg class="trial front" x="{x}" y="{y}">{ring}</svg>')
    if spot.across >= free:
      parts.append(
        f'<text class="label" x="{x}" y="{y}" dx="9" dy="-8">{number}</text>'
      )
      free = spot.across + 0.05
  return ''.join(parts)


def _stairs(page: StudyPage, front: Sequence[TrialRow]) -> list[Point]:
  """The corners of the edge of what the front beats.

  With more metrics than two the front has no edge in a picture of two.
  """
  if len(page.metrics) != 2:
    return []
  sign = 1 if page.modes[1] == 'min' else -1
  known = [t for t in front if all(map(math.isfinite, t.values))]
  corners: list[Point] = []
  for trial in sorted(known, key=lambda t: sign * t.values[1]):
    y, x = trial.values
    if corners:
      corners.append((x, corners[-1][1]))
    corners.append((x, y))
  return corners
