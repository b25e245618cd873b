"""The rules of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1).

Legend of array names: W words, L lines that are not blank, P paragraphs, G
n-grams, D documents, X any of these.

A word is what stands between spaces. Lines and paragraphs are compared without
the space around them, and blank lines count as neither.
"""

import functools

import numpy as np

from input_pipeline.curation import characters
from input_pipeline.curation.columns import Columns, word_hash
from input_pipeline.curation.config import GopherQuality, GopherRepetition
from input_pipeline.curation.rules import first_rule, fraction, member
from input_pipeline.curation.stage import Outcome

STOP_WORDS = ('the', 'be', 'to', 'of', 'and', 'that', 'have', 'with')
# A line starts with a bullet if its first word is one of the former or its
# first character one of the latter.
_BULLET_WORDS = '-*'
_BULLET_CHARACTERS = '•‣●▪◦'
# Any odd number tells 'a b' from 'b a'.
_ODD = np.uint64(0x9E3779B97F4A7C15)

QUALITY_RULES = (
  'few_words', 'many_words', 'short_words', 'long_words', 'hashes', 'ellipses',
  'bullet_lines', 'ellipsis_lines', 'few_alphabetic_words', 'few_stop_words',
)  # fmt: skip
_TOP = (2, 3, 4)
_DUPLICATE = (5, 6, 7, 8, 9, 10)
REPETITION_RULES = (
  'duplicate_lines',
  'duplicate_paragraphs',
  'duplicate_line_characters',
  'duplicate_paragraph_characters',
  *(f'top_{n}gram' for n in _TOP),
  *(f'duplicate_{n}grams' for n in _DUPLICATE),
)


def apply_quality(columns: Columns, options: GopherQuality) -> Outcome:
  """Leaves out texts that do not look like written sentences."""
  words_D = columns.num_words_D
  mean_D = fraction(columns.sum_D(columns.doc_W, columns.length_W), words_D)
  hashes_D = columns.count_characters_D(columns.points_C == ord('#'))
  ellipses_D = _ellipses(columns)
  lines_D, bullets_D, trailing_D = _marked_lines(columns)
  alphabetic_D = columns.sum_D(columns.doc_W[columns.has_letter_W])
  symbols = options.max_symbol_ratio
  broken = (
    words_D < options.min_words,
    words_D > options.max_words,
    mean_D < options.min_mean_word_length,
    mean_D > options.max_mean_word_length,
    fraction(hashes_D, words_D) > symbols,
    fraction(ellipses_D, words_D) > symbols,
    fraction(bullets_D, lines_D) > options.max_bullet_lines,
    fraction(trailing_D, lines_D) > options.max_ellipsis_lines,
    fraction(alphabetic_D, words_D) < options.min_alphabetic_words,
    _different_stop_words(columns) < options.min_stop_words,
  )
  return Outcome(rule_D=first_rule(columns.num_documents, broken))


def _ellipses(columns: Columns) -> np.ndarray:
  counts = [text.count('...') + text.count('…') for text in columns.texts]
  return np.array(counts, np.int64)


def _marked_lines(
  columns: Columns,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lines, those with a bullet and those that end in an ellipsis: [D] each."""
  lines = columns.content_L
  doc_L = columns.doc_L[lines]
  first_L = columns.first_word_L[lines]
  points_L = columns.points_C[columns.start_W[first_L]]
  bullet_L = member(points_L, _BULLET_CHARACTERS)
  alone_L = columns.length_W[first_L] == 1
  bullet_L |= member(points_L, _BULLET_WORDS) & alone_L

  # Texts shorter than three characters look at the end of the array; a line
  # end stands there.
  end_L = columns.stop_W[columns.first_word_L[lines + 1] - 1]
  dots_L = np.ones(lines.size, bool)
  for back in (1, 2, 3):
    dots_L &= columns.points_C[end_L - back] == ord('.')
  dots_L |= columns.points_C[end_L - 1] == ord('…')
  return (
    columns.sum_D(doc_L),
    columns.sum_D(doc_L[bullet_L]),
    columns.sum_D(doc_L[dots_L]),
  )


def _different_stop_words(columns: Columns) -> np.ndarray:
  """How many of STOP_WORDS a document has, in any case of letters: [D]."""
  hashes, numbers = _stop_word_hashes()
  short = np.flatnonzero(columns.length_W <= max(map(len, STOP_WORDS)))
  hash_W = columns.hash_W[short]
  place_W = np.minimum(np.searchsorted(hashes, hash_W), hashes.size - 1)
  stop_W = hashes[place_W] == hash_W
  number_W, doc_W = numbers[place_W[stop_W]], columns.doc_W[short[stop_W]]
  size = columns.num_documents * len(STOP_WORDS)
  counts = np.bincount(doc_W * len(STOP_WORDS) + number_W, minlength=size)
  return (counts.reshape(-1, len(STOP_WORDS)) > 0).sum(axis=1)


@functools.cache
def _stop_word_hashes() -> tuple[np.ndarray, np.ndarray]:
  """Hashes of all forms of STOP_WORDS, sorted, and the word of each."""
  forms = sorted(
    (word_hash(form), number)
    for number, word in enumerate(STOP_WORDS)
    for form in (word, word.capitalize(), word.upper())
  )
  hashes, numbers = zip(*forms, strict=True)
  return np.array(hashes, np.uint64), np.array(numbers)


def apply_repetition(columns: Columns, options: GopherRepetition) -> Outcome:
  """Leaves out texts that repeat themselves.

  What counts as repeated is what stood before in the text; its first occurrence
  does not. The most frequent n-gram counts with all its occurrences, and only
  if it has two.
  """
  lines_D, line_characters_D = duplicate_lines(columns)
  paragraphs_D, paragraph_characters_D = duplicate_paragraphs(columns)
  top, duplicate = _ngram_fractions(columns)
  broken = (
    lines_D > options.max_duplicate_lines,
    paragraphs_D > options.max_duplicate_paragraphs,
    line_characters_D > options.max_duplicate_line_characters,
    paragraph_characters_D > options.max_duplicate_paragraph_characters,
    *(top[n] > getattr(options, f'max_top_{n}gram') for n in _TOP),
    *(
      duplicate[n] > getattr(options, f'max_duplicate_{n}grams')
      for n in _DUPLICATE
    ),
  )
  return Outcome(rule_D=first_rule(columns.num_documents, broken))


def duplicate_lines(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
  """Fraction of lines that stood before, and of characters in them: [D]."""
  lines = columns.content_L
  return _duplicate_spans(
    columns,
    columns.doc_L[lines],
    columns.first_word_L[lines],
    columns.first_word_L[lines + 1],
  )


def duplicate_paragraphs(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
  """The same of paragraphs."""
  lines, first_P = columns.content_L, columns.first_line_P
  last_P = np.append(first_P[1:], lines.size) - 1 if lines.size else first_P
  return _duplicate_spans(
    columns,
    columns.doc_L[lines[first_P]],
    columns.first_word_L[lines[first_P]],
    columns.first_word_L[lines[last_P] + 1],
  )


def _duplicate_spans(
  columns: Columns, doc_X: np.ndarray, first_X: np.ndarray, after_X: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  start_X, stop_X, hash_X = columns.trimmed(first_X, after_X)
  members, starts = _groups(_keys(hash_X, doc_X))
  later = np.delete(members, starts)
  length_X = stop_X - start_X
  return (
    fraction(columns.sum_D(doc_X[later]), columns.sum_D(doc_X)),
    fraction(
      columns.sum_D(doc_X[later], length_X[later]),
      columns.sum_D(doc_X, length_X),
    ),
  )


def _ngram_fractions(
  columns: Columns,
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
  """Fractions of the characters of all words, without the spaces.

  An n-gram that occurs twice consists of (n - 1)-grams that occur twice, so
  each n looks only where the one before found something.

  Returns:
    By n: of the most frequent n-gram, the longest of several, float64 [D]; of
    words within n-grams that stood before, float64 [D].
  """
  total_D = columns.sum_D(columns.doc_W, columns.length_W)
  place_W1 = np.append(0, np.cumsum(columns.length_W))
  top, duplicate = {}, {}
  first_G = columns.ngram_starts(2)
  key_W = _keys(columns.hash_W, columns.doc_W)
  for n in range(2, max(_DUPLICATE) + 1):
    doc_G = columns.doc_W[first_G]
    # Two n-grams are equal if their (n - 1)-grams are.
    key_G = characters.mix(key_W[first_G] * _ODD + key_W[first_G + 1])
    key_W[first_G] = key_G
    members, starts = _groups(key_G)
    if n in _TOP:
      length_G = place_W1[first_G + n] - place_W1[first_G]
      top_D = _most_frequent(columns, members, starts, doc_G, length_G)
      top[n] = fraction(top_D, total_D)
    if n in _DUPLICATE:
      later_G = np.sort(first_G[np.delete(members, starts)])
      # Each counts up to the next, where they overlap.
      stop_G = later_G + n
      stop_G[:-1] = np.minimum(stop_G[:-1], later_G[1:])
      length_G = place_W1[stop_G] - place_W1[later_G]
      duplicate_D = columns.sum_D(columns.doc_W[later_G], length_G)
      duplicate[n] = fraction(duplicate_D, total_D)
    repeated_W = np.zeros(columns.doc_W.size + 1, bool)
    repeated_W[first_G[members]] = True
    first_G = np.flatnonzero(repeated_W[:-1] & repeated_W[1:])
  return top, duplicate


def _most_frequent(
  columns: Columns,
  members: np.ndarray,
  starts: np.ndarray,
  doc_G: np.ndarray,
  length_G: np.ndarray,
) -> np.ndarray:
  """Characters of all occurrences of the most frequent n-gram: int64 [D]."""
  best_D = np.zeros(columns.num_documents, np.int64)
  counts = np.diff(np.append(starts, members.size))
  firsts = members[starts]
  # Compared by count, then by length.
  ranks = (counts << 32) + length_G[firsts]
  np.maximum.at(best_D, doc_G[firsts], ranks)
  return (best_D >> 32) * (best_D & 0xFFFFFFFF)


def _keys(hash_X: np.ndarray, doc_X: np.ndarray) -> np.ndarray:
  """Hashes that differ between documents, in their order: uint64 [X]."""
  last = int(doc_X[-1]) if doc_X.size else 0
  salt_D = characters.mix(np.arange(1, last + 2, dtype=np.uint64))
  return hash_X + salt_D[doc_X]


def _groups(key_X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Finds the keys that occur more than once.

  Returns:
    Indices of [X] with such keys, equal keys together and in order; and where
    in these each key starts.
  """
  order = _sorted_order(key_X)
  keys = key_X[order]
  same = np.zeros(keys.size, bool)
  same[:-1] = keys[1:] == keys[:-1]
  member_of_group = same.copy()
  member_of_group[1:] |= same[:-1]
  starts_group = same.copy()
  starts_group[1:] &= ~same[:-1]
  members = order[member_of_group]
  return members, np.flatnonzero(starts_group[member_of_group])


def _sorted_order(key_X: np.ndarray) -> np.ndarray:
  """`np.argsort(key_X, kind='stable')` of random uint64, but faster.

  Sorting numbers is several times faster than sorting their indices, so the
  indices are put into the low bits of the numbers.
  """
  bits = np.uint64(key_X.size.bit_length())
  packed_X = key_X >> bits << bits
  packed_X |= np.arange(key_X.size, dtype=np.uint64)
  packed_X.sort()
  order_X = (packed_X & ((np.uint64(1) << bits) - np.uint64(1))).astype(
    np.int64
  )
  high_X, sorted_X = packed_X >> bits, key_X[order_X]
  same_high = high_X[1:] == high_X[:-1]
  if np.array_equal(same_high, sorted_X[1:] == sorted_X[:-1]):
    return order_X
  # Two keys differ in their low bits alone: once in thousands of batches.
  return np.argsort(key_X, kind='stable')
