"""Removes lines from texts.

Legend of array names: L lines, blank ones too; D documents.
"""

import itertools
import re

import numpy as np

from input_pipeline.curation.columns import Columns

_GAP = re.compile(r'\n(?:[^\S\n]*\n){2,}')


def remove_lines(
  columns: Columns, remove_L: np.ndarray
) -> tuple[list[str] | None, np.ndarray]:
  """Removes lines; where lines go, one blank line at most stays between two.

  Returns:
    The D texts, None where nothing is removed; and the number of lines that
    each document loses, int64 [D].
  """
  removed_D = columns.sum_D(columns.doc_L[remove_L])
  changed = np.flatnonzero(removed_D)
  if not changed.size:
    return None, removed_D
  texts = list(columns.texts)
  stop_D = np.cumsum(columns.num_lines_D)
  for document in changed.tolist():
    stop = int(stop_D[document])
    first = stop - int(columns.num_lines_D[document])
    keep = (~remove_L[first:stop]).tolist()
    kept = itertools.compress(texts[document].split('\n'), keep)
    texts[document] = _GAP.sub('\n\n', '\n'.join(kept)).strip('\n')
  return texts, removed_D


def lines_that_say(
  columns: Columns, phrases: tuple[str, ...], mask_L: np.ndarray
) -> np.ndarray:
  """Finds the lines with one of the phrases, in any case of letters: bool [L].

  Args:
    columns: the texts.
    phrases: in lower case.
    mask_L: the lines to look at.
  """
  found_L = np.zeros(mask_L.size, bool)
  first = 0
  for text, size in zip(
    columns.texts, columns.num_lines_D.tolist(), strict=True
  ):
    if says(text, phrases):
      lines = text.split('\n')
      for line in np.flatnonzero(mask_L[first : first + size]).tolist():
        found_L[first + line] = says(lines[line], phrases)
    first += size
  return found_L


def says(text: str, phrases: tuple[str, ...]) -> bool:
  """Whether a text holds a phrase, in any case of letters."""
  lowered = text.lower()
  return any(phrase in lowered for phrase in phrases)
