import json

import numpy as np
import pytest
import tokenizers
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from input_pipeline import tokenizer

TEXTS = [
  'def add(a, b):\n    return a + b\n' * 20,
  'The naïve café said: 漢字, 12345, and <|eos|> twice.   ' * 20,
]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  return epath.Path(tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture(scope='module')
def trained(directory):
  path = directory / 'trained.json'
  path.write_bytes(tokenizer.train_bpe(TEXTS, 400))
  return tokenizer.load_tokenizer(path)


@pytest.fixture(scope='module')
def plain(directory):
  path = directory / 'bytes.json'
  path.write_bytes(tokenizer.bytes_tokenizer())
  return tokenizer.load_tokenizer(path)


def test_special_tokens_come_first(trained, plain):
  for t in (trained, plain):
    assert [t.pad_id, t.bos_id, t.continue_id, t.eos_id] == [0, 1, 2, 3]
  assert trained.kind == 'bpe'
  assert trained.encoder == 'tiktoken'
  assert 260 < trained.vocab_size <= 400


def test_training_is_deterministic(trained):
  import hashlib

  again = tokenizer.train_bpe(TEXTS, 400)
  assert hashlib.sha256(again).hexdigest() == trained.sha256


def test_bytes_are_bytes(plain):
  assert plain.kind == plain.encoder == 'bytes'
  assert plain.vocab_size == 260
  assert plain.encode('aé').tolist() == [101, 199, 173]
  assert plain.encode('a').dtype == np.uint16


@pytest.mark.parametrize('text', tokenizer.SAMPLE)
def test_libraries_agree_on_nasty_text(trained, plain, text):
  for t in (trained, plain):
    expected = t._reference.encode(text, add_special_tokens=False).ids
    assert t.encode(text).tolist() == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
  st.text(
    st.one_of(st.characters(codec='utf-8'), st.sampled_from(' \n\t\r<|>eos')),
    max_size=40,
  )
)
def test_round_trip(trained, plain, text):
  for t in (trained, plain):
    ids = t.encode(text)
    assert t.decode(ids) == text
    # Text never becomes a special token.
    assert not np.isin(ids, [0, 1, 2, 3]).any()


def test_special_tokens_are_left_out_of_text(trained):
  ids = [trained.bos_id, *trained.encode('a b'), trained.eos_id]
  assert trained.decode(ids) == 'a b'


def test_long_runs_of_space_do_not_overflow(trained):
  text = 'x' + ' ' * 1_200_000 + 'y'
  assert trained.decode(trained.encode(text)) == text


def given_tokenizer(directory, *, normalizer=None):
  """A byte-level tokenizer as others make it: no special tokens of ours."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = tokenizers.decoders.ByteLevel()
  made.normalizer = normalizer
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=['<|endoftext|>'],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(TEXTS, trainer)
  path = directory / 'given.json'
  path.write_bytes(made.to_str().encode())
  return path


def test_given_tokenizer_gets_special_tokens_at_its_end(directory):
  path = given_tokenizer(directory)
  completed = directory / 'completed.json'
  completed.write_bytes(tokenizer.with_special_tokens(path))
  loaded = tokenizer.load_tokenizer(completed)
  size = tokenizers.Tokenizer.from_file(str(path)).get_vocab_size()
  ids = [loaded.pad_id, loaded.bos_id, loaded.continue_id, loaded.eos_id]
  assert ids == [size, size + 1, size + 2, size + 3]
  assert loaded.vocab_size == size + 4
  assert loaded.encoder == 'tiktoken'
  assert tokenizer.with_special_tokens(completed) == completed.read_bytes()


def test_what_tiktoken_cannot_do_is_left_to_tokenizers(directory):
  path = given_tokenizer(directory, normalizer=normalizers.Lowercase())
  path.write_bytes(tokenizer.with_special_tokens(path))
  loaded = tokenizer.load_tokenizer(path)
  assert loaded.encoder == 'tokenizers'
  assert loaded.decode(loaded.encode('ABC <|eos|>')) == 'abc <|eos|>'


def test_disagreement_on_the_sample_falls_back(directory):
  # Without the merge of the first two, tokenizers cannot build 'abc' from
  # 'a' and 'bc', though tiktoken would merge whatever has a rank.
  description = json.loads(tokenizer.bytes_tokenizer())
  model = description['model']
  model['vocab'] |= {'bc': 260, 'ab': 261, 'abc': 262}
  model['merges'] = [['b', 'c'], ['a', 'b'], ['ab', 'c']]
  path = directory / 'unequal.json'
  path.write_text(json.dumps(description))
  assert tokenizer.load_tokenizer(path).encoder == 'tiktoken'
  loaded = tokenizer.load_tokenizer(path, sample=['xabcx abc'])
  assert loaded.encoder == 'tokenizers'


def test_errors_name_the_file(directory):
  broken = directory / 'broken.json'
  broken.write_text('{}')
  with pytest.raises(ValueError, match=r'broken\.json is no tokenizer'):
    tokenizer.load_tokenizer(broken)
  with pytest.raises(ValueError, match=r'given\.json lacks .*<\|pad\|>'):
    tokenizer.load_tokenizer(given_tokenizer(directory))
  with pytest.raises(ValueError, match=r'tokenizer\.path=.*does not exist'):
    tokenizer.with_special_tokens(directory / 'absent.json')


def test_ids_that_need_more_than_16_bits():
  assert tokenizer.token_dtype(65_536) == np.uint16
  assert tokenizer.token_dtype(65_537) == np.uint32


RESERVED = ('<|mask|>', '<|source|>')


def reserving(directory, kind):
  """A tokenizer of each kind that reserves two more tokens."""
  if kind == 'bytes':
    data = tokenizer.bytes_tokenizer(RESERVED)
  elif kind == 'bpe':
    data = tokenizer.train_bpe(TEXTS, 400, RESERVED)
  else:
    data = tokenizer.with_special_tokens(given_tokenizer(directory), RESERVED)
  path = directory / f'reserving_{kind}.json'
  path.write_bytes(data)
  return tokenizer.load_tokenizer(path)


@pytest.mark.parametrize('kind', ['bytes', 'bpe', 'file'])
def test_reserved_tokens_have_ids_that_no_text_gets(directory, kind):
  loaded = reserving(directory, kind)
  found = loaded.special_tokens
  if kind == 'file':
    assert list(found) == ['<|endoftext|>', *RESERVED]
    assert found['<|source|>'] == loaded.eos_id + 2 == loaded.vocab_size - 1
  else:
    assert found == {'<|mask|>': 4, '<|source|>': 5}
  text = 'Naïve <|mask|> and <|source|>, 漢字 a+b '
  ids = loaded.encode(text)
  assert loaded.decode(ids) == text
  assert not np.isin(ids, [*found.values(), loaded.eos_id]).any()
  assert loaded.decode([found['<|mask|>'], *ids]) == text
  expected = loaded._reference.encode(text, add_special_tokens=False).ids
  assert ids.tolist() == expected


def test_bytes_follow_the_reserved_tokens(directory):
  loaded = reserving(directory, 'bytes')
  assert loaded.kind == loaded.encoder == 'bytes'
  assert loaded.vocab_size == 262
  assert loaded.encode('aé').tolist() == [103, 201, 175]
