import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import packing

PAD, BOS, CONTINUE, EOS = range(4)


def rows_of(documents, row_length):
  tokens = [np.array(d, np.uint16) for d in documents]
  lengths = np.array([t.size for t in tokens], np.int64)
  pieces, num_rows = packing.pack(lengths, row_length)
  rows = packing.fill_rows(
    pieces,
    tokens,
    num_rows=num_rows,
    row_length=row_length,
    dtype=np.dtype('<u2'),
    pad_id=PAD,
    bos_id=BOS,
    continue_id=CONTINUE,
    eos_id=EOS,
  )
  return pieces, rows


def marked_pieces(row):
  """Cuts a row at its marks, as the device does; no index is used."""
  row = row[row != PAD]
  starts = np.flatnonzero((row == BOS) | (row == CONTINUE))
  return np.split(row, starts[1:])


def test_rows_by_eye():
  _, rows = rows_of([[11, 12, 13, 14, 15, 16], [21], [31, 32, 33]], 5)
  assert rows.tolist() == [
    [BOS, 11, 12, 13, 14],
    [BOS, 31, 32, 33, EOS],
    [CONTINUE, 15, 16, EOS, PAD],
    [BOS, 21, EOS, PAD, PAD],
  ]


def test_the_fullest_bin_with_room_is_taken():
  lengths = np.array([6, 5, 4, 3, 2])
  bins, count = packing.best_fit(lengths, 10)
  # 4 joins 6 (room 4) and not 5 (room 5); 3 joins 5, and 2 fills that one.
  assert bins.tolist() == [0, 1, 0, 1, 1]
  assert count == 2


def test_an_end_that_does_not_fit_gets_a_piece():
  _, rows = rows_of([[11, 12, 13, 14]], 5)
  assert rows.tolist() == [
    [BOS, 11, 12, 13, 14],
    [CONTINUE, EOS, PAD, PAD, PAD],
  ]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
  lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
  row_length=st.integers(2, 25),
)
def test_every_token_once_and_documents_recoverable(lengths, row_length):
  next_token = 10
  documents = []
  for length in lengths:
    documents.append(list(range(next_token, next_token + length)))
    next_token += length
  pieces, rows = rows_of(documents, row_length)

  found: dict[int, list[int]] = {}
  for document, offset, piece in zip(
    pieces[:, packing.DOCUMENT],
    pieces[:, packing.OFFSET],
    [piece for row in rows for piece in marked_pieces(row)],
    strict=True,
  ):
    assert piece[0] == (BOS if offset == 0 else CONTINUE)
    assert len(found.setdefault(int(document), [])) == offset
    found[int(document)] += piece[1:].tolist()
  assert found == {i: [*d, EOS] for i, d in enumerate(documents)}

  # A document that fits into a row is not cut.
  for i, document in enumerate(documents):
    if len(document) + 2 <= row_length:
      assert (pieces[:, packing.DOCUMENT] == i).sum() == 1
  # No two rows could have been one.
  used = np.sort((rows != PAD).sum(1))
  if used.size > 1:
    assert used[0] + used[1] > row_length
