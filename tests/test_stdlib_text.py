import hashlib

import pytest
import tensorflow_datasets as tfds
from data_configs import read_documents, text_config

from input_pipeline import stdlib_text
from input_pipeline.documents import Document
from input_pipeline.tfds_source import INTERPRETER


@pytest.fixture
def library(tmp_path, monkeypatch):
  """A small standard library, and two topics."""
  root = tmp_path / 'lib'
  for directory in ('site-packages', 'pkg/__pycache__', 'test'):
    (root / directory).mkdir(parents=True)
  for n in range(40):
    (root / f'module{n:02d}.py').write_text(f'# module {n}\n')
  (root / 'pkg' / 'latin.py').write_bytes(
    '# coding: latin-1\n# naïve\n'.encode('latin-1')
  )
  (root / 'test' / 'broken.py').write_bytes(b'# \xff\n')
  (root / 'site-packages' / 'other.py').write_text('other = 1\n')
  (root / 'data.txt').write_text('no source')
  monkeypatch.setattr(stdlib_text, 'library_directory', lambda: root)
  monkeypatch.setattr(
    stdlib_text, 'topics', lambda: {'if': 'The if statement', 'for': 'Loops'}
  )
  return root


def stdlib_config(tmp_path, **changes):
  return text_config(
    tmp_path,
    source='tfds',
    files=(),
    **{'name': 'stdlib_text', 'validation_split': 'validation'} | changes,
  )


def by_split(config):
  found: dict[str, list[Document]] = {'train': [], 'validation': []}
  for split, document in read_documents(config):
    found[split].append(document)
  return found


def test_documents(tmp_path, library):
  found = by_split(stdlib_config(tmp_path))
  every = {d.id: d for split in found.values() for d in split}
  names = {f'module{n:02d}.py' for n in range(40)}
  assert set(every) == names | {'pkg/latin.py', 'topics/if', 'topics/for'}
  assert every['pkg/latin.py'].text == '# coding: latin-1\n# naïve\n'
  assert every['module07.py'].source == 'code'
  assert every['topics/if'] == Document(
    'topics/if', 'The if statement', 'prose'
  )
  assert 0 < len(found['validation']) < 10
  for split in found.values():
    code = [d.id for d in split if d.source == 'code']
    assert code == sorted(code)


def digests(directory):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in directory.rglob('*.array_record*')
  }


def test_two_builds_are_equal_byte_for_byte(tmp_path, library):
  for name in ('a', 'b'):
    by_split(stdlib_config(tmp_path, tfds_dir=str(tmp_path / name)))
  assert digests(tmp_path / 'a') == digests(tmp_path / 'b')
  assert len(digests(tmp_path / 'a')) == 2


def test_metadata(tmp_path, library):
  by_split(stdlib_config(tmp_path, tfds_dir=str(tmp_path)))
  info = tfds.builder('stdlib_text', data_dir=tmp_path).info
  assert info.metadata == {'interpreter': INTERPRETER, 'licence': 'PSF-2.0'}
  assert (tmp_path / 'stdlib_text' / INTERPRETER).is_dir()


def test_records_of_another_format_give_the_same(tmp_path, library):
  builder = tfds.builder(
    'stdlib_text', data_dir=tmp_path / 'records', file_format='tfrecord'
  )
  builder.download_and_prepare()
  records = stdlib_config(tmp_path, tfds_dir=str(tmp_path / 'records'))
  assert by_split(records) == by_split(stdlib_config(tmp_path))


def test_slices_and_hashed_validation(tmp_path, library):
  config = stdlib_config(tmp_path, split='train[:10]', validation_split=None)
  found = by_split(config)
  assert len(found['train']) + len(found['validation']) == 10
  assert found['validation']


def test_errors_name_what_there_is(tmp_path, library):
  with pytest.raises(ValueError, match=r"'body'; it has id, source, text"):
    by_split(stdlib_config(tmp_path, text_field='body'))
  with pytest.raises(ValueError, match=r"'test'; it has train, validation"):
    by_split(stdlib_config(tmp_path, split='test'))
  with pytest.raises(ValueError, match=r"data\.name='no_such_set'"):
    by_split(stdlib_config(tmp_path, name='no_such_set'))


def test_the_real_library_has_text():
  root = stdlib_text.library_directory()
  assert (root / 'sysconfig.py').exists() or (root / 'sysconfig').exists()
  assert len(stdlib_text.topics()) > 50
