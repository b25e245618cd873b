"""Real processes, one device each, do together what one process does alone."""

import json
import sys

import cases
import numpy as np
import pytest
import worker
from etils import epath
from processes import Cluster, port

ALONE = {
  'JAX_PLATFORMS': 'cpu',
  'JAX_NUM_CPU_DEVICES': '1',
  'TF_CPP_MIN_LOG_LEVEL': '3',
}


def open_mpi(count):
  """What mpirun of Open MPI 5 tells each of its processes."""
  shared = ALONE | {
    'JAX_COORDINATOR_PORT': str(port()),
    'OMPI_COMM_WORLD_SIZE': str(count),
    'PMIX_NAMESPACE': 'prterun-localhost-812@1',
  }
  return [shared | {'OMPI_COMM_WORLD_RANK': str(rank)} for rank in range(count)]


def slurm(count):
  """What srun tells each of its tasks."""
  shared = ALONE | {
    'JAX_COORDINATOR_PORT': str(port()),
    'SLURM_JOB_ID': '7',
    'SLURM_NTASKS': str(count),
    'SLURM_STEP_NODELIST': 'localhost',
  }
  return [shared | {'SLURM_PROCID': str(rank)} for rank in range(count)]


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """What two processes found, and the folder of their checkpoint."""
  folder = tmp_path_factory.mktemp('pair')
  command = [sys.executable, worker.__file__, str(folder / 'two')]
  with Cluster([command] * 2, open_mpi(2), folder, seconds=120) as cluster:
    outputs = cluster.wait([0, 0])
  assert [text.count('I am the first') for text in outputs] == [1, 0]
  lines = [text.split('found ', 1)[1].splitlines()[0] for text in outputs]
  return [json.loads(line) for line in lines], epath.Path(folder)


@pytest.fixture(scope='module')
def alone(pair):
  """What one process finds, in the same folder."""
  return worker.work(1, pair[1] / 'one', 0)


def assert_same_run(found, wanted):
  """Losses, gradients and evaluation are equal within rounding."""
  for step in map(str, range(1, worker.STEPS + 1)):
    if step in found:
      np.testing.assert_allclose(found[step], wanted[step], rtol=1e-5)
  assert found['evaluation'] == pytest.approx(wanted['evaluation'], rel=1e-5)


def test_two_processes_train_as_one(pair, alone):
  (first, second), _ = pair
  assert_same_run(first, alone)
  # To the last bit, for it decides when to stop.
  for name in ('1', '2', '3', 'evaluation'):
    assert first[name] == second[name], name


def test_an_uneven_last_batch_counts_each_token_once(pair):
  rows = cases.packed_rows(batch=worker.VALIDATION_ROWS, seed=99)
  targets = rows[:, 1:]
  held = np.isin(targets, [cases.PAD, cases.BOS, cases.CONTINUE])
  assert pair[0][0]['evaluation']['tokens'] == np.sum(~held)
  assert np.isfinite(pair[0][0]['evaluation']['loss'])


def test_one_process_goes_on_from_the_checkpoint_of_two(pair, alone):
  found = worker.work(1, pair[1] / 'two', worker.SAVED)
  assert str(worker.SAVED) not in found
  assert_same_run(found, alone)


def test_processes_that_differ_are_refused_on_all_alike(pair):
  for number, found in enumerate(pair[0]):
    assert 'Processes 1 differ from process 0 in rate' in found['differ']
    assert f'on process {number}, it is {number}' in found['differ']
    assert 'Processes 1 run different code' in found['names']


def test_what_fails_on_the_first_process_fails_on_all(pair):
  first, second = (found['failed'] for found in pair[0])
  assert first == 'no disk'
  assert second == 'Process 0 could not save; it says why.'
