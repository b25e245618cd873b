import pytest
from data_configs import text_config
from ml_collections import ConfigDict

from configs import base
from input_pipeline.config import data_config


def test_base_is_valid():
  config = data_config(base.get_config())
  assert config.name == 'stdlib_text'
  assert config.row_length == 1_025
  assert config.files == ()


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('source', 'csv', r"data\.source='csv'; choose one of tfds, text"),
    ('on_bad_document', 'warn', r'data\.on_bad_document'),
    ('workers', 0, r'data\.workers=0 is less than 1'),
    ('prefetch', 0, r'data\.prefetch=0'),
    ('directory', '', r'data\.directory is empty'),
    ('files', ('a',), r'data\.files=.*not read with'),
    ('tokenizer.kind', 'word', r'data\.tokenizer\.kind'),
    ('tokenizer.kind', 'file', r'needs data\.tokenizer\.path'),
    ('tokenizer.path', 'x.json', r'read only with'),
    ('tokenizer.vocab_size', 259, r'vocab_size=259 is less than 260'),
    ('tokenizer.train_bytes', 0, r'train_bytes=0'),
  ],
)
def test_errors_name_the_field(field, value, message):
  config = base.get_config()
  config.data.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    data_config(config)


def test_unknown_and_missing_fields():
  config = base.get_config()
  config.data.sorce = 'text'
  with pytest.raises(ValueError, match=r'unknown field data\.sorce; known: '):
    data_config(config)
  config = base.get_config()
  del config.data.tokenizer.path
  with pytest.raises(ValueError, match=r'missing field data\.tokenizer\.path'):
    data_config(config)


def test_a_glob_is_not_taken_for_a_tuple():
  config = ConfigDict(base.get_config())
  config.data = ConfigDict({**config.data, 'files': 'a/*.txt'})
  with pytest.raises(ValueError, match=r"write \('a/\*\.txt',\)"):
    data_config(config)


def test_files_need_globs_and_a_fraction(tmp_path):
  with pytest.raises(ValueError, match=r"data\.source='text' needs data\.fil"):
    text_config(tmp_path, files=())
  with pytest.raises(ValueError, match=r'data\.validation_fraction=1\.0'):
    text_config(tmp_path, validation_fraction=1.0)
  text_config(tmp_path, validation_fraction=1.0, validation_files=('v',))
