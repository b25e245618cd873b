"""The page and the text of a ladder."""

import math
from collections.abc import Sequence
from html import escape

from train.console import format_count, format_duration
from train.report_axes import Axis
from train.report_page import (
  data_table,
  fact_table,
  note,
  render_page,
  section,
)
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
from train.tuning.ladder_result import Outcome
from train.tuning.scaling_fit import COVERAGE, band

# Of the runs with each number of tokens a parameter, in their order.
_COLOURS = ('--blue', '--green', '--startup', '--data_wait', '--restart')
# Points of a curve.
_DRAWN = 40


def ladder_text(outcome: Outcome) -> str:
  """What a terminal shows."""
  rows = [_cells(outcome, number) for number in range(len(outcome.done))]
  table = [_HEADS, *rows]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  lines = [
    '  '.join(f'{cell:>{w}}' for cell, w in zip(row, widths, strict=True))
    for row in table
  ]
  lines += ['', f'loss = {outcome.law_text()}']
  lines += [f'{name} {value}' for name, value in _intervals(outcome)]
  lines.append(forecast_text(outcome))
  return '\n'.join([*lines, *outcome.remarks])


def forecast_text(outcome: Outcome) -> str:
  """The forecast in a sentence."""
  found = outcome.forecast
  return (
    f'Forecast for {found.parameters:,.0f} parameters and '
    f'{found.tokens:,.0f} tokens: {found.loss:.3f} nats a token, '
    f'{found.low:.3f} to {found.high:.3f} in {COVERAGE:.0%} of such runs '
    f'({outcome.reach:.3g} times the FLOPs of the largest rung).'
  )


_HEADS = [
  'run', 'parameters', 'tokens', 'a parameter', 'FLOPs', 'batch', 'rate',
  'epochs', 'time', 'loss', 'law', 'off',
]  # fmt: skip


def _cells(outcome: Outcome, number: int) -> list[str]:
  done = outcome.done[number]
  rung = done.rung
  law = outcome.fitted.law.loss(rung.parameters, rung.tokens)
  return [
    rung.name,
    f'{rung.parameters:,}',
    f'{rung.tokens:,}',
    f'{rung.tokens / rung.parameters:.3g}',
    f'{rung.flops:.2e}',
    f'{rung.fields["batch_size"]:,}',
    f'{rung.fields["optimizer.learning_rate"]:.3g}',
    f'{done.epochs:.2f}',
    format_duration(done.seconds),
    f'{done.loss:.4f}',
    f'{law:.4f}',
    f'{done.loss / law - 1:+.2%}',
  ]


def _intervals(outcome: Outcome) -> list[tuple[str, str]]:
  """Constants of the law, each with its interval."""
  fitted = outcome.fitted
  law, (low, high) = fitted.law, fitted.interval('irreducible')
  rows = [
    ('irreducible loss', f'{law.irreducible:.3f} ({low:.3f} to {high:.3f})')
  ]
  for term, value in enumerate(law.exponents):
    low, high = fitted.interval('exponents', term)
    what = ('parameters', 'tokens')[term]
    if len(law.exponents) == 1:
      what = 'parameters and tokens together'
    rows.append(
      (f'exponent of {what}', f'{value:.3f} ({low:.3f} to {high:.3f})')
    )
  return rows


def ladder_page(outcome: Outcome) -> str:
  """The page as HTML."""
  found = outcome.forecast
  seconds = sum(done.seconds for done in outcome.done)
  lead = (
    f'{len(outcome.done)} runs, {format_duration(seconds)}; the law is '
    f'loss = {outcome.law_text()}'
  )
  result = outcome.refusal if found.says_nothing else forecast_text(outcome)
  tiles = [
    ('Forecast', f'{found.loss:.3f}', 'nats a token'),
    ('Interval', f'{found.low:.3f} – {found.high:.3f}', f'{COVERAGE:.0%}'),
    ('Reach', f'{outcome.reach:.3g} ×', 'FLOPs of the largest rung'),
    ('Noise', f'{outcome.fitted.noise:.2%}', 'runs lie off the law'),
  ]
  cells = ''.join(
    f'<div><dt>{escape(title)}</dt><dd>{escape(value)}'
    f'<small>{escape(remark)}</small></dd></div>'
    for title, value, remark in tiles
  )
  body = [
    f'<header><h1>{escape(outcome.name)}</h1>'
    f'<p class="lead">{escape(lead)}</p>'
    f'<p class="result">{escape(result)}</p>'
    f'<dl class="tiles">{cells}</dl>'
    f'{"".join(note(remark) for remark in outcome.remarks)}</header>',
    section('The law', f'<div class="wide">{_chart(outcome)}</div>')
  ]  # fmt: skip
  rows = [_cells(outcome, number) for number in range(len(outcome.done))]
  body.append(
    section('Runs', data_table(_HEADS, rows, numbers=range(1, len(_HEADS))))
  )
  body.append(
    section(
      'Constants', fact_table(f'{COVERAGE:.0%} intervals', _intervals(outcome))
    )
  )
  return render_page(f'{outcome.name} – Meshwork ladder', ''.join(body))


def _ratios(outcome: Outcome) -> list[float]:
  """Tokens a parameter, of the runs that have about as many."""
  found: list[float] = []
  for done in outcome.done:
    ratio = done.rung.tokens / done.rung.parameters
    if not any(math.isclose(ratio, other, rel_tol=0.05) for other in found):
      found.append(ratio)
  return sorted(found)


def _chart(outcome: Outcome) -> str:
  """Loss over parameters, both on a log scale."""
  fitted, found = outcome.fitted, outcome.forecast
  sizes = [done.rung.parameters for done in outcome.done]
  low, high = min(sizes), max(*sizes, found.parameters)
  x_axis = Axis(low / 1.2, high * 1.2, log=True)
  grid = [
    low * (high / low) ** (number / (_DRAWN - 1)) for number in range(_DRAWN)
  ]
  curves, legend = [], []
  values = [done.loss for done in outcome.done] + [found.low, found.high]
  for ratio, colour in zip(_ratios(outcome), _cycle(), strict=False):
    line = [(n, fitted.law.loss(n, ratio * n)) for n in grid]
    edges = [band(fitted, n, ratio * n) for n in grid]
    curves.append((colour, line, edges))
    values += [value for _, value in line]
    legend.append(
      (curve_key(f'var({colour})'), f'{ratio:.3g} tokens a parameter')
    )
  y_axis = Axis(min(values) * 0.98, max(values) * 1.02, log=True)
  paths = (
    f'<path style="fill:var({colour});opacity:.15" '
    f'd="{_ribbon(grid, edges, x_axis, y_axis)}"/>'
    f'<path class="curve" style="stroke:var({colour})" '
    f'd="{path_of(shape_of(line, x_axis, y_axis))}"/>'
    for colour, line, edges in curves
  )
  legend += [
    ('<rect width="22" height="12" style="opacity:.15"/>', 'interval of a law'),
    (curve_key('var(--orange)'), 'interval of a run'),
  ]
  return render_figure(
    'Loss',
    'nats a token, on the validation split; both axes are logarithmic',
    render_legend(legend),
    render_frame(
      forecast_text(outcome),
      render_y_ticks(axis_ticks(y_axis, 5)),
      render_x_ticks(axis_ticks(x_axis, 5), 'parameters'),
      stretched(paths),
      *(_dot(outcome, number, x_axis, y_axis) for number in range(len(sizes))),
      _forecast_mark(outcome, x_axis, y_axis),
      attributes={},
    ),
  )


def _cycle() -> Sequence[str]:
  return _COLOURS * 10


def _ribbon(
  grid: Sequence[float],
  edges: Sequence[tuple[float, float]],
  x_axis: Axis,
  y_axis: Axis,
) -> str:
  """The outline of the band between two curves."""
  there: list[Point] = [(n, e[0]) for n, e in zip(grid, edges, strict=True)]
  back: list[Point] = [(n, e[1]) for n, e in zip(grid, edges, strict=True)]
  return path_of(shape_of([*there, *reversed(back)], x_axis, y_axis)) + 'Z'


def _dot(outcome: Outcome, number: int, x_axis: Axis, y_axis: Axis) -> str:
  done = outcome.done[number]
  ratio = done.rung.tokens / done.rung.parameters
  ratios = _ratios(outcome)
  nearest = min(range(len(ratios)), key=lambda i: abs(ratios[i] - ratio))
  return (
    f'<circle r="4" style="fill:var({_cycle()[nearest]})"'
    f' cx="{percent(x_axis.fraction(done.rung.parameters))}"'
    f' cy="{percent(1 - y_axis.fraction(done.loss))}">'
    f'<title>{escape(done.rung.name)}: {done.loss:.4f}</title></circle>'
  )


def _forecast_mark(outcome: Outcome, x_axis: Axis, y_axis: Axis) -> str:
  found = outcome.forecast
  x = percent(x_axis.fraction(found.parameters))
  low, middle, high = (
    percent(1 - y_axis.fraction(value))
    for value in (found.low, found.loss, found.high)
  )
  text = f'{format_count(found.parameters)}: {found.loss:.3f}'
  return (
    f'<line style="stroke:var(--orange);stroke-width:2.5" x1="{x}" x2="{x}"'
    f' y1="{low}" y2="{high}"/>'
    f'<circle class="mark" cx="{x}" cy="{middle}" r="5"/>'
    f'<text class="label" x="{x}" y="{high}" dy="-12" text-anchor="end">'
    f'{escape(text)}</text>'
  )
