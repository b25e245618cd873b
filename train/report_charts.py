"""Charts as inline SVG that scale with the page while their text does not.

A plot has no viewBox: what has a size in pixels (text, dots) is placed by
percentages, and only the curves lie in a nested picture that is stretched.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from train.console import format_significant

Point = tuple[float, float]
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
class _Axis:
  """Maps the values from low to high to 0 to 1."""

  low: float
  high: float
  log: bool

  def fraction(self, value: float) -> float:
    if not self.log:
      return (value - self.low) / (self.high - self.low)
    value = max(value, self.low)
    return math.log(value / self.low) / math.log(self.high / self.low)

  def ticks(self, count: int) -> list[tuple[float, str]]:
    if self.log:
      values = log_ticks(self.low, self.high)
      return [(value, tick_labels([value])[0]) for value in values]
    values = nice_ticks(self.low, self.high, count)
    return list(zip(values, tick_labels(values), strict=True))


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


def nice_ticks(low: float, high: float, count: int) -> list[float]:
  """Returns about `count` multiples of 1, 2 or 5 times a power of ten."""
  assert low < high, (low, high)
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  # Rounding turns 0.30000000000000004 into 0.3.
  return [float(f'{i * step:.12g}') for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
  """Returns the powers of ten from low to high, with 2 and 5 if few."""
  assert 0 < low < high, (low, high)
  first = math.floor(math.log10(low))
  last = math.ceil(math.log10(high))
  spread = math.log10(high / low)
  factors = (1, 2, 5) if spread < 2.5 else (1,)
  stride = 1 + int(spread // 7)
  ticks = [
    float(f'{factor}e{exponent}')
    for exponent in range(first, last + 1, stride)
    for factor in factors
  ]
  return [tick for tick in ticks if low <= tick <= high]


def tick_labels(ticks: Sequence[float]) -> list[str]:
  """Returns the ticks as text, with one unit and as many decimals for all."""
  largest = max((abs(tick) for tick in ticks), default=0.0)
  scale, suffix = 1.0, ''
  if 0 < largest < 1e-3:
    exponent = math.floor(math.log10(largest) + 1e-9)
    scale, suffix = 10.0**exponent, f'e{exponent}'
  else:
    for unit, name in ((1e3, 'k'), (1e6, 'M'), (1e9, 'B'), (1e12, 'T')):
      if largest >= 10 * unit or (unit > 1e3 and largest >= unit):
        scale, suffix = unit, name
  scaled = [tick / scale for tick in ticks]
  decimals = next(
    digits
    for digits in range(8)
    if digits == 7
    or all(abs(round(x, digits) - x) <= 1e-9 * max(1, abs(x)) for x in scaled)
  )
  return [f'{x:,.{decimals}f}{suffix}' if x else '0' for x in scaled]


def render_chart(chart: Chart) -> str:
  """Returns a figure: caption, legend, plot and a line for the read-out."""
  lines = [
    Line(line.name, line.style, thin(line.points, MAX_POINTS))
    for line in chart.lines
  ]
  x_axis = _Axis(0.0, float(max(chart.last_step, 1)), log=False)
  y_axis = _value_axis(chart)
  if y_axis is None:
    plot = '<p class="note">No finite value has been recorded yet.</p>'
  else:
    plot = _render_plot(chart, lines, x_axis, y_axis)
  return (
    f'<figure><figcaption>{escape(chart.title)}'
    f' <span class="unit">{escape(chart.unit)}</span></figcaption>'
    f'{_render_legend(chart)}{plot}'
    '<p class="readout" aria-hidden="true"></p></figure>'
  )


def _value_axis(chart: Chart) -> _Axis | None:
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
    return _Axis(low / 1.3, high * 1.3, log=True)
  if chart.scale == 'zero':
    return _Axis(0.0, high * 1.08 if high > 0 else 1.0, log=False)
  margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
  return _Axis(low - margin, high + margin, log=False)


def _render_legend(chart: Chart) -> str:
  entries = [
    f'<li><svg class="key" aria-hidden="true"><line class="curve {line.style}"'
    f' x1="0" x2="22" y1="6" y2="6"/></svg>{escape(line.name)}</li>'
    for line in chart.lines
  ]
  if chart.restarts:
    entries.append(
      '<li><svg class="key" aria-hidden="true"><line class="restart" x1="11"'
      ' x2="11" y1="0" y2="12"/></svg>restart</li>'
    )
  if len(entries) < 2:
    return ''
  return f'<ul class="legend">{"".join(entries)}</ul>'


def _render_plot(
  chart: Chart, lines: Sequence[Line], x_axis: _Axis, y_axis: _Axis
) -> str:
  parts = [_render_grid(chart, x_axis, y_axis)]
  if chart.reference is not None:
    value, name = chart.reference
    y = _percent(1 - y_axis.fraction(value))
    parts.append(
      f'<line class="reference" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
      f'<text class="label" x="100%" y="{y}" dy="-6" text-anchor="end">'
      f'{escape(name)}</text>'
    )
  paths = ''.join(
    f'<path class="curve {line.style}"'
    f' d="{_path(line.points, x_axis, y_axis)}"/>'
    for line in lines
  )
  parts.append(
    '<svg class="curves" width="100%" height="100%" viewBox="0 0 1000 1000"'
    f' preserveAspectRatio="none">{paths}</svg>'
  )
  if chart.mark is not None:
    parts.append(_render_mark(*chart.mark, x_axis, y_axis))
  parts.append('<line class="cursor" x1="0" x2="0" y1="0" y2="100%"/>')
  shown = [line for line in lines if line.style != 'raw'] or lines
  data = [
    [line.name, [[x, _rounded(y)] for x, y in line.points]] for line in shown
  ]
  attributes = {
    'aria-label': _describe(chart),
    'data-lines': json.dumps(data, separators=(',', ':')),
    'data-last': str(int(x_axis.high)),
    'data-percent': str(int(chart.percent)),
  }
  text = ' '.join(f'{k}="{escape(v)}"' for k, v in attributes.items())
  return f'<svg class="plot" role="img" {text}>{"".join(parts)}</svg>'


def _rounded(value: float) -> float | None:
  return float(f'{value:.5g}') if math.isfinite(value) else None


def _percent(fraction: float) -> str:
  return f'{100 * fraction:.3f}%'


def _render_grid(chart: Chart, x_axis: _Axis, y_axis: _Axis) -> str:
  parts = []
  percent_axis = _Axis(100 * y_axis.low, 100 * y_axis.high, y_axis.log)
  for value, label in (percent_axis if chart.percent else y_axis).ticks(5):
    fraction = (percent_axis if chart.percent else y_axis).fraction(value)
    y = _percent(1 - fraction)
    unit = '%' if chart.percent else ''
    parts.append(
      f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
      f'<text class="tick" x="-8" y="{y}" dy="4" text-anchor="end">'
      f'{label}{unit}</text>'
    )
  for value, label in x_axis.ticks(5):
    if value != int(value):
      continue
    x = _percent(x_axis.fraction(value))
    parts.append(
      f'<text class="tick" x="{x}" y="100%" dy="18" text-anchor="middle">'
      f'{label}</text>'
    )
  parts.append(
    '<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>'
    '<text class="tick" x="50%" y="100%" dy="36" text-anchor="middle">step'
    '</text>'
  )
  for step in chart.restarts:
    x = _percent(x_axis.fraction(step))
    parts.append(f'<line class="restart" x1="{x}" x2="{x}" y1="0" y2="100%"/>')
  return ''.join(parts)


def _render_mark(point: Point, text: str, x_axis: _Axis, y_axis: _Axis) -> str:
  across = x_axis.fraction(point[0])
  x, y = _percent(across), _percent(1 - y_axis.fraction(point[1]))
  anchor = 'start' if across < 0.2 else 'middle' if across < 0.7 else 'end'
  return (
    f'<circle class="mark" cx="{x}" cy="{y}" r="5"/>'
    f'<text class="label" x="{x}" y="{y}" dy="-14" text-anchor="{anchor}">'
    f'{escape(text)}</text>'
  )


def _path(points: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> str:
  commands = []
  drawing = False
  for step, value in points:
    if not math.isfinite(value):
      drawing = False
      continue
    x = 1000 * x_axis.fraction(step)
    # Far outside, renderers lose precision; there is nothing to see there.
    y = 1000 * min(max(1 - y_axis.fraction(value), -9), 9)
    commands.append(f'{"L" if drawing else "M"}{x:.1f} {y:.1f}')
    if not drawing:
      commands.append(f'L{x:.1f} {y:.1f}')  # A lone point shows as a dot.
    drawing = True
  return ''.join(commands)


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
