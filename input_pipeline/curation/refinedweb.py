"""The rules of RefinedWeb for lines (Penedo et al. 2023, arXiv 2306.01116,
appendix G.2).

Legend of array names: L lines, D documents.

The paper names the kinds of lines and a few examples; the words of counters and
navigation here are those examples and close variants of them.
"""

import re

import numpy as np

from input_pipeline.curation import characters
from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import RefinedWeb
from input_pipeline.curation.edit import lines_that_say, remove_lines
from input_pipeline.curation.rules import first_rule, fraction
from input_pipeline.curation.stage import Outcome

RULES = ('many_words_removed', 'empty')

_COUNTED = (
  'like', 'share', 'comment', 'retweet', 'repost', 'quote', 'bookmark',
  'upvote', 'downvote', 'download', 'view', 'follower', 'repl',
)  # fmt: skip
_COUNTER = re.compile(
  rf'\W*\d[\d.,]*\s?[kmb]?\s+(?:{"|".join(_COUNTED)})(?:s|y|ies)?\W*', re.I
)
_MAX_COUNTER_WORDS = 3
# Where in a line a phrase must stand.
_ANYWHERE = ('items in cart',)
_AT_START = ('sign-in', 'sign in', 'signin', 'sign-out', 'sign out', 'signout')
_AT_END = ('read more...', 'read more…', 'read more')
_PHRASES = tuple(p.encode() for p in (*_ANYWHERE, *_AT_START, *_AT_END))


def apply(columns: Columns, options: RefinedWeb) -> Outcome:
  """Removes lines that are no text; leaves out what loses many words so."""
  remove_L = _lines_to_remove(columns, options)
  new_texts, removed_D = remove_lines(columns, remove_L)
  lost_D = columns.sum_D(
    columns.doc_L, np.where(remove_L, columns.num_words_L, 0)
  )
  words_D = columns.num_words_D
  broken = (
    fraction(lost_D, words_D) > options.max_removed_words,
    words_D == lost_D,
  )
  return Outcome(
    rule_D=first_rule(columns.num_documents, broken),
    texts=new_texts,
    counts={'lines_removed': removed_D},
  )


def _lines_to_remove(columns: Columns, options: RefinedWeb) -> np.ndarray:
  lines = columns.content_L
  first_L = columns.first_word_L[lines]
  after_L = columns.first_word_L[lines + 1]
  length_L = columns.stop_W[after_L - 1] - columns.start_W[first_L]
  upper_L = _characters_of_lines(columns, characters.UPPER)[lines]
  digits_L = _characters_of_lines(columns, characters.DIGIT)[lines]
  spaces_L = _characters_of_lines(columns, characters.SPACE)[lines]
  whole_L = columns.stop_L[lines] - columns.start_L[lines]

  remove_L = np.zeros(columns.num_words_L.size, bool)
  remove_L[lines] = (
    (upper_L > options.max_uppercase * length_L)
    | (digits_L == whole_L - spaces_L)
    | (after_L - first_L == 1)
  )
  few_L = (columns.num_words_L > 0) & ~remove_L
  few_L &= columns.num_words_L <= options.max_navigation_words
  for line in np.flatnonzero(
    lines_that_say(columns, _PHRASES, few_L, hints=_PHRASES)
  ).tolist():
    remove_L[line] = _is_navigation(columns.line(line))
  few_L &= columns.num_words_L <= _MAX_COUNTER_WORDS
  for line in np.flatnonzero(few_L & _has_digit(columns)).tolist():
    remove_L[line] |= _COUNTER.fullmatch(columns.line(line)) is not None
  return remove_L


def _is_navigation(line: str) -> bool:
  line = line.strip().lower()
  return (
    any(phrase in line for phrase in _ANYWHERE)
    or line.startswith(_AT_START)
    or line.endswith(_AT_END)
  )


def _has_digit(columns: Columns) -> np.ndarray:
  return _characters_of_lines(columns, characters.DIGIT) > 0


def _characters_of_lines(columns: Columns, bit: int) -> np.ndarray:
  """Characters of a class in each line, without its end: int64 [L]."""
  found_C = columns.classes_C & np.uint8(bit) != 0
  before_C1 = np.append(0, np.cumsum(found_C))
  return before_C1[columns.stop_L] - before_C1[columns.start_L]
