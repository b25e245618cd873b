import dataclasses
import json

import numpy as np
import pytest
from data_configs import contents, prepared, text_config

from input_pipeline.bpe_dropout import DroppedMerges, load_dropped_merges
from input_pipeline.config import TokenizerConfig
from input_pipeline.order import rows_in_order
from input_pipeline.stores import Stores
from input_pipeline.tokenizer import load_tokenizer, train_bpe
from input_pipeline.weights import ALWAYS

TEXT = 'the lower the slower, the lowest is the slowest of the slow ones; '
SEED = 3


@pytest.fixture(scope='module')
def tokenizer_path(tmp_path_factory):
  from etils import epath

  path = epath.Path(tmp_path_factory.mktemp('tokenizer')) / 'tokenizer.json'
  path.write_bytes(train_bpe([TEXT * 20], 320))
  return path


def test_without_dropout_it_is_the_tokenizer(tokenizer_path):
  plain = load_tokenizer(tokenizer_path)
  encoder = load_dropped_merges(tokenizer_path, rate=0.0, seed=SEED)
  for text in (TEXT, 'naïve 漢字 <|eos|>\n\n  def f(x): 12345', ''):
    np.testing.assert_array_equal(encoder.encode(text, 'a'), plain.encode(text))


def test_pieces_are_merges_and_give_the_text_back(tokenizer_path):
  plain = load_tokenizer(tokenizer_path)
  encoder = load_dropped_merges(tokenizer_path, rate=0.3, seed=SEED)
  found = [encoder.encode(TEXT, f'{n}') for n in range(50)]
  assert all(plain.decode(ids) == TEXT for ids in found)
  assert len({ids.tobytes() for ids in found}) > 40
  assert min(map(len, found)) >= len(plain.encode(TEXT))
  # It depends on the id and the seed, and on nothing that was encoded before.
  again = load_dropped_merges(tokenizer_path, rate=0.3, seed=SEED)
  np.testing.assert_array_equal(again.encode(TEXT, '17'), found[17])
  other = load_dropped_merges(tokenizer_path, rate=0.3, seed=SEED + 1)
  assert any(
    other.encode(TEXT, f'{n}').tobytes() != found[n].tobytes() for n in range(5)
  )


def test_merges_are_left_out_with_the_rate():
  # One merge: 'ab' is one token, or two where it is left out.
  description = {
    'model': {
      'type': 'BPE',
      'vocab': {'a': 0, 'b': 1, 'ab': 2},
      'merges': ['a b'],
    }
  }
  found = []
  for seed in range(40):
    encoder = DroppedMerges(
      description, str.split, rate=0.2, seed=seed, dtype=np.dtype('<u2')
    )
    found += encoder.encode('ab ' * 100, 'id').tolist()
  split = found.count(0)
  assert split == found.count(1)
  assert split + found.count(2) == 4_000
  # 64 ways of 40 seeds: 2,560 draws stand behind it.
  assert abs(split / 4_000 - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 2_560)


def test_a_word_without_merges_left_is_bytes(tokenizer_path):
  encoder = load_dropped_merges(tokenizer_path, rate=0.999_999, seed=SEED)
  assert len(encoder.encode('the slowest', 'a')) == len('the slowest')


def corpus_config(tmp_path, **tokenizer):
  corpus = tmp_path / 'corpus'
  corpus.mkdir(exist_ok=True)
  for n in range(30):
    (corpus / f'{n}.txt').write_text(f'{n} ' + TEXT * (n % 4 + 1))
  settings = {'kind': 'bpe', 'vocab_size': 320, 'train_bytes': 10_000}
  config = TokenizerConfig(**settings | {'path': None} | tokenizer)
  return text_config(tmp_path, tokenizer=config)


def documents_in(rows, epoch):
  """Tokens of each document in an epoch, put together from its rows."""
  number = np.arange(rows.epoch_rows[epoch % len(rows.epoch_rows)])
  epochs = np.full(number.size, epoch)
  found: dict[str, dict[int, list[int]]] = {}
  read = rows.read(number, epochs)
  for row, pieces in zip(read, rows.pieces(number, epochs), strict=True):
    for piece in pieces:
      held = found.setdefault(piece.document, {})
      assert piece.offset not in held
      tokens = row[piece.column + 1 : piece.column + piece.length]
      held[piece.offset] = tokens.tolist()
  whole = {}
  for name, held in found.items():
    whole[name] = []
    for offset in sorted(held):
      assert len(whole[name]) == offset
      whole[name] += held[offset]
  return whole


@pytest.mark.parametrize('repack', [False, True])
def test_every_epoch_reads_its_copy(tmp_path, repack):
  store = prepared(corpus_config(tmp_path, copies=2, dropout=0.2))
  store.verify()
  plain = load_tokenizer(store.directory / 'tokenizer.json')
  stores = Stores(names=('',), schedules=(ALWAYS,), stores=(store,))
  stream = stores.stream(seed=1, batch_size=4, repack=repack)
  (rows,) = stream._rows
  assert len(rows.epoch_rows) == 3
  texts = {}
  for path in (tmp_path / 'corpus').iterdir():
    texts[f'corpus/{path.name}'] = path.read_text()
  encoded = []
  for epoch in (0, 1, 2):
    held = documents_in(rows, epoch)
    assert len(held) == store.manifest.splits['train'].documents
    for name, ids in held.items():
      assert plain.decode(ids) == texts[name]
    encoded.append(held)
  assert encoded[0] == {
    name: [*plain.encode(texts[name]).tolist(), plain.eos_id]
    for name in encoded[0]
  }
  assert encoded[1] != encoded[0]
  assert encoded[1] != encoded[2]
  # The stream reads each copy once, and then the first of them again.
  steps = -(-sum(rows.epoch_rows) // 4)
  places = [stream.places_of_step(step, 0, 4) for step in range(steps + 1)]
  row_N = np.concatenate([p.row_N for p in places])
  epoch_N = np.concatenate([p.epoch_N for p in places])
  for epoch, size in enumerate(rows.epoch_rows):
    assert sorted(row_N[epoch_N == epoch]) == list(range(size))
  assert epoch_N[-1] == 3
  ends = np.cumsum(rows.epoch_rows) / 4
  assert stream.epochs(0).tolist() == [0]
  whole = int(ends[-1])
  assert 2 < stream.epochs(whole)[0] <= 3


def test_epochs_of_different_length_start_anywhere():
  sizes = (5, 3, 4)
  rows, epochs = rows_in_order(0, 40, seed=2, epoch_rows=sizes)
  assert np.bincount(epochs).tolist() == [5, 3, 4, 5, 3, 4, 5, 3, 4, 4]
  for start in (0, 4, 5, 11, 12, 29):
    found = rows_in_order(start, 40, seed=2, epoch_rows=sizes)
    np.testing.assert_array_equal(found[0], rows[start:])
    np.testing.assert_array_equal(found[1], epochs[start:])
  for epoch in range(9):
    held = sorted(rows[epochs == epoch].tolist())
    assert held == list(range(sizes[epoch % 3]))


def test_copies_are_the_same_for_any_workers(tmp_path):
  config = corpus_config(tmp_path, copies=1, dropout=0.1)
  one = prepared(config)
  two = prepared(
    dataclasses.replace(config, workers=2, directory=str(tmp_path / 'two'))
  )
  assert contents(one.directory) == contents(two.directory)
  card = json.loads((one.directory / 'card.json').read_text())
  held = one.manifest.splits
  tokens = sum(held[split].tokens for split in ('train', 'validation'))
  assert sum(source['tokens'] for source in card['tokens']) == tokens


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'copies': 1}, r'copies=1 and data\.tokenizer\.dropout=0\.0 go together'),
    ({'dropout': 0.1}, 'go together'),
    ({'copies': 1, 'dropout': 1.0}, 'no probability below 1'),
    ({'copies': 1, 'dropout': 0.1, 'kind': 'bytes'}, 'bytes are not merged'),
  ],
)
def test_settings_that_make_no_sense(tmp_path, settings, message):
  with pytest.raises(ValueError, match=message):
    corpus_config(tmp_path, **settings)
