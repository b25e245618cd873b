import dataclasses

import numpy as np
import pytest
from data_configs import BPE, contents, prepared, text_config, write_corpus
from etils import epath

from input_pipeline import engine, workers
from input_pipeline.beam_engine import BeamEngine
from input_pipeline.config import EngineConfig
from input_pipeline.engine import LocalEngine, Shuffle

KIND = np.dtype([('key', '<u8'), ('value', '<u8')])
BEAM = EngineConfig(name='beam', runner='FnApiRunner', options=())


@dataclasses.dataclass(frozen=True)
class Numbers:
  name: str
  seed: int


def emit(task):
  random = np.random.default_rng(task.seed)
  records = np.empty(200, KIND)
  # Keys over the whole range, of which many are equal.
  records['key'] = random.integers(0, 50, 200) * (2**64 // 50)
  records['value'] = random.integers(0, 10**6, 200)
  return records


def sum_by_key(records):
  assert (records[:-1]['key'] <= records[1:]['key']).all()
  same = records['key'][:-1] == records['key'][1:]
  assert (np.diff(records['value'].astype(np.int64))[same] >= 0).all()
  keys, inverse = np.unique(records['key'], return_inverse=True)
  sums = np.zeros(keys.size, np.uint64)
  np.add.at(sums, inverse, records['value'])
  return np.stack([keys, sums], axis=1)


TASKS = [Numbers(f'task-{n}', n) for n in range(6)]


def expected():
  return sum_by_key(np.sort(np.concatenate([emit(task) for task in TASKS])))


def shuffle(directory, partitions):
  return Shuffle(
    name='sum',
    directory=epath.Path(directory),
    kind=KIND,
    emit=emit,
    reduce=sum_by_key,
    partitions=partitions,
  )


@pytest.mark.parametrize('partitions', [1, 3, 200])
@pytest.mark.parametrize(
  'runs', [LocalEngine(1), BeamEngine('FnApiRunner', ())]
)
def test_a_shuffle_brings_equal_keys_together(tmp_path, partitions, runs):
  spec = shuffle(tmp_path, partitions)
  runs.shuffle(spec, TASKS)
  found = list(engine.results(spec))
  assert len(found) == partitions
  # 200 partitions of 50 keys: most of them are empty, and have a result too.
  np.testing.assert_array_equal(np.concatenate(found), expected())
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    spec.result(n).name for n in range(partitions)
  ]


def test_a_finished_partition_is_not_made_again(tmp_path):
  spec = shuffle(tmp_path, 3)
  LocalEngine(1).shuffle(spec, TASKS)
  before = contents(tmp_path)
  spec.result(1).unlink()
  changed = dataclasses.replace(
    spec, reduce=lambda records: sum_by_key(records)
  )
  LocalEngine(1).shuffle(changed, TASKS)
  assert contents(tmp_path) == before

  def refuse(task):
    raise AssertionError

  LocalEngine(1).shuffle(dataclasses.replace(spec, emit=refuse), TASKS)


@pytest.mark.slow
def test_beam_gives_the_same_bytes_as_the_local_engine(tmp_path, small_chunks):
  write_corpus(tmp_path)
  (tmp_path / 'corpus' / 'again.txt').write_text(
    (tmp_path / 'corpus' / '003.txt').read_text()
  )
  config = text_config(tmp_path, tokenizer=BPE)
  local = prepared(config)
  beam = prepared(
    dataclasses.replace(config, engine=BEAM, directory=str(tmp_path / 'beam'))
  )
  assert beam.directory.name == local.directory.name
  assert contents(beam.directory) == contents(local.directory)


def test_a_fault_of_the_user_has_one_message_on_any_engine(tmp_path):
  write_corpus(tmp_path)
  (tmp_path / 'corpus' / 'bad.txt').write_bytes(b'\xff')
  config = text_config(tmp_path)
  second = dataclasses.replace(config, engine=BEAM)
  for each in (config, second):
    with pytest.raises(ValueError, match=r'^\S*bad\.txt: byte 0xff in line 1'):
      prepared(each)


def double(task):
  if task.seed == 3:
    raise ValueError('of a library')
  return 2 * task.seed


def test_results_and_errors_come_back_from_other_processes():
  found = sorted(workers.run(double, TASKS[:3], workers=2))
  assert found == [0, 2, 4]
  with pytest.raises(ValueError, match='of a library'):
    list(workers.run(double, TASKS, workers=2))


def die(task):
  import os
  import signal

  if task.seed == 3:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_names_its_task():
  with pytest.raises(RuntimeError, match=r'at work on one of .*task-3'):
    list(workers.run(die, TASKS, workers=2))
