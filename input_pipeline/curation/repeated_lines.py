"""Lines that stand in several documents, of which one keeps them.

Legend of array names: L lines, D documents, W words, N records of a partition.

Two lines are the same if their words are, whatever space stands around them.
"""

from collections.abc import Collection

import numpy as np

from input_pipeline.curation.characters import Spans
from input_pipeline.curation.columns import Columns

RECORD = np.dtype(
  [('key', '<u8'), ('rank', '<u8'), ('position', '<u8'), ('line', '<u4')]
)
LINE = np.dtype([('position', '<u8'), ('line', '<u4')])


def line_records(
  columns: Columns,
  rank_D: np.ndarray,
  position_D: np.ndarray,
  min_words: int,
) -> np.ndarray:
  """A record for each line of `min_words` words or more: [N] of RECORD.

  Raises:
    ValueError: if `min_words` would take blank lines, too.
  """
  if min_words < 1:
    raise ValueError(
      f'repeated_lines={min_words} of a profile in data.curation: a line that'
      ' may be removed has 1 word or more; None removes no lines'
    )
  lines = np.flatnonzero(columns.num_words_L >= min_words)
  doc_N = columns.doc_L[lines]
  first_line_D = np.cumsum(columns.num_lines_D) - columns.num_lines_D
  first_N = columns.first_word_L[lines]
  records_N = np.empty(lines.size, RECORD)
  records_N['key'] = Spans(columns.hash_W).hash(
    first_N, first_N + columns.num_words_L[lines]
  )
  records_N['rank'] = rank_D[doc_N]
  records_N['position'] = position_D[doc_N]
  records_N['line'] = lines - first_line_D[doc_N]
  return records_N


def later_lines(records_N: np.ndarray) -> np.ndarray:
  """Lines that stand in a better document, too.

  All of a line's occurrences within the best document stay.

  Args:
    records_N: of `line_records`, sorted by all their fields.

  Returns:
    Of LINE, by position and line.
  """
  key_N = records_N['key']
  if not key_N.size:
    return np.empty(0, LINE)
  assert (key_N[1:] >= key_N[:-1]).all(), 'records are sorted by key'
  new_N = np.append(True, key_N[1:] != key_N[:-1])
  owner_N = records_N['position'][new_N][np.cumsum(new_N) - 1]
  later = records_N[records_N['position'] != owner_N]
  later = later[np.lexsort((later['line'], later['position']))]
  lines = np.empty(later.size, LINE)
  lines['position'], lines['line'] = later['position'], later['line']
  return lines


def without_lines(text: str, lines: Collection[int]) -> str:
  """The text less the lines of these numbers, the first of which is 0."""
  absent = set(lines)
  kept = [
    line for number, line in enumerate(text.split('\n')) if number not in absent
  ]
  return '\n'.join(kept)
