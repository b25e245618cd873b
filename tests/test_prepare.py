import collections
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_configs import BPE, contents, prepared, text_config, write_corpus
from etils import epath

from input_pipeline import chunks, durable, selection
from input_pipeline.config import TokenizerConfig
from input_pipeline.curate import curate
from input_pipeline.engine import LocalEngine
from input_pipeline.errors import DataError
from input_pipeline.manifest import store_directories, store_directory
from input_pipeline.prepare import prepare, prepare_all
from input_pipeline.progress import Progress
from input_pipeline.read import read
from input_pipeline.store import open_store
from input_pipeline.tokenizer import load_tokenizer


def documents_of(rows, tokenizer):
  """Tokens of each document id, put together from the rows alone."""
  found = collections.defaultdict(list)
  indices = np.arange(len(rows))
  read = rows.read(indices)
  for row, pieces in zip(read, rows.pieces(indices), strict=True):
    end = 0
    for piece in pieces:
      end = piece.column + piece.length
      first = tokenizer.continue_id if piece.offset else tokenizer.bos_id
      assert row[piece.column] == first
      assert len(found[piece.document]) == piece.offset
      found[piece.document] += row[piece.column + 1 : end].tolist()
    assert (row[end:] == tokenizer.pad_id).all()
  return dict(found)


@pytest.mark.parametrize('kind', ['bytes', 'bpe'])
def test_every_token_of_every_document_once(tmp_path, small_chunks, kind):
  write_corpus(tmp_path)
  config = text_config(tmp_path)
  if kind == 'bpe':
    config = dataclasses.replace(config, tokenizer=BPE)
  store = prepared(config)
  tokenizer = load_tokenizer(store.directory / 'tokenizer.json')
  found = {}
  for split in ('train', 'validation'):
    shards = store.manifest.splits[split].shards
    assert len(shards) == (2 if split == 'train' else 1)
    found[split] = documents_of(store.rows(split), tokenizer)
  assert not set(found['train']) & set(found['validation'])
  expected = {
    f'corpus/{path.name}': [
      *tokenizer.encode(path.read_text()),
      tokenizer.eos_id,
    ]
    for path in (tmp_path / 'corpus').iterdir()
  }
  assert found['train'] | found['validation'] == expected


def test_manifest_counts_what_is_there(tmp_path, small_chunks):
  write_corpus(tmp_path)
  store = prepared(text_config(tmp_path))
  for split in ('train', 'validation'):
    held = store.manifest.splits[split]
    rows = store.rows(split)
    values = rows.read(np.arange(len(rows)))
    targets = values[:, 1:].ravel()
    targets = targets[targets > 2].tolist()
    counts = np.array(list(collections.Counter(targets).values()))
    share = counts / counts.sum()
    assert held.rows == len(rows)
    assert held.target_tokens == len(targets)
    assert held.padding_tokens == (values == 0).sum()
    assert held.tokens == (values > 3).sum() == held.text_bytes
    assert held.documents == (values == 3).sum()
    assert math.isclose(held.unigram_entropy, -(share * np.log(share)).sum())
  manifest = store.manifest
  assert sum(s.documents for s in manifest.splits.values()) == 24
  assert manifest.tokenizer.vocab_size == 260
  assert {'python', 'numpy', 'tiktoken', 'tokenizers'} <= set(manifest.versions)


def test_workers_do_not_change_the_result(tmp_path, small_chunks):
  write_corpus(tmp_path)
  config = text_config(tmp_path, tokenizer=BPE)
  one = prepared(config)
  two = prepared(
    dataclasses.replace(config, workers=2, directory=str(tmp_path / 'two'))
  )
  assert one.directory.name == two.directory.name
  assert one.manifest.fingerprint == two.manifest.fingerprint
  assert contents(one.directory) == contents(two.directory)
  two.verify()


def test_options_that_change_bytes_have_their_own_directory(tmp_path):
  base = text_config(tmp_path)
  changed = [
    {'sequence_length': 17},
    {'validation_fraction': 0.5},
    {'on_bad_document': 'skip'},
    {'files': ('x',)},
    {'validation_files': ('x',)},
    {'tokenizer': BPE},
    {'tokenizer': dataclasses.replace(BPE, vocab_size=301)},
    {'tokenizer': dataclasses.replace(BPE, train_bytes=901)},
    {'source': 'jsonl'},
    {'source': 'jsonl', 'text_field': 'body'},
  ]
  directories = {store_directory(base)} | {
    store_directory(dataclasses.replace(base, **change)) for change in changed
  }
  assert len(directories) == len(changed) + 1
  same = dataclasses.replace(base, workers=3, prefetch=9, text_field='unused')
  assert store_directory(same) == store_directory(base)
  assert store_directory(base).name.startswith('text-')
  named = dataclasses.replace(base, source='tfds', files=(), name='c4/en:3.1.0')
  assert store_directory(named).name.startswith('c4_en_3.1.0-')


def test_a_complete_store_is_left_alone(tmp_path):
  write_corpus(tmp_path)
  config = text_config(tmp_path)
  before = contents(prepare(config, log=lambda line: None))
  lines: list[str] = []
  after = contents(prepare(config, log=lines.append))
  assert before == after
  assert lines == []


def write_jsonl(path, texts):
  path.write_text(''.join(json.dumps({'text': t}) + '\n' for t in texts))


def jsonl_config(tmp_path, **changes):
  return text_config(
    tmp_path,
    source='jsonl',
    files=(f'{tmp_path}/train.jsonl',),
    validation_files=(f'{tmp_path}/validation.jsonl',),
    **changes,
  )


def test_duplicates_leave_training_first(tmp_path, small_chunks):
  filler = [f'filler {n} ' * 20 for n in range(4)]
  write_jsonl(
    tmp_path / 'train.jsonl', ['a', 'b', *filler, 'a', 'v', ' \n', 'b', '']
  )
  write_jsonl(tmp_path / 'validation.jsonl', ['v', 'w', 'v', '\t'])
  store = prepared(jsonl_config(tmp_path))
  splits = store.manifest.splits
  assert splits['train'].dropped == {
    'unreadable': 0,
    'empty': 2,
    'duplicate': 3,
  }
  assert splits['validation'].dropped == {
    'unreadable': 0,
    'empty': 1,
    'duplicate': 1,
  }
  rows = store.rows('train')
  ids = {p.document for row in rows.pieces(np.arange(len(rows))) for p in row}
  # The first of equal texts stays.
  lines = sorted(int(i.rpartition(':')[2]) for i in ids)
  assert lines == [1, 2, 3, 4, 5, 6]


def test_bad_documents_stop_or_are_counted(tmp_path):
  write_jsonl(tmp_path / 'train.jsonl', ['a', 'b'])
  write_jsonl(tmp_path / 'validation.jsonl', ['v'])
  with (tmp_path / 'train.jsonl').open('a') as file:
    file.write('{"text": 1}\nnot JSON\n')
  with pytest.raises(
    ValueError, match=r"train\.jsonl:3: .*on_bad_document='skip'"
  ):
    prepared(jsonl_config(tmp_path))
  # Of five documents, two are bad.
  skipping = jsonl_config(
    tmp_path, on_bad_document='skip', max_bad_fraction=0.39
  )
  with pytest.raises(
    DataError, match=r'2 of 5 documents .*train\.jsonl:3: .*jsonl:4: not JSON'
  ):
    prepared(skipping)
  store = prepared(dataclasses.replace(skipping, max_bad_fraction=0.4))
  assert store.manifest.splits['train'].dropped['unreadable'] == 2
  assert store.manifest.splits['train'].documents == 2


def test_an_empty_split_is_an_error_with_the_arithmetic(tmp_path):
  write_corpus(tmp_path, 4)
  config = text_config(tmp_path, validation_fraction=0.001)
  with pytest.raises(
    ValueError, match=r'validation holds no document.*has 4 documents.*0\.0 '
  ):
    prepared(config)
  write_jsonl(tmp_path / 'train.jsonl', ['v', 'v', ''])
  write_jsonl(tmp_path / 'validation.jsonl', ['v'])
  with pytest.raises(
    ValueError, match=r'train holds no document: 3 read.*1 empty.*2 duplicate'
  ):
    prepared(jsonl_config(tmp_path))
  # What was read is forgotten, so that mended sources are read again.
  write_jsonl(tmp_path / 'train.jsonl', ['a'])
  assert prepared(jsonl_config(tmp_path)).manifest.splits['train'].rows == 1


def test_given_tokenizer(tmp_path):
  write_corpus(tmp_path)
  first = prepared(text_config(tmp_path, tokenizer=BPE))
  path = str(first.directory / 'tokenizer.json')
  given = TokenizerConfig(kind='file', vocab_size=0, train_bytes=900, path=path)
  lines: list[str] = []
  second = prepared(text_config(tmp_path, tokenizer=given), lines.append)
  assert second.manifest.tokenizer == first.manifest.tokenizer
  assert not any('tiktoken does not' in line for line in lines)
  rows = np.arange(len(first.rows('train')))
  np.testing.assert_array_equal(
    first.rows('train').read(rows), second.rows('train').read(rows)
  )


def test_the_tokenizer_sample_is_training_text(tmp_path, small_chunks):
  texts = [f'{n} ' + 'text ' * (n % 20) for n in range(40)]
  write_jsonl(tmp_path / 'train.jsonl', [*texts, *texts])
  write_jsonl(tmp_path / 'validation.jsonl', texts[:5])
  config = jsonl_config(tmp_path)
  work, engine = epath.Path(tmp_path / 'work'), LocalEngine(1)
  found = read(config, work / 'text', engine, Progress('Read', print))
  tasks = curate(config, found, work, engine, print).tasks_of('train')
  sizes = np.concatenate(
    [chunks.load_table(t.directory, t.name)['bytes'] for t in tasks]
  )
  kept = np.concatenate([task.kept_D for task in tasks])
  for wanted in (400, 10**6):
    sample = np.concatenate(selection.sample(tasks, wanted))
    assert kept.sum() == 35
    assert not (sample & ~kept).any()
    if wanted == 400:
      taken = sizes[sample]
      assert taken.sum() >= 400 > taken.sum() - taken.max()
    else:
      assert (sample == kept).all()


def test_open_store_checks(tmp_path):
  write_corpus(tmp_path)
  with pytest.raises(ValueError, match=r'no complete store.*data\.directory'):
    open_store(tmp_path)
  store = prepared(text_config(tmp_path))
  shard = store.directory / f'{store.manifest.splits["train"].shards[0].name}'
  rows = Path(f'{shard}.rows')
  data = bytearray(rows.read_bytes())
  data[40] ^= 1
  rows.write_bytes(data)
  with pytest.raises(ValueError, match=r'\.rows is not what was prepared'):
    open_store(store.directory).verify()
  rows.write_bytes(data[:-2])
  with pytest.raises(
    ValueError, match=rf'has {len(data) - 2} bytes, the manifest says'
  ):
    open_store(store.directory)
  manifest = store.directory / 'manifest.json'
  text = manifest.read_text()
  manifest.write_text(
    text.replace('"format_version": 2', '"format_version": 9')
  )
  with pytest.raises(ValueError, match='is of format 9, this program reads 2'):
    open_store(store.directory)


def test_rows_of_several_shards_keep_their_order(tmp_path, small_chunks):
  write_corpus(tmp_path)
  rows = prepared(text_config(tmp_path)).rows('train')
  every = rows.read(np.arange(len(rows)))
  order = np.random.default_rng(0).permutation(len(rows))
  np.testing.assert_array_equal(rows.read(order), every[order])
  assert every.dtype == np.uint16
  assert every.shape == (len(rows), 17)
  with pytest.raises(IndexError):
    rows.read(np.array([len(rows)]))


def test_object_stores_give_the_same(tmp_path, small_chunks, monkeypatch):
  """The way of remote files, on local ones: whole objects and byte ranges."""
  write_corpus(tmp_path)
  config = text_config(tmp_path)
  local = prepared(config)
  rows = np.arange(len(local.rows('train')))[::-1]
  monkeypatch.setattr(durable, 'is_local', lambda path: False)
  remote = prepared(
    dataclasses.replace(config, directory=str(tmp_path / 'remote'))
  )
  assert contents(remote.directory) == contents(local.directory)
  monkeypatch.setattr(np, 'memmap', None)
  read = remote.rows('train').read(rows)
  monkeypatch.undo()
  np.testing.assert_array_equal(read, local.rows('train').read(rows))
  monkeypatch.setattr(durable, 'is_local', lambda path: False)
  recursive = dataclasses.replace(config, files=(f'{tmp_path}/**/*.txt',))
  with pytest.raises(ValueError, match=r'\*\* works on local files only'):
    prepared(recursive)


def test_datasets_of_a_mixture_share_a_vocabulary(tmp_path):
  texts = {
    'a': [f'{n} ' + 'apple ' * 30 for n in range(20)],
    'b': [f'{n} ' + 'banana ' * 30 for n in range(20)],
  }
  configs = []
  for name, held in texts.items():
    write_jsonl(tmp_path / f'{name}.jsonl', held)
    configs.append(
      text_config(
        tmp_path,
        source='jsonl',
        files=(f'{tmp_path}/{name}.jsonl',),
        tokenizer=dataclasses.replace(BPE, train_bytes=4_000),
      )
    )
  shares = [0.5, 0.5]
  directories = prepare_all(configs, shares, log=print)
  assert directories == store_directories(configs, shares)
  assert not set(directories) & {store_directory(c) for c in configs}
  stores = [open_store(directory) for directory in directories]
  for store in stores:
    store.verify()
  assert len({s.manifest.tokenizer.sha256 for s in stores}) == 1
  # Each word is one token of the vocabulary of both, if it was seen.
  vocabulary = load_tokenizer(directories[0] / 'tokenizer.json')
  alone = load_tokenizer(prepare(configs[0], log=print) / 'tokenizer.json')
  for word in (' apple', ' banana'):
    assert len(vocabulary.encode(word)) == 1
  assert len(alone.encode(' banana')) > 1
  assert store_directories(configs, [0.3, 0.7]) != directories
  # A store that is lost is made again with the vocabulary of the other.
  expected = contents(directories[1])
  shutil.rmtree(directories[1])
  prepare_all(configs, shares, log=print)
  assert contents(directories[1]) == expected
