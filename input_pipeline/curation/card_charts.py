"""The pictures of the data card, as inline SVG.

A picture has no viewBox: what is long is placed by percentages, so it stretches
with the page, while text and thin lines keep their size.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from input_pipeline.curation.card_counts import Record
from input_pipeline.curation.card_html import plain

Write = Callable[[int], str]

# More colours than this nobody tells apart; the last one is for the rest.
COLOURS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
  """A line of a bar chart.

  Attributes:
    name: of the line.
    parts: (colour, value, what a reader sees on pointing at it).
    value: beside the bar.
  """

  name: str
  parts: Sequence[tuple[int, int | float, str]]
  value: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
  """A pair of columns: values before and after, and their names."""

  name: str
  before: int
  after: int
  title: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
  """A line of a forest plot; what is None is not drawn."""

  name: str
  ratio: float | None
  low: float | None
  high: float | None
  value: str


def legend(entries: Sequence[tuple[str, str]]) -> str:
  """Returns names beside their colours; entries are (style, name)."""
  items = ''.join(
    f'<li><svg aria-hidden="true"><rect {style} width="11" height="11" rx="2"/>'
    f'</svg>{plain(name)}</li>'
    for style, name in entries
  )
  return f'<ul class="legend">{items}</ul>'


def colour(number: int) -> str:
  """The style of a colour of the palette."""
  return f'style="fill:var(--p{min(number, COLOURS - 1)})"'


def source_parts(
  sources: Sequence[Record],
  measure: str,
  colours: Mapping[str, int],
  write: Write,
) -> list[tuple[int, int | float, str]]:
  """Parts of a bar: a measure of each source, in the order of the colours."""
  ordered = sorted(sources, key=lambda r: (colours[r['source']], r['source']))
  return [
    (colours[r['source']], r[measure], f'{r["source"]}: {write(r[measure])}')
    for r in ordered
  ]


def bars(lines: Sequence[Bar]) -> str:
  """Returns horizontal bars of stacked parts, all on one scale from 0."""
  longest = max((_sum(line) for line in lines), default=0) or 1
  rows = []
  for line in lines:
    parts, at = [], 0.0
    for number, value, title in line.parts:
      width = 100 * value / longest
      if width:
        parts.append(
          f'<rect {colour(number)} x="{at:.3f}%" width="{width:.3f}%"'
          f' height="16"><title>{plain(title)}</title></rect>'
        )
      at += width
    rows.append(
      _row(
        line.name,
        line.value,
        '<rect class="track" width="100%" height="16"/>' + ''.join(parts),
      )
    )
  return f'<div class="bars">{"".join(rows)}</div>'


def _sum(bar: Bar) -> float:
  return sum(value for _, value, _ in bar.parts)


def _row(name: str, value: str, shapes: str) -> str:
  label = plain(f'{name}: {value}')
  return (
    f'<div class="line"><span class="name">{plain(name)}</span>'
    f'<svg class="strip" role="img" aria-label="{label}">{shapes}</svg>'
    f'<span class="value">{plain(value)}</span></div>'
  )


def columns(bins: Sequence[Column], label: str, write: Write) -> str:
  """Returns a histogram: each column after curation before that of before.

  Args:
    bins: at least one; every second name gives way where room is scarce.
    label: of the axis below.
    write: how values are written.
  """
  highest = max(max(b.before, b.after) for b in bins) or 1
  ticks = _nice_ticks(highest)
  top = max(highest * 1.05, ticks[-1])
  parts = []
  for tick in ticks:
    y = f'{100 * (1 - tick / top):.3f}%'
    parts.append(
      f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
      f'<text class="tick" x="-8" y="{y}" dy="4" text-anchor="end">'
      f'{plain(write(int(tick)))}</text>'
    )
  width = 100 / len(bins)
  stride = math.ceil(len(bins) / 7)
  for i, b in enumerate(bins):
    columns_of = (('before', b.before, 0.9), ('after', b.after, 0.55))
    for style, value, part in columns_of:
      height = 100 * value / top
      parts.append(
        f'<rect class="{style}" x="{width * (i + (1 - part) / 2):.3f}%"'
        f' width="{width * part:.3f}%" y="{100 - height:.3f}%"'
        f' height="{height:.3f}%"><title>{plain(b.title)}</title></rect>'
      )
    if i % stride == 0:
      minor = ' minor' if i // stride % 2 else ''
      parts.append(
        f'<text class="tick{minor}" x="{width * (i + 0.05):.3f}%" y="100%"'
        f' dy="18" text-anchor="middle">{plain(b.name)}</text>'
      )
  parts.append(
    '<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>'
    '<text class="tick" x="50%" y="100%" dy="36" text-anchor="middle">'
    f'{plain(label)}</text>'
  )
  described = plain('; '.join(b.title for b in bins))
  return (
    f'<svg class="plot" role="img" aria-label="{described}">'
    f'{"".join(parts)}</svg>'
  )


def forest(groups: Sequence[tuple[str, Sequence[Interval]]]) -> str:
  """Returns ratios with their intervals around 1, on one logarithmic scale.

  Args:
    groups: headings with their lines.
  """
  values = [
    value
    for _, lines in groups
    for line in lines
    for value in (line.ratio, line.low, line.high)
    if value
  ]
  # At least from half to twice, so that small differences look small; what lies
  # beyond 8 goes to the edge.
  span = max([1.0, *(min(abs(math.log2(value)), 3) for value in values)]) * 1.06

  def across(ratio: float) -> float:
    at = 50 + 50 * math.log2(ratio) / span if ratio else 0
    return min(max(at, 0), 100)

  ticks = [2.0**n for n in range(-3, 4) if abs(n) <= span]
  grid = ''.join(
    f'<line class="{"one" if tick == 1 else "grid"}" x1="{across(tick):.3f}%"'
    f' x2="{across(tick):.3f}%" y1="-3" y2="20"/>'
    for tick in ticks
  )
  rows = []
  for name, lines in groups:
    rows.append(f'<span class="group">{plain(name)}</span>')
    rows.extend(
      _row(line.name, line.value, grid + _whisker(line, across))
      for line in lines
    )
  labels = ''.join(
    f'<text class="tick" x="{across(tick):.3f}%" y="13" text-anchor="middle">'
    f'{_fraction(tick)}</text>'
    for tick in ticks
  )
  rows.append(
    '<div class="line"><span></span><svg class="strip axis-row" aria-hidden='
    f'"true">{labels}</svg><span></span></div>'
  )
  return f'<div class="bars">{"".join(rows)}</div>'


def side(low: float | None, high: float | None) -> str:
  """Where an interval lies: 'more' than 1, 'less', or the 'same'."""
  if low is None or high is None or low <= 1 <= high:
    return 'same'
  return 'more' if low > 1 else 'less'


def _whisker(line: Interval, across: Callable[[float], float]) -> str:
  if line.ratio is None or line.low is None or line.high is None:
    return ''
  style = side(line.low, line.high)
  x = f'{across(line.ratio):.3f}%'
  return (
    f'<line class="interval {style}" x1="{across(line.low):.3f}%"'
    f' x2="{across(line.high):.3f}%" y1="8" y2="8"/>'
    f'<circle class="{style}" cx="{x}" cy="8" r="4"/>'
  )


def _fraction(tick: float) -> str:
  return f'{tick:g}' if tick >= 1 else f'1/{1 / tick:g}'


def _nice_ticks(high: float) -> list[float]:
  """About five multiples of 1, 2 or 5 times a power of ten, from 0."""
  rough = high / 5
  scale = 10.0 ** math.floor(math.log10(rough))
  step = next(f * scale for f in (1, 2, 5, 10) if f * scale >= rough * 0.999)
  step = max(step, 1)
  return [step * i for i in range(int(high / step + 1e-9) + 1)]
