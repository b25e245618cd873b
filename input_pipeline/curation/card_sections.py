"""The sections of the card's page on sources, duplicates, groups and tokens."""

import itertools

from input_pipeline.curation import card_charts as charts
from input_pipeline.curation import card_html as html
from input_pipeline.curation.card_counts import Record
from input_pipeline.curation.card_examples import (
  contamination_examples,
  duplicate_examples,
)


def sources(card: Record) -> str:
  """Returns what each source gives, and of how many the text consists."""
  record = card['concentration']
  effective = [
    {
      'kind': kind,
      'before': record[f'{key}_before'],
      'after': record[f'{key}_after'],
    }
    for kind, key in (
      ('by entropy', 'exp_entropy'),
      ('by squared shares', 'inverse_simpson'),
    )
  ]
  return html.section(
    'Where the text comes from',
    html.table(
      record['sources'],
      ('source', 'source', str),
      ('documents before', 'documents_before', html.count),
      ('documents after', 'documents_after', html.count),
      ('text before', 'bytes_before', html.size),
      ('text after', 'bytes_after', html.size),
      ('share before', 'bytes_share_before', html.percent),
      ('share after', 'bytes_share_after', html.percent),
    ),
    html.paragraph(
      'The effective number of sources says of how many equally large ones the'
      ' text might as well consist; by squared shares, small ones count less.'
      ' Where it falls, curation narrows the data.'
    ),
    html.table(
      effective,
      ('effective number of sources', 'kind', str),
      ('before', 'before', html.decimal),
      ('after', 'after', html.decimal),
    ),
  )


def labels(card: Record) -> str:
  """Returns the mix of languages, licences and other labels."""
  parts = ''
  for label in card['labels']:
    values = [
      v | {'value': v['value'] or '(not stated)'} for v in label['values']
    ]
    lines = [
      charts.Bar(
        name=v['value'],
        parts=[(0, v['bytes'], html.size(v['bytes']))],
        value=f'{html.size(v["bytes"])} · {html.percent(v["bytes_share"])}',
      )
      for v in values
    ]
    by_source = html.table(
      [{'value': v['value']} | s for v in values for s in v['sources']],
      (label['label'], 'value', str),
      ('source', 'source', str),
      ('documents', 'documents', html.count),
      ('text', 'bytes', html.size),
    )
    title = label['label'].capitalize()
    picture = html.figure(title, 'text by value', charts.bars(lines))
    parts += f'<div>{picture}{html.details("By source", by_source)}</div>'
  if not parts:
    return ''
  return html.section(
    'Languages and licences',
    html.paragraph(
      'Of the documents that pass the stages of their profile. Duplicates among'
      ' them may leave later.'
    ),
    f'<div class="pair">{parts}</div>',
  )


def duplicates(card: Record) -> str:
  """Returns the sizes of clusters of near-duplicates, and pairs of texts."""
  record = card['duplicates']
  if record is None:
    return ''
  lines = [
    charts.Bar(
      name=f'of {html.count(b["size_to"])}'
      if b['size_from'] == b['size_to']
      else f'of {html.count(b["size_from"])} to {html.count(b["size_to"])}',
      parts=[(0, b['documents'], f'{html.count(b["documents"])} documents')],
      value=f'{html.count(b["documents"])} in'
      f' {html.count(b["clusters"])} cluster{"s" * (b["clusters"] != 1)}',
    )
    for b in record['sizes']
  ]
  parts = [
    html.paragraph(
      f'{html.count(record["documents"])} documents stand in'
      f' {html.count(record["clusters"])} clusters of texts that are nearly the'
      f' same; the largest holds {html.count(record["largest"])}.'
    )
  ]
  if lines:
    picture = charts.bars(lines)
    parts.append(html.figure('Documents', 'by size of their cluster', picture))
  if record['minhash_lines']:
    text = html.plain('\n'.join(record['minhash_lines']))
    table = f'<pre class="table" tabindex="0">{text}</pre>'
    parts.append(html.figure('The hash table', 'what it finds', table))
  return html.section('Near-duplicates', *parts, duplicate_examples(record))


def privacy(card: Record, colours: dict[str, int], legend: str) -> str:
  """Returns how often things were found, personal data first."""
  pictures = ''
  for title, unit, records in (
    ('Personal data', 'places that became a mark', card['privacy']),
    ('Other things found or changed', 'times', card['found']),
  ):
    if records:
      lines = [
        charts.Bar(
          name=r['name'],
          parts=charts.source_parts(r['sources'], 'count', colours, html.count),
          value=html.count(r['count']),
        )
        for r in records
      ]
      pictures += html.figure(title, unit, legend, charts.bars(lines))
  if not pictures:
    return ''
  return html.section(
    'What was found and replaced',
    html.paragraph(
      'Patterns find these; they miss some, and take some harmless text for'
      ' more than it is. A 0 says that the pattern found nothing, not that'
      ' there is nothing.'
    ),
    f'<div class="pair">{pictures}</div>',
  )


def contamination(card: Record) -> str:
  """Returns how many documents hold parts of evaluation sets."""
  if card['contamination'] is None:
    return ''
  return html.section(
    'Evaluation texts',
    html.paragraph(
      'Documents that hold a part of an evaluation set were left out, so that a'
      ' score on it says what a model learned and not what it saw.'
    ),
    html.table(
      card['contamination'],
      ('evaluation set', 'evaluation', str),
      ('documents left out', 'documents', html.count),
    ),
    contamination_examples(card),
  )


def disparity(card: Record) -> str:
  """Returns whether stages remove mentions of a group more than others."""
  if not card['groups']:
    return ''
  rows = [row | {'interval': _ratio(row)} for row in card['disparity']]
  rows = [row for row in rows if row['removed']]
  terms = [g | {'terms': ', '.join(g['terms'])} for g in card['groups']]
  parts = [_forest(rows)] if rows else []
  if silent := sorted(
    {row['stage'] for row in card['disparity'] if not row['removed']}
  ):
    parts.append(html.paragraph(f'Removed nothing: {", ".join(silent)}.'))
  counts = html.table(
    rows,
    ('stage', 'stage', str),
    ('group', 'group', str),
    ('documents', 'documents', html.count),
    ('removed', 'removed', html.count),
    ('mention the group', 'mentioning', html.count),
    ('of them removed', 'mentioning_removed', html.count),
    ('ratio (95 % interval)', 'interval', lambda text: text),
    ('ratio within sources', 'ratio_within_sources', html.decimal),
  )
  return html.section(
    'Are groups treated alike?',
    html.paragraph(
      'How often a stage removes documents that mention a group, by how often'
      ' it removes any document: 1 is alike, 2 is twice as often. A line is the'
      ' 95 % confidence interval; of twenty groups that are treated alike,'
      ' about one shows a difference by chance. A mention says neither who'
      ' wrote a text nor what it says.'
    ),
    *parts,
    html.details(
      'The counts',
      html.paragraph(
        'The ratio within sources compares with what the sources of the'
        ' documents alone lead to expect. Where it is 1 and the other is not,'
        ' the stage treats sources differently, not groups.'
      ),
      counts,
    ),
    html.details(
      'The terms',
      html.table(terms, ('group', 'group', str), ('terms', 'terms', str)),
    ),
  )


def _forest(rows: list[Record]) -> str:
  groups = []
  for stage, of_stage in itertools.groupby(rows, lambda row: row['stage']):
    lines = [
      charts.Interval(
        name=row['group'],
        ratio=row['ratio'],
        low=row['low'],
        high=row['high'],
        value=row['interval'],
      )
      for row in of_stage
    ]
    groups.append((stage, lines))
  legend = charts.legend(
    [
      ('style="fill:var(--orange)"', 'removed more often'),
      ('style="fill:var(--blue)"', 'removed less often'),
      ('style="fill:var(--dim)"', 'no difference shown'),
    ]
  )
  return html.figure(
    'Removal of documents that mention a group',
    'by removal of all documents',
    legend,
    charts.forest(groups),
  )


def _ratio(row: Record) -> str:
  if row['ratio'] is None:
    return 'no mention' if row['removed'] else 'nothing removed'
  low, high = html.decimal(row['low']), html.decimal(row['high'])
  return f'{html.decimal(row["ratio"])} ({low} to {high})'


def tokens(card: Record) -> str:
  """Returns how much text a token stands for, by source."""
  if not card['tokens']:
    return ''
  lines = [
    charts.Bar(
      name=r['source'],
      parts=[
        (0, r['bytes_per_token'] or 0, html.decimal(r['bytes_per_token']))
      ],
      value=html.decimal(r['bytes_per_token']),
    )
    for r in card['tokens']
  ]
  counts = html.table(
    card['tokens'],
    ('source', 'source', str),
    ('bytes', 'bytes', html.count),
    ('tokens', 'tokens', html.count),
    ('bytes per token', 'bytes_per_token', html.decimal),
  )
  return html.section(
    'Tokens',
    html.paragraph(
      'Bytes of text that a token stands for. Where they are few, the tokenizer'
      ' knows the text badly: it takes more steps, and fits less into a row.'
    ),
    html.figure('Bytes per token', 'by source', charts.bars(lines)),
    html.details('The counts', counts),
  )
