"""The parts of the card's page that know nothing of its content.

The page makes no request and runs no script: its content security policy
forbids every fetch, and what stands in a document is escaped.
"""

import re
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

# A browser rejects them or shows nothing; a reader should see that they stood
# there.
_CONTROL = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]')
_UNITS = ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'))


def plain(text: str) -> str:
  """Returns text as HTML that shows it and nothing else."""
  return escape(_CONTROL.sub('\ufffd', text))


def count(n: int) -> str:
  """A whole number with separators: 1,234,567."""
  return f'{n:,}'


def short(n: int) -> str:
  """A whole number of three digits or so: 1.23 million."""
  for scale, name in ((1e12, 'trillion'), (1e9, 'billion'), (1e6, 'million')):
    # What rounds up to a unit is given in it.
    if n >= 0.9995 * scale:
      return f'{_three_digits(n / scale)} {name}'
  return count(n)


def size(n: int) -> str:
  """A number of bytes in units of 1000: 1.23 MB."""
  for scale, prefix in _UNITS:
    if abs(n) >= 0.9995 * scale:
      return f'{_three_digits(n / scale)} {prefix}B'
  return f'{n} B'


def round_count(n: int) -> str:
  """A round number for an axis: 20k."""
  for scale, name in ((10**12, 'T'), (10**9, 'B'), (10**6, 'M'), (10**4, 'k')):
    if n >= scale:
      return f'{n / (1000 if name == "k" else scale):g}{name}'
  return count(n)


def round_size(n: int) -> str:
  """A round number of bytes for an axis: 20 MB."""
  for scale, prefix in _UNITS:
    if n >= scale:
      return f'{n / scale:g} {prefix}B'
  return f'{n} B' if n else '0'


def power(n: int) -> str:
  """A power of two bytes in units of 1024: 4 KiB."""
  for shift, prefix in ((40, 'Ti'), (30, 'Gi'), (20, 'Mi'), (10, 'Ki')):
    if n >= 1 << shift:
      return f'{n >> shift} {prefix}B'
  return f'{n} B'


def percent(fraction: float | None) -> str:
  """A share; nothing but all is 100 %, and nothing but none is 0 %."""
  if fraction is None:
    return '–'
  points = 100 * fraction
  if points in (0, 100):
    return f'{points:.0f} %'
  if 1 <= points < 99.95:
    return f'{points:.1f} %'
  return f'{points:.2g} %' if points < 1 else f'{points:.6g} %'


def signed(n: int) -> str:
  """A gain or a loss: +1,234."""
  return f'{n:+,}' if n else '0'


def decimal(value: float | None) -> str:
  """A number with two decimals."""
  return '–' if value is None else f'{value:,.2f}'


def _three_digits(value: float) -> str:
  decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
  return f'{value:,.{decimals}f}'


def section(title: str, *parts: str) -> str:
  """Returns a section of the page; `parts` are HTML."""
  return f'<section><h2>{plain(title)}</h2>{"".join(parts)}</section>'


def paragraph(text: str) -> str:
  """Returns plain words."""
  return f'<p class="say">{plain(text)}</p>'


def note(text: str) -> str:
  """Returns a remark about what is missing."""
  return f'<p class="note">{plain(text)}</p>'


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
  """Returns the main numbers: name, value and a remark."""
  return '<dl class="tiles">{}</dl>'.format(
    ''.join(
      f'<div><dt>{plain(name)}</dt><dd>{plain(value)}'
      f'<small>{plain(remark)}</small></dd></div>'
      for name, value, remark in facts
    )
  )


def table(
  rows: Iterable[dict[str, Any]],
  *columns: tuple[str, str, Callable[[Any], str]],
) -> str:
  """Returns a table of records.

  Args:
    rows: the records.
    *columns: of each its head, the key of its values, and how they are written;
      those that are written by `str` are text, and set to the left.
  """

  def row(tag: str, cells: Iterable[str]) -> str:
    inner = ''.join(
      f'<{tag}{" class=text" if write is str else ""}>{plain(cell)}</{tag}>'
      for (_, _, write), cell in zip(columns, cells, strict=True)
    )
    return f'<tr>{inner}</tr>'

  body = ''.join(
    row('td', [write(record[key]) for _, key, write in columns])
    for record in rows
  )
  return (
    '<div class="scroll" tabindex="0"><table class="data">'
    f'<thead>{row("th", [head for head, *_ in columns])}</thead>'
    f'<tbody>{body}</tbody></table></div>'
  )


def details(summary: str, *parts: str) -> str:
  """Returns what opens on a click; `parts` are HTML."""
  return (
    f'<details><summary>{plain(summary)}</summary>'
    f'<div class="inner">{"".join(parts)}</div></details>'
  )


def document(head: str, text: str) -> str:
  """Returns the start of a document, as it stands."""
  return (
    f'<div class="document"><p class="head">{plain(head)}</p>'
    f'<pre dir="auto">{plain(text)}</pre></div>'
  )


def figure(title: str, unit: str, *parts: str) -> str:
  """Returns a picture with its caption; `parts` are HTML."""
  return (
    f'<figure><figcaption>{plain(title)} <span class="unit">{plain(unit)}'
    f'</span></figcaption>{"".join(parts)}</figure>'
  )


def page(title: str, body: str) -> str:
  """Returns the complete document; `body` is HTML."""
  policy = "default-src 'none'; style-src 'unsafe-inline'"
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{plain(title)}</title><style>{STYLE}</style></head>\n'
    f'<body><main>{body}</main></body></html>\n'
  )


# Colours from Okabe and Ito's palette, told apart by colour-blind readers.
STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24;
  --dim: #5b6470; --line: #dfe3e8; --track: #eceff2; --blue: #0072b2;
  --orange: #d55e00; --raw: #a9cfe6;
  --p0: #0072b2; --p1: #e69f00; --p2: #009e73; --p3: #56b4e9; --p4: #cc79a7;
  --p5: #d55e00; --p6: #999999; --p7: #c3c9d0; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #181c22;
  --ink: #e8ebef; --dim: #9aa4b1; --line: #2c333c; --track: #232932;
  --blue: #56b4e9; --orange: #f0a13a; --raw: #2f5f7c;
  --p0: #1f7fc0; --p7: #4a525c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; }
.lead { color: var(--dim); margin: 4px 0 0; overflow-wrap: anywhere; }
.result { font-size: 17px; margin: 18px 0; max-width: 74ch; }
.say { max-width: 78ch; margin: 0 0 12px; overflow-wrap: anywhere; }
.note { border-left: 3px solid var(--orange); background: var(--card);
  padding: 8px 12px; margin: 10px 0; }
figure, .tiles > div, .scroll, details, .document { background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
.tiles { display: grid; gap: 10px; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tiles > div { padding: 10px 14px; }
.tiles dt { color: var(--dim); font-size: 13px; }
.tiles dd { margin: 0; font-size: 22px; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: 13px; color: var(--dim); }
.pair { display: grid; gap: 12px; align-items: start; margin-bottom: 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); }
.pair > * { margin: 0; min-width: 0; }
figure { margin: 0 0 12px; padding: 12px 14px; min-width: 0; }
figcaption { font-weight: 600; }
.unit { color: var(--dim); font-weight: 400; font-size: 13px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px;
  margin: 4px 0 0; padding: 0; font-size: 13px; color: var(--dim); }
.legend svg { width: 11px; height: 11px; margin-right: 6px;
  vertical-align: -1px; }
.bars { display: grid; gap: 3px 12px; margin-top: 10px; font-size: 13px;
  grid-template-columns: fit-content(34%) minmax(0, 1fr) auto;
  align-items: center; }
.bars .line { display: contents; }
.bars .name { overflow-wrap: anywhere; line-height: 1.3; }
.bars .value { text-align: right; color: var(--dim); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.bars .group { grid-column: 1 / -1; font-weight: 600; margin-top: 8px; }
.strip { display: block; width: 100%; height: 16px; overflow: visible; }
.track { fill: var(--track); }
.axis-row { height: 18px; }
.plot { display: block; overflow: visible; height: 190px;
  width: calc(100% - 66px); margin: 14px 16px 44px 50px; }
.grid { stroke: var(--line); }
.axis { stroke: var(--dim); }
.one { stroke: var(--dim); stroke-dasharray: 3 3; }
.tick { fill: var(--dim); font-size: 12px; font-variant-numeric: tabular-nums; }
.before { fill: var(--raw); } .after { fill: var(--blue); }
.interval { stroke-width: 2.5; stroke-linecap: round; }
.same { stroke: var(--dim); fill: var(--dim); }
.more { stroke: var(--orange); fill: var(--orange); }
.less { stroke: var(--blue); fill: var(--blue); }
table { border-collapse: collapse; font-size: 14px; }
.scroll { overflow-x: auto; margin: 0 0 12px; }
.data { width: 100%; }
.data th, .data td { padding: 5px 12px; text-align: right;
  border-top: 1px solid var(--line); font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.data thead th { border-top: 0; color: var(--dim); font-weight: 500; }
.data .text { text-align: left; }
.data .text:first-child { position: sticky; left: 0; background: var(--card); }
@media (max-width: 520px) { .data th, .data td { padding: 5px 8px; } }
details { margin: 0 0 8px; }
summary { padding: 8px 14px; cursor: pointer; overflow-wrap: anywhere; }
.inner { padding: 4px 14px 12px; }
.document { background: var(--page); margin: 8px 0 0; padding: 8px 12px; }
.head { margin: 0 0 4px; color: var(--dim); font-size: 13px;
  overflow-wrap: anywhere; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: isolate;
  font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; }
.table { overflow-x: auto; white-space: pre; margin-bottom: 12px; }
@media (max-width: 520px) { h1 { font-size: 22px; } .minor { display: none; }
  .tiles { grid-template-columns: 1fr 1fr; } .tiles dd { font-size: 19px; }
  .bars { grid-template-columns: minmax(0, 1fr); gap: 6px; }
  .bars .line { display: grid; gap: 1px 12px;
    grid-template: "name value" "strip strip" / minmax(0, 1fr) auto; }
  .bars .name { grid-area: name; } .bars .value { grid-area: value; }
  .bars .strip { grid-area: strip; } }
@media print { figure, .tiles > div { break-inside: avoid; } }
"""
