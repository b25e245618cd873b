"""One page that shows what a run did, made from the files of its workdir."""

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from etils import epath

from train.console import format_count, format_duration, format_significant
from train.goodput import Goodput, goodput
from train.metrics import read_metrics
from train.report_curves import render_curves
from train.report_page import (
  data_table,
  fact_table,
  flatten,
  format_moment,
  format_value,
  hide_secrets,
  note,
  render_page,
  section,
)
from train.report_run import (
  Record,
  Session,
  best_evaluation,
  describe_result,
  describe_status,
  list_warnings,
  of_kind,
  split_sessions,
  tokens_seen,
  unigram_entropy,
  what_rules_said,
)
from train.report_time import render_sessions, render_time

# Events of a long run are cut to the newest.
MAX_EVENTS = 200


def write_report(workdir: str | os.PathLike[str]) -> epath.Path:
  """Writes `<workdir>/report.html` and returns its path.

  Reads metrics.jsonl and, where present, config.json (the resolved config) and
  sample.txt (text from the model).

  Raises:
    ValueError: There is no metrics.jsonl, or a file cannot be read.
  """
  directory = epath.Path(workdir)
  records = read_metrics(workdir)
  config = _read_config(directory / 'config.json')
  sample_path = directory / 'sample.txt'
  sample = sample_path.read_text() if sample_path.exists() else None
  page = render_report(directory.resolve().name, records, config, sample)
  path = directory / 'report.html'
  temporary = directory / 'report.html.tmp'
  temporary.write_text(page)
  temporary.replace(path)
  return path


def _read_config(path: epath.Path) -> dict[str, Any] | None:
  if not path.exists():
    return None
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} is no JSON ({error}). Remove it to make the report without the'
      ' config.'
    ) from error
  if not isinstance(config, dict):
    raise ValueError(
      f'{path} holds {type(config).__name__}, and not an object of config'
      ' fields. Remove it to make the report without the config.'
    )
  return config


def render_report(
  name: str,
  records: Sequence[Record],
  config: Mapping[str, Any] | None,
  sample: str | None,
) -> str:
  """Returns the page as HTML; the same arguments give the same text.

  Args:
    name: What the page calls the run.
    records: From `read_metrics`.
    config: The resolved config as nested dicts, or None if unknown.
    sample: Text from the model, or None.
  """
  sessions, time = split_sessions(records), goodput(records)
  body = [
    _render_headline(name, records, sessions, time, config),
    render_curves(records, sessions),
    render_time(time),
    _render_history(records, sessions, time),
    _render_facts(sessions),
  ]
  if sample is not None:
    text = f'<div class="card"><pre>{escape(sample)}</pre></div>'
    body.append(section('Text from the model', text))
  body.append(_render_config(config))
  return render_page(f'{name} – Meshwork run', ''.join(body))


def _render_headline(
  name: str,
  records: Sequence[Record],
  sessions: Sequence[Session],
  time: Goodput,
  config: Mapping[str, Any] | None,
) -> str:
  known = config is not None and isinstance(config.get('steps'), int)
  total_steps = config['steps'] if config is not None and known else None
  lead = describe_status(records, total_steps)
  if sessions:
    lead += f' · started {format_moment(sessions[0].start["time"])}'
  best = best_evaluation(records)
  result = describe_result(records, best, unigram_entropy(sessions))
  said = [str(record['message']) for record in what_rules_said(records)]
  warnings = list_warnings(records, sessions)
  notes = ''.join(note(text) for text in [*said, *warnings])
  return (
    f'<header><h1>{escape(name)}</h1><p class="lead">{escape(lead)}</p>'
    f'<p class="result">{escape(result)}</p>'
    f'{_render_tiles(records, sessions, time, best)}{notes}</header>'
  )


def _render_tiles(
  records: Sequence[Record],
  sessions: Sequence[Session],
  time: Goodput,
  best: Record | None,
) -> str:
  tiles = []
  if best is not None:
    tiles += [
      ('Validation loss', f'{best["loss"]:.4f}', 'nats per token, best'),
      ('Perplexity', format_significant(best['perplexity'], 4), 'at the best'),
    ]
    if best['bits_per_byte'] is not None:
      bits = f'{best["bits_per_byte"]:.4f}'
      tiles.append(('Bits per byte', bits, 'at the best'))
  train = of_kind(records, 'train')
  if train:
    epoch = f'{train[-1]["epoch"]:.2f} epochs'
    tiles.append(('Tokens seen', format_count(tokens_seen(records)), epoch))
  if time.total:
    share = f'goodput {time.share:.0%}'
    tiles.append(('Duration', format_duration(time.total), share))
  if sessions:
    start = sessions[-1].start
    tiles.append(
      ('Parameters', format_count(start['parameters']), start['devices'])
    )
  cells = ''.join(
    f'<div><dt>{escape(title)}</dt><dd>{escape(value)}'
    f'<small>{escape(str(remark))}</small></dd></div>'
    for title, value, remark in tiles
  )
  return f'<dl class="tiles">{cells}</dl>' if cells else ''


def _render_history(
  records: Sequence[Record], sessions: Sequence[Session], time: Goodput
) -> str:
  parts = []
  if sessions:
    parts.append(render_sessions(sessions, time.sessions))
  checkpoints = of_kind(records, 'checkpoint')
  if checkpoints:
    mean = sum(r['seconds'] for r in checkpoints) / len(checkpoints)
    parts.append(
      f'<p>{len(checkpoints)} checkpoints were written, the last at step'
      f' {checkpoints[-1]["step"]:,}; one took {format_duration(mean)} on'
      ' average.</p>'
    )
  events = of_kind(records, 'event')
  if len(events) > MAX_EVENTS:
    parts.append(note(f'{len(events)} events; the newest {MAX_EVENTS} follow.'))
  if events:
    rows = [
      (
        f'{event["step"]:,}',
        format_moment(event['time']),
        hide_secrets(str(event['message'])),
      )
      for event in events[-MAX_EVENTS:]
    ]
    parts.append(data_table(['Step', 'Time', 'Event'], rows, numbers=(0,)))
  return section('Sessions and events', *parts) if parts else ''


def _render_facts(sessions: Sequence[Session]) -> str:
  if not sessions:
    return ''
  start = sessions[-1].start
  peak = start['peak_flops_per_device']
  embedding = start['parameters_embedding']
  model = [
    ('parameters', f'{start["parameters"]:,}'),
    ('of them in embeddings', f'{embedding:,}'),
    ('tokens per step', f'{start["tokens_per_step"]:,}'),
    ('FLOPs per token', format_significant(start['flops_per_token'], 4)),
    (
      'peak FLOPs per second and device',
      'unknown' if peak is None else format_significant(peak, 4),
    ),
  ]
  dataset = [
    (name.replace('_', ' '), _fact(value))
    for name, value in flatten(hide_secrets(dict(start['dataset'])), '')
  ]
  versions = [
    (name, format_value(value)) for name, value in start['versions'].items()
  ]
  tables = [
    fact_table('Model', model),
    fact_table('Dataset', dataset),
    fact_table('Versions', versions),
  ]
  return section('Facts', f'<div class="columns">{"".join(tables)}</div>')


def _fact(value: Any) -> str:
  if isinstance(value, int) and not isinstance(value, bool):
    return f'{value:,}'
  if isinstance(value, float):
    return format_significant(value, 5)
  return format_value(value)


def _render_config(config: Mapping[str, Any] | None) -> str:
  if config is None:
    return section(
      'Config',
      note('config.json is not in the workdir: the config is unknown.'),
    )
  shown = hide_secrets(dict(config))
  groups = {name: v for name, v in shown.items() if isinstance(v, dict) and v}
  run = {name: v for name, v in shown.items() if name not in groups}
  tables = [
    fact_table(title, [(n, format_value(v)) for n, v in flatten(fields, '')])
    for title, fields in [('run', run), *groups.items()]
    if fields
  ]
  return section('Config', f'<div class="columns">{"".join(tables)}</div>')
