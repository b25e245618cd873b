"""Whatever comes from outside: an error of ours, or the right result.

Some cases run with the other tests, always the same ones. To look for more:

  FUZZ_CASES=1000 python -m pytest tests/test_fuzz.py
"""

import copy
import datetime
import gzip
import json
import os
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from absl import flags
from data_configs import (
  BPE,
  prepared,
  read_documents,
  text_config,
  write_corpus,
)
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from configs import base
from configs.check import check, fields, from_json, to_dict
from configs.mistakes import explain, is_ours
from input_pipeline import store_manifest
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.config import training_data
from input_pipeline.errors import DataError
from input_pipeline.store import open_store
from input_pipeline.tokenizer import load_tokenizer, with_special_tokens
from train.checkpoint import Checkpoints
from train.checkpoint_info import DamagedError, Info
from train.config import train_config
from train.early_stopping import observe
from train.workdir import check_same_run

CASES = int(os.environ.get('FUZZ_CASES', '0'))
# One that takes longer is taken for a hang.
SLOW = datetime.timedelta(seconds=20)


def cases(number):
  """Runs so many cases, always the same ones; or those that are asked for."""
  return settings(
    max_examples=CASES or number,
    derandomize=not CASES,
    database=None,
    deadline=SLOW if CASES else None,
    suppress_health_check=list(HealthCheck),
  )


def ours(function, *arguments):
  """What a function returns; None where it refuses its input as it should."""
  try:
    return function(*arguments)
  except ValueError as error:
    # Its message is the one line that a user sees.
    if not (is_ours(error) and str(error)):
      raise
    return None


NUMBERS = st.one_of(
  st.integers(-5, 5),
  st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63) - 1, 10**30]),
  st.floats(),
)
JSON = st.recursive(
  st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3)
  ),
  max_leaves=6,
)


def places(value, place=()):
  """The way to every part of a value of JSON."""
  yield place
  if isinstance(value, dict | list):
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
      # The entries of a vocabulary are alike.
      if len(place) < 3 or len(value) < 40:
        yield from places(part, (*place, key))


def changed(value, draw):
  """A copy of a value of JSON with up to three parts changed."""
  value = copy.deepcopy(value)
  for _ in range(draw(st.integers(1, 3))):
    found = list(places(value))[1:]
    if not found:
      break
    *above, last = draw(st.sampled_from(found))
    parent = value
    for key in above:
      parent = parent[key]
    kind = draw(st.sampled_from(['replace', 'number', 'remove', 'add', 'swap']))
    if kind == 'remove':
      del parent[last]
    elif kind == 'add' and isinstance(parent, dict):
      parent[draw(st.text(max_size=5))] = draw(JSON)
    elif kind == 'number' and type(parent[last]) in (int, float):
      parent[last] += draw(st.sampled_from([-1, 1, 0.5, 2**31, 2**64]))
    elif kind == 'swap':
      other = value
      for key in draw(st.sampled_from(found)):
        other = other[key] if isinstance(other, dict | list) else other
      parent[last] = copy.deepcopy(other)
    else:
      parent[last] = draw(JSON)
  return value


def spoiled(text, draw):
  """A copy of bytes with some changed, cut or put in."""
  data = bytearray(text)
  for _ in range(draw(st.integers(1, 3))):
    place = draw(st.integers(0, len(data)))
    kind = draw(st.sampled_from(['flip', 'cut', 'insert']))
    if kind == 'flip' and place < len(data):
      data[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == 'cut':
      del data[place : place + draw(st.integers(1, 50))]
    else:
      data[place:place] = draw(st.binary(max_size=4))
  return bytes(data)


# --- the command line


NAMES = sorted(fields(base.get_config()))
WORDS = [
  'nan', 'inf', '-inf', '1e400', '-1', '0', '1', 'True', 'None', '', '()',
  "('a',)", "('data',)", '{}', '[', "'", 'adamw', '0.5', 'a.b', '9' * 400,
]  # fmt: skip


@st.composite
def overrides(draw):
  name = draw(
    st.sampled_from(NAMES)
    | st.sampled_from(NAMES).map(lambda n: n.rpartition('.')[0] or n)
    | st.text(st.characters(codec='ascii'), max_size=12)
  )
  value = draw(
    st.sampled_from(WORDS)
    | NUMBERS.map(str)
    | st.text(max_size=10)
    | JSON.map(repr)
  )
  return f'--config.{name}={value}'


def read(arguments):
  """What main.py does before it needs a device."""
  argv = ['main.py', f'--config={runs.ROOT / "configs/tiny.py"}', *arguments]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file('config', flag_values=values)
  before = sys.argv
  # A config file flag looks for its overrides there.
  sys.argv = argv
  try:
    values(argv)
    config = holder.value
  except (
    flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError,
  ) as error:  # fmt: skip
    if not explain(argv, error):
      raise
    return None
  finally:
    sys.argv = before
  return ours(resolve, config)


def resolve(config):
  check(config)
  train_config(config)
  training_data(config)
  augmentation_config(config)
  return config


@cases(60)
@given(st.lists(overrides(), min_size=1, max_size=3))
def test_overrides(arguments):
  config = read(arguments)
  if config is not None:
    # What is read is what is saved, and is read again.
    text = json.dumps(to_dict(config)).encode()
    assert to_dict(from_json(text, 'x')) == to_dict(config)


DEFAULT = base.get_config()
SAVED = to_dict(DEFAULT)


@cases(60)
@given(st.data())
def test_saved_configurations(data):
  if data.draw(st.booleans()):
    text = json.dumps(changed(SAVED, data.draw)).encode()
  else:
    text = spoiled(json.dumps(SAVED).encode(), data.draw)
  config = ours(from_json, text, 'config.json')
  if config is not None:
    ours(resolve, config)


# --- stores


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  """A prepared store, all that is in it, and its manifest."""
  folder = tmp_path_factory.mktemp('fuzz')
  write_corpus(folder)
  store = prepared(text_config(folder, tokenizer=BPE))
  copied = folder / 'copy'
  shutil.copytree(store.directory, copied)
  return copied, content(copied), (copied / 'manifest.json').read_bytes()


def content(directory):
  store = open_store(directory)
  store.verify()
  found = []
  for split in ('train', 'validation'):
    rows = store.rows(split)
    every = np.arange(len(rows))
    found.append((rows.read(every).tolist(), rows.pieces(every)))
  return found


@cases(80)
@given(st.data())
def test_manifests(store, data):
  directory, expected, manifest = store
  if data.draw(st.booleans()):
    fields = changed(json.loads(manifest), data.draw)
    if isinstance(fields, dict) and data.draw(st.booleans()):
      # Whoever changed it knows how to make its checksum.
      fields.pop(store_manifest.CHECKSUM, None)
      if data.draw(st.booleans()):
        fields[store_manifest.CHECKSUM] = store_manifest.checksum(fields)
    text = json.dumps(fields).encode()
  else:
    text = spoiled(manifest, data.draw)
  (directory / 'manifest.json').write_bytes(text)
  found = ours(content, directory)
  assert found in (None, expected)


@cases(60)
@given(st.data())
def test_files_of_a_store(store, data):
  directory, expected, manifest = store
  (directory / 'manifest.json').write_bytes(manifest)
  names = sorted(path.name for path in directory.iterdir())
  path = directory / data.draw(st.sampled_from(names))
  before = path.read_bytes()
  path.write_bytes(spoiled(before, data.draw))
  try:
    found = content(directory)
  except DataError:
    found = None
  except ValueError:
    # Of another format, by one flipped bit.
    assert path.name == 'manifest.json'
    found = None
  finally:
    path.write_bytes(before)
  assert found in (None, expected)


# --- checkpoints


SAVED_STATE = {'a': jnp.arange(6.0), 'b': {'c': jnp.ones((2, 3), jnp.int32)}}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder with a checkpoint, and the file that says what it is."""
  folder = epath.Path(tmp_path_factory.mktemp('saved') / 'checkpoints')
  info = Info(step=7, config={'a': 1}, data_fingerprint='f')
  with Checkpoints(folder, keep_last=1) as checkpoints:
    checkpoints.save(SAVED_STATE, info)
  return folder, (folder / '7' / '_CHECKPOINT_METADATA').read_bytes()


def restored(checkpoints):
  try:
    info = checkpoints.info(7)
    checkpoints.find('best')
    # A run compares them, and tells the best.
    check_same_run(
      info, config=info.config, data_fingerprint='f', workdir=epath.Path('x'),
      allow_change=True,
    )  # fmt: skip
    assert observe(info.seen, 8, {'loss': 1.0}, train_config(DEFAULT))
    return ours(checkpoints.restore, 7, SAVED_STATE)
  except DamagedError as error:
    return str(error) and None


@cases(60)
@given(st.data())
def test_what_a_checkpoint_says(saved, data):
  folder, text = saved
  if data.draw(st.booleans()):
    text = json.dumps(changed(json.loads(text), data.draw)).encode()
  else:
    text = spoiled(text, data.draw)
  (folder / '7' / '_CHECKPOINT_METADATA').write_bytes(text)
  with Checkpoints(folder, keep_last=None) as checkpoints:
    state = restored(checkpoints)
  if state is not None:
    for found, wanted in zip(
      jax.tree.leaves(state), jax.tree.leaves(SAVED_STATE), strict=True
    ):
      np.testing.assert_array_equal(found, wanted)


# --- tokenizers and prompts


TEXTS = ('', 'the quick brown fox', '漢字 naïve \x00 <|bos|>', ' ' * 70)


def tokenizer_of(path):
  tokenizer = load_tokenizer(path)
  for text in TEXTS:
    ids = tokenizer.encode(text)
    assert ids.dtype == tokenizer.dtype
    assert not ids.size or ids.max() < tokenizer.vocab_size
    assert isinstance(tokenizer.decode(ids), str)
  return tokenizer


@cases(120)
@given(st.data())
def test_tokenizer_files(store, data):
  original = (store[0] / 'tokenizer.json').read_bytes()
  path = epath.Path(store[0].parent / 'tokenizer.json')
  if data.draw(st.integers(0, 3)):
    fields = changed(json.loads(original), data.draw)
    path.write_bytes(json.dumps(fields).encode())
  else:
    path.write_bytes(spoiled(original, data.draw))
  ours(tokenizer_of, path)
  given_tokens = ours(with_special_tokens, path, ('<|more|>',))
  if given_tokens is not None:
    path.write_bytes(given_tokens)
    ours(tokenizer_of, path)


@pytest.fixture(scope='module')
def tokenizer(store):
  return load_tokenizer(store[0] / 'tokenizer.json')


@cases(150)
@given(
  st.text(st.characters(codec='utf-8')) | st.text('<|bos>pade \n', max_size=60)
)
def test_prompts_come_back(tokenizer, text):
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.continue_id,
             tokenizer.eos_id}  # fmt: skip
  assert not special & set(ids.tolist())


# --- sources


@cases(80)
@given(st.data())
def test_documents(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp('source')
  lines = b''.join(
    json.dumps({'text': text, 'n': 1}).encode() + b'\n' for text in TEXTS
  )
  suffix = data.draw(st.sampled_from(['.jsonl', '.jsonl.gz', '.txt']))
  text = gzip.compress(lines, mtime=0) if suffix == '.jsonl.gz' else lines
  (folder / f'a{suffix}').write_bytes(spoiled(text, data.draw))
  config = text_config(
    folder,
    source='text' if suffix == '.txt' else 'jsonl',
    files=(f'{folder}/a{suffix}',),
  )
  found = ours(lambda: list(read_documents(config)))
  shutil.rmtree(folder)
  for _, document in found or ():
    if hasattr(document, 'text'):
      document.text.encode()
    else:
      assert f'a{suffix}' in document.reason
