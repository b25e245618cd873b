"""Rows packed anew in each epoch: every token once, always as many rows."""

import numpy as np
import pytest
from data_configs import prepared, text_config, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.packing import DOCUMENT, LENGTH, OFFSET, ROW
from input_pipeline.random_bits import Draws
from input_pipeline.repack import RepackedRows, count_rows, repack


def draws(epoch, seed=0):
  return Draws('test', seed=seed, step=epoch, place_N=np.array([0]))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
  contents=st.lists(st.integers(1, 90), min_size=1, max_size=40),
  row_length=st.integers(2, 25),
  seed=st.integers(0, 9),
)
def test_every_token_once_in_rows_that_are_as_many(contents, row_length, seed):
  content_D = np.array(contents)
  wanted_rows = count_rows(content_D, row_length)
  for epoch in range(3):
    pieces_P4, num_rows = repack(content_D, row_length, draws(epoch, seed))
    assert num_rows == wanted_rows
    assert np.unique(pieces_P4[:, ROW]).tolist() == list(range(num_rows))
    filled_R = np.bincount(pieces_P4[:, ROW], pieces_P4[:, LENGTH])
    assert filled_R.max() <= row_length
    seen = [
      (document, token)
      for _, document, offset, length in pieces_P4.tolist()
      for token in range(offset, offset + length - 1)
    ]
    assert len(seen) == len(set(seen)) == content_D.sum()
    assert all(0 <= token < content_D[document] for document, token in seen)


def test_what_fits_into_a_row_is_not_cut_and_what_does_not_is_cut_elsewhere():
  content_D = np.array([9, 20, 9, 45, 3])
  cuts, whole = set(), set()
  for epoch in range(40):
    pieces_P4, _ = repack(content_D, 10, draws(epoch))
    for document in (0, 2, 4):
      mine = pieces_P4[pieces_P4[:, DOCUMENT] == document]
      whole.add((document, mine[:, OFFSET].tolist() == [0]))
    mine = pieces_P4[pieces_P4[:, DOCUMENT] == 1]
    cuts.add(tuple(sorted(mine[:, OFFSET].tolist())))
  assert whole == {(0, True), (2, True), (4, True)}
  # 20 tokens are two rows of 9 and 2 more, before, after or around them.
  assert cuts == {(0, 9, 18), (0, 1, 10, 19), (0, 2, 11)}


def test_equal_lengths_change_places():
  content_D = np.full(30, 4)
  companions = {
    tuple(repack(content_D, 10, draws(epoch))[0][:2, DOCUMENT])
    for epoch in range(10)
  }
  assert len(companions) == 10


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  tmp_path = tmp_path_factory.mktemp('repack')
  write_corpus(tmp_path, documents=40)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('input_pipeline.chunks.CHUNK_BYTES', 300)
    patch.setattr('input_pipeline.encode.CHUNKS_PER_SHARD', 3)
    return prepared(text_config(tmp_path))


def repacked(store, **changes):
  arguments = {'seed': 1, 'tokenizer': store.manifest.tokenizer} | changes
  return RepackedRows(store.rows('train'), **arguments)


def documents(rows, epoch_N=None):
  """Tokens of each document, put together from all rows, ends included."""
  index_N = np.arange(len(rows))
  epoch_N = np.zeros_like(index_N) if epoch_N is None else epoch_N
  found = {}
  rows_NR = rows.read(index_N, epoch_N)
  for row_R, pieces in zip(rows_NR, rows.pieces(index_N, epoch_N), strict=True):
    stop = 0
    for piece in pieces:
      assert piece.column == stop
      stop = piece.column + piece.length
      assert row_R[piece.column] == (2 if piece.offset else 1)
      text = row_R[piece.column + 1 : stop].tolist()
      found.setdefault(piece.document, []).append((piece.offset, text))
    assert (row_R[stop:] == 0).all()
  whole = {}
  for name, parts in found.items():
    whole[name] = []
    for offset, text in sorted(parts):
      assert offset == len(whole[name])
      whole[name] += text
  return whole


def test_each_epoch_holds_the_documents_of_the_store(store):
  rows = repacked(store)
  assert len(store.manifest.splits['train'].shards) > 2
  assert rows.row_length == 17
  wanted = documents(store.rows('train'))
  for epoch in (0, 1, 7):
    assert documents(rows, np.full(len(rows), epoch)) == wanted


def test_epochs_seeds_and_names_pack_differently(store):
  index_N = np.arange(len(repacked(store)))
  ways = [
    repacked(store, **changes).read(index_N, np.full_like(index_N, epoch))
    for changes, epoch in (
      ({}, 0),
      ({}, 1),
      ({'seed': 2}, 0),
      ({'name': 'a'}, 0),
    )
  ]
  for i, one in enumerate(ways):
    for other in ways[i + 1 :]:
      assert (one != other).any(1).mean() > 0.3


def test_shards_of_equal_lengths_pack_differently(store):
  rows = repacked(store)
  rows._shards[1] = rows._shards[0]
  one, other = (rows._pack(shard, 0)[0] for shard in (0, 1))
  assert not np.array_equal(one, other)


def test_rows_of_two_epochs_in_any_order(store):
  rows = repacked(store)
  generator = np.random.default_rng(0)
  index_N = generator.permutation(len(rows)).repeat(2)
  epoch_N = np.tile([3, 4], len(rows))
  together = rows.read(index_N, epoch_N)
  for n in generator.choice(index_N.size, 10):
    alone = repacked(store).read(index_N[n : n + 1], epoch_N[n : n + 1])
    np.testing.assert_array_equal(alone[0], together[n])
