"""Rows that are packed anew in each epoch, from the tokens of a store.

A new epoch cuts long documents elsewhere and puts other documents together, so
that no row comes back as it was. Every token still stands exactly once in each
epoch, and every epoch has as many rows: of a document longer than a row, only
the tokens that fill no whole row matter, and `_room_D` reserves the same places
for them wherever the document is cut. So the numbers that are packed are the
same in each epoch, and best-fit decreasing makes the same number of rows of
them. Which row stands where is therefore known without packing the epochs
before.

Suffixes: N rows, R tokens of a row, D documents of a shard, I items that are
packed, P pieces, S spans.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from input_pipeline import packing
from input_pipeline.packing import DOCUMENT, LENGTH, OFFSET, ROW
from input_pipeline.random_bits import Draws
from input_pipeline.spans import copy_spans, ranges
from input_pipeline.store import Piece, Rows
from input_pipeline.store_manifest import TokenizerManifest


def repack(
  content_D: np.ndarray, row_length: int, draws: Draws
) -> tuple[np.ndarray, int]:
  """Packs documents into rows, differently for other draws.

  Args:
    content_D: tokens of each document, its end token included.
    row_length: R.
    draws: the random numbers of one row, which decide.

  Returns:
    The pieces, int64 [P, 4] with the columns of packing.py, ordered by row and
    by place in the row; and the number of rows, the same for all draws.
  """
  room = row_length - 1
  full_D, rest_D = content_D // room, content_D % room
  document_D, zero_D = np.arange(content_D.size), np.zeros_like(content_D)
  # A long document begins with this many of the tokens that fill no whole row;
  # the others end it.
  front_D = draws.integers(zero_D, document_D, rest_D + 1)
  front_D[full_D == 0] = 0

  whole_rows = int(full_D.sum())
  whole_P4 = np.empty((whole_rows, 4), np.int64)
  whole_P4[:, ROW] = np.arange(whole_rows)
  whole_P4[:, DOCUMENT] = np.repeat(document_D, full_D)
  whole_P4[:, OFFSET] = np.repeat(front_D, full_D) + room * ranges(
    zero_D, full_D
  )
  whole_P4[:, LENGTH] = row_length

  item_I = np.flatnonzero(rest_D)
  places_I = _room_D(full_D, rest_D)[item_I]
  tie_I = draws.uniform(zero_D[item_I], item_I, 1)
  order = np.lexsort([tie_I, -places_I])
  item_I, places_I = item_I[order], places_I[order]
  bins_I, num_bins = packing.best_fit(places_I, row_length)

  # Front and back of a document stand in the same row, one after the other.
  both_I24 = np.empty((item_I.size, 2, 4), np.int64)
  both_I24[:, :, ROW] = whole_rows + bins_I[:, None]
  both_I24[:, :, DOCUMENT] = item_I[:, None]
  both_I24[:, 0, OFFSET] = 0
  both_I24[:, 1, OFFSET] = (front_D + room * full_D)[item_I]
  both_I24[:, 0, LENGTH] = front_D[item_I] + 1
  both_I24[:, 1, LENGTH] = (rest_D - front_D)[item_I] + 1
  rest_P4 = both_I24.reshape(-1, 4)
  rest_P4 = rest_P4[rest_P4[:, LENGTH] > 1]
  rest_P4 = rest_P4[np.argsort(rest_P4[:, ROW], kind='stable')]
  return np.concatenate([whole_P4, rest_P4]), whole_rows + num_bins


def count_rows(content_D: np.ndarray, row_length: int) -> int:
  """How many rows `repack` makes of documents, whatever is drawn."""
  full_D, rest_D = np.divmod(content_D, row_length - 1)
  places_I = _room_D(full_D, rest_D)[rest_D > 0]
  bins = packing.best_fit(np.sort(places_I)[::-1], row_length)[1]
  return int(full_D.sum()) + bins


def _room_D(full_D: np.ndarray, rest_D: np.ndarray) -> np.ndarray:
  """Places for the tokens of each document that fill no whole row.

  One mark if it is short, two if it is long, as its rest may stand on both
  sides of the whole rows; that is a row at most.
  """
  return rest_D + 1 + (full_D > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shard:
  """Where the tokens of a shard's documents lie in the store.

  Attributes:
    content_D: tokens of each document, its end token included.
    begin_D: of those of all documents before it.
    at_S: tokens before each stored span, the spans in the order of documents;
      and one more, after the last.
    place_S: where each span lies, as a flat index into all rows of the store.
  """

  content_D: np.ndarray
  begin_D: np.ndarray
  at_S: np.ndarray
  place_S: np.ndarray


class RepackedRows:
  """Rows of a split as `Rows`, but packed anew in each epoch.

  Args:
    rows: of the split.
    seed: of the run.
    tokenizer: of the store.
    name: of the dataset in a mixture; any two are packed independently.
  """

  def __init__(
    self,
    rows: Rows,
    *,
    seed: int,
    tokenizer: TokenizerManifest,
    name: str = '',
  ) -> None:
    self.row_length = rows.row_length
    self.dtype = rows.dtype
    self._rows = rows
    self._seed = seed
    self._marks = tokenizer
    self._name = name
    self._shards = [self._index(n) for n in range(rows.shard_starts.size)]
    self._ends = np.cumsum(
      [count_rows(shard.content_D, rows.row_length) for shard in self._shards]
    )
    # A batch may straddle two epochs.
    self._packed = functools.lru_cache(2 * len(self._shards))(self._pack)

  def __len__(self) -> int:
    return int(self._ends[-1])

  @property
  def epoch_rows(self) -> tuple[int, ...]:
    """Rows of each epoch, in a cycle: all epochs are of the same length."""
    return (len(self),)

  def read(self, indices_N: np.ndarray, epoch_N: np.ndarray) -> np.ndarray:
    """Rows of these indices in these epochs, uint16 or uint32 [N, R]."""
    rows_NR = np.full(
      (indices_N.size, self.row_length), self._marks.pad_id, self.dtype
    )
    spans: tuple[list[np.ndarray], ...] = ([], [], [])
    for chosen, shard, pieces_P4, row_P in self._groups(indices_N, epoch_N):
      place_P = _places(pieces_P4, chosen[row_P] * self.row_length)
      rows_NR.reshape(-1)[place_P] = np.where(
        pieces_P4[:, OFFSET] > 0, self._marks.continue_id, self._marks.bos_id
      )
      found = _stored_spans(self._shards[shard], pieces_P4, place_P + 1)
      for values, more in zip(spans, found, strict=True):
        values.append(more)
    source_S, target_S, length_S = (np.concatenate(s) for s in spans)
    needed, index_S = np.unique(
      source_S // self.row_length, return_inverse=True
    )
    stored = self._rows.read(needed).reshape(-1)
    copy_spans(
      stored,
      rows_NR.reshape(-1),
      index_S * self.row_length + source_S % self.row_length,
      target_S,
      length_S,
    )
    return rows_NR

  def pieces(
    self, indices_N: np.ndarray, epoch_N: np.ndarray
  ) -> list[list[Piece]]:
    """Which documents stand in these rows, in the order of their places."""
    found: list[list[Piece]] = [[] for _ in indices_N]
    for chosen, shard, pieces_P4, row_P in self._groups(indices_N, epoch_N):
      origin = self._rows.origin(shard)
      for n, place in enumerate(chosen.tolist()):
        found[place] = origin.describe(pieces_P4[row_P == n])
    return found

  def _groups(
    self, indices_N: np.ndarray, epoch_N: np.ndarray
  ) -> Iterator[tuple[np.ndarray, int, np.ndarray, np.ndarray]]:
    """Takes the rows of each shard and epoch together.

    Yields:
      Which of the rows; the shard; their pieces, row by row; and which of the
      chosen rows each piece stands in.
    """
    shard_N = np.searchsorted(self._ends, indices_N, side='right')
    starts = np.concatenate([[0], self._ends[:-1]])
    groups = np.stack([shard_N, epoch_N])
    for shard, epoch in np.unique(groups, axis=1).T.tolist():
      chosen = np.flatnonzero((shard_N == shard) & (epoch_N == epoch))
      row_M = indices_N[chosen] - starts[shard]
      pieces_P4, first_R = self._packed(shard, epoch)
      count_M = first_R[row_M + 1] - first_R[row_M]
      pieces_P4 = pieces_P4[ranges(first_R[row_M], count_M)]
      yield chosen, shard, pieces_P4, np.repeat(np.arange(row_M.size), count_M)

  def _pack(self, shard: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of a shard in an epoch, and the first of each row."""
    draws = Draws(
      f'repack {self._name}',
      seed=self._seed,
      step=epoch,
      place_N=np.array([shard]),
    )
    pieces_P4, num_rows = repack(
      self._shards[shard].content_D, self.row_length, draws
    )
    first_R = np.searchsorted(pieces_P4[:, ROW], np.arange(num_rows + 1))
    return pieces_P4, first_R

  def _index(self, shard: int) -> _Shard:
    pieces_P4 = self._rows.table(shard)
    place_P = _places(
      pieces_P4,
      (pieces_P4[:, ROW] + self._rows.shard_starts[shard]) * self.row_length,
    )
    order = np.lexsort([pieces_P4[:, OFFSET], pieces_P4[:, DOCUMENT]])
    pieces_P4 = pieces_P4[order]
    content_P = pieces_P4[:, LENGTH] - 1
    content_D = np.bincount(pieces_P4[:, DOCUMENT], content_P).astype(np.int64)
    return _Shard(
      content_D=content_D,
      begin_D=np.cumsum(content_D) - content_D,
      at_S=np.concatenate([[0], np.cumsum(content_P)]),
      place_S=place_P[order] + 1,
    )


def _places(pieces_P4: np.ndarray, row_start_P: np.ndarray) -> np.ndarray:
  """Place of each piece's mark, given where its row starts; rows in order."""
  length_P = pieces_P4[:, LENGTH]
  before_P = np.cumsum(length_P) - length_P
  opens_P = np.ones(before_P.size, bool)
  opens_P[1:] = row_start_P[1:] != row_start_P[:-1]
  return (
    row_start_P
    + before_P
    - np.repeat(
      before_P[opens_P],
      np.diff(np.append(np.flatnonzero(opens_P), opens_P.size)),
    )
  )


def _stored_spans(
  shard: _Shard, pieces_P4: np.ndarray, target_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Source, target and length of the stored spans that make up new pieces."""
  begin_P = shard.begin_D[pieces_P4[:, DOCUMENT]] + pieces_P4[:, OFFSET]
  end_P = begin_P + pieces_P4[:, LENGTH] - 1
  first_P = np.searchsorted(shard.at_S, begin_P, side='right') - 1
  last_P = np.searchsorted(shard.at_S, end_P, side='left')
  count_P = last_P - first_P
  span_S = ranges(first_P, count_P)
  begin_S = np.maximum(np.repeat(begin_P, count_P), shard.at_S[span_S])
  end_S = np.minimum(np.repeat(end_P, count_P), shard.at_S[span_S + 1])
  source_S = shard.place_S[span_S] + begin_S - shard.at_S[span_S]
  target_S = np.repeat(target_P - begin_P, count_P) + begin_S
  return source_S, target_S, end_S - begin_S
