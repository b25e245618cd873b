"""Parts of the data card that follow from the tally alone.

Lists of records everywhere, so that names of sources are values and not keys.
Shares stand here and not on the page: the page computes nothing.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from input_pipeline.curation import bias
from input_pipeline.curation.statistics import Table, Tally

Record = dict[str, Any]
READ = 'read'
_MEASURES = ('in', 'out', 'removed', 'edited')


def share(part: float, whole: float) -> float | None:
  """A rounded fraction; None of nothing."""
  return rounded(part / whole) if whole else None


def rounded(value: float | None) -> float | None:
  """Six digits: machines differ in the last ones of logarithms."""
  return None if value is None else float(f'{value:.6g}')


def sources_of(tally: Tally) -> list[str]:
  """All sources that had documents, by name."""
  return sorted({source for _, source, *_ in tally.tables.lengths})


def funnel(tally: Tally, stages: Sequence[str]) -> list[Record]:
  """What went into each stage and what came out, by stage and source.

  The sources of a stage are those whose profile runs it. The law of
  conservation is asserted: a document, and a byte, that comes to a stage is
  removed or goes on, and what goes on comes to the next stage.
  """
  table, removed = tally.tables.funnel, tally.tables.removed
  if unknown := sorted({stage for stage, *_ in table} - set(stages)):
    raise AssertionError(f'stages without a place in the funnel: {unknown}')
  rows = []
  seen = {(stage, source) for stage, source, _ in table}
  for stage, source in itertools.product(stages, sorted({s for _, s in seen})):
    if (stage, source) not in seen:
      continue
    row: Record = {'stage': stage, 'source': source}
    for unit in ('documents', 'bytes'):
      for measure in _MEASURES:
        name = f'{unit}_{measure}'
        row[name] = table[stage, source, name]
    row['removed'] = [
      {
        'rule': rule,
        'documents': removed[stage, rule, source, 'documents'],
        'bytes': removed[stage, rule, source, 'bytes'],
      }
      for rule in tally.rules[stage]
    ]
    _assert_stage(row)
    rows.append(row)
  _assert_chain(tally, rows)
  return rows


def _assert_stage(row: Record) -> None:
  assert row['documents_in'] == row['documents_out'] + row['documents_removed']
  assert (
    row['bytes_in'] + row['bytes_edited']
    == row['bytes_out'] + row['bytes_removed']
  ), row
  for unit in ('documents', 'bytes'):
    by_rule = sum(rule[unit] for rule in row['removed'])
    assert by_rule == row[f'{unit}_removed'], row


def _assert_chain(tally: Tally, rows: list[Record]) -> None:
  before, after = (_sizes(tally, when) for when in ('before', 'after'))
  left = dict(before)
  for row in rows:
    source, stage = row['source'], row['stage']
    came = row['documents_in'], row['bytes_in']
    assert left.get(source) == came, (
      f'{came} documents and bytes of {source} come to {stage},'
      f' {left.get(source)} left the stage before'
    )
    left[source] = row['documents_out'], row['bytes_out']
  for source, sizes in left.items():
    kept = after.get(source, (0, 0))
    assert kept == sizes, f'{source}: {sizes} left the last stage, {kept} stay'
  assert after.keys() <= before.keys(), sorted(after)


def _sizes(tally: Tally, when: str) -> dict[str, tuple[int, int]]:
  """Documents and bytes of each source, before or after curation."""
  lengths = tally.tables.lengths
  sources = sorted({source for _, source, *_ in lengths})
  totals = _sums(lengths, lambda key: (key[0], key[1], key[3]))
  return {
    source: (
      totals.get((when, source, 'documents'), 0),
      totals.get((when, source, 'bytes'), 0),
    )
    for source in sources
  }


def _sums(table: Table, key_of: Callable[[Any], Any]) -> dict[Any, int]:
  sums: dict[Any, int] = {}
  for key in sorted(table):
    group = key_of(key)
    sums[group] = sums.get(group, 0) + table[key]
  return sums


def remaining(tally: Tally, rows: Sequence[Record]) -> list[Record]:
  """Documents and bytes that are left after each stage, with their sources.

  A source whose profile does not run a stage passes it whole.
  """
  left = _sizes(tally, 'before')
  total = tuple(sum(sizes) for sizes in zip(*left.values(), strict=True))
  steps = [(READ, dict(left))]
  for stage, of_stage in itertools.groupby(rows, lambda row: row['stage']):
    for row in of_stage:
      left[row['source']] = row['documents_out'], row['bytes_out']
    steps.append((stage, dict(left)))
  found = []
  for stage, sizes in steps:
    documents = sum(n for n, _ in sizes.values())
    size = sum(n for _, n in sizes.values())
    found.append(
      {
        'stage': stage,
        'documents': documents,
        'documents_share': share(documents, total[0] if total else 0),
        'bytes': size,
        'bytes_share': share(size, total[1] if total else 0),
        'sources': [
          {'source': source, 'documents': sizes[source][0]}
          | {'bytes': sizes[source][1]}
          for source in sorted(sizes)
        ],
      }
    )
  return found


def removed_by_rule(rows: Sequence[Record]) -> list[Record]:
  """How much each rule removes, over all sources; 0 where it never fired."""
  found: dict[tuple[str, str], list[int]] = {}
  came: dict[str, int] = {}
  for row in rows:
    came[row['stage']] = came.get(row['stage'], 0) + row['documents_in']
    for rule in row['removed']:
      sums = found.setdefault((row['stage'], rule['rule']), [0, 0])
      sums[0] += rule['documents']
      sums[1] += rule['bytes']
  return [
    {
      'stage': stage,
      'rule': rule,
      'documents': documents,
      'documents_share': share(documents, came[stage]),
      'bytes': size,
    }
    for (stage, rule), (documents, size) in found.items()
  ]


def lengths(tally: Tally, source: str | None) -> list[Record]:
  """Histogram of bytes per document of a source; None: of all."""
  sums = _sums(
    tally.tables.lengths,
    lambda key: (key[0], key[2], key[3]) if source in (None, key[1]) else None,
  )
  sums.pop(None, None)
  bins = sorted({bin_ for _, bin_, _ in sums})
  return [
    {
      'bytes_from': 2**bin_ if bin_ else 0,
      'bytes_to': 2 ** (bin_ + 1) - 1,
    }
    | {
      f'{unit}_{when}': sums.get((when, bin_, unit), 0)
      for unit in ('documents', 'bytes')
      for when in ('before', 'after')
    }
    for bin_ in (range(bins[0], bins[-1] + 1) if bins else ())
  ]


def sources(tally: Tally) -> Record:
  """The size of each source before and after, and how many count."""
  before, after = _sizes(tally, 'before'), _sizes(tally, 'after')
  sums = [sum(n for _, n in sizes.values()) for sizes in (before, after)]
  record: Record = {
    'sources': [
      {
        'source': source,
        'documents_before': before[source][0],
        'documents_after': after[source][0],
        'bytes_before': before[source][1],
        'bytes_after': after[source][1],
        'bytes_share_before': share(before[source][1], sums[0]),
        'bytes_share_after': share(after[source][1], sums[1]),
      }
      for source in sorted(before)
    ]
  }
  for when, sizes in (('before', before), ('after', after)):
    found = bias.concentration([size for _, size in sizes.values()])
    record[f'exp_entropy_{when}'] = rounded(found.exp_entropy)
    record[f'inverse_simpson_{when}'] = rounded(found.inverse_simpson)
  return record


def disparity(tally: Tally, rows: Sequence[Record]) -> list[Record]:
  """Removal of documents that mention a group, by that of all documents."""
  found = []
  mentions = tally.tables.mentions
  for stage, of_stage in itertools.groupby(rows, lambda row: row['stage']):
    of_sources = list(of_stage)
    for group in sorted(tally.groups):
      strata = [
        (
          row['documents_in'],
          row['documents_removed'],
          mentions[stage, row['source'], group, 'documents'],
          mentions[stage, row['source'], group, 'removed'],
        )
        for row in of_sources
      ]
      documents, removed, mentioning, both = map(sum, zip(*strata, strict=True))
      ratio = bias.removal_disparity(
        documents=documents,
        removed=removed,
        mentioning=mentioning,
        mentioning_removed=both,
      )
      found.append(
        {
          'stage': stage,
          'group': group,
          'documents': documents,
          'removed': removed,
          'mentioning': mentioning,
          'mentioning_removed': both,
          'ratio': rounded(ratio.ratio),
          'low': rounded(ratio.low),
          'high': rounded(ratio.high),
          'ratio_within_sources': rounded(bias.ratio_within_sources(strata)),
        }
      )
  return found


def labels(tally: Tally) -> list[Record]:
  """The mix of values of each label, such as languages; largest first."""
  table = tally.tables.labels
  sums = _sums(table, lambda key: (key[0], key[1], key[3]))
  found = []
  for label in sorted({name for name, *_ in sums}):
    values = {value for name, value, _ in sums if name == label}
    total = sum(sums[label, value, 'bytes'] for value in values)
    records: list[Record] = [
      {
        'value': value,
        'documents': sums[label, value, 'documents'],
        'bytes': sums[label, value, 'bytes'],
        'bytes_share': share(sums[label, value, 'bytes'], total),
        'sources': [
          {'source': source, 'documents': table[label, value, source, unit]}
          | {'bytes': table[label, value, source, 'bytes']}
          for name, of_value, source, unit in sorted(table)
          if (name, of_value, unit) == (label, value, 'documents')
        ],
      }
      for value in sorted(values)
    ]
    records.sort(key=lambda record: (-record['bytes'], record['value']))
    found.append({'label': label, 'values': records})
  return found


def found(tally: Tally, names: Iterable[str]) -> list[Record]:
  """How often something was found, with its sources; 0 where nothing was."""
  table = tally.tables.found
  every = {source for _, source in table}
  return [
    {
      'name': name,
      'count': sum(table[name, source] for source in every),
      'sources': [
        {'source': source, 'count': table[name, source]}
        for source in sorted(every)
        if table[name, source]
      ],
    }
    for name in names
  ]
