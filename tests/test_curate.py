"""Curation from end to end, on text of the standard library with plants in it.

Suffix: N documents.
"""

import dataclasses
import json
import math
import signal
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from data_configs import BPE, contents, curation, prepared, text_config
from processes import child

from input_pipeline import chunks, encode
from input_pipeline.config import EngineConfig
from input_pipeline.curation import banding

BEAM = EngineConfig(name='beam', runner='FnApiRunner', options=())
TARGET = 0.6
WORDS = 400
# Nothing but what finds duplicates, leaks and private data.
PLAIN = {
  'profile': 'code',
  'code.code_quality.enabled': False,
  'near_duplicates.similarity': TARGET,
}


def words_of_modules(number):
  """The first words of some modules that have little in common."""
  root = Path(sysconfig.get_paths()['stdlib'])
  found, shingles = [], []
  for path in sorted(root.glob('*.py')):
    words = path.read_text(encoding='utf-8').split()[:WORDS]
    mine = shingles_of(words)
    if len(words) == WORDS and all(jaccard(mine, s) < 0.1 for s in shingles):
      found.append(words)
      shingles.append(mine)
    if len(found) == number:
      return found
  raise AssertionError(f'only {len(found)} modules')


def shingles_of(words):
  folded = [word.lower() for word in words]
  return {tuple(folded[i : i + 5]) for i in range(len(words) - 4)}


def jaccard(a, b):
  return len(a & b) / len(a | b)


def edited(words, share, random):
  words = list(words)
  places = random.choice(len(words), round(share * len(words)), replace=False)
  for place in places:
    words[place] = f'w{random.integers(10**9)}'
  return words


def write(path, texts, **fields):
  records = [{'text': text, **fields} for text in texts]
  path.parent.mkdir(exist_ok=True)
  path.write_text(''.join(json.dumps(r) + '\n' for r in records))


def corpus_config(tmp_path, settings, **changes):
  return text_config(
    tmp_path,
    source='jsonl',
    files=tuple(
      f'{tmp_path}/{name}/*.jsonl'
      for name in ('a', 'b')
      if (tmp_path / name).exists()
    ),
    validation_files=(f'{tmp_path}/held_out/validation.jsonl',),
    curation=curation(**PLAIN | settings),
    # Rows that hold a whole document.
    **{'sequence_length': 8_192} | changes,
  )


def kept_ids(store, split='train'):
  rows = store.rows(split)
  pieces = rows.pieces(np.arange(len(rows)))
  return {piece.document for row in pieces for piece in row}


def line(identifier):
  return int(identifier.rpartition(':')[2]) - 1


@pytest.fixture
def few_chunks(monkeypatch):
  """Lets a few documents make several chunks and shards."""
  monkeypatch.setattr(chunks, 'CHUNK_BYTES', 6_000)
  monkeypatch.setattr(encode, 'CHUNKS_PER_SHARD', 3)


@pytest.fixture(scope='module')
def modules():
  return words_of_modules(100)


def test_planted_near_duplicates_are_found_as_the_table_says(tmp_path, modules):
  random = np.random.default_rng(0)
  edits = {}
  for share in (0.05, 0.1, 0.2, 0.4):
    edits[share] = [edited(words, share, random) for words in modules[:80]]
  edits[0.02] = [edited(words, 0.02, random) for words in modules[:80]]
  originals = [' '.join(words) for words in modules]
  plants = [words for found in edits.values() for words in found]
  write(tmp_path / 'a' / 'train.jsonl', originals)
  write(tmp_path / 'b' / 'train.jsonl', [' '.join(w) for w in plants])
  write(tmp_path / 'held_out' / 'validation.jsonl', ['something else'])
  store = prepared(corpus_config(tmp_path, {}))
  kept = kept_ids(store)
  # The originals come first, so all stay, unrelated as they are.
  assert {i for i in kept if i.startswith('a/')} == {
    f'a/train.jsonl:{n + 1}' for n in range(100)
  }
  shape = banding.bands(TARGET, 128)
  number = 0
  for share, found in edits.items():
    expected = variance = removed = 0.0
    for words, original in zip(found, modules, strict=False):
      # The edits of one original are related to each other, but less so.
      p = banding.removal_probability(
        shape,
        jaccard(shingles_of(words), shingles_of(original)),
        target=TARGET,
        permutations=128,
      )
      expected += p
      variance += p * (1 - p)
      removed += f'b/train.jsonl:{number + 1}' not in kept
      number += 1
    assert abs(removed - expected) <= 4 * math.sqrt(variance) + 1, share
    if share == 0.02:
      assert removed > 76
    if share == 0.4:
      assert removed == 0
  dropped = store.manifest.splits['train'].dropped
  assert dropped['near_duplicate'] == 500 - len(kept)


def test_the_best_of_near_duplicates_stays(tmp_path, modules):
  random = np.random.default_rng(1)
  texts = [' '.join(words) for words in modules[:30]]
  again = [' '.join(edited(words, 0.02, random)) for words in modules[:30]]
  write(tmp_path / 'a' / 'train.jsonl', [*again[:20], *texts[20:]])
  write(tmp_path / 'b' / 'train.jsonl', texts[:10])
  write(tmp_path / 'held_out' / 'validation.jsonl', texts[10:20])
  first = prepared(corpus_config(tmp_path, {}))
  # A document that is like one of validation is not trained on.
  assert kept_ids(first, 'validation') == {
    f'held_out/validation.jsonl:{n}' for n in range(1, 11)
  }
  assert sorted(line(i) for i in kept_ids(first)) == [
    *range(10),
    *range(20, 30),
  ]
  assert all(i.startswith('a/') for i in kept_ids(first))
  second = prepared(corpus_config(tmp_path, {'source_priority': ('b',)}))
  kept = {i for i in kept_ids(second) if i.startswith('b/')}
  assert sorted(line(i) for i in kept) == list(range(10))
  assert len(kept_ids(second)) == 20


def test_leaks_and_private_data_are_found(tmp_path, modules):
  random = np.random.default_rng(2)
  texts = [' '.join(words) for words in modules[:40]]
  questions = [' '.join(words[100:130]) for words in modules[40:60]]
  write(tmp_path / 'evaluation.jsonl', questions[:10])
  (tmp_path / 'other.txt').write_text(questions[10])
  for n, question in enumerate(questions[:11]):
    words = modules[n][:WORDS]
    place = int(random.integers(0, 300))
    # In other case, with other punctuation and line ends.
    leak = question.upper().replace(' ', '\n', 3)
    texts[n] = ' '.join([*words[:place], leak, *words[place:]])
  texts[12] += ' write to jane.doe+x@mail.example-host.org now'
  texts[13] += ' host 8.8.8.8 and 192.168.0.1 '
  texts[14] += ' key AKIAIOSFODNN7EXAMPLQ '
  write(tmp_path / 'a' / 'train.jsonl', texts)
  write(tmp_path / 'held_out' / 'validation.jsonl', ['something else'])
  evaluations = (
    f'qa={tmp_path}/evaluation.jsonl',
    f'other={tmp_path}/other.txt',
  )
  store = prepared(
    corpus_config(tmp_path, {'contamination.evaluations': evaluations})
  )
  assert sorted(line(i) for i in kept_ids(store)) == list(range(11, 40))
  dropped = store.manifest.splits['train'].dropped
  assert dropped['contamination/qa'] == 10
  assert dropped['contamination/other'] == 1
  card = json.loads((store.directory / 'card.json').read_text())
  found = {hit['evaluation']: hit['documents'] for hit in card['contamination']}
  assert found == {'qa': 10, 'other': 1}
  text = store_text(store)
  assert '[EMAIL]' in text
  assert '@mail' not in text
  assert '[IP_ADDRESS] and 192.168.0.1' in text
  assert '[SECRET]' in text


def store_text(store):
  rows = store.rows('train').read(np.arange(len(store.rows('train'))))
  ids = rows[rows > 3].astype(np.int64) - 4
  return bytes(ids.tolist()).decode()


def test_repeated_lines_and_quality(tmp_path, modules):
  banner = 'this banner stands on every page of the site'
  texts = [
    f'{banner}\n' + ' '.join(words) + f' {n}\nshort line'
    for n, words in enumerate(modules[:30])
  ]
  write(tmp_path / 'a' / 'train.jsonl', [*texts, banner])
  write(tmp_path / 'held_out' / 'validation.jsonl', ['x y z'])
  store = prepared(corpus_config(tmp_path, {'code.repeated_lines': 5}))
  text = store_text(store)
  assert text.count(banner) == 1
  assert text.count('short line') == 30
  dropped = store.manifest.splits['train'].dropped
  assert dropped['only_repeated_lines'] == 1

  trusted = [' '.join(words[200:]) for words in modules[30:60]]
  poor = [
    ' '.join(f'qzx{(7 * n + k) % 90}' for k in range(200)) for n in range(30)
  ]
  write(tmp_path / 'trusted.jsonl', trusted)
  write(tmp_path / 'a' / 'train.jsonl', [*texts, *poor])
  store = prepared(
    corpus_config(
      tmp_path,
      {
        'quality_model.trusted_files': (f'{tmp_path}/trusted.jsonl',),
        'quality_model.keep_fraction': 0.4,
      },
    )
  )
  kept = [line(i) for i in kept_ids(store)]
  left = 60 - store.manifest.splits['train'].dropped['near_duplicate']
  assert len(kept) == math.ceil(0.4 * left)
  assert max(kept) < 30


def everything(tmp_path, modules):
  """A corpus and a config with every stage on."""
  random = np.random.default_rng(3)
  texts = [' '.join(words[:120]) for words in modules[:24]]
  texts += [' '.join(edited(w[:120], 0.02, random)) for w in modules[:12]]
  texts += texts[:6]
  texts = [f'one line that is everywhere\n{text}' for text in texts]
  write(tmp_path / 'a' / 'train.jsonl', texts[::2])
  write(tmp_path / 'b' / 'train.jsonl', texts[1::2])
  write(tmp_path / 'held_out' / 'validation.jsonl', [*texts[:3], 'else'])
  write(
    tmp_path / 'trusted.jsonl', [' '.join(w[150:250]) for w in modules[:30]]
  )
  (tmp_path / 'evaluation.txt').write_text(' '.join(modules[5][20:40]))
  return corpus_config(
    tmp_path,
    {
      'source_priority': ('b', 'a'),
      'code.repeated_lines': 4,
      'near_duplicates.permutations': 32,
      'quality_model.trusted_files': (f'{tmp_path}/trusted.jsonl',),
      'quality_model.keep_fraction': 0.9,
      'quality_model.raw_documents': 30,
      'contamination.evaluations': (f'e={tmp_path}/evaluation.txt',),
      'term_groups': ('self=self', 'classes=class,def'),
    },
    tokenizer=BPE,
  )


@pytest.mark.slow
def test_every_engine_makes_the_same_store(tmp_path, few_chunks, modules):
  config = everything(tmp_path, modules)
  expected = prepared(config)
  dropped = expected.manifest.splits['train'].dropped
  for reason in (
    'duplicate', 'near_duplicate', 'low_quality', 'contamination/e',
  ):  # fmt: skip
    assert dropped[reason] > 0, reason
  for name, changes in (('two', {'workers': 2}), ('beam', {'engine': BEAM})):
    directory = str(tmp_path / name)
    found = prepared(
      dataclasses.replace(config, directory=directory, **changes)
    )
    assert contents(found.directory) == contents(expected.directory), name


@pytest.mark.slow
def test_killed_in_any_stage_ends_with_the_same_store(
  tmp_path, few_chunks, modules
):
  config = everything(tmp_path, modules)
  expected = prepared(config)
  directory = str(tmp_path / 'killed')
  config = dataclasses.replace(config, directory=directory)
  for pattern in (
    r'text/part-00001\.json$',
    r'clean/train-00001-00001\.text$',
    r'clean/train-00001-00002\.tally\.json$',
    r'equal/spill/.*-1$',
    r'equal/00000-of-00001\.npy$',
    r'quality/model$',
    r'quality/train-00001-00001\.npy$',
    r'lines/found/00000-of-00001\.npy$',
    r'lines/text/train-00001-00001\.npy$',
    r'near/spill/.*-1$',
    r'near/0000.-of-.*\.npy$',
    r'account/train-00001-00001\.tally\.json$',
    r'card\.json$',
  ):
    process = child(KILLED, pickled(config), pattern)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, (pattern, output)
  again = prepared(config)
  assert contents(again.directory) == contents(expected.directory)


def pickled(config):
  import base64
  import pickle

  return base64.b64encode(pickle.dumps(config)).decode()


KILLED = """
import base64, os, pickle, re, signal, sys
from input_pipeline import chunks, durable, encode
from input_pipeline.prepare import prepare

config = pickle.loads(base64.b64decode(sys.argv[1]))
chunks.CHUNK_BYTES, encode.CHUNKS_PER_SHARD = 6_000, 3
write = durable.write

def cut_and_die(descriptor):
  os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
  os.kill(os.getpid(), signal.SIGKILL)

def write_until(path, data):
  if re.search(sys.argv[2], str(path)):
    os.fsync = cut_and_die
  write(path, data)

durable.write = write_until
prepare(config, log=print)
"""
