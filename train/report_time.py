"""The parts of a report that tell where the time of a run went."""

from collections.abc import Sequence
from html import escape

from train.console import format_duration
from train.goodput import NAMES, Goodput, SessionTime
from train.report_page import (
  data_table,
  format_moment,
  format_value,
  note,
  section,
)
from train.report_run import Session

# Their colours are dark: text on them is white.
_DARK = ('step_time', 'lost_steps', 'down', 'restart', 'compile')


def render_time(time: Goodput) -> str:
  """Returns the section with the shares of the time, and the goodput."""
  title, total = 'Where the time went', time.total
  if not total:
    return section(title, note('No time has been recorded yet.'))
  left = 0.0
  bars, rows = [], []
  for part, name in NAMES.items():
    seconds = time.seconds[part]
    share = seconds / total
    if not seconds:
      continue
    label = f'{name}: {share:.1%}, {format_duration(seconds)}'
    text = ''
    if share >= 0.09:
      style = '' if part in _DARK else ' class="on-light"'
      text = (
        f'<text x="{100 * (left + share / 2):.3f}%" y="50%" dy="5"'
        f' text-anchor="middle"{style}>{share:.0%}</text>'
      )
    bars.append(
      f'<g><title>{escape(label)}</title><rect x="{100 * left:.3f}%" y="0"'
      f' width="{100 * share:.3f}%" height="100%" fill="var(--{part})"/>'
      f'{text}</g>'
    )
    rows.append(
      '<tr><th scope="row"><span class="swatch" style="background:'
      f'var(--{part})"></span>{escape(name)}</th>'
      f'<td>{format_duration(seconds)}</td><td>{share:.1%}</td></tr>'
    )
    left += share
  return section(
    title,
    '<div class="card"><svg class="bar" role="img" aria-label="Shares of'
    f' {format_duration(total)}; the table has them">{"".join(bars)}</svg>'
    f'<table class="data"><tbody>{"".join(rows)}<tr class="sum">'
    f'<th scope="row">total</th><td>{format_duration(total)}</td><td></td>'
    f'</tr></tbody></table>{_render_remark(time)}</div>',
  )


def _render_remark(time: Goodput) -> str:
  sentences = [
    f'Goodput {time.share:.1%}: the share of the training steps that the run'
    ' kept.'
  ]
  if len(time.sessions) > 1:
    sentences.append(
      f'Sum over {len(time.sessions)} sessions. Restarts are start-up and'
      ' compilation of all sessions but the first; lost steps had to be made'
      ' again, with their data, evaluations and checkpoints; in the down time'
      ' no process was at work.'
    )
  return f'<p class="unit">{" ".join(sentences)}</p>'


def render_sessions(
  sessions: Sequence[Session], times: Sequence[SessionTime]
) -> str:
  """Returns the table of the processes; both arguments are in their order."""
  heads = [
    'Started', 'From step', 'To step', 'Duration', 'Ended', 'Lost steps',
    'Down before', 'Devices', 'Mesh',
  ]  # fmt: skip
  rows = [
    _session_row(session, time, newest=session is sessions[-1])
    for session, time in zip(sessions, times, strict=True)
  ]
  return data_table(heads, rows, numbers=(1, 2, 3, 5, 6))


def _session_row(
  session: Session, time: SessionTime, *, newest: bool
) -> list[str]:
  start = session.start
  mesh = {axis: size for axis, size in start['mesh'].items() if size != 1}
  processes = start['processes']
  devices = str(start['devices'])
  if processes > 1:
    devices += f', {processes} processes'
  return [
    format_moment(start['time']),
    f'{start["step"]:,}' + (' (resumed)' if start['resumed'] else ''),
    f'{session.last["step"]:,}',
    format_duration(time.seconds),
    _ended(session, time, newest=newest),
    format_duration(time.lost) if time.lost else '–',
    format_duration(time.down) if time.down else '–',
    devices,
    format_value(mesh) if mesh else 'one device',
  ]


def _ended(session: Session, time: SessionTime, *, newest: bool) -> str:
  if time.ended is not None:
    return time.ended
  # Older versions told it of no session.
  if 'spent' not in session.start:
    return 'unknown'
  # By SIGKILL, a power cut, the watchdog, the loss of another process.
  return 'at work, or cut off' if newest else 'cut off'
