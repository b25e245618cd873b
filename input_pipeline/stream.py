"""The training rows of a run: which ones a step takes, and their tokens.

The two are apart: `places_of_step` is a pure function of (seed, step) that
reads no token, and `read` fetches what stands at these places.

Suffixes: N places of a batch, R tokens of a row.
"""

import dataclasses

import numpy as np

from input_pipeline import order
from input_pipeline.repack import RepackedRows
from input_pipeline.store import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
  """What stands at places of a batch, in their order; int64 [N] each.

  Attributes:
    part_N: dataset, as an index of the stream's parts.
    row_N: row of that dataset's training split.
    epoch_N: how often all rows of that dataset were seen before.
  """

  part_N: np.ndarray
  row_N: np.ndarray
  epoch_N: np.ndarray


class Stream:
  """Rows without end, of which step k takes the k-th batch.

  Args:
    rows: the training split, as stored or packed anew in each epoch.
    seed: of the order of the rows.
    batch_size: rows of the global batch.
  """

  def __init__(
    self, rows: Rows | RepackedRows, *, seed: int, batch_size: int
  ) -> None:
    self.row_length = rows.row_length
    self.dtype = rows.dtype
    self._rows = rows
    self._seed = seed
    self._batch_size = batch_size

  def places_of_step(self, step: int, row_start: int, row_stop: int) -> Places:
    """Places [row_start, row_stop) of the global batch of a step."""
    assert step >= 0, step
    assert 0 <= row_start <= row_stop <= self._batch_size, (row_start, row_stop)
    first = step * self._batch_size
    row_N, epoch_N = order.rows_in_order(
      first + row_start,
      first + row_stop,
      seed=self._seed,
      num_rows=len(self._rows),
    )
    return Places(part_N=np.zeros_like(row_N), row_N=row_N, epoch_N=epoch_N)

  def read(self, places: Places) -> np.ndarray:
    """The rows at these places, uint16 or uint32 [N, R]."""
    return self._rows.read(places.row_N, places.epoch_N)

  def sources(self, places: Places) -> list[str]:
    """Sources of the documents that begin at these places, in their order."""
    return [
      piece.source
      for pieces in self._rows.pieces(places.row_N, places.epoch_N)
      for piece in pieces
      if not piece.offset
    ]
