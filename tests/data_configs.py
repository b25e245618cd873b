"""Small configurations of data for tests."""

import dataclasses
from pathlib import Path

from configs.curation import get_curation
from input_pipeline import sources
from input_pipeline.config import DataConfig, EngineConfig, TokenizerConfig
from input_pipeline.curation.config import CurationConfig, curation_config
from input_pipeline.prepare import prepare
from input_pipeline.store import Store, open_store


def curation(**changes) -> CurationConfig:
  """The default, with fields set: curation(**{'code.privacy.phones': True})."""
  config = get_curation()
  config.update_from_flattened_dict(changes)
  return curation_config(config.to_dict())


def text_config(tmp_path: Path, **changes) -> DataConfig:
  """Text files below tmp_path/corpus, bytes as tokens, rows of 17."""
  base = DataConfig(
    directory=str(tmp_path / 'stores'),
    source='text',
    name='',
    split='train',
    validation_split=None,
    tfds_dir=None,
    files=(f'{tmp_path}/corpus/*.txt',),
    validation_files=(),
    validation_fraction=0.25,
    text_field='text',
    source_field=None,
    licence_field=None,
    on_bad_document='error',
    max_bad_fraction=1.0,
    tokenizer=TokenizerConfig(
      kind='bytes', vocab_size=300, train_bytes=10_000, path=None
    ),
    curation=curation(),
    engine=EngineConfig(name='local', runner='', options=()),
    workers=1,
    prefetch=2,
    sequence_length=16,
  )
  return dataclasses.replace(base, **changes)


def write_corpus(tmp_path: Path, documents: int = 24) -> None:
  """Text files of 0 to 120 characters and more, all different."""
  directory = tmp_path / 'corpus'
  directory.mkdir()
  for n in range(documents):
    text = f'{n}: ' + 'the quick brown fox, naïve 漢字\n' * (n % 5) + 'x' * n
    (directory / f'{n:03d}.txt').write_text(text)


BPE = TokenizerConfig(kind='bpe', vocab_size=300, train_bytes=900, path=None)


def read_documents(config: DataConfig):
  """Every (split, document) of the sources."""
  for part in sources.parts(config):
    yield from sources.read_part(config, part)


def prepared(config: DataConfig, log=lambda line: None) -> Store:
  """Prepares a store and opens it."""
  return open_store(prepare(config, log=log))


def contents(directory) -> dict[str, bytes]:
  """Every file below a directory, by its relative path."""
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in Path(directory).rglob('*')
    if path.is_file()
  }
