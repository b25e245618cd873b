"""A preparation that is killed, or started twice, ends with the same bytes."""

import dataclasses
import os
import signal
import time

import pytest
from data_configs import BPE, contents, prepared, text_config, write_corpus
from processes import child

from input_pipeline import lock
from input_pipeline.manifest import store_directory
from input_pipeline.store import open_store

KILLED = """
import os, signal, sys
from pathlib import Path
from data_configs import text_config
from input_pipeline import chunks, durable, encode
from input_pipeline.config import TokenizerConfig
from input_pipeline.prepare import prepare

tmp_path, directory, when, name = sys.argv[1:]
chunks.CHUNK_BYTES, encode.CHUNKS_PER_SHARD = 300, 3
write = durable.write

def die():
  os.kill(os.getpid(), signal.SIGKILL)

def cut_and_die(descriptor):
  os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
  die()

def write_until(path, data):
  if path.name == name and when == 'half written':
    os.fsync = cut_and_die
  write(path, data)
  if path.name == name and when == 'written':
    die()

durable.write = write_until
tokenizer = TokenizerConfig(
  kind='bpe', vocab_size=300, train_bytes=900, path=None
)
config = text_config(
  Path(tmp_path), directory=directory, tokenizer=tokenizer
)
prepare(config, log=print)
"""


def test_killed_at_any_point_ends_with_the_same_bytes(tmp_path, small_chunks):
  write_corpus(tmp_path)
  config = text_config(tmp_path, tokenizer=BPE)
  expected = prepared(config)
  directory = str(tmp_path / 'killed')
  for when, name in [
    ('half written', 'train-00000-00001.text'),
    ('written', 'finished.json'),
    ('half written', 'tokenizer.json'),
    ('written', 'tokenizer.json'),
    ('half written', 'train-00000-00001.tokens'),
    ('written', 'train-00000-00001.tokens'),
    ('written', 'train-00000-00002.lengths.npy'),
    ('half written', 'train-00000-of-00002.rows'),
    ('written', 'train-00001-of-00002.rows'),
    ('half written', 'manifest.json'),
    ('written', 'manifest.json'),
  ]:
    process = child(KILLED, tmp_path, directory, when, name)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, (when, name)
  again = prepared(dataclasses.replace(config, directory=directory))
  assert contents(again.directory) == contents(expected.directory)
  again.verify()


def test_a_kill_after_the_manifest_leaves_no_work(tmp_path):
  write_corpus(tmp_path)
  config = text_config(tmp_path)
  store = prepared(config)
  expected = contents(store.directory)
  (store.directory / 'work').mkdir()
  (store.directory / 'work' / 'file').write_text('left behind')
  assert contents(prepared(config).directory) == expected


def test_two_at_once_wait_for_one_another(tmp_path):
  write_corpus(tmp_path)
  config = text_config(tmp_path, tokenizer=BPE)
  directory = store_directory(config)
  path = directory.parent / f'.{directory.name}.lock'
  with lock.locked(path, print):
    process = child(KILLED, tmp_path, config.directory, 'never', '')
    line = process.stdout.readline()
    assert line.startswith(f'Waiting for process {os.getpid()} on ')
    assert not directory.exists()
  process.communicate()
  assert process.returncode == 0
  open_store(directory).verify()


SLEEPERS = """
import collections, os, sys, time
from pathlib import Path
from input_pipeline import workers

Task = collections.namedtuple('Task', 'name')

def sleep(task):
  Path(task.name).write_text(str(os.getpid()))
  time.sleep(60)

if __name__ == '__main__':
  list(workers.run(sleep, [Task(path) for path in sys.argv[1:]], workers=2))
"""


def test_workers_die_with_their_parent(tmp_path):
  script = tmp_path / 'sleepers.py'
  script.write_text(SLEEPERS)
  files = [tmp_path / 'a', tmp_path / 'b']
  process = child(script, *files)
  while not all(f.exists() and f.read_text() for f in files):
    assert process.poll() is None
    time.sleep(0.05)
  process.kill()
  process.wait()
  for file in files:
    for _ in range(200):
      if not running(int(file.read_text())):
        break
      time.sleep(0.05)
    else:
      pytest.fail('a worker outlived its parent')


def running(process_id):
  try:
    os.kill(process_id, 0)
  except ProcessLookupError:
    return False
  return True
