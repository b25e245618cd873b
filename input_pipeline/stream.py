"""The training rows of a run: which ones a step takes, and their tokens.

The two are apart: `places_of_step` is a pure function of (seed, step) that
reads no token, and `read` fetches what stands at these places.

Suffixes: N places of a batch, R tokens of a row, P datasets.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from input_pipeline import order
from input_pipeline.copies import TrainingRows
from input_pipeline.mixture import Mixture
from input_pipeline.store import Piece
from input_pipeline.weights import ALWAYS, Schedule

# Rows of a dataset whose order is computed together, as one call takes as long
# as many rows do.
_CHUNK = 2_048


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
    rows: the training split of each dataset, as stored, packed anew in each
      epoch, or from several copies.
    seed: of the order of the rows.
    batch_size: rows of the global batch.
    names: of the datasets; '' where there is only one.
    schedules: of their weights.
  """

  def __init__(
    self,
    rows: Sequence[TrainingRows],
    *,
    seed: int,
    batch_size: int,
    names: Sequence[str] = ('',),
    schedules: Sequence[Schedule] = (ALWAYS,),
  ) -> None:
    assert len(rows) == len(names) == len(schedules), (names, schedules)
    self.names = tuple(names)
    self.row_length = rows[0].row_length
    self.dtype = rows[0].dtype
    self._rows = tuple(rows)
    self._seed = seed
    self._batch_size = batch_size
    self._mixture = Mixture(names, schedules, batch_size=batch_size)
    self._chunk = functools.lru_cache(2 * len(rows))(self._make_chunk)

  def places_of_step(self, step: int, row_start: int, row_stop: int) -> Places:
    """Places [row_start, row_stop) of the global batch of a step."""
    assert step >= 0, step
    assert 0 <= row_start <= row_stop <= self._batch_size, (row_start, row_stop)
    first = step * self._batch_size
    part_N, rank_N = self._mixture.look_up(first + row_start, first + row_stop)
    row_N, epoch_N = np.empty_like(rank_N), np.empty_like(rank_N)
    for part, chosen in _by_part(part_N):
      # The rows that a dataset gives to one batch follow one another.
      row_N[chosen], epoch_N[chosen] = self._in_order(
        part, int(rank_N[chosen[0]]), int(rank_N[chosen[-1]]) + 1
      )
    return Places(part_N=part_N, row_N=row_N, epoch_N=epoch_N)

  def _in_order(
    self, part: int, start: int, stop: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows and epochs of what a dataset gives from its start-th row on."""
    chunks = range(start // _CHUNK, (stop - 1) // _CHUNK + 1)
    row_N, epoch_N = np.concatenate(
      [self._chunk(part, chunk) for chunk in chunks], axis=1
    )
    offset = chunks.start * _CHUNK
    return row_N[start - offset : stop - offset], (
      epoch_N[start - offset : stop - offset]
    )

  def _make_chunk(self, part: int, chunk: int) -> np.ndarray:
    return np.stack(
      order.rows_in_order(
        chunk * _CHUNK,
        (chunk + 1) * _CHUNK,
        seed=self._seed,
        epoch_rows=self._rows[part].epoch_rows,
        name=self.names[part],
      )
    )

  def read(self, places: Places) -> np.ndarray:
    """The rows at these places, uint16 or uint32 [N, R]."""
    if len(self._rows) == 1:
      return self._rows[0].read(places.row_N, places.epoch_N)
    rows_NR = np.empty((places.part_N.size, self.row_length), self.dtype)
    for part, chosen in _by_part(places.part_N):
      rows_NR[chosen] = self._rows[part].read(
        places.row_N[chosen], places.epoch_N[chosen]
      )
    return rows_NR

  def pieces(self, places: Places) -> list[list[Piece]]:
    """Which documents stand in the rows at these places."""
    found: list[list[Piece]] = [[] for _ in places.part_N]
    for part, chosen in _by_part(places.part_N):
      pieces = self._rows[part].pieces(
        places.row_N[chosen], places.epoch_N[chosen]
      )
      for place, held in zip(chosen.tolist(), pieces, strict=True):
        found[place] = held
    return found

  def sources(self, places: Places) -> list[str]:
    """Sources of the documents that begin at these places, in their order."""
    return [
      piece.source
      for pieces in self.pieces(places)
      for piece in pieces
      if not piece.offset
    ]

  def epochs(self, step: int) -> np.ndarray:
    """How often each dataset was read before a step, float64 [P]."""
    given_P = self._mixture.given_before(step * self._batch_size)
    found = []
    for rows, given in zip(self._rows, given_P.tolist(), strict=True):
      epoch, offset = order.epoch_at(given, rows.epoch_rows)
      size = rows.epoch_rows[epoch % len(rows.epoch_rows)]
      found.append(epoch + offset / size)
    return np.array(found)

  @property
  def num_rows(self) -> np.ndarray:
    """Rows of the first epoch of each dataset, int64 [P]."""
    return np.array([rows.epoch_rows[0] for rows in self._rows])


def _by_part(part_N: np.ndarray) -> list[tuple[int, np.ndarray]]:
  """Each dataset at these places, and at which of them it stands."""
  parts = np.flatnonzero(np.bincount(part_N)).tolist()
  return [(part, np.flatnonzero(part_N == part)) for part in parts]
