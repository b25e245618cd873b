"""Curves over a logarithmic axis, as inline SVG for a report page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from train.report_axes import Axis

Point = tuple[float, float]
# Colours of the page's style, told apart by colour-blind readers.
_COLOURS = (
  '--blue', '--orange', '--green', '--compile', '--data_wait', '--dim',
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Curve:
  """A curve.

  Attributes:
    name: what the legend calls it.
    points: by rising x; one that is not finite is left out.
    mark: a point to be marked; None: none.
  """

  name: str
  points: Sequence[Point]
  mark: Point | None = None


@dataclass(frozen=True, kw_only=True)
class Lines:
  """A figure of curves.

  Attributes:
    title: what is shown.
    unit: of the values.
    x_name: what lies along the axis.
    x_ticks: values and labels along it.
    curves: the curves.
    log: whether values are shown by their logarithm.
    high: values above it leave the picture; None: none do.
  """

  title: str
  unit: str
  x_name: str
  x_ticks: Sequence[tuple[float, str]]
  curves: Sequence[Curve]
  log: bool
  high: float | None = None


def render_lines(lines: Lines) -> str:
  """Returns a figure: caption, legend and plot."""
  # The legend has the colours, and a curve without points keeps its own.
  colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(lines.curves))]
  legend = ''.join(
    '<li><svg class="key" aria-hidden="true"><line class="curve" x1="0" x2="22"'
    f' y1="6" y2="6" style="stroke:var({colour})"/></svg>'
    f'{escape(curve.name)}</li>'
    for curve, colour in zip(lines.curves, colours, strict=True)
  )
  return (
    f'<figure class="wide"><figcaption>{escape(lines.title)}'
    f' <span class="unit">{escape(lines.unit)}</span></figcaption>'
    f'<ul class="legend">{legend}</ul>{_render_plot(lines, colours)}</figure>'
  )


def _render_plot(lines: Lines, colours: Sequence[str]) -> str:
  curves = [
    [(x, y) for x, y in curve.points if math.isfinite(y)]
    for curve in lines.curves
  ]
  values = [y for points in curves for _, y in points]
  if not values:
    return '<p class="note">No value is finite.</p>'
  places = [x for x, _ in lines.x_ticks]
  x_axis = Axis(min(places) / 1.1, max(places) * 1.1, log=True)
  y_axis = _value_axis(values, lines)
  parts = [_render_grid(lines, x_axis, y_axis)]
  paths, dots = [], []
  for curve, points, colour in zip(lines.curves, curves, colours, strict=True):
    spots = [(x_axis.fraction(x), y_axis.fraction(y)) for x, y in points]
    path = ''.join(
      f'{"L" if i else "M"}{1000 * x:.1f} {1000 * (1 - y):.1f}'
      for i, (x, y) in enumerate(spots)
    )
    style = f'stroke:var({colour})'
    paths.append(f'<path class="curve" d="{path}" style="{style}"/>')
    dots += [
      _dot(x, y, 3, f'fill:var({colour})') for x, y in spots if 0 <= y <= 1
    ]
    if curve.mark is not None:
      x, y = curve.mark
      at = x_axis.fraction(x), y_axis.fraction(y)
      dots.append(_dot(*at, 6, f'fill:none;stroke-width:2;{style}'))
  parts.append(
    '<svg class="curves" width="100%" height="100%" viewBox="0 0 1000 1000"'
    f' preserveAspectRatio="none">{"".join(paths)}</svg>{"".join(dots)}'
  )
  # A plot that the page's script knows would have steps along its axis.
  return (
    '<div class="plot"><svg width="100%" height="100%" role="img" '
    f'style="overflow:visible" aria-label="{escape(_describe(lines))}">'
    f'{"".join(parts)}</svg></div>'
  )


def _value_axis(values: Sequence[float], lines: Lines) -> Axis:
  low, high = min(values), max(values)
  if lines.high is not None:
    high = max(min(high, lines.high), low)
  if lines.log:
    return Axis(low / 1.3, high * 1.3, log=True)
  margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
  return Axis(low - margin, high + margin, log=False)


def _render_grid(lines: Lines, x_axis: Axis, y_axis: Axis) -> str:
  parts = []
  for value, label in y_axis.ticks(5):
    y = _percent(1 - y_axis.fraction(value))
    parts.append(
      f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
      f'<text class="tick" x="-8" y="{y}" dy="4" text-anchor="end">'
      f'{escape(label)}</text>'
    )
  for value, label in lines.x_ticks:
    parts.append(
      f'<text class="tick" x="{_percent(x_axis.fraction(value))}" y="100%" '
      f'dy="18" text-anchor="middle">{escape(label)}</text>'
    )
  parts.append(
    '<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>'
    '<text class="tick" x="50%" y="100%" dy="36" text-anchor="middle">'
    f'{escape(lines.x_name)}</text>'
  )
  return ''.join(parts)


def _dot(across: float, up: float, radius: int, style: str) -> str:
  return (
    f'<circle cx="{_percent(across)}" cy="{_percent(1 - up)}" r="{radius}" '
    f'style="{style}"/>'
  )


def _percent(fraction: float) -> str:
  return f'{100 * fraction:.3f}%'


def _describe(lines: Lines) -> str:
  said = [f'{lines.title}, {lines.unit}, by {lines.x_name}.']
  for curve in lines.curves:
    found = ', '.join(f'{y:.4g} at {x:.4g}' for x, y in curve.points)
    said.append(f'{curve.name}: {found}.')
  return ' '.join(said)
