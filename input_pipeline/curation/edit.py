"""Removes lines from texts.

Legend of array names: L lines, blank ones too; S lines that stay; D documents.
"""

import itertools

import numpy as np

from input_pipeline.curation.columns import Columns


def remove_lines(
  columns: Columns, remove_L: np.ndarray
) -> tuple[list[str] | None, np.ndarray]:
  """Removes lines that are not blank.

  Of the blank lines of a text that loses others, one stays between two that are
  not blank, and none at its ends.

  Returns:
    The D texts, None where nothing is removed; and the number of lines that
    each document loses, blank ones not counted, int64 [D].
  """
  removed_D = columns.sum_D(columns.doc_L[remove_L])
  changed = np.flatnonzero(removed_D)
  if not changed.size:
    return None, removed_D
  keep_L = ~remove_L
  keep_L[_surplus_blank_lines(columns, keep_L)] = False
  texts = list(columns.texts)
  stop_D = np.cumsum(columns.num_lines_D)
  for document in changed.tolist():
    stop = int(stop_D[document])
    keep = keep_L[stop - int(columns.num_lines_D[document]) : stop].tolist()
    kept = itertools.compress(texts[document].split('\n'), keep)
    texts[document] = '\n'.join(kept)
  return texts, removed_D


def _surplus_blank_lines(columns: Columns, keep_L: np.ndarray) -> np.ndarray:
  """Indices of the blank lines after a blank one or at an end of a text."""
  lines = np.flatnonzero(keep_L)
  blank_S = columns.num_words_L[lines] == 0
  doc_S = columns.doc_L[lines]
  after_blank_S = np.ones(lines.size, bool)
  after_blank_S[1:] = blank_S[:-1] | (doc_S[1:] != doc_S[:-1])
  surplus_S = blank_S & after_blank_S
  # Without those, at most one is left at the end of a text.
  rest = np.flatnonzero(~surplus_S)
  last = np.ones(rest.size, bool)
  last[:-1] = doc_S[rest[1:]] != doc_S[rest[:-1]]
  surplus_S[rest] = last & blank_S[rest]
  return lines[surplus_S]


def lines_that_say(
  columns: Columns,
  phrases: tuple[bytes, ...],
  mask_L: np.ndarray,
  *,
  hints: tuple[bytes, ...],
) -> np.ndarray:
  """Finds the lines with one of the phrases, in any case of letters: bool [L].

  Args:
    columns: the texts.
    phrases: in lower case.
    mask_L: the lines to look at.
    hints: a text without one of these has none of the phrases.
  """
  found_L = np.zeros(mask_L.size, bool)
  stop_D = np.cumsum(columns.num_lines_D).tolist()
  for text, stop in zip(columns.lowered, stop_D, strict=True):
    if _says(text, hints):
      lines = text.split(b'\n')
      first = stop - len(lines)
      for line in np.flatnonzero(mask_L[first:stop]).tolist():
        found_L[first + line] = _says(lines[line], phrases)
  return found_L


def _says(text: bytes, phrases: tuple[bytes, ...]) -> bool:
  return any(map(text.__contains__, phrases))
