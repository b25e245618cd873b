"""Rows of a made-up language that can be learned, for checks without data.

The next token depends on the last one and on the class of the one before; the
words are as unevenly frequent as those of a text (Zipf), and spans come again
within a row. A small model learns a part of that in a hundred steps, a larger
one more.

Suffixes: N rows, R tokens of a row, V words, C classes, S successors.
"""

import numpy as np

from train.rows import Marks

MARKS = Marks(pad_id=0, bos_id=1, continue_id=2)
_FIRST = 3
_CLASSES = 8
# Of a word's successors, the likeliest first; else it is any word.
_SHARES = (0.45, 0.2, 0.1, 0.05)
# A row ends in a copy of its beginning, as long as this share of it at most.
_COPIED = 0.25


def rows(*, vocabulary: int, count: int, length: int, seed: int) -> np.ndarray:
  """Rows of the language, [N, R]; the language itself is always the same.

  Args:
    vocabulary: ids are below it; above 8.
    count: rows.
    length: tokens of a row, the mark in front included.
    seed: of the rows.
  """
  words = vocabulary - _FIRST
  frequency_V = 1 / np.arange(1, words + 1)
  frequency_V /= frequency_V.sum()
  language = np.random.default_rng(0)
  next_CVS = language.choice(
    words, (_CLASSES, words, len(_SHARES)), p=frequency_V
  )
  class_V = language.integers(_CLASSES, size=words)

  generator = np.random.default_rng([seed, 1])
  any_NR = generator.choice(words, (count, length), p=frequency_V)
  chance_NR = generator.random((count, length))
  bounds_S = np.cumsum(_SHARES)
  row_NR = any_NR.copy()
  for r in range(2, length):
    last_N, class_N = row_NR[:, r - 1], class_V[row_NR[:, r - 2]]
    which_N = np.searchsorted(bounds_S, chance_NR[:, r])
    follows = which_N < len(_SHARES)
    which_N = np.minimum(which_N, len(_SHARES) - 1)
    row_NR[:, r] = np.where(
      follows, next_CVS[class_N, last_N, which_N], row_NR[:, r]
    )
  copied = int(length * _COPIED)
  if copied:
    row_NR[:, -copied:] = row_NR[:, 1 : copied + 1]
  row_NR += _FIRST
  row_NR[:, 0] = MARKS.bos_id
  return row_NR.astype(np.int32)
