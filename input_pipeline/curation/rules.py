"""What the rules of curation have in common.

Legend of array names: D documents.
"""

from collections.abc import Sequence

import numpy as np


def first_rule(num_documents: int, broken: Sequence[np.ndarray]) -> np.ndarray:
  """Returns `Outcome.rule_D`: the first rule that a document breaks.

  Args:
    num_documents: D.
    broken: for each rule, in their order, bool [D].
  """
  rule_D = np.full(num_documents, -1, np.int8)
  for number in reversed(range(len(broken))):
    rule_D[broken[number]] = number
  return rule_D


def fraction(part_D: np.ndarray, whole_D: np.ndarray) -> np.ndarray:
  """Divides; 0 where the whole is 0: float64 [D]."""
  return part_D / np.maximum(whole_D, 1)


def member(points_X: np.ndarray, characters: str) -> np.ndarray:
  """Whether each code point is one of a few characters: bool [X]."""
  found_X = np.zeros(points_X.shape, bool)
  for character in characters:
    found_X |= points_X == ord(character)
  return found_X
