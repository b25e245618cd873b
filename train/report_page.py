"""The parts of a report page that know nothing of a run: HTML, style, script.

The page makes no request: style and script are inside it, and its content
security policy forbids every fetch. Without the script it is complete.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

HIDDEN = '(hidden)'
_STRONG = re.compile(r'secret|passw|passphrase|credential')
_WEAK = re.compile(r'(token|keys?|auth)$')
_URL_PASSWORD = re.compile(r'(?<=://)([^/\s:@]*):[^/\s]+@')


def hide_secrets(value: Any) -> Any:
  """Returns the value without what fields with secret names hold.

  Fields are hidden whose name contains 'secret', 'password' or 'credential',
  and the text in those with a word that ends in 'token' or 'key': `api_key` and
  `hubToken`, and neither `tokenizer` nor `tokens`, nor the number
  `bytes_per_token`. None, True and False stay: they tell nothing. The password
  in `scheme://user:password@host` is hidden wherever it stands.
  """
  if isinstance(value, dict):
    return {key: _hide_field(str(key), item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [hide_secrets(item) for item in value]
  if isinstance(value, str):
    return _URL_PASSWORD.sub(rf'\1:{HIDDEN}@', value)
  return value


def _hide_field(name: str, value: Any) -> Any:
  if value is None or isinstance(value, bool) or value in ('', [], {}):
    return value
  words = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', name).lower()
  if _STRONG.search(re.sub(r'[^a-z]', '', words)):
    return HIDDEN
  weak = any(_WEAK.search(word) for word in re.split(r'[^a-z]+', words))
  if weak and not isinstance(value, int | float):
    return HIDDEN
  return hide_secrets(value)


def format_value(value: Any) -> str:
  """Returns a value as it is typed in a config, or 'none' and '(empty)'."""
  if value is None:
    return 'none'
  if isinstance(value, bool):
    return 'true' if value else 'false'
  if isinstance(value, list | tuple | dict) and not value:
    return '(empty)'
  if isinstance(value, list | tuple):
    return ', '.join(format_value(item) for item in value)
  if isinstance(value, dict):
    return ', '.join(f'{k}: {format_value(v)}' for k, v in value.items())
  return str(value)


def format_moment(seconds: float) -> str:
  """Returns a time since the epoch as a date, in UTC."""
  return f'{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC'


def flatten(fields: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
  """Returns the fields of nested dicts by their dotted names."""
  rows: list[tuple[str, Any]] = []
  for name, value in fields.items():
    if isinstance(value, dict) and value:
      rows.extend(flatten(value, f'{prefix}{name}.'))
    else:
      rows.append((f'{prefix}{name}', value))
  return rows


def section(title: str, *parts: str) -> str:
  """Returns a section of the page; `parts` are HTML."""
  return f'<section><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def note(text: str) -> str:
  """Returns a remark about what is missing."""
  return f'<p class="note">{escape(text)}</p>'


def fact_table(caption: str, rows: Iterable[tuple[str, str]]) -> str:
  """Returns a table of names and values, with a caption."""
  body = ''.join(
    f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
    for name, value in rows
  )
  return (
    f'<table class="facts"><caption>{escape(caption)}</caption>'
    f'<tbody>{body}</tbody></table>'
  )


def data_table(
  heads: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  numbers: Collection[int],
) -> str:
  """Returns a table with a head; the columns `numbers` are set to the right."""

  def row(tag: str, texts: Sequence[str]) -> str:
    cells = [
      f'<{tag}{"" if i in numbers else " class=text"}>{escape(text)}</{tag}>'
      for i, text in enumerate(texts)
    ]
    return f'<tr>{"".join(cells)}</tr>'

  body = ''.join(row('td', texts) for texts in rows)
  return (
    '<div class="scroll"><table class="data">'
    f'<thead>{row("th", heads)}</thead><tbody>{body}</tbody></table></div>'
  )


def render_page(
  title: str, body: str, *, style: str = '', script: str = ''
) -> str:
  """Returns the complete document.

  Args:
    title: of the page.
    body: HTML.
    style: CSS beside that of all pages.
    script: beside that of all pages.
  """
  policy = "default-src 'none'; style-src 'unsafe-inline'"
  policy += "; script-src 'unsafe-inline'"
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n'
    f'<body><main>{body}</main><script>{SCRIPT}{script}</script></body></html>'
    '\n'
  )


# Colours from Okabe and Ito's palette, told apart by colour-blind readers.
STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f24;
  --dim: #5b6470; --line: #dfe3e8; --blue: #0072b2; --orange: #d55e00;
  --green: #00805f; --raw: #85bbdd;
  --step_time: #0072b2; --data_wait: #e69f00; --evaluation: #009e73;
  --checkpoint: #56b4e9; --device_check: #f0e442; --startup: #cc79a7;
  --compile: #8d4f86; --other: #999999; --restart: #7a4a12;
  --lost_steps: #c24a00; --down: #30363d; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #181c22;
  --ink: #e8ebef; --dim: #9aa4b1; --line: #2c333c; --blue: #56b4e9;
  --orange: #f0a13a; --green: #2fc79c; --raw: #3f7596;
  --step_time: #1f7fc0; --down: #565f6a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 16px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 12px; }
.lead { color: var(--dim); margin: 4px 0 0; }
.result { font-size: 17px; margin: 18px 0; max-width: 74ch; }
.note { border-left: 3px solid var(--orange); background: var(--card);
  padding: 8px 12px; margin: 10px 0; }
figure, .card, .tiles > div, .facts, .scroll { background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
.tiles { display: grid; gap: 10px; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tiles > div { padding: 10px 14px; }
.tiles dt { color: var(--dim); font-size: 13px; }
.tiles dd { margin: 0; font-size: 24px; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: 13px; color: var(--dim); }
.grid2 { display: grid; gap: 12px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); }
figure { margin: 0 0 12px; padding: 12px 14px 4px; min-width: 0; }
.grid2 figure { margin: 0; }
figcaption { font-weight: 600; }
.unit { color: var(--dim); font-weight: 400; font-size: 13px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px;
  margin: 4px 0 0; padding: 0; font-size: 13px; color: var(--dim); }
.key { width: 22px; height: 12px; margin-right: 6px; vertical-align: -1px; }
.plot { display: block; overflow: visible; height: 180px; touch-action: pan-y;
  width: calc(100% - 66px); margin: 14px 16px 44px 50px; }
.wide .plot { height: 320px; }
.curves { overflow: hidden; }
.curve { fill: none; stroke: var(--blue); stroke-width: 2;
  stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.curve.raw { stroke: var(--raw); stroke-width: 1; }
.curve.validation { stroke: var(--orange); stroke-width: 2.5;
  stroke-dasharray: 7 4; }
.dot { fill: var(--blue); }
.dot.raw { fill: none; }
.dot.validation { fill: var(--orange); }
.grid { stroke: var(--line); }
.axis { stroke: var(--dim); }
.tick { fill: var(--dim); font-size: 12px; font-variant-numeric: tabular-nums; }
.label { fill: var(--ink); font-size: 12px; paint-order: stroke;
  stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.reference { stroke: var(--green); stroke-width: 1.5; stroke-dasharray: 2 4; }
.restart { stroke: var(--dim); stroke-dasharray: 2 2; }
.mark { fill: var(--card); stroke: var(--orange); stroke-width: 2.5; }
.cursor { stroke: var(--dim); visibility: hidden; }
.readout { min-height: 20px; margin: -6px 0 0; font-size: 13px;
  color: var(--dim); font-variant-numeric: tabular-nums; }
.card { padding: 14px; }
.bar { display: block; width: 100%; height: 34px; margin-bottom: 10px; }
.bar rect { stroke: var(--card); }
.bar text { font-size: 13px; fill: #fff; }
.bar .on-light { fill: #14181d; }
.swatch { display: inline-block; width: 11px; height: 11px; margin-right: 8px;
  border-radius: 2px; }
.card table.data { max-width: 440px; }
.card .data th, .card .data td { padding: 5px 4px; }
.data tbody .sum th, .data .sum td { font-weight: 600; }
.card p { margin: 8px 0 0; }
table { border-collapse: collapse; font-size: 14px; }
.scroll { overflow-x: auto; }
.data { width: 100%; }
.data th, .data td { padding: 5px 12px; text-align: right;
  border-top: 1px solid var(--line); font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.data thead th { border-top: 0; color: var(--dim); font-weight: 500; }
.data .text, .data tbody th { text-align: left; font-weight: 400; }
.data .text:last-child { white-space: normal; overflow-wrap: break-word;
  min-width: 180px; }
.facts { display: block; padding: 10px 14px; min-width: 0; }
.facts caption { display: block; text-align: left; font-weight: 600;
  padding-bottom: 4px; }
.facts tbody { display: block; }
.facts tr { display: flex; gap: 14px; justify-content: space-between;
  border-top: 1px solid var(--line); padding: 4px 0; }
.facts th { text-align: left; font-weight: 400; color: var(--dim); flex: none;
  max-width: 60%; overflow-wrap: anywhere; }
.facts td { text-align: right; overflow-wrap: anywhere; min-width: 0;
  font-variant-numeric: tabular-nums; }
.columns { columns: 300px 3; column-gap: 12px; }
.columns .facts { break-inside: avoid; margin-bottom: 12px; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; }
@media (max-width: 520px) { h1 { font-size: 22px; }
  .wide .plot { height: 240px; }
  .tiles { grid-template-columns: 1fr 1fr; } .tiles dd { font-size: 20px; } }
@media print { figure, .facts, .tiles > div { break-inside: avoid; } }
"""

SCRIPT = """
for (const plot of document.querySelectorAll('svg.plot[data-lines]')) {
  const lines = JSON.parse(plot.dataset.lines);
  const last = Number(plot.dataset.last);
  const percent = plot.dataset.percent === '1';
  const cursor = plot.querySelector('.cursor');
  const readout = plot.closest('figure').querySelector('.readout');
  const show = (value) => value === null ? 'not finite'
    : percent ? (100 * value).toFixed(1) + '%'
    : Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString('en')
    : Number(value.toPrecision(4)).toString();
  const nearest = (points, step) => {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle + 1; else high = middle;
    }
    if (low && step - points[low - 1][0] < points[low][0] - step) low--;
    return points[low];
  };
  plot.addEventListener('pointermove', (event) => {
    const box = plot.getBoundingClientRect();
    const from_left = (event.clientX - box.left) / box.width;
    const across = Math.min(1, Math.max(0, from_left));
    cursor.setAttribute('x1', 100 * across + '%');
    cursor.setAttribute('x2', 100 * across + '%');
    cursor.style.visibility = 'visible';
    readout.textContent = lines.filter(([, points]) => points.length)
      .map(([name, points]) => {
        const [step, value] = nearest(points, across * last);
        const at = ' at step ' + step.toLocaleString('en');
        return name + ' ' + show(value) + at;
      }).join('  \\u00b7  ');
  });
  plot.addEventListener('pointerleave', () => {
    cursor.style.visibility = 'hidden';
    readout.textContent = '';
  });
}
"""
