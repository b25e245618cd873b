"""What every plot is drawn with: places in percent, curves, ticks, a frame.

A plot has no viewBox: what has a size in pixels (text, marks) is placed by
percentages, and only the curves lie in a nested picture that is stretched.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from train.report_axes import Axis

Point = tuple[float, float]
# Runs of connected points, as fractions of the plot.
Shape = list[list[Point]]
# Places and labels along an axis, as fractions of it.
Ticks = Sequence[tuple[float, str]]


def percent(fraction: float) -> str:
  """Returns a fraction as an attribute of SVG."""
  return f'{100 * fraction:.3f}%'


def axis_ticks(axis: Axis, count: int) -> Ticks:
  """Returns about `count` round values of an axis: their places and labels."""
  return [(axis.fraction(value), label) for value, label in axis.ticks(count)]


def shape_of(points: Iterable[Point], x_axis: Axis, y_axis: Axis) -> Shape:
  """Returns the runs of finite points as fractions of the plot."""
  runs: Shape = [[]]
  for x, y in points:
    if not math.isfinite(y):
      runs.append([])
      continue
    # Far outside, renderers lose precision; there is nothing to see there.
    up = min(max(y_axis.fraction(y), -9), 9)
    runs[-1].append((x_axis.fraction(x), up))
  return [run for run in runs if run]


def path_of(shape: Shape) -> str:
  """Returns the `d` of a path for a picture of `stretched`."""
  return ''.join(
    f'{"L" if i else "M"}{1000 * x:.1f} {1000 * (1 - y):.1f}'
    for run in shape
    for i, (x, y) in enumerate(run)
  )


def stretched(paths: Iterable[str]) -> str:
  """Returns a picture as large as the plot that holds paths of `path_of`."""
  return (
    '<svg class="curves" width="100%" height="100%" viewBox="0 0 1000 1000"'
    f' preserveAspectRatio="none">{"".join(paths)}</svg>'
  )


def render_y_ticks(ticks: Ticks) -> str:
  """Returns lines across the plot, with their labels to the left."""
  return ''.join(
    f'<line class="grid" x1="0" x2="100%" y1="{percent(1 - at)}"'
    f' y2="{percent(1 - at)}"/>'
    f'<text class="tick" x="-8" y="{percent(1 - at)}" dy="4"'
    f' text-anchor="end">{escape(label)}</text>'
    for at, label in ticks
  )


def render_x_ticks(ticks: Ticks, name: str) -> str:
  """Returns the axis below the plot with labels, and its name below them."""
  labels = ''.join(
    f'<text class="tick" x="{percent(at)}" y="100%" dy="18"'
    f' text-anchor="middle">{escape(label)}</text>'
    for at, label in ticks
  )
  return (
    f'{labels}<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>'
    '<text class="tick" x="50%" y="100%" dy="36" text-anchor="middle">'
    f'{escape(name)}</text>'
  )


def render_frame(
  description: str, *parts: str, attributes: Mapping[str, str]
) -> str:
  """Returns a plot of parts; `description` is what a screen reader says."""
  text = ''.join(f' {k}="{escape(v)}"' for k, v in attributes.items())
  return (
    f'<svg class="plot" role="img" aria-label="{escape(description)}"{text}>'
    f'{"".join(parts)}</svg>'
  )


def render_figure(title: str, unit: str, *parts: str) -> str:
  """Returns parts with a caption above, and below a line for the read-out."""
  return (
    f'<figure><figcaption>{escape(title)}'
    f' <span class="unit">{escape(unit)}</span></figcaption>'
    f'{"".join(parts)}<p class="readout" aria-hidden="true"></p></figure>'
  )


def curve_key(colour: str) -> str:
  """Returns the picture of a curve in a legend; `colour` as CSS has it."""
  return (
    f'<line class="curve" style="stroke:{colour}" x1="0" x2="22" y1="6"'
    ' y2="6"/>'
  )


def render_legend(entries: Sequence[tuple[str, str]]) -> str:
  """Returns the legend of several entries: what is drawn, and its name.

  The picture of an entry is 22 by 12 pixels.
  """
  if len(entries) < 2:
    return ''
  items = ''.join(
    f'<li><svg class="key" aria-hidden="true">{picture}</svg>'
    f'{escape(name)}</li>'
    for picture, name in entries
  )
  return f'<ul class="legend">{items}</ul>'
