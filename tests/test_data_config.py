import pytest
from data_configs import text_config
from ml_collections import ConfigDict

from configs import base
from input_pipeline.config import data_config, training_data


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


def mixed():
  config = base.get_config()
  for name in ('web', 'code'):
    config.data.mixture[name] = base.dataset()
  return config


def test_a_mixture_gives_each_dataset_its_own_fields():
  config = mixed()
  config.data.mixture.code.split = 'train[:1%]'
  config.data.mixture.code.weights = ('0: 0', '9: 3')
  code, web = training_data(config).parts
  assert (code.name, web.name) == ('code', 'web')
  assert (code.data.split, web.data.split) == ('train[:1%]', 'train')
  assert (code.schedule.at(8), code.schedule.at(9)) == (0, 3)
  assert code.data.sequence_length == config.sequence_length
  # The first weight above 0: entries for later steps change no tokenizer.
  shares = training_data(config).tokenizer_shares
  assert shares == [0.75, 0.25]
  config.data.mixture.web.weights = ('1', '100: 9')
  assert training_data(config).tokenizer_shares == shares


def test_without_a_mixture_there_is_one_dataset():
  config = base.get_config()
  (one,) = training_data(config).parts
  assert one.name == ''
  assert one.data == data_config(config)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('code.source', 'csv', r'data\.mixture\.code: data\.source='),
    ('code.weights', ('x',), r'data\.mixture\.code\.weights: cannot read'),
    ('code.weights', ('1', '5: 0'), 'weights of code, web are all 0 at step 5'),
  ],
)
def test_errors_name_the_dataset(field, value, message):
  config = mixed()
  config.data.mixture.web.weights = ('1', '5: 0')
  config.data.mixture.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=message):
    training_data(config)


def test_a_name_is_a_word():
  config = base.get_config()
  config.data.mixture['a/b'] = base.dataset()
  with pytest.raises(ValueError, match=r'data\.mixture\.a/b: a name consists'):
    training_data(config)


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
