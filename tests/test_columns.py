"""Columns say of many texts what `str` says of each."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.curation import characters
from input_pipeline.curation.columns import Columns, word_hash

# Spaces of all kinds, letters whose case is unusual, and a lone surrogate.
ALPHABET = 'ab AZ\n\n\t\r\v\x1c\x85\u2028\u3000é\u0130ǅΣς9٣²\U0001f600\ud800.'
TEXTS = st.lists(st.text(ALPHABET, max_size=30), max_size=6)
law = settings(max_examples=150, derandomize=True, deadline=None)


def lowered(word):
  lower = [character.lower() for character in word]
  return ''.join(
    new if len(new) == 1 else old for old, new in zip(word, lower, strict=True)
  )


def test_the_classes_are_those_of_str():
  table_Q = characters.classes()
  bits = {
    'isspace': characters.SPACE, 'isalpha': characters.ALPHA,
    'isupper': characters.UPPER, 'islower': characters.LOWER,
    'isdigit': characters.DIGIT, 'isalnum': characters.ALNUM,
    'isdecimal': characters.DECIMAL,
  }  # fmt: skip
  for method, bit in bits.items():
    found = table_Q & bit > 0
    told = [
      getattr(chr(q), method)() for q in range(characters.NUM_CODE_POINTS)
    ]
    np.testing.assert_array_equal(found, told, method)


def test_unwanted_are_control_characters_marks_and_surrogates():
  unwanted = {
    chr(q) for q in np.flatnonzero(characters.classes() & characters.UNWANTED)
  }
  every = map(chr, range(characters.NUM_CODE_POINTS))
  told = {c for c in every if unicodedata.category(c) in ('Cc', 'Cs')}
  assert unwanted == told - {'\n', '\t'} | {'\ufeff'}


def test_lower_case_is_that_of_str_where_it_is_one_character():
  table = characters.lower().tolist()
  for point, lower in enumerate(table):
    expected = chr(point).lower()
    assert chr(lower) == (expected if len(expected) == 1 else chr(point))


@law
@given(TEXTS)
def test_words_are_those_of_split(texts):
  columns = Columns(texts)
  expected = [(d, word) for d, t in enumerate(texts) for word in t.split()]
  found = [
    (int(doc), columns.word(index)) for index, doc in enumerate(columns.doc_W)
  ]
  assert found == expected
  assert columns.num_words_D.tolist() == [len(t.split()) for t in texts]
  assert columns.length_W.tolist() == [len(word) for _, word in expected]
  assert columns.hash_W.tolist() == [word_hash(w) for _, w in expected]
  assert columns.folded_hash_W.tolist() == [
    word_hash(w, folded=True) for _, w in expected
  ]
  assert columns.first_word_D[-1] == len(expected)


@law
@given(TEXTS)
def test_lines_and_paragraphs_are_those_of_split(texts):
  columns = Columns(texts)
  lines = [(d, line) for d, t in enumerate(texts) for line in t.split('\n')]
  joined = '\n'.join([*texts, ''])
  found = zip(columns.doc_L, columns.start_L, columns.stop_L, strict=True)
  assert [(int(d), joined[a:b]) for d, a, b in found] == lines
  assert columns.num_words_L.tolist() == [len(x.split()) for _, x in lines]
  content = [i for i, (_, line) in enumerate(lines) if line.strip()]
  assert columns.content_L.tolist() == content
  starts = [
    place
    for place, i in enumerate(content)
    if i - 1 not in content or lines[i - 1][0] != lines[i][0]
  ]
  assert columns.first_line_P.tolist() == starts


@law
@given(TEXTS)
def test_sums_over_a_document_are_its_own(texts):
  columns = Columns(texts)
  upper = columns.count_class_D(characters.UPPER)
  assert upper.tolist() == [sum(map(str.isupper, text)) for text in texts]
  assert columns.length_D.tolist() == [len(text) for text in texts]
  total = columns.sum_D(columns.doc_W, columns.length_W)
  assert total.tolist() == [sum(map(len, text.split())) for text in texts]


@law
@given(TEXTS, st.integers(1, 4), st.booleans())
def test_ngrams_are_equal_where_their_words_are(texts, n, folded):
  columns = Columns(texts)
  hash_G, doc_G, first_G = columns.ngrams(n, folded=folded)
  expected = []
  first = 0
  for document, text in enumerate(texts):
    words = [lowered(w) if folded else w for w in text.split()]
    for place in range(len(words) - n + 1):
      gram = tuple(words[place : place + n])
      expected.append((gram, document, first + place))
    first += len(words)
  assert doc_G.tolist() == [document for _, document, _ in expected]
  assert first_G.tolist() == [start for _, _, start in expected]
  pairs = set(zip(hash_G.tolist(), (e[0] for e in expected), strict=True))
  assert len(pairs) == len({h for h, _ in pairs}) == len({g for _, g in pairs})


@law
@given(TEXTS, TEXTS, TEXTS)
def test_neighbours_change_no_hash(before, texts, after):
  alone, among = Columns(texts), Columns([*before, *texts, *after])
  inside_W = np.isin(
    among.doc_W, np.arange(len(before), len(before) + len(texts))
  )
  np.testing.assert_array_equal(among.hash_W[inside_W], alone.hash_W)
  first_X, after_X = alone.first_word_D[:-1], alone.first_word_D[1:]
  filled_X = np.flatnonzero(after_X > first_X)
  if filled_X.size:
    _, _, hashes = alone.trimmed(first_X[filled_X], after_X[filled_X])
    told = [word_hash(texts[d].strip()) for d in filled_X]
    assert hashes.tolist() == told


@pytest.mark.parametrize(
  ('word', 'expected'),
  [('a', 0xF4FF076A3731C71C), ('Straße', 0x13D0AD421DE5C407), ('', 0)],
)
def test_hashes_are_the_same_everywhere(word, expected):
  assert word_hash(word) == expected
