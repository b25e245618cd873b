"""Several curves in one figure of a page, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from train.report_axes import Axis
from train.report_plot import (
  Point,
  axis_ticks,
  curve_key,
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

# Colours of the page's style, told apart by colour-blind readers.
_COLOURS = (
  '--blue', '--orange', '--green', '--compile', '--data_wait', '--dim',
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Curve:
  """A curve.

  Attributes:
    name: what the legend calls it.
    points: by rising x, above 0; a value that is not finite leaves a gap.
    mark: a point to be ringed; None: none.
  """

  name: str
  points: Sequence[Point]
  mark: Point | None = None


@dataclass(frozen=True, kw_only=True)
class Lines:
  """A figure of curves over an axis that is logarithmic.

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
  places = [x for x, _ in lines.x_ticks]
  x_axis = Axis(min(places) / 1.1, max(places) * 1.1, log=True)
  y_axis = _value_axis(lines)
  paths, dots, legend = [], [], []
  for number, curve in enumerate(lines.curves):
    colour = f'var({_COLOURS[number % len(_COLOURS)]})'
    path = path_of(shape_of(curve.points, x_axis, y_axis))
    paths.append(f'<path class="curve" d="{path}" style="stroke:{colour}"/>')
    legend.append((curve_key(colour), curve.name))
    for x, y in curve.points:
      at = x_axis.fraction(x), y_axis.fraction(y)
      if 0 <= at[1] <= 1:
        dots.append(_dot(*at, 3, f'fill:{colour}'))
    if curve.mark is not None:
      x, y = curve.mark
      at = x_axis.fraction(x), y_axis.fraction(y)
      dots.append(_dot(*at, 7, f'fill:none;stroke-width:2;stroke:{colour}'))
  ticks = [(x_axis.fraction(x), label) for x, label in lines.x_ticks]
  return render_figure(
    lines.title,
    lines.unit,
    render_legend(legend),
    render_frame(
      _describe(lines),
      render_y_ticks(axis_ticks(y_axis, 5)),
      render_x_ticks(ticks, lines.x_name),
      stretched(paths),
      *dots,
      attributes={},
    ),
  )


def _value_axis(lines: Lines) -> Axis:
  values = [y for c in lines.curves for _, y in c.points if math.isfinite(y)]
  low, high = min(values), max(values)
  if lines.high is not None:
    high = max(min(high, lines.high), low)
  if lines.log:
    return Axis(low / 1.3, high * 1.3, log=True)
  margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
  return Axis(low - margin, high + margin, log=False)


def _dot(across: float, up: float, radius: int, style: str) -> str:
  return (
    f'<circle cx="{percent(across)}" cy="{percent(1 - up)}" r="{radius}"'
    f' style="{style}"/>'
  )


def _describe(lines: Lines) -> str:
  said = [f'{lines.title}, {lines.unit}, by {lines.x_name}.']
  for curve in lines.curves:
    found = ', '.join(f'{y:.4g} at {x:.4g}' for x, y in curve.points)
    said.append(f'{curve.name}: {found}.')
  return ' '.join(said)
