"""A run that meets a bad batch goes back and leaves it out."""

import shutil
import signal

import pytest
import runs
from processes import ROOT, Cluster

from configs.check import from_json
from input_pipeline.augmentation.config import augmentation_config
from input_pipeline.config import training_data
from input_pipeline.stores import open_stores
from train.exits import DATA_ERROR
from train.metrics import read_metrics

pytestmark = pytest.mark.slow

FAULTY = str(ROOT / 'tests' / 'faulty_main.py')
# The bad batch is that of step 26. Back before batch 16: to step 14.
BAD, LEFT_OUT, BACK = 25, 10, 14
FIELDS = {
  'steps': 60,
  'evaluation__every': 20,
  'checkpoint__every': 7,
  'checkpoint__keep_last': 20,
  'model__compute_dtype': 'float32',
  'bad_steps__action': 'roll_back',
  'bad_steps__limit': 50.0,
  'bad_steps__left_out': LEFT_OUT,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Holds the data, and the run that nothing disturbed."""
  folder = tmp_path_factory.mktemp('rollback')
  # The same program, whose fault no batch brings out.
  fault = {'batch': 1, 'factors': {1: 1e6}}
  with Cluster(
    [command(folder, 'whole')], [environment(folder, fault)], folder
  ) as cluster:
    cluster.wait([0])
  return folder


def sum_of_batch(folder, number):
  config = from_json((folder / 'whole/config.json').read_bytes(), '')
  config.data.directory = str(folder / 'data')
  stream = open_stores(training_data(config)).stream(
    seed=config.seed,
    batch_size=config.batch_size,
    repack=augmentation_config(config).repack,
  )
  places = stream.places_of_step(number, 0, config.batch_size)
  return int(stream.read(places).sum())


def command(folder, workdir, **fields):
  arguments = runs.command('train', folder, workdir, **FIELDS | fields)
  arguments[1] = FAULTY
  return arguments


def environment(folder, fault):
  fault = {'kind': 'gradients'} | fault
  return runs.environment() | {'FAULT': repr(fault)}


@pytest.fixture(scope='module')
def fault(folder):
  return {'batch': sum_of_batch(folder, BAD), 'factors': {1: 1e6}}


@pytest.fixture(scope='module')
def back(folder, fault):
  """The run that met the bad batch."""
  with Cluster(
    [command(folder, 'back')], [environment(folder, fault)], folder
  ) as cluster:
    (output,) = cluster.wait([0])
  assert 'Done at step 60' in output
  return folder / 'back'


def documents(folder, workdir, step):
  arguments = runs.command(
    'documents', folder, workdir, f'--step={step}', '--json', **FIELDS
  )
  return runs.run(folder, arguments).stdout


def test_the_run_goes_back_and_comes_to_its_end(folder, back):
  (message,) = [
    record['message']
    for record in read_metrics(back)
    if 'Back to' in record.get('message', '')
  ]
  assert message.startswith('Step 26 is bad')
  assert f'Back to step {BACK}; batches 16 to 25 are left out' in message
  found, wanted = runs.numbers(back), runs.numbers(folder / 'whole')
  assert sorted(found) == sorted(wanted) == list(range(1, 61))
  same = [step for step in wanted if found[step] == wanted[step]]
  assert same == list(range(1, 17))


def test_no_batch_is_read_that_was_left_out(folder, back):
  for step, other in [(16, 16), (17, 27), (30, 40)]:
    seen = documents(folder, 'back', step)
    assert seen == documents(folder, 'whole', other), step


def test_the_steps_that_were_left_behind_are_saved_again(folder, back):
  steps = sorted(int(p.name) for p in (back / 'checkpoints').iterdir())
  assert set(range(7, 61, 7)) <= set(steps)
  assert {p.name for p in (back / 'quarantine').iterdir()} == {'20', '21'}
  told = runs.run(
    folder, runs.command('checkpoints', folder, 'back', '--verify', **FIELDS)
  ).stdout
  assert told.count('good') == len(steps)


def test_the_decision_replays_identically_after_a_kill(folder, fault, back):
  for name, step in (('before', 12), ('after', 30)):
    with Cluster(
      [command(folder, name)], [environment(folder, fault)], folder
    ) as cluster:
      while runs.last_step(folder / name) < step:
        cluster.check_time()
      cluster.signal(0, signal.SIGKILL)
      cluster.wait([-signal.SIGKILL])
    with Cluster(
      [command(folder, name)], [environment(folder, fault)], folder
    ) as cluster:
      cluster.wait([0])
    assert runs.numbers(folder / name) == runs.numbers(back)


def test_a_run_that_only_goes_back_ends(folder):
  # A fault of the step, whatever the batch.
  shutil.rmtree(folder / 'loop', ignore_errors=True)
  fault = {'factors': {26: 1e6}}
  with Cluster(
    [command(folder, 'loop', bad_steps__max_rollbacks=2)],
    [environment(folder, fault)],
    folder,
  ) as cluster:
    (output,) = cluster.wait([DATA_ERROR])
  assert '2 times back already (bad_steps.max_rollbacks)' in output
  kinds = [record['kind'] for record in read_metrics(folder / 'loop')]
  assert kinds.count('session') == 1
