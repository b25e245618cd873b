"""Cuts documents into pieces and packs the pieces into rows.

A row holds R tokens. A piece is a mark, `bos` where its document starts and
`continue` elsewhere, and the tokens after it; the end of a document carries
`eos`. Documents too long for a row fill whole rows, and what remains of each
is packed best-fit decreasing (Ding et al. 2024, arXiv 2404.10830), so nothing
is cut that fits into a row and every token stands exactly once.
"""

import numpy as np

# Columns of a table of pieces. `offset` counts tokens from the start of the
# document; `length` counts places in the row, the mark and an eos included.
ROW, DOCUMENT, OFFSET, LENGTH = range(4)


def pack(lengths_D: np.ndarray, row_length: int) -> tuple[np.ndarray, int]:
  """Places documents of these numbers of tokens into rows.

  Args:
    lengths_D: tokens of each document, without special tokens.
    row_length: R, tokens of a row.

  Returns:
    The pieces, int64 [P, 4] with columns ROW, DOCUMENT, OFFSET and LENGTH,
    ordered by row and by place in the row; and the number of rows.
  """
  assert row_length >= 2, row_length
  room = row_length - 1
  content_D = lengths_D.astype(np.int64) + 1
  full_D, rest_D = content_D // room, content_D % room

  whole_rows = int(full_D.sum())
  whole_P4 = np.empty((whole_rows, 4), np.int64)
  whole_P4[:, ROW] = np.arange(whole_rows)
  whole_P4[:, DOCUMENT] = np.repeat(np.arange(full_D.size), full_D)
  first_D = np.cumsum(full_D) - full_D
  whole_P4[:, OFFSET] = room * (
    np.arange(whole_rows) - np.repeat(first_D, full_D)
  )
  whole_P4[:, LENGTH] = row_length

  documents = np.flatnonzero(rest_D)
  documents = documents[np.argsort(-rest_D[documents], kind='stable')]
  rest_P4 = np.empty((documents.size, 4), np.int64)
  rest_P4[:, DOCUMENT] = documents
  rest_P4[:, OFFSET] = room * full_D[documents]
  rest_P4[:, LENGTH] = rest_D[documents] + 1
  bins, num_bins = best_fit(rest_P4[:, LENGTH], row_length)
  rest_P4[:, ROW] = whole_rows + bins
  rest_P4 = rest_P4[np.argsort(rest_P4[:, ROW], kind='stable')]
  return np.concatenate([whole_P4, rest_P4]), whole_rows + num_bins


def fill_rows(
  pieces_P4: np.ndarray,
  documents: list[np.ndarray],
  *,
  num_rows: int,
  row_length: int,
  dtype: np.dtype,
  pad_id: int,
  bos_id: int,
  continue_id: int,
  eos_id: int,
) -> np.ndarray:
  """Writes the rows that a table of pieces describes.

  Returns:
    [num_rows, row_length].
  """
  rows_NR = np.full((num_rows, row_length), pad_id, dtype)
  last_row, column = -1, 0
  for row, document, offset, length in pieces_P4.tolist():
    column = column if row == last_row else 0
    last_row = row
    stop = column + length
    assert stop <= row_length, (row, stop)
    rows_NR[row, column] = continue_id if offset else bos_id
    tokens = documents[document][offset : offset + length - 1]
    rows_NR[row, column + 1 : column + 1 + tokens.size] = tokens
    if tokens.size < length - 1:
      assert tokens.size == length - 2, (row, document)
      rows_NR[row, stop - 1] = eos_id
    column = stop
  return rows_NR


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
  """Puts each item into the fullest bin that has room for it.

  Args:
    lengths: of the items, in decreasing order.
    capacity: of a bin.

  Returns:
    The bin of each item, int64, and the number of bins.
  """
  bins = np.empty(lengths.size, np.int64)
  bins_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
  # Bit i is set where some bin has room for exactly i, so that the smallest
  # sufficient room is one shift and one lowest set bit away.
  rooms = 0
  count = 0
  for item, length in enumerate(lengths.tolist()):
    sufficient = rooms >> length
    if sufficient:
      room = length + (sufficient & -sufficient).bit_length() - 1
      chosen = bins_with_room[room].pop()
      if not bins_with_room[room]:
        rooms &= ~(1 << room)
    else:
      room, chosen, count = capacity, count, count + 1
    bins[item] = chosen
    if room > length:
      bins_with_room[room - length].append(chosen)
      rooms |= 1 << (room - length)
  return bins, count
