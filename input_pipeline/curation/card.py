"""The data card: what curation did to a dataset, as JSON."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from input_pipeline.curation import card_counts
from input_pipeline.curation.card_counts import Record, rounded, share
from input_pipeline.curation.statistics import Tally

FORMAT_VERSION = 1
# Characters of an example that the card shows.
SHOWN_CHARACTERS = 600

# No weights, no service and no reader judge the texts.
_NEVER_MEASURED = (
  'Whether what the texts say is true, up to date, offensive or harmful.',
  'Whether a text may be used: licences are what the data state of themselves.',
  'When the texts were written.',
  'Personal data in other forms than the patterns of the privacy stage: names'
  ' and street addresses stay.',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuplicateExample:
  """Two documents that count as the same.

  Attributes:
    removed_id: of the one that left.
    kept_id: of the one that stays.
    similarity: Jaccard similarity of their word n-grams.
    removed_text: the start of the one.
    kept_text: the start of the other.
  """

  removed_id: str
  kept_id: str
  similarity: float
  removed_text: str
  kept_text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContaminationExample:
  """A document that holds a part of an evaluation text."""

  id: str
  source: str
  text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contamination:
  """Documents that hold parts of an evaluation set.

  Attributes:
    evaluation: name of the set.
    documents: that were left out for it.
    examples: some of them.
  """

  evaluation: str
  documents: int
  examples: tuple[ContaminationExample, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCount:
  """What the tokenizer makes of a source: UTF-8 bytes and tokens of them."""

  bytes: int
  tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardFacts:
  """What the data card says beside the tally.

  Attributes:
    dataset: its name.
    fingerprint: of the prepared store, hex.
    options: the resolved config of the data.
    versions: of the programs that prepared it, by name.
    licence: of the dataset as a whole; None: not stated.
    stages: all of them, in the order in which they run.
    unread: documents that never came to curation, by reason, such as 'empty'.
    privacy_kinds: names of the counts of the privacy stage; None: it did not
      run.
    cluster_sizes: size -> number of clusters of near-duplicates; None: they
      were not looked for.
    duplicate_examples: some near-duplicates.
    minhash_lines: the table of the hash: what it finds of which similarity.
    contamination: by evaluation set; None: none was given.
    tokens: by source; None: the data are not tokenized.
  """

  dataset: str
  fingerprint: str
  options: dict[str, Any]
  versions: dict[str, str]
  licence: str | None
  stages: tuple[str, ...]
  unread: dict[str, int]
  privacy_kinds: tuple[str, ...] | None
  cluster_sizes: dict[int, int] | None
  duplicate_examples: tuple[DuplicateExample, ...]
  minhash_lines: tuple[str, ...]
  contamination: tuple[Contamination, ...] | None
  tokens: dict[str, TokenCount] | None


def data_card(
  tally: Tally, facts: CardFacts, *, redact: Callable[[str], str] | None
) -> Record:
  """Returns the card; equal tallies and facts give equal cards.

  Args:
    tally: of all documents.
    facts: what else is known.
    redact: applied to every text that the card shows. Documents may be removed
      before the privacy stage sees them, and cards are published. None: texts
      are shown as they are, and the card says so.
  """
  rows = card_counts.funnel(tally, facts.stages)
  shown = _shown(redact)
  other = {name for name, _ in tally.tables.found} - set(
    facts.privacy_kinds or ()
  )
  remaining = card_counts.remaining(tally, rows)
  card: Record = {
    'format_version': FORMAT_VERSION,
    'dataset': facts.dataset,
    'fingerprint': facts.fingerprint,
    'licence': facts.licence,
    'totals': _totals(tally, remaining),
    'unread': [
      {'reason': reason, 'documents': facts.unread[reason]}
      for reason in sorted(facts.unread)
    ],
    'remaining': remaining,
    'funnel': rows,
    'removed_by_rule': card_counts.removed_by_rule(rows),
    'lengths': card_counts.lengths(tally, None),
    'lengths_by_source': [
      {'source': source, 'lengths': card_counts.lengths(tally, source)}
      for source in card_counts.sources_of(tally)
    ],
    'concentration': card_counts.sources(tally),
    'labels': card_counts.labels(tally),
    'privacy': None
    if facts.privacy_kinds is None
    else card_counts.found(tally, facts.privacy_kinds),
    'found': card_counts.found(tally, sorted(other)),
    'duplicates': _duplicates(facts, shown),
    'contamination': _contamination(facts, shown),
    'groups': [
      {'group': group, 'terms': list(tally.groups[group])}
      for group in sorted(tally.groups)
    ],
    'disparity': card_counts.disparity(tally, rows),
    'tokens': _tokens(facts),
    'removed_examples': _removed_examples(tally, facts, shown),
    'examples_redacted': redact is not None,
    'options': facts.options,
    'versions': [
      {'name': name, 'version': facts.versions[name]}
      for name in sorted(facts.versions)
    ],
  }
  card['not_measured'] = _not_measured(card)
  return card


def to_json(card: Record) -> bytes:
  """The text of the card's file."""
  text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False)
  return (text + '\n').encode()


def _shown(redact: Callable[[str], str] | None) -> Callable[[str], str]:
  def shown(text: str) -> str:
    # Redaction first: half an address would not be recognised.
    return (text if redact is None else redact(text))[:SHOWN_CHARACTERS]

  return shown


def _totals(tally: Tally, remaining: list[Record]) -> Record:
  first, last = remaining[0], remaining[-1]
  return {
    'sources': len(card_counts.sources_of(tally)),
    'stages': len(remaining) - 1,
    'documents_before': first['documents'],
    'documents_after': last['documents'],
    'documents_share': last['documents_share'],
    'bytes_before': first['bytes'],
    'bytes_after': last['bytes'],
    'bytes_share': last['bytes_share'],
  }


def _duplicates(facts: CardFacts, shown: Callable[[str], str]) -> Record | None:
  sizes = facts.cluster_sizes
  if sizes is None:
    return None
  bins: dict[int, list[int]] = {}
  for size, clusters in sorted(sizes.items()):
    # 2, 3 to 4, 5 to 8, and so on: bin n ends at 2^n.
    sums = bins.setdefault((size - 1).bit_length(), [0, 0])
    sums[0] += clusters
    sums[1] += clusters * size
  return {
    'clusters': sum(sizes.values()),
    'documents': sum(size * n for size, n in sizes.items()),
    'largest': max(sizes, default=0),
    'sizes': [
      {
        'size_from': 2 ** (bin_ - 1) + 1 if bin_ else 1,
        'size_to': 2**bin_,
        'clusters': clusters,
        'documents': documents,
      }
      for bin_, (clusters, documents) in bins.items()
    ],
    'examples': [
      {
        'removed_id': example.removed_id,
        'kept_id': example.kept_id,
        'similarity': rounded(example.similarity),
        'removed_text': shown(example.removed_text),
        'kept_text': shown(example.kept_text),
      }
      for example in facts.duplicate_examples
    ],
    'minhash_lines': list(facts.minhash_lines),
  }


def _contamination(
  facts: CardFacts, shown: Callable[[str], str]
) -> list[Record] | None:
  if facts.contamination is None:
    return None
  return [
    {
      'evaluation': hits.evaluation,
      'documents': hits.documents,
      'examples': [
        {'id': e.id, 'source': e.source, 'text': shown(e.text)}
        for e in hits.examples
      ],
    }
    for hits in facts.contamination
  ]


def _tokens(facts: CardFacts) -> list[Record] | None:
  if facts.tokens is None:
    return None
  return [
    {
      'source': source,
      'bytes': count.bytes,
      'tokens': count.tokens,
      'bytes_per_token': share(count.bytes, count.tokens),
    }
    for source, count in sorted(facts.tokens.items())
  ]


def _removed_examples(
  tally: Tally, facts: CardFacts, shown: Callable[[str], str]
) -> list[Record]:
  return [
    {
      'stage': stage,
      'rule': rule,
      'examples': [
        {'id': e.id, 'source': e.source, 'text': shown(e.text)}
        for e in tally.examples[stage, rule]
      ],
    }
    for stage in facts.stages
    for rule in tally.rules.get(stage, ())
    if (stage, rule) in tally.examples
  ]


def _not_measured(card: Record) -> list[str]:
  labels = {record['label'] for record in card['labels']}
  missing = (
    (
      not card['groups'],
      'Whether groups of people are treated alike: data.curation.term_groups'
      ' is empty.',
    ),
    (
      card['contamination'] is None,
      'Parts of evaluation texts: data.curation.contamination.evaluations is'
      ' empty.',
    ),
    (card['duplicates'] is None, 'Near-duplicates: no profile looks for them.'),
    (card['privacy'] is None, 'Personal data: no profile runs that stage.'),
    ('language' not in labels, 'Languages: no profile runs that stage.'),
    (
      'licence' not in labels and card['licence'] is None,
      'Licences: the data state none.',
    ),
    (card['tokens'] is None, 'Tokens: the data were not tokenized.'),
  )
  return [text for absent, text in missing if absent] + list(_NEVER_MEASURED)
