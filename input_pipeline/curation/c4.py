"""The rules of C4 (Raffel et al. 2020, JMLR 21, section 2.2).

Legend of array names: W words, L lines, D documents.

The constants are those of the paper and of its code (tensorflow_datasets,
text/c4_utils.py). Other than there, lines keep their indentation, blank lines
between two that stay are kept, so paragraphs survive, and marks of citations
are left alone.
"""

import numpy as np

from input_pipeline.curation.columns import Columns
from input_pipeline.curation.config import C4
from input_pipeline.curation.edit import lines_that_say, remove_lines
from input_pipeline.curation.rules import first_rule, member
from input_pipeline.curation.stage import Outcome

RULES = ('curly_bracket', 'lorem_ipsum', 'few_sentences', 'empty')

POLICY_PHRASES = (
  b'javascript', b'terms of use', b'privacy policy', b'cookie policy',
  b'uses cookies', b'use of cookies', b'use cookies',
)  # fmt: skip
# Each of those has one of these, so few texts are searched for all.
_POLICY_HINTS = (b'javascript', b'terms of use', b'privacy policy', b'cookie')
_LOREM_IPSUM = b'lorem ipsum'
_END_OF_LINE = '.?!"”'
_END_OF_SENTENCE = '.?!…。？！'
# May stand between the end of a sentence and the space after it.
_CLOSING = '"\'”’)]»'


def apply(columns: Columns, options: C4) -> Outcome:
  """Removes lines that are not sentences; leaves out what has few of them."""
  curly = [options.no_curly_brackets and '{' in t for t in columns.texts]
  lorem = [
    options.no_lorem_ipsum and _LOREM_IPSUM in t for t in columns.lowered
  ]
  remove_L = _lines_to_remove(columns, options)
  new_texts, removed_D = remove_lines(columns, remove_L)
  sentences_D = columns.sum_D(
    columns.doc_L, np.where(remove_L, 0, _sentences(columns))
  )
  broken = (
    np.array(curly, bool),
    np.array(lorem, bool),
    sentences_D < options.min_sentences,
    sentences_D == 0,
  )
  return Outcome(
    rule_D=first_rule(columns.num_documents, broken),
    texts=new_texts,
    counts={'lines_removed': removed_D},
  )


def _lines_to_remove(columns: Columns, options: C4) -> np.ndarray:
  """Lines that are not blank and that a rule removes: bool [L]."""
  content_L = columns.num_words_L > 0
  remove_L = columns.num_words_L < options.min_words_per_line
  long_words = np.flatnonzero(columns.length_W > options.max_word_length)
  line_of = np.searchsorted(columns.first_word_L, long_words, side='right') - 1
  remove_L[line_of] = True
  if options.end_punctuation:
    lines = columns.content_L
    end_L = columns.stop_W[columns.first_word_L[lines + 1] - 1]
    last_L = columns.points_C[end_L - 1]
    dots_L = last_L == ord('.')
    for back in (2, 3):
      dots_L &= columns.points_C[end_L - back] == ord('.')
    remove_L[lines] |= dots_L | ~member(last_L, _END_OF_LINE)
  remove_L &= content_L
  if options.remove_policy_lines:
    left_L = content_L & ~remove_L
    remove_L |= lines_that_say(
      columns, POLICY_PHRASES, left_L, hints=_POLICY_HINTS
    )
  return remove_L


def _sentences(columns: Columns) -> np.ndarray:
  """Sentences of each line: int64 [L].

  A sentence ends with its line, and after a word with a mark of the end of a
  sentence if the next word does not start with a small letter.
  """
  points_C, stop_W = columns.points_C, columns.stop_W
  last_W = points_C[stop_W - 1]
  ends_W = member(last_W, _END_OF_SENTENCE)
  closing = np.flatnonzero(member(last_W, _CLOSING) & (columns.length_W > 1))
  before = points_C[stop_W[closing] - 2]
  ends_W[closing] |= member(before, _END_OF_SENTENCE)
  ends_W[:-1] &= ~columns.starts_small_W[1:]
  first_L, content = columns.first_word_L, columns.content_L
  ends_W[first_L[content + 1] - 1] = True
  before_W1 = np.append(0, np.cumsum(ends_W))
  return np.diff(before_W1[first_L])
