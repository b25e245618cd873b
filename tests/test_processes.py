"""Real processes, one device each, do together what one process does alone."""

import json
import shutil
import signal
import sys
import time

import cases
import numpy as np
import pytest
import runs
import worker
from etils import epath
from processes import ALONE, Cluster, open_mpi, port, slurm

from train.exits import START_AGAIN


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """What two processes found, and the folder of their checkpoint."""
  folder = tmp_path_factory.mktemp('pair')
  command = [sys.executable, worker.__file__, str(folder / 'two')]
  with Cluster([command] * 2, open_mpi(2), folder) as cluster:
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
  first, second = (found['locked'] for found in pair[0])
  assert first.startswith(f'Another run is at work in {pair[1] / "two"}: ')
  assert second.startswith(f'Process 0 could not take {pair[1] / "two"} for')


# The whole program, by main.py. A plateau begins the decay at step 20, and it
# stops early at step 40 of 120.
FIELDS = {
  'model__compute_dtype': 'float32',
  'evaluation__every': 10,
  'optimizer__schedule': 'wsd',
  'optimizer__decay_steps': 20,
  'early_stopping__patience': 1,
  'early_stopping__min_delta': 100,
  'checkpoint__every': 1000,
}


def together(folder, name, workdir, environments, **kinds):
  """The same command of main.py in several processes."""
  command = runs.command(name, folder, workdir, **FIELDS, **kinds)
  return Cluster([command] * len(environments), environments, folder)


def wait_for_step(cluster, workdir, step):
  while runs.last_step(workdir) < step:
    cluster.check_time()
    time.sleep(0.01)


def assert_like_whole(workdir):
  """A run took the steps of the undisturbed one, with its losses."""
  found, wanted = runs.numbers(workdir), runs.numbers(workdir.parent / 'whole')
  assert sorted(found) == sorted(wanted) == list(range(1, 41))
  for step, numbers in wanted.items():
    assert found[step] == pytest.approx(numbers, rel=1e-3), step
  for step, record in runs.records(workdir, 'evaluation').items():
    whole = runs.records(workdir.parent / 'whole', 'evaluation')[step]
    assert record['loss'] == pytest.approx(whole['loss'], rel=1e-4)
    assert record['tokens'] == whole['tokens']
  assert any(
    record['message'].startswith('Stopped early at step 40')
    for record in runs.records(workdir, 'event').values()
  )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Holds the data and the run `whole`, which one process made alone."""
  folder = tmp_path_factory.mktemp('processes')
  runs.run(folder, runs.command('train', folder, 'whole', **FIELDS))
  return folder


@pytest.fixture(scope='module')
def four(folder):
  """A run of four tasks of Slurm, of which one got a signal at step 3."""
  workdir = folder / 'four'
  environments = slurm(4)
  with together(folder, 'train', 'four', environments, mesh__fsdp=4) as cluster:
    wait_for_step(cluster, workdir, 3)
    cluster.signal(2, signal.SIGTERM)
    outputs = cluster.wait([START_AGAIN] * 4)
  assert 'Joined 4 processes (by Slurm)' in outputs[0]
  steps = {
    text.split('ended the run at step ')[1].split(',')[0] for text in outputs
  }
  assert steps == {str(runs.last_step(workdir))}
  assert runs.last_step(workdir) < 40
  return workdir


@pytest.mark.slow
def test_two_processes_go_on_from_the_checkpoint_of_four(folder, four):
  shutil.copytree(four, folder / 'two')
  with together(folder, 'train', 'two', open_mpi(2), mesh__data=2) as cluster:
    outputs = cluster.wait([0, 0])
  assert 'Joined 2 processes (by Open MPI)' in outputs[0]
  # Only the first process speaks.
  assert 'step' not in outputs[1]
  assert_like_whole(folder / 'two')


@pytest.mark.slow
def test_one_process_goes_on_from_the_checkpoint_of_four(folder, four):
  shutil.copytree(four, folder / 'one')
  runs.run(folder, runs.command('train', folder, 'one', **FIELDS))
  assert_like_whole(folder / 'one')


@pytest.mark.slow
def test_two_processes_evaluate_an_uneven_last_batch(folder):
  (manifest,) = (folder / 'data').rglob('manifest.json')
  rows = json.loads(manifest.read_text())['splits']['validation']['rows']
  size = next(size for size in (32, 30, 28) if rows % size)
  command = runs.command(
    'evaluate',
    folder,
    'whole',
    f'--coordinator_address=127.0.0.1:{port()}',
    '--num_processes=2',
    **FIELDS,
    mesh__fsdp=2,
    evaluation__batch_size=size,
  )
  commands = [[*command, f'--process_id={number}'] for number in range(2)]
  with Cluster(commands, [ALONE] * 2, folder) as cluster:
    outputs = cluster.wait([0, 0])
  assert '{' not in outputs[1]
  found = json.loads(outputs[0][outputs[0].index('{"step"') :])
  wanted = runs.records(folder / 'whole', 'evaluation')[found['step']]
  assert found['loss'] == pytest.approx(wanted['loss'], rel=1e-5)
  assert found['tokens'] == wanted['tokens']


@pytest.mark.slow
def test_another_configuration_on_one_host_ends_all(folder):
  fields = FIELDS | {'mesh__data': 2}
  commands = [
    runs.command('train', folder, 'other', **fields, optimizer__b2=b2)
    for b2 in (0.95, 0.99)
  ]
  with Cluster(commands, slurm(2), folder) as cluster:
    outputs = cluster.wait([64, 64])
  for number, output in enumerate(outputs):
    assert 'Processes 1 differ from process 0 in optimizer.b2' in output
    assert f'on process {number}, it is 0.9{"59"[number]}' in output
  assert not (folder / 'other' / 'metrics.jsonl').exists()


@pytest.mark.slow
def test_a_killed_process_ends_all(folder):
  with together(folder, 'train', 'killed', slurm(2), mesh__data=2) as cluster:
    wait_for_step(cluster, folder / 'killed', 3)
    cluster.signal(1, signal.SIGKILL)
    cluster.wait([START_AGAIN, -signal.SIGKILL])
