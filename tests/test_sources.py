import gzip
import json

import pyarrow
import pytest
import zstandard
from data_configs import read_documents, text_config
from pyarrow import parquet

from input_pipeline.documents import Unreadable
from input_pipeline.file_source import matching_files
from input_pipeline.sources import is_held_out

RECORDS = [{'text': f'document {n}\n', 'n': n} for n in range(6)]
LINES = b''.join(json.dumps(r).encode() + b'\n' for r in RECORDS)


def file_config(tmp_path, source, pattern, **changes):
  return text_config(
    tmp_path,
    source=source,
    files=(f'{tmp_path}/{pattern}',),
    validation_files=(f'{tmp_path}/held_out*',),
    **changes,
  )


def train_texts(config):
  return [d.text for split, d in read_documents(config) if split == 'train']


def reasons(config):
  return [
    d.reason for _, d in read_documents(config) if isinstance(d, Unreadable)
  ]


def compressed(suffix):
  if suffix == '.gz':
    return gzip.compress(LINES)
  if suffix == '.zst':
    half = len(LINES) // 2
    # Two frames, as from two files that were put together.
    compress = zstandard.ZstdCompressor().compress
    return compress(LINES[:half]) + compress(LINES[half:])
  return LINES


@pytest.mark.parametrize('suffix', ['', '.gz', '.zst'])
def test_jsonl(tmp_path, suffix):
  for name in ('b', 'a', 'held_out'):
    (tmp_path / f'{name}.jsonl{suffix}').write_bytes(compressed(suffix))
  config = file_config(tmp_path, 'jsonl', f'[ab].jsonl{suffix}')
  assert train_texts(config) == 2 * [r['text'] for r in RECORDS]
  ids = [d.id for _, d in read_documents(config)]
  assert ids[0] == f'{tmp_path.name}/held_out.jsonl{suffix}:1'
  assert ids[6] == f'{tmp_path.name}/a.jsonl{suffix}:1'
  assert ids[-1] == f'{tmp_path.name}/b.jsonl{suffix}:6'


def test_text_files_are_sorted_and_found_once(tmp_path):
  (tmp_path / 'sub').mkdir()
  for name in ('b', 'a', 'sub/c', 'held_out'):
    (tmp_path / f'{name}.txt').write_text(f'{name}\r\nnaïve')
  (tmp_path / 'a.txt').write_bytes('\ufeffa\r\nnaïve'.encode())
  config = file_config(tmp_path, 'text', '**/[abc].txt')
  again = text_config(
    tmp_path,
    files=(*config.files, f'{tmp_path}/a.txt'),
    validation_files=config.validation_files,
  )
  for c in (config, again):
    assert train_texts(c) == [f'{n}\r\nnaïve' for n in ('a', 'b', 'sub/c')]


def test_parquet(tmp_path):
  for name in ('a', 'held_out'):
    table = pyarrow.Table.from_pylist(RECORDS)
    parquet.write_table(table, tmp_path / f'{name}.parquet')
  config = file_config(tmp_path, 'parquet', 'a.parquet')
  assert train_texts(config) == [r['text'] for r in RECORDS]
  with pytest.raises(
    ValueError, match=r"parquet: no column 'body'; it has n, text"
  ):
    train_texts(file_config(tmp_path, 'parquet', 'a*', text_field='body'))
  with pytest.raises(ValueError, match=r'data\.text_field'):
    train_texts(file_config(tmp_path, 'parquet', 'a*', text_field='body'))
  assert reasons(file_config(tmp_path, 'parquet', 'a*', text_field='n'))[
    0
  ].endswith(":1: field 'n' holds no text, but int")
  (tmp_path / 'b.parquet').write_bytes(b'no parquet')
  with pytest.raises(
    ValueError, match=r'b\.parquet cannot be read after row 0'
  ):
    train_texts(file_config(tmp_path, 'parquet', 'b*'))


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    (b'{"text": "a"', 'not JSON'),
    (b'[1]', 'a JSON object is needed'),
    (b'{"body": "a", "id": 1}', "no field 'text'; it has body, id"),
    (b'{"text": null}', "field 'text' holds no text, but NoneType"),
    (b'{"text": "\\ud800"}', 'a lone surrogate at character 0'),
    (b'{"text": "\xff"}', 'byte 0xff in line 1 is not UTF-8'),
  ],
)
def test_bad_lines_are_named(tmp_path, line, message):
  data = b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n'
  (tmp_path / 'a.jsonl').write_bytes(data)
  (tmp_path / 'held_out').write_bytes(LINES)
  config = file_config(tmp_path, 'jsonl', 'a.jsonl')
  (reason,) = reasons(config)
  assert reason.startswith(f'{tmp_path}/a.jsonl:3: {message}')
  read = [d for split, d in read_documents(config) if split == 'train']
  assert [isinstance(d, Unreadable) for d in read] == [False, True, False]


def test_bad_text_file_is_named(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'one\ntwo \xff')
  (tmp_path / 'held_out').write_bytes(b'text')
  (reason,) = reasons(file_config(tmp_path, 'text', 'a.txt'))
  assert reason == f'{tmp_path}/a.txt: byte 0xff in line 2 is not UTF-8'


@pytest.mark.parametrize('suffix', ['.gz', '.zst'])
def test_cut_off_archives_are_an_error(tmp_path, suffix):
  (tmp_path / 'held_out').write_bytes(LINES)
  name = f'a.jsonl{suffix}'
  (tmp_path / name).write_bytes(compressed(suffix)[:-9])
  with pytest.raises(ValueError, match=rf'{name} cannot be read after line'):
    train_texts(file_config(tmp_path, 'jsonl', name))


def test_names_survive_a_move_and_stay_apart(tmp_path):
  for name in ('x/train', 'y/train'):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / '1.txt').write_text(name)

  def names(*globs):
    found = matching_files(tuple(f'{tmp_path}/{g}' for g in globs), 'FIELD')
    return [file.name for file in found]

  assert names('x/train/*.txt') == ['train/1.txt']
  assert names('x/train/1.txt') == ['train/1.txt']
  assert names('y/tr*/*.txt') == ['y/train/1.txt']
  assert names('x/**/*.txt', 'y/t*/*') == ['x/train/1.txt', 'y/train/1.txt']
  with pytest.raises(ValueError, match=r"FIELD.*both be known as 'train/1\.t"):
    names('x/train/*.txt', 'y/train/*.txt')


def test_a_relative_glob_names_files_alike(tmp_path, monkeypatch):
  (tmp_path / 'corpus').mkdir()
  (tmp_path / 'corpus' / 'a.txt').write_text('a')
  (tmp_path / 'b.txt').write_text('b')
  monkeypatch.chdir(tmp_path)
  assert matching_files(('corpus/*.txt',), 'f')[0].name == 'corpus/a.txt'
  assert matching_files(('*.txt',), 'f')[0].name == 'b.txt'


def test_globs_that_match_nothing(tmp_path):
  (tmp_path / 'a.txt').write_text('a')
  with pytest.raises(ValueError, match=r'data\.files: nothing matches .*\*\.t'):
    train_texts(text_config(tmp_path, files=(f'{tmp_path}/none*.txt',)))
  with pytest.raises(ValueError, match=r'data\.validation_files: nothing'):
    train_texts(file_config(tmp_path, 'text', 'a.txt'))


def test_held_out_documents_depend_on_their_id_alone(tmp_path):
  def split():
    return {
      d.id: s for s, d in read_documents(text_config(tmp_path, source='text'))
    }

  (tmp_path / 'corpus').mkdir()
  for n in range(0, 60, 2):
    (tmp_path / 'corpus' / f'{n}.txt').write_text(str(n))
  before = split()
  for n in range(1, 60, 2):
    (tmp_path / 'corpus' / f'{n}.txt').write_text(str(n))
  after = split()
  assert len(after) == 60
  assert {i: after[i] for i in before} == before
  assert set(before.values()) == {'train', 'validation'}


def test_the_share_held_out():
  share = sum(is_held_out(f'id {n}', 0.05) for n in range(20_000)) / 20_000
  assert abs(share - 0.05) < 0.007
