"""Training rows of which there are several copies, for several epochs.

Suffixes: N rows, R tokens of a row.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from input_pipeline.repack import RepackedRows
from input_pipeline.store import Piece, Rows


class CopiedRows:
  """The same documents in several encodings: epoch n reads copy n mod C.

  Args:
    copies: C of them.
  """

  def __init__(self, copies: Sequence[Rows | RepackedRows]) -> None:
    self.row_length = copies[0].row_length
    self.dtype = copies[0].dtype
    self._copies = tuple(copies)

  @property
  def epoch_rows(self) -> tuple[int, ...]:
    """Rows of each epoch, in a cycle; fewer merges make more rows."""
    return tuple(len(copy) for copy in self._copies)

  def read(self, indices_N: np.ndarray, epoch_N: np.ndarray) -> np.ndarray:
    """Rows of these indices in these epochs, uint16 or uint32 [N, R]."""
    rows_NR = np.empty((indices_N.size, self.row_length), self.dtype)
    copy_N = epoch_N % len(self._copies)
    for copy in np.unique(copy_N).tolist():
      chosen = np.flatnonzero(copy_N == copy)
      rows_NR[chosen] = self._copies[copy].read(
        indices_N[chosen], epoch_N[chosen]
      )
    return rows_NR

  def pieces(
    self, indices_N: np.ndarray, epoch_N: np.ndarray
  ) -> list[list[Piece]]:
    """Which documents stand in these rows, in the order of their places."""
    found = []
    for index, epoch in zip(indices_N, epoch_N, strict=True):
      copy = self._copies[epoch % len(self._copies)]
      found += copy.pieces(np.array([index]), np.array([epoch]))
    return found


TrainingRows: TypeAlias = Rows | RepackedRows | CopiedRows
