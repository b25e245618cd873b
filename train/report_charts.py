"""Charts of a run as inline SVG: curves over its steps."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from train.console import format_significant
from train.report_axes import Axis
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

# More points than a screen has columns only make the page heavy.
MAX_POINTS = 800


@dataclass(frozen=True)
class Line:
  """A curve of a chart.

  Attributes:
    name: What the legend calls it.
    style: CSS class: 'raw', 'train' or 'validation'.
    points: (step, value), by rising step. Values that are not finite are gaps.
  """

  name: str
  style: str
  points: Sequence[Point]


@dataclass(frozen=True)
class Chart:
  """Curves over the steps of a run.

  Attributes:
    title: What is shown.
    unit: Unit of the values.
    scale: 'range' (from lowest to highest), 'zero' (from 0) or 'log'.
    percent: Values are fractions, and are shown as percentages.
    lines: The curves; the first is drawn first.
    last_step: Where the step axis ends.
    reference: Value and name of a dashed horizontal line.
    mark: Point and text of a marked point.
    restarts: Steps at which the run was resumed.
  """

  title: str
  unit: str
  scale: str
  percent: bool
  lines: Sequence[Line]
  last_step: int
  reference: tuple[float, str] | None
  mark: tuple[Point, str] | None
  restarts: Sequence[int]


@dataclass(frozen=True)
class _Spot:
  """A place for a label: above (side > 0) or below a point of the plot."""

  across: float
  up: float
  side: int
  anchor: str


def smooth(points: Sequence[Point]) -> list[Point]:
  """Returns a centred moving average over about a thirtieth of the points.

  It has no lag, and its window shrinks towards both ends. Averaging twice
  turns the weights from a box into a triangle, so that a spike stays a peak.
  Values that are not finite are left out.
  """
  finite = [point for point in points if math.isfinite(point[1])]
  half = len(finite) // 120
  return _average(_average(finite, half), half)


def _average(points: list[Point], half: int) -> list[Point]:
  sums = [0.0]
  for _, value in points:
    sums.append(sums[-1] + value)
  averages = []
  for i, (step, value) in enumerate(points):
    reach = min(half, i, len(points) - 1 - i)
    total = sums[i + reach + 1] - sums[i - reach]
    averages.append((step, total / (2 * reach + 1) if reach else value))
  return averages


def thin(points: Sequence[Point], limit: int) -> list[Point]:
  """Returns at most `limit` points that keep every peak and both ends.

  The points between the ends are cut into equal pieces, and each keeps its
  lowest and its highest. A piece with a value that is not finite keeps that
  one instead, so that the gap stays.
  """
  if len(points) <= limit:
    return list(points)
  inner = points[1:-1]
  pieces = (limit - 2) // 2
  kept = [points[0]]
  for piece in range(pieces):
    start = piece * len(inner) // pieces
    part = inner[start : (piece + 1) * len(inner) // pieces]
    broken = [point for point in part if not math.isfinite(point[1])]
    if broken:
      kept.append(broken[0])
    else:
      ends = {min(part, key=_value), max(part, key=_value)}
      kept.extend(sorted(ends))
  return [*kept, points[-1]]


def _value(point: Point) -> float:
  return point[1]


def render_chart(chart: Chart) -> str:
  """Returns a figure: caption, legend, plot and a line for the read-out."""
  lines = [
    Line(line.name, line.style, thin(line.points, MAX_POINTS))
    for line in chart.lines
  ]
  x_axis = Axis(0.0, float(max(chart.last_step, 1)), log=False)
  y_axis = _value_axis(chart)
  if y_axis is None:
    plot = '<p class="note">No finite value has been recorded yet.</p>'
  else:
    plot = _render_plot(chart, lines, x_axis, y_axis)
  return render_figure(chart.title, chart.unit, _render_legend(chart), plot)


def _value_axis(chart: Chart) -> Axis | None:
  # Raw values may leave the picture: a spike would flatten everything else.
  smooth_lines = [line for line in chart.lines if line.style != 'raw']
  values = [
    value
    for line in smooth_lines or chart.lines
    for _, value in line.points
    if math.isfinite(value) and (value > 0 or chart.scale != 'log')
  ]
  if not values:
    return None
  if chart.reference is not None:
    values.append(chart.reference[0])
  low, high = min(values), max(values)
  if chart.scale == 'log':
    return Axis(low / 1.3, high * 1.3, log=True)
  if chart.scale == 'zero':
    return Axis(0.0, high * 1.08 if high > 0 else 1.0, log=False)
  margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
  # The label of the lowest point needs room below it.
  return Axis(low - 1.6 * margin, high + margin, log=False)


def _render_legend(chart: Chart) -> str:
  entries = [
    (f'<line class="curve {x.style}" x1="0" x2="22" y1="6" y2="6"/>', x.name)
    for x in chart.lines
  ]
  if chart.restarts:
    entries.append(
      ('<line class="restart" x1="11" x2="11" y1="0" y2="12"/>', 'restart')
    )
  return render_legend(entries)


def _render_plot(
  chart: Chart, lines: Sequence[Line], x_axis: Axis, y_axis: Axis
) -> str:
  parts = [_render_grid(chart, x_axis, y_axis)]
  shapes = [shape_of(line.points, x_axis, y_axis) for line in lines]
  if chart.reference is not None:
    value, name = chart.reference
    at = y_axis.fraction(value)
    y = percent(1 - at)
    spots = [
      _Spot(across, at, side, anchor)
      for across, anchor in ((1.0, 'end'), (0.0, 'start'))
      for side in (1, -1)
    ]
    parts.append(
      f'<line class="reference" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
      f'{_render_label(name, spots, shapes)}'
    )
  parts.append(
    stretched(
      f'<path class="curve {line.style}" d="{path_of(shape)}"/>'
      for line, shape in zip(lines, shapes, strict=True)
    )
  )
  parts.extend(
    f'<circle class="dot {line.style}" r="3" cx="{percent(run[0][0])}"'
    f' cy="{percent(1 - run[0][1])}"/>'
    for line, shape in zip(lines, shapes, strict=True)
    for run in shape
    if len(run) == 1
  )
  if chart.mark is not None:
    point, text = chart.mark
    parts.append(_render_mark(point, text, x_axis, y_axis, shapes))
  parts.append('<line class="cursor" x1="0" x2="0" y1="0" y2="100%"/>')
  shown = [line for line in lines if line.style != 'raw'] or lines
  data = [
    [line.name, [[x, _rounded(y)] for x, y in line.points]] for line in shown
  ]
  attributes = {
    'data-lines': json.dumps(data, separators=(',', ':')),
    'data-last': str(int(x_axis.high)),
    'data-percent': str(int(chart.percent)),
  }
  return render_frame(_describe(chart), *parts, attributes=attributes)


def _rounded(value: float) -> float | None:
  return float(f'{value:.5g}') if math.isfinite(value) else None


def _render_grid(chart: Chart, x_axis: Axis, y_axis: Axis) -> str:
  if chart.percent:
    shown = Axis(100 * y_axis.low, 100 * y_axis.high, y_axis.log)
    y_ticks = [(at, f'{label}%') for at, label in axis_ticks(shown, 5)]
  else:
    y_ticks = list(axis_ticks(y_axis, 5))
  x_ticks = [
    (x_axis.fraction(value), label)
    for value, label in x_axis.ticks(5)
    if value == int(value)
  ]
  parts = [render_y_ticks(y_ticks), render_x_ticks(x_ticks, 'step')]
  for step in chart.restarts:
    x = percent(x_axis.fraction(step))
    parts.append(f'<line class="restart" x1="{x}" x2="{x}" y1="0" y2="100%"/>')
  return ''.join(parts)


def _render_mark(
  point: Point,
  text: str,
  x_axis: Axis,
  y_axis: Axis,
  shapes: Sequence[Shape],
) -> str:
  across, at = x_axis.fraction(point[0]), y_axis.fraction(point[1])
  anchor = 'start' if across < 0.2 else 'middle' if across < 0.7 else 'end'
  spots = [_Spot(across, at, side, anchor) for side in (2, -2)]
  return (
    f'<circle class="mark" cx="{percent(across)}" cy="{percent(1 - at)}"'
    f' r="5"/>{_render_label(text, spots, shapes)}'
  )


def _render_label(
  text: str, spots: Sequence[_Spot], shapes: Sequence[Shape]
) -> str:
  """Returns the text at the spot where it hides the least of the curves."""
  # Widths in a plot of 600 by 240 pixels, between a phone's and a desktop's.
  width, height = 7 * len(text) / 600, 15 / 240

  def hidden(spot: _Spot) -> int:
    shift = {'start': 0.0, 'middle': 0.5, 'end': 1.0}[spot.anchor]
    left = spot.across - shift * width
    low = spot.up + spot.side * height * 0.4 - (height if spot.side < 0 else 0)
    crossed = sum(
      min(x0, x1) <= left + width
      and max(x0, x1) >= left
      and min(y0, y1) <= low + height
      and max(y0, y1) >= low
      for shape in shapes
      for run in shape
      for (x0, y0), (x1, y1) in pairwise(run)
    )
    # No spot outside the plot, however free it is.
    return crossed + (1_000_000 if low < 0 or low + height > 1.05 else 0)

  spot = min(spots, key=hidden)
  below = 6 * abs(spot.side) + 9
  shift = -6 * abs(spot.side) if spot.side > 0 else below
  return (
    f'<text class="label" x="{percent(spot.across)}"'
    f' y="{percent(1 - spot.up)}" dy="{shift}" text-anchor="{spot.anchor}">'
    f'{escape(text)}</text>'
  )


def _describe(chart: Chart) -> str:
  sentences = [f'{chart.title}, {chart.unit}, over {chart.last_step} steps.']
  for line in chart.lines:
    finite = [point for point in line.points if math.isfinite(point[1])]
    if line.style != 'raw' and finite:
      (first, start), (last, end) = finite[0], finite[-1]
      sentences.append(
        f'{line.name}: {format_significant(start, 3)} at step {first:g},'
        f' {format_significant(end, 3)} at step {last:g}.'
      )
  return ' '.join(sentences)
