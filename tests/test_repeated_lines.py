"""A line of several documents stays in the best of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.curation import repeated_lines
from input_pipeline.curation.columns import Columns

law = settings(max_examples=100, derandomize=True, deadline=None)
# Few lines, so that they recur: in other space, blank, and within others.
LINES = ['', ' ', 'a b', ' a\tb ', 'a  b c', 'a b c', 'b a', 'x', 'A b']
TEXTS = st.lists(
  st.lists(st.sampled_from(LINES), max_size=6).map('\n'.join), max_size=6
)


def shuffled_out(texts, ranks, min_words, partitions=1, random=None):
  """{(document, line)} that is removed."""
  positions = np.arange(len(texts), dtype=np.uint64) + (7 << 32)
  ranks = np.array(ranks, np.uint64)
  records = repeated_lines.line_records(
    Columns(texts), ranks, positions, min_words
  )
  if random is not None:
    order = list(range(records.size))
    random.shuffle(order)
    records = records[order]
  found = set()
  for partition in range(partitions):
    part = records[records['key'] % np.uint64(partitions) == partition]
    order = np.lexsort([part[f] for f in reversed(part.dtype.names)])
    lines = repeated_lines.later_lines(part[order])
    assert np.array_equal(lines, np.sort(lines))
    found |= {(int(p) - (7 << 32), int(n)) for p, n in lines.tolist()}
  return found


def by_definition(texts, ranks, min_words):
  owner, removed = {}, set()
  for document in sorted(range(len(texts)), key=lambda d: (ranks[d], d)):
    for number, line in enumerate(texts[document].split('\n')):
      words = tuple(line.split())
      if len(words) < min_words:
        continue
      if owner.setdefault(words, document) != document:
        removed.add((document, number))
  return removed


@law
@given(
  TEXTS,
  st.lists(st.integers(0, 2), min_size=6, max_size=6),
  st.integers(1, 3),
  st.sampled_from([1, 2, 5]),
  st.randoms(use_true_random=False),
)
def test_all_but_the_best_document_lose_a_line(
  texts, ranks, min_words, partitions, random
):
  ranks = ranks[: len(texts)]
  found = shuffled_out(texts, ranks, min_words, partitions, random)
  assert found == by_definition(texts, ranks, min_words)


def test_lines_are_numbered_within_their_document():
  texts = ['one two\n\nthree four', 'new\nthree  four\none two\nthree four']
  assert shuffled_out(texts, [0, 0], 2) == {(1, 1), (1, 2), (1, 3)}
  assert shuffled_out(texts, [1, 0], 2) == {(0, 0), (0, 2)}
  assert repeated_lines.without_lines(texts[1], [1, 2, 3]) == 'new'
  assert repeated_lines.without_lines(texts[0], {0}) == '\nthree four'


def test_a_line_repeated_in_one_document_stays():
  assert shuffled_out(['a b\na b', 'c d'], [0, 0], 1) == set()


@law
@given(st.text('ab \n\r\x0b', max_size=30), st.sets(st.integers(0, 8)))
def test_the_other_lines_stay_as_they_are(text, removed):
  assert repeated_lines.without_lines(text, ()) == text
  left = repeated_lines.without_lines(text, removed)
  lines = text.split('\n')
  kept = [line for n, line in enumerate(lines) if n not in removed]
  assert left == '\n'.join(kept)


@pytest.mark.parametrize('min_words', [0, -3])
def test_blank_lines_cannot_be_removed(min_words):
  empty = np.empty(0, np.uint64)
  with pytest.raises(ValueError, match='repeated_lines'):
    repeated_lines.line_records(Columns([]), empty, empty, min_words)


def test_nothing_gives_nothing():
  assert shuffled_out([], [], 1) == set()
  assert shuffled_out(['', ' \n'], [0, 0], 1) == set()
