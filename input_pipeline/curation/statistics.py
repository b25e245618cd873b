"""Counts what curation does, so that counts of any parts add up to the whole.

Everything is an integer, a set of smallest hashes, or fixed from the start.
Hence a tally does not depend on how documents are split into chunks, nor on
the order in which tallies are merged.

Array suffix: D documents.
"""

import collections
import dataclasses
import functools
import hashlib
import heapq
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from input_pipeline.curation.mentions import Groups, Mentions

FORMAT_VERSION = 1
# Removed documents of each rule that are kept to be looked at.
EXAMPLES = 20
# Characters of them.
HEAD_CHARACTERS = 700

Table = collections.Counter[tuple[Any, ...]]
When = Literal['before', 'after']


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Example:
  """A removed document.

  Attributes:
    digest: of the id; what decides which examples are kept.
    id: of the document.
    source: of the document.
    text: its first HEAD_CHARACTERS characters.
  """

  digest: str
  id: str
  source: str
  text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tables:
  """The counts; keys by table.

  Attributes:
    funnel: stage, source, measure: 'documents_in', 'documents_out',
      'documents_removed', 'documents_edited', and 'bytes_' of the same;
      'bytes_edited' are those that kept documents gained, less those that they
      lost, so that bytes_in + bytes_edited = bytes_out + bytes_removed.
    removed: stage, rule, source, 'documents' or 'bytes'.
    mentions: stage, source, group, 'documents' or 'removed'; documents that
      mention the group and came in, or were removed.
    found: name, source.
    labels: name, value, source, 'documents' or 'bytes'.
    lengths: 'before' or 'after', source, bin, 'documents' or 'bytes'; bin n
      holds the documents of 2^n to 2^(n+1) - 1 bytes, bin 0 the empty ones too.
  """

  funnel: Table = dataclasses.field(default_factory=Table)
  removed: Table = dataclasses.field(default_factory=Table)
  mentions: Table = dataclasses.field(default_factory=Table)
  found: Table = dataclasses.field(default_factory=Table)
  labels: Table = dataclasses.field(default_factory=Table)
  lengths: Table = dataclasses.field(default_factory=Table)


_TABLES = tuple(field.name for field in dataclasses.fields(Tables))


class Tally:
  """What happened to some documents.

  Attributes:
    groups: name -> terms, of which the mentions are counted.
    tables: the counts.
    rules: of each stage, in the order in which they count.
    examples: (stage, rule) -> the removed documents with the smallest hashes
      of their ids, at most EXAMPLES, in that order.
  """

  def __init__(self, groups: Groups) -> None:
    self.groups = dict(groups)
    self.tables = Tables()
    self.rules: dict[str, tuple[str, ...]] = {}
    self.examples: dict[tuple[str, str], list[Example]] = {}
    self._mentions = Mentions(groups)
    self._mentioned: dict[tuple[str, str], frozenset[str]] = {}

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Tally) and self.to_json() == other.to_json()

  __hash__ = None  # type: ignore[assignment]

  def stage(
    self,
    name: str,
    rules: Sequence[str],
    *,
    ids: Sequence[str],
    sources: Sequence[str],
    texts: Sequence[str],
    texts_after: Sequence[str] | None,
    rule_D: np.ndarray,
  ) -> None:
    """Counts what a stage did to a batch of D documents.

    What a document mentions is read from the text with which this tally first
    sees it, so an edit does not change its groups.

    Args:
      name: of the stage.
      rules: names of its reasons to leave a document out.
      ids: of the documents; with the source unique.
      sources: of the documents.
      texts: that came in.
      texts_after: that the stage made of them, not read where a document is
        removed; None: the same.
      rule_D: int [D]; -1 where the document stays, else which rule removed it.
    """
    assert len(ids) == len(sources) == len(texts) == rule_D.size, name
    self._set_rules(name, tuple(rules))
    sums: dict[str, _Sums] = {}
    batch = zip(ids, sources, texts, rule_D.tolist(), strict=True)
    for i, (identifier, source, text, rule) in enumerate(batch):
      if source not in sums:
        sums[source] = _Sums(len(rules))
      of_source = sums[source]
      size = utf8_bytes(text)
      of_source.documents += 1
      of_source.bytes += size
      if rule >= 0:
        of_source.removed[rule] += 1
        of_source.removed_bytes[rule] += size
        self._keep_example(name, rules[rule], identifier, source, text)
      else:
        after = text if texts_after is None else texts_after[i]
        size_after = size
        if after is not text and after != text:
          size_after = utf8_bytes(after)
          of_source.edited += 1
          of_source.edited_bytes += size_after - size
        of_source.kept += 1
        of_source.kept_bytes += size_after
      if self.groups:
        groups = self._groups_of(identifier, source, text)
        of_source.mentions.update(groups)
        if rule >= 0:
          of_source.removed_mentions.update(groups)
    for source, of_source in sums.items():
      self._add_sums(name, rules, source, of_source)

  def count(self, name: str, source: str, n: int) -> None:
    """Counts n things that were found or changed, such as 'email'."""
    self.tables.found[name, source] += int(n)

  def label(
    self, name: str, value: str, source: str, documents: int, size: int
  ) -> None:
    """Counts documents, and their bytes, with a value of a label.

    Args:
      name: of the label, such as 'language'.
      value: such as 'en'.
      source: of the documents.
      documents: how many.
      size: their UTF-8 bytes.
    """
    self.tables.labels[name, value, source, 'documents'] += int(documents)
    self.tables.labels[name, value, source, 'bytes'] += int(size)

  def lengths(
    self, when: When, sources: Sequence[str], texts: Sequence[str]
  ) -> None:
    """Counts the lengths of documents before or after curation.

    Every document that comes to curation is counted once as 'before', and
    every one that stays once as 'after'.
    """
    lengths = self.tables.lengths
    for source, text in zip(sources, texts, strict=True):
      size = utf8_bytes(text)
      bin_ = max(size.bit_length() - 1, 0)
      lengths[when, source, bin_, 'documents'] += 1
      lengths[when, source, bin_, 'bytes'] += size

  def merge(self, other: 'Tally') -> None:
    """Adds another tally to this one.

    Raises:
      ValueError: the two were made with other groups or other rules.
    """
    if self.groups != other.groups:
      raise ValueError(
        'tallies were made with other data.curation.term_groups:'
        f' {sorted(self.groups)} and {sorted(other.groups)}; prepare again'
      )
    for name, rules in other.rules.items():
      self._set_rules(name, rules)
    for name in _TABLES:
      getattr(self.tables, name).update(getattr(other.tables, name))
    for key, examples in other.examples.items():
      both = self.examples.get(key, []) + examples
      self.examples[key] = heapq.nsmallest(EXAMPLES, both)

  def to_json(self) -> bytes:
    """The tally as JSON; equal tallies give equal bytes."""
    content: dict[str, Any] = {
      'format_version': FORMAT_VERSION,
      'groups': self.groups,
      'rules': self.rules,
      'examples': [
        [*key, [dataclasses.astuple(e) for e in examples]]
        for key, examples in sorted(self.examples.items())
      ],
    }
    for name in _TABLES:
      table = getattr(self.tables, name)
      # A sum of zero says what a missing one says.
      content[name] = sorted([*key, n] for key, n in table.items() if n)
    return json.dumps(content, sort_keys=True, ensure_ascii=False).encode()

  @classmethod
  def from_json(cls, content: bytes) -> 'Tally':
    """Reads what to_json wrote.

    Raises:
      ValueError: another version wrote it.
    """
    fields = json.loads(content)
    if fields['format_version'] != FORMAT_VERSION:
      raise ValueError(
        f'a tally has format {fields["format_version"]}, this version reads'
        f' {FORMAT_VERSION}; prepare the data again'
      )
    tally = cls({name: tuple(t) for name, t in fields['groups'].items()})
    tally.rules = {name: tuple(r) for name, r in fields['rules'].items()}
    for stage, rule, examples in fields['examples']:
      tally.examples[stage, rule] = [
        Example(digest=digest, id=identifier, source=source, text=text)
        for digest, identifier, source, text in examples
      ]
    for name in _TABLES:
      table = getattr(tally.tables, name)
      table.update({tuple(key): n for *key, n in fields[name]})
    return tally

  def _set_rules(self, name: str, rules: tuple[str, ...]) -> None:
    if self.rules.setdefault(name, rules) != rules:
      raise ValueError(
        f'the stage {name} was counted with the rules {self.rules[name]} and'
        f' with {rules}; prepare the data again'
      )

  def _groups_of(
    self, identifier: str, source: str, text: str
  ) -> frozenset[str]:
    key = source, identifier
    groups = self._mentioned.get(key)
    if groups is None:
      groups = self._mentioned[key] = self._mentions(text)
    return groups

  def _keep_example(
    self, stage: str, rule: str, identifier: str, source: str, text: str
  ) -> None:
    digest = hashlib.blake2b(identifier.encode(), digest_size=16).hexdigest()
    examples = self.examples.setdefault((stage, rule), [])
    if len(examples) == EXAMPLES and digest > examples[-1].digest:
      return
    examples.append(
      Example(
        digest=digest, id=identifier, source=source, text=text[:HEAD_CHARACTERS]
      )
    )
    examples.sort()
    del examples[EXAMPLES:]

  def _add_sums(
    self, stage: str, rules: Sequence[str], source: str, sums: '_Sums'
  ) -> None:
    self.tables.funnel.update(
      {
        (stage, source, 'documents_in'): sums.documents,
        (stage, source, 'documents_out'): sums.kept,
        (stage, source, 'documents_removed'): sum(sums.removed),
        (stage, source, 'documents_edited'): sums.edited,
        (stage, source, 'bytes_in'): sums.bytes,
        (stage, source, 'bytes_out'): sums.kept_bytes,
        (stage, source, 'bytes_removed'): sum(sums.removed_bytes),
        (stage, source, 'bytes_edited'): sums.edited_bytes,
      }
    )
    removed = zip(rules, sums.removed, sums.removed_bytes, strict=True)
    for rule, documents, size in removed:
      self.tables.removed[stage, rule, source, 'documents'] += documents
      self.tables.removed[stage, rule, source, 'bytes'] += size
    _add_mentions(self.tables, stage, source, 'documents', sums.mentions)
    _add_mentions(self.tables, stage, source, 'removed', sums.removed_mentions)


class _Sums:
  """What a stage did to the documents of a source in a batch."""

  def __init__(self, rules: int) -> None:
    self.documents = self.bytes = 0
    self.kept = self.kept_bytes = 0
    self.edited = self.edited_bytes = 0
    self.removed = [0] * rules
    self.removed_bytes = [0] * rules
    self.mentions: collections.Counter[str] = collections.Counter()
    self.removed_mentions: collections.Counter[str] = collections.Counter()


def _add_mentions(
  tables: Tables,
  stage: str,
  source: str,
  measure: str,
  mentions: collections.Counter[str],
) -> None:
  for group, n in mentions.items():
    tables.mentions[stage, source, group, measure] += n


def merged(groups: Groups, tallies: Iterable[Tally]) -> Tally:
  """The sum of tallies, in whatever order they come."""
  total = Tally(groups)
  for tally in tallies:
    total.merge(tally)
  return total


def utf8_bytes(text: str) -> int:
  """Bytes of a text in UTF-8."""
  # Python knows whether a text is ASCII without looking at it.
  return len(text) if text.isascii() else _encoded_bytes(text)


@functools.lru_cache(maxsize=4_096)
def _encoded_bytes(text: str) -> int:
  """Remembered: every stage asks for the same texts."""
  return len(text.encode())
