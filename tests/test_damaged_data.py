"""Damaged data is an error that names the file, never a shorter epoch."""

import dataclasses
import itertools
import json
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_configs import prepared, read_documents, text_config, write_corpus
from test_stdlib_text import library, stdlib_config  # noqa: F401, a fixture

from input_pipeline import pipeline, store_manifest
from input_pipeline.errors import DataError
from input_pipeline.store import open_store
from input_pipeline.stream import Stream
from train.exits import DATA_ERROR, USAGE_ERROR, exit_status


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A store that nothing is wrong with."""
  folder = tmp_path_factory.mktemp('whole')
  write_corpus(folder)
  return prepared(text_config(folder)).directory


@pytest.fixture
def store(whole, tmp_path):
  """A copy of it, to be damaged."""
  return shutil.copytree(whole, tmp_path / 'store')


def only(store, pattern):
  (found,) = store.glob(pattern)
  return found


def flip(path, position):
  data = bytearray(path.read_bytes())
  data[position] ^= 1
  path.write_bytes(data)


def damage(path, fault):
  data = path.read_bytes()
  if fault == 'gone':
    path.unlink()
  else:
    kept = {'cut': len(data) - 3, 'a row less': len(data) - 2 * 17, 'empty': 0}
    path.write_bytes(data[: kept[fault]])


@pytest.mark.parametrize('fault', ['cut', 'a row less', 'empty', 'gone'])
@pytest.mark.parametrize('ending', ['rows', 'pieces.npy', 'documents.jsonl'])
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_a_file_of_another_size_is_named(store, split, ending, fault):
  path = only(store, f'{split}-*.{ending}')
  damage(path, fault)
  with pytest.raises(DataError, match=re.escape(f'{path} has')):
    open_store(store)


def test_a_flipped_bit_is_found_by_its_checksum(store):
  names = [path.name for path in store.iterdir()]
  for name in sorted(names):
    if name.startswith(('card', 'manifest')):
      continue
    copy = shutil.copytree(store, store.parent / 'copy')
    for position in (0, -1):
      flip(copy / name, position)
      with pytest.raises(DataError, match=f'{name} is not what was prepared'):
        open_store(copy).verify()
      flip(copy / name, position)
    assert open_store(copy).verify() > 0
    shutil.rmtree(copy)


def test_what_is_read_whole_is_compared_with_its_checksum(store):
  rows = open_store(store).rows('train')
  pieces = only(store, 'train-*.pieces.npy')
  flip(pieces, -1)
  with pytest.raises(DataError, match=f'{pieces.name} is not what was'):
    rows.pieces(np.arange(2))
  flip(pieces, -1)
  flip(only(store, 'train-*.documents.jsonl'), 3)
  with pytest.raises(DataError, match=r'documents\.jsonl is not what was'):
    rows.pieces(np.arange(2))


def test_a_token_beyond_the_vocabulary_ends_training(store):
  path = only(store, 'train-*.rows')
  tokens = np.fromfile(path, '<u2')
  tokens[5 * 17 + 3] = 260
  tokens.tofile(path)
  opened = open_store(store)
  stream = Stream([opened.rows('train')], seed=0, batch_size=len(tokens) // 17)
  batches = pipeline.train_batches(
    stream,
    start_step=0,
    end_step=1,
    row_start=0,
    row_stop=len(tokens) // 17,
    prefetch=1,
  )
  # The error of this program, not what TensorFlow makes of it.
  with pytest.raises(
    DataError, match=rf'{path.name} holds token 260, and the .* ends at 259'
  ):
    next(batches)


def test_a_file_that_is_cut_after_the_start_is_named(store):
  rows = open_store(store).rows('train')
  damage(only(store, 'train-*.rows'), 'a row less')
  with pytest.raises(DataError, match=r'\.rows has'):
    rows.read(np.arange(2))


def test_no_manifest_is_no_store(store):
  (store / 'manifest.json').unlink()
  with pytest.raises(ValueError, match='no complete store') as error:
    open_store(store)
  assert exit_status(error.value) == USAGE_ERROR


def rewritten(store, change):
  """Changes the manifest, and gives it the checksum that belongs to it."""
  path = store / 'manifest.json'
  fields = json.loads(path.read_text())
  del fields[store_manifest.CHECKSUM]
  change(fields)
  fields |= {store_manifest.CHECKSUM: store_manifest.checksum(fields)}
  path.write_text(json.dumps(fields))


def shard_of(fields):
  return fields['splits']['train']['shards'][0]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda f: shard_of(f).update(rows=1), 'which are not 1 rows of 34'),
    (lambda f: shard_of(f).update(name='../x'), "'../x' is no name of a shard"),
    (lambda f: shard_of(f).update(name='/etc/x'), 'is no name of a shard'),
    (lambda f: shard_of(f).update(bytes='9'), r"shards\.bytes is '9'"),
    (lambda f: shard_of(f).update(sha256='0' * 64), 'its fingerprint is not'),
    (lambda f: f['splits']['train'].update(rows=3), 'train has 3 rows'),
    (lambda f: f['splits'].pop('validation'), 'it lacks rows'),
    (lambda f: f['tokenizer'].update(pad_id=260), 'does not have the ids'),
    (lambda f: f['tokenizer'].pop('pad_id'), 'does not have the fields'),
    (lambda f: f.update(sequence_length=7), 'rows of 16'),
    (lambda f: f.update(fingerprint='0'), 'its fingerprint is not'),
    (lambda f: f.update(more=1), 'does not have the fields'),
  ],
)
def test_a_manifest_that_contradicts_itself_is_named(store, change, message):
  rewritten(store, change)
  with pytest.raises(DataError, match=message) as error:
    open_store(store)
  assert str(store / 'manifest.json') in str(error.value)
  assert exit_status(error.value) == DATA_ERROR


def test_any_change_of_the_manifest_changes_its_checksum(store):
  path = store / 'manifest.json'
  text = path.read_text()
  path.write_text(text.replace('"pad_id": 0', '"pad_id": 1'))
  with pytest.raises(DataError, match='its checksum is another'):
    open_store(store)
  path.write_text(text[:-30])
  with pytest.raises(DataError, match='it is not JSON'):
    open_store(store)


def test_a_store_from_before_there_were_checksums_is_read(store):
  def older(fields):
    for split in fields['splits'].values():
      for shard in split['shards']:
        del shard['pieces_bytes'], shard['documents_bytes']
    del fields['tokenizer']['special_tokens']

  rewritten(store, older)
  path = store / 'manifest.json'
  fields = json.loads(path.read_text())
  del fields[store_manifest.CHECKSUM]
  path.write_text(json.dumps(fields))
  assert open_store(store).verify() > 0


def test_a_link_out_of_the_store_is_refused(store):
  path = only(store, 'train-*.rows')
  moved = path.rename(store.parent / 'elsewhere')
  os.symlink(moved, path)
  with pytest.raises(DataError, match=f'is a link to {moved}'):
    open_store(store)
  # The whole directory may be one.
  path.unlink()
  moved.rename(path)
  os.symlink(store, store.parent / 'link')
  open_store(store.parent / 'link').verify()


@pytest.mark.parametrize('suffix', ['', '.gz', '.zst'])
def test_a_source_file_without_a_byte_is_named(tmp_path, suffix):
  path = tmp_path / f'a.jsonl{suffix}'
  path.touch()
  config = text_config(tmp_path, source='jsonl', files=(str(path),))
  with pytest.raises(DataError, match=f'{path} cannot be read .* no bytes'):
    list(read_documents(config))


def test_what_a_worker_finds_damaged_is_bad_data(tmp_path):
  for name in 'ab':
    (tmp_path / f'{name}.jsonl.gz').write_bytes(b'\x1f\x8b cut')
  config = text_config(
    tmp_path, source='jsonl', files=(f'{tmp_path}/*.gz',), workers=2
  )
  config = dataclasses.replace(config, validation_files=config.files)
  with pytest.raises(DataError, match=r'\.jsonl\.gz cannot be read'):
    prepared(config)


def tfrecord_ends(data):
  """Where each record of a TFRecord file ends."""
  ends = [0]
  while ends[-1] < len(data):
    length = int.from_bytes(data[ends[-1] : ends[-1] + 8], 'little')
    ends.append(ends[-1] + 8 + 4 + length + 4)
  return ends


@pytest.mark.parametrize(
  ('kind', 'fault'),
  [
    *itertools.product(
      ('tfrecord', 'array_record'), ('flip', 'cut', 'empty', 'gone')
    ),
    ('tfrecord', 'a record less'),
  ],
)
def test_a_damaged_file_of_tfds_is_named(tmp_path, library, kind, fault):  # noqa: F811
  builder = tfds.builder('stdlib_text', data_dir=tmp_path, file_format=kind)
  builder.download_and_prepare()
  (path,) = builder.info.splits['train'].filepaths
  data = path.read_bytes()
  if fault == 'flip':
    # An ArrayRecord file is padded with zeros that nobody reads.
    held = [i for i, byte in enumerate(data) if byte]
    flip(path, held[len(held) // 3])
  elif fault == 'cut':
    path.write_bytes(data[: len(data) * 2 // 3])
  elif fault == 'empty':
    path.write_bytes(b'')
  elif fault == 'gone':
    path.unlink()
  else:
    path.write_bytes(data[: tfrecord_ends(data)[-2]])
  with pytest.raises(DataError) as error:
    list(read_documents(stdlib_config(tmp_path, tfds_dir=str(tmp_path))))
  assert str(path) in str(error.value)
