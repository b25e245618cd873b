"""The data card as a page that a person reads; it shows what the card holds.

The page computes nothing but places in pictures: every number stands in the
card, see card.py.
"""

from collections.abc import Sequence

from input_pipeline.curation import card_charts as charts
from input_pipeline.curation import card_html as html
from input_pipeline.curation.card_counts import READ, Record
from input_pipeline.curation.card_examples import options, removed_examples
from input_pipeline.curation.card_sections import (
  contamination,
  disparity,
  duplicates,
  labels,
  privacy,
  sources,
  tokens,
)

# What is counted, its heading, and how it is written: exactly and on axes.
_UNITS: tuple[tuple[str, str, charts.Write, charts.Write], ...] = (
  ('documents', 'Documents', html.count, html.round_count),
  ('bytes', 'Text', html.size, html.round_size),
)


def render(card: Record) -> str:
  """Returns the page, complete in itself."""
  colours = _colours(card)
  legend = _legend(colours)
  body = [
    _header(card),
    _remaining(card, colours, legend),
    _rules(card),
    _lengths(card),
    sources(card),
    labels(card),
    duplicates(card),
    privacy(card, colours, legend),
    contamination(card),
    disparity(card),
    tokens(card),
    _not_measured(card),
    options(card),
  ]
  return html.page(f'Data card: {card["dataset"]}', ''.join(body))


def _colours(card: Record) -> dict[str, int]:
  """Colours of sources; where they are many, the small ones share the last."""
  by_size = sorted(
    card['concentration']['sources'],
    key=lambda record: (-record['bytes_before'], record['source']),
  )
  return {
    record['source']: min(number, charts.COLOURS - 1)
    for number, record in enumerate(by_size)
  }


def _legend(colours: dict[str, int]) -> str:
  if len(colours) < 2:
    return ''
  names: dict[int, str] = {}
  for source, number in colours.items():
    names[number] = 'other sources' if number in names else source
  return charts.legend([(charts.colour(n), name) for n, name in names.items()])


def _header(card: Record) -> str:
  totals = card['totals']
  result = (
    f'Of {html.short(totals["documents_before"])} documents'
    f' ({html.size(totals["bytes_before"])} of text),'
    f' {html.short(totals["documents_after"])}'
    f' ({html.size(totals["bytes_after"])}) remain:'
    f' {html.percent(totals["documents_share"])} of the documents and'
    f' {html.percent(totals["bytes_share"])} of the bytes.'
  )
  documents = [
    html.count(totals[f'documents_{w}']) for w in ('after', 'before')
  ]
  text = [html.size(totals[f'bytes_{w}']) for w in ('after', 'before')]
  tiles = html.tiles(
    [
      ('Documents kept', documents[0], f'of {documents[1]}'),
      ('Text kept', text[0], f'of {text[1]}'),
      ('Sources', html.count(totals['sources']), 'of documents'),
      ('Stages', html.count(totals['stages']), 'that documents pass'),
    ]
  )
  unread = ', '.join(
    f'{html.count(record["documents"])} {record["reason"]}'
    for record in card['unread']
    if record['documents']
  )
  licence = card['licence'] or 'the data state none for the whole'
  return (
    f'<h1>Data card: {html.plain(card["dataset"])}</h1>'
    f'<p class="lead">Licence: {html.plain(licence)}. Fingerprint:'
    f' {html.plain(card["fingerprint"])}</p>'
    f'<p class="result">{html.plain(result)}</p>{tiles}'
    + (html.note(f'Documents not counted here: {unread}.') if unread else '')
  )


def _remaining(card: Record, colours: dict[str, int], legend: str) -> str:
  pictures = ''
  for unit, title, write, _ in _UNITS:
    lines = [
      charts.Bar(
        name='as read' if step['stage'] == READ else step['stage'],
        parts=charts.source_parts(step['sources'], unit, colours, write),
        value=f'{write(step[unit])} · {html.percent(step[f"{unit}_share"])}',
      )
      for step in card['remaining']
    ]
    pictures += html.figure(
      title, 'left after each stage, by source', legend, charts.bars(lines)
    )
  every = html.table(
    card['funnel'],
    ('stage', 'stage', str),
    ('source', 'source', str),
    ('documents in', 'documents_in', html.count),
    ('documents removed', 'documents_removed', html.count),
    ('documents out', 'documents_out', html.count),
    ('documents edited', 'documents_edited', html.count),
    ('bytes in', 'bytes_in', html.count),
    ('bytes gained by edits', 'bytes_edited', html.signed),
    ('bytes removed', 'bytes_removed', html.count),
    ('bytes out', 'bytes_out', html.count),
  )
  return html.section(
    'What remains after each stage',
    html.paragraph(
      'Documents pass the stages from top to bottom. A bar shows what is left'
      ' after the stage. A source whose profile does not run a stage passes it'
      ' whole.'
    ),
    f'<div class="pair">{pictures}</div>',
    html.details('Every stage and source', every),
  )


def _rules(card: Record) -> str:
  return html.section(
    'What each rule removes',
    html.paragraph(
      'Where several rules of a stage apply to a document, the first of them'
      ' counts. A rule that never fired stands here with 0.'
    ),
    html.table(
      card['removed_by_rule'],
      ('stage', 'stage', str),
      ('rule', 'rule', str),
      ('documents removed', 'documents', html.count),
      ('of those that came', 'documents_share', html.percent),
      ('text removed', 'bytes', html.size),
    ),
    removed_examples(card),
  )


def _lengths(card: Record) -> str:
  bins = card['lengths']
  if not bins:
    return ''
  legend = charts.legend(
    [('class="before"', 'before'), ('class="after"', 'after')]
  )
  pictures = ''
  for unit, title, write, write_tick in _UNITS:
    columns = [_column(b, unit, write) for b in bins]
    plot = charts.columns(columns, 'bytes of a document', write_tick)
    caption = f'{"bytes " if unit == "bytes" else ""}by length of the document'
    pictures += html.figure(title, caption, legend, plot)
  by_source = [
    {'source': record['source']} | b
    for record in card['lengths_by_source']
    for b in record['lengths']
  ]
  return html.section(
    'How long documents are',
    html.paragraph(
      'Each column holds documents up to twice as long as the one to its left.'
      ' Few long documents can hold most of the text.'
    ),
    f'<div class="pair">{pictures}</div>',
    html.details('By source', _length_table(by_source)),
  )


def _column(b: Record, unit: str, write: charts.Write) -> charts.Column:
  before, after = b[f'{unit}_before'], b[f'{unit}_after']
  limits = f'{html.count(b["bytes_from"])} to {html.count(b["bytes_to"])} bytes'
  return charts.Column(
    name=html.power(b['bytes_from']),
    before=before,
    after=after,
    title=f'{limits}: {write(before)} before, {write(after)} after',
  )


def _length_table(rows: Sequence[Record]) -> str:
  return html.table(
    rows,
    ('source', 'source', str),
    ('bytes from', 'bytes_from', html.count),
    ('to', 'bytes_to', html.count),
    ('documents before', 'documents_before', html.count),
    ('documents after', 'documents_after', html.count),
    ('text before', 'bytes_before', html.size),
    ('text after', 'bytes_after', html.size),
  )


def _not_measured(card: Record) -> str:
  items = ''.join(f'<li>{html.plain(x)}</li>' for x in card['not_measured'])
  return html.section('What was not measured', f'<ul class="say">{items}</ul>')
