"""The parts of the card's page that show documents and options."""

import itertools
import json
from typing import Any

from input_pipeline.curation import card_html as html
from input_pipeline.curation.card_counts import Record


def removed_examples(card: Record) -> str:
  """Returns removed documents of each rule that fired."""
  rules = card['removed_examples']
  if not rules:
    return ''
  parts = _remark(card)
  for stage, of_stage in itertools.groupby(rules, lambda rule: rule['stage']):
    parts += html.details(
      f'Removed by {stage}', *(_rule(record) for record in of_stage)
    )
  return parts


def _rule(record: Record) -> str:
  return html.details(record['rule'], _documents(record['examples']))


def _documents(examples: list[Record]) -> str:
  return ''.join(
    html.document(f'{e["id"]} · {e["source"]}', e['text']) for e in examples
  )


def _remark(card: Record) -> str:
  redacted = (
    'What identifies a person was replaced in the texts shown here.'
    if card['examples_redacted']
    else 'The texts are shown as they came: they may hold personal data.'
  )
  return html.paragraph(
    'Look for yourself: documents drawn at random from those that each rule'
    f' removed, and the start of each. {redacted}'
  )


def duplicate_examples(record: Record) -> str:
  """Returns pairs of texts that count as the same."""
  if not record['examples']:
    return ''
  pairs = ''.join(
    '<div class="pair">'
    + html.document(
      f'removed, similarity {html.decimal(e["similarity"])}: {e["removed_id"]}',
      e['removed_text'],
    )
    + html.document(f'kept: {e["kept_id"]}', e['kept_text'])
    + '</div>'
    for e in record['examples']
  )
  return html.details('Pairs of near-duplicates', pairs)


def contamination_examples(card: Record) -> str:
  """Returns documents that hold a part of an evaluation set."""
  return ''.join(
    html.details(
      f'Left out for {record["evaluation"]}', _documents(record['examples'])
    )
    for record in card['contamination']
    if record['examples']
  )


def options(card: Record) -> str:
  """Returns what made the data: programs and all options."""
  fields = [
    {'field': name, 'value': _value(value)}
    for name, value in _flat(card['options'], '')
  ]
  return html.section(
    'How it was made',
    html.paragraph(
      'The same data, options and versions give the same dataset, bit by bit.'
    ),
    html.details(
      'Versions',
      html.table(
        card['versions'], ('program', 'name', str), ('version', 'version', str)
      ),
    ),
    html.details(
      'Options',
      html.table(fields, ('field', 'field', str), ('value', 'value', str)),
    ),
  )


def _flat(value: Any, prefix: str) -> list[tuple[str, Any]]:
  if not isinstance(value, dict) or not value:
    return [(prefix, value)]
  return [
    row
    for name, field in value.items()
    for row in _flat(field, f'{prefix}.{name}' if prefix else name)
  ]


def _value(value: Any) -> str:
  if value is None:
    return 'none'
  return value if isinstance(value, str) else json.dumps(value)
