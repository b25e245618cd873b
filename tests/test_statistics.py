import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.curation.mentions import Mentions, parse_groups
from input_pipeline.curation.statistics import (
  EXAMPLES,
  HEAD_CHARACTERS,
  Tally,
  merged,
)

GROUPS = parse_groups(('women=she,her,woman', 'men=he,his,man'))
RULES = ('short', 'odd')
WORDS = ('she', 'He', 'the', 'WOMAN', 'über', 'x', '“man”', 'data')

laws = settings(derandomize=True, max_examples=25, deadline=None)

documents = st.lists(
  st.tuples(
    st.sampled_from(('web', 'books')),
    st.lists(st.sampled_from(WORDS), max_size=6).map(' '.join),
    st.integers(-1, 1),
    st.booleans(),
  ),
  max_size=60,
)


def tally_of(rows, groups=GROUPS):
  """Rows: (id, (source, text, rule, whether the text is edited))."""
  tally = Tally(groups)
  ids = [f'd{i}' for i, _ in rows]
  sources = [row[0] for _, row in rows]
  texts = [row[1] for _, row in rows]
  after = [row[1] + ' ä' * row[3] for _, row in rows]
  rule_D = np.array([row[2] for _, row in rows], np.int8)
  tally.lengths('before', sources, texts)
  tally.stage(
    'quality',
    RULES,
    ids=ids,
    sources=sources,
    texts=texts,
    texts_after=after,
    rule_D=rule_D,
  )
  kept = [i for i, rule in enumerate(rule_D) if rule < 0]
  kept_sources = [sources[i] for i in kept]
  tally.lengths('after', kept_sources, [after[i] for i in kept])
  for source, text in zip(sources, texts, strict=True):
    tally.count('x', source, text.count('x'))
    tally.label('language', 'en', source, 1, len(text.encode()))
  return tally


@laws
@given(documents, st.randoms(use_true_random=False))
def test_how_documents_are_split_and_merged_does_not_matter(rows, rng):
  rows = list(enumerate(rows))
  whole = tally_of(rows).to_json()
  rng.shuffle(rows)
  cuts = sorted(rng.randrange(len(rows) + 1) for _ in range(3))
  parts = [
    tally_of(rows[a:b])
    for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)
  ]
  assert merged(GROUPS, parts).to_json() == whole
  assert merged(GROUPS, reversed(parts)).to_json() == whole
  # Pairs of pairs, by way of JSON.
  left, right = (
    merged(GROUPS, [Tally.from_json(t.to_json()) for t in pair])
    for pair in (parts[:2], parts[2:])
  )
  right.merge(left)
  assert right.to_json() == whole
  assert right == Tally.from_json(whole)


@laws
@given(documents)
def test_all_that_comes_goes_on_or_is_removed(rows):
  tally = tally_of(list(enumerate(rows)))
  for source in ('web', 'books'):
    mine = [row for row in rows if row[0] == source]
    kept = [row for row in mine if row[2] < 0]
    edited = [row for row in kept if row[3]]
    expected = {
      'documents_in': len(mine),
      'documents_out': len(kept),
      'documents_removed': len(mine) - len(kept),
      'documents_edited': len(edited),
      'bytes_in': size(mine),
      'bytes_out': size(kept) + 3 * len(edited),
      'bytes_removed': size(mine) - size(kept),
      'bytes_edited': 3 * len(edited),
    }
    for measure, n in expected.items():
      assert tally.tables.funnel['quality', source, measure] == n, measure
    for number, rule in enumerate(RULES):
      by_rule = [row for row in mine if row[2] == number]
      key = ('quality', rule, source)
      assert tally.tables.removed[*key, 'documents'] == len(by_rule)
      assert tally.tables.removed[*key, 'bytes'] == size(by_rule)


def size(rows):
  return sum(len(row[1].encode()) for row in rows)


def slow_mentions(text, groups):
  return {
    name
    for name, terms in groups.items()
    if any(
      re.search(rf'(?<!\w){re.escape(term)}(?!\w)', text.casefold())
      for term in terms
    )
  }


def test_mentions_are_whole_words_in_any_case():
  groups = parse_groups(
    ('women=she,her', 'aa=african american', 'x=non-binary,Straße', 'y=her')
  )
  find = Mentions(groups)
  assert find('Ask HER.') == {'women', 'y'}
  assert find('the shell, a sherpa, she_1, éshe') == set()
  assert find('“She” – déjà vu') == {'women'}
  assert find('shé said: ashe, ëher') == set()
  assert find('An African American, not AfricanAmerican') == {'aa'}
  assert find('pan-african americans') == set()
  assert find('a NON-BINARY person') == {'x'}
  assert find('STRASSE') == {'x'}
  assert Mentions({})('she') == frozenset()


@laws
@given(
  st.lists(
    st.sampled_from(
      (
        'she',
        'Her',
        'é',
        ' ',
        '_',
        '-',
        '.',
        '“',
        '\n',
        'n',
        'non',
        'binary',
        '1',
      )
    ),
    max_size=12,
  ).map(''.join)
)
def test_mentions_are_those_of_a_plain_search(text):
  groups = parse_groups(('a=she,her', 'b=non-binary', 'c=é', 'd=her é,n1'))
  assert Mentions(groups)(text) == slow_mentions(text, groups)


def test_term_groups_are_checked():
  assert parse_groups(('men=He, his,he',)) == {'men': ('he', 'his')}
  with pytest.raises(ValueError, match='an empty term'):
    parse_groups(('men=he,,his',))
  with pytest.raises(ValueError, match="'name=value'"):
    parse_groups(('men',))


def test_mentions_are_counted_of_those_that_come_and_those_that_leave():
  tally = Tally(GROUPS)
  batch = {
    'ids': ['1', '2', '3'],
    'sources': ['web', 'web', 'books'],
    'texts': ['she and he', 'He', 'her'],
    'texts_after': ['', '', ''],
  }
  tally.stage('edit', (), **batch, rule_D=np.full(3, -1))
  # The edit took the words, and not the mention.
  batch = batch | {'texts': ['', '', ''], 'texts_after': None}
  tally.stage('cut', ('r',), **batch, rule_D=np.array([0, -1, 0]))
  counts = tally.tables.mentions
  assert {key[1:]: n for key, n in counts.items() if key[0] == 'cut'} == {
    ('web', 'women', 'documents'): 1,
    ('web', 'men', 'documents'): 2,
    ('books', 'women', 'documents'): 1,
    ('web', 'women', 'removed'): 1,
    ('web', 'men', 'removed'): 1,
    ('books', 'women', 'removed'): 1,
  }


def test_lengths_are_counted_by_powers_of_two():
  tally = Tally({})
  tally.lengths('before', ['a'] * 6, ['', 'x', 'xy', 'xyz', 'xyzä', 'é' * 4])
  assert tally.tables.lengths == {
    ('before', 'a', 0, 'documents'): 2,
    ('before', 'a', 0, 'bytes'): 1,
    ('before', 'a', 1, 'documents'): 2,
    ('before', 'a', 1, 'bytes'): 5,
    ('before', 'a', 2, 'documents'): 1,
    ('before', 'a', 2, 'bytes'): 5,
    ('before', 'a', 3, 'documents'): 1,
    ('before', 'a', 3, 'bytes'): 8,
  }


def removal(ids, texts):
  tally = Tally({})
  tally.stage(
    's',
    ('r',),
    ids=ids,
    sources=['a'] * len(ids),
    texts=texts,
    texts_after=None,
    rule_D=np.zeros(len(ids), np.int8),
  )
  return tally


def test_examples_are_a_fair_and_fixed_draw():
  ids = [str(i) for i in range(1000)]
  tally = removal(ids, ['t' * 5000] * 1000)
  examples = tally.examples['s', 'r']
  assert len(examples) == EXAMPLES
  assert {len(e.text) for e in examples} == {HEAD_CHARACTERS}
  # Neither the first nor the last.
  numbers = sorted(int(e.id) for e in examples)
  assert numbers[0] < 300 < 700 < numbers[-1]
  random.Random(0).shuffle(ids)
  assert removal(ids, ['t' * 5000] * 1000) == tally


def test_a_stage_of_no_documents_still_has_its_rules():
  tally = removal([], [])
  assert json.loads(tally.to_json())['rules'] == {'s': ['r']}
  assert Tally.from_json(tally.to_json()).rules == {'s': ('r',)}


def test_nothing_found_is_nothing_counted():
  tally = Tally({})
  tally.count('email', 'web', 0)
  assert tally == Tally({})
  tally.count('email', 'web', 1)
  assert tally != Tally({})


def test_only_like_tallies_add_up():
  with pytest.raises(ValueError, match=r'data\.curation\.term_groups'):
    Tally(GROUPS).merge(Tally({}))
  other = Tally({})
  other.rules['s'] = ('another',)
  with pytest.raises(ValueError, match='the stage s was counted'):
    other.merge(removal([], []))
  old = (
    removal([], [])
    .to_json()
    .replace(b'"format_version": 1', b'"format_version": 0')
  )
  with pytest.raises(ValueError, match='format 0'):
    Tally.from_json(old)
