"""Trials that take all devices do what they do on one, and so do processes."""

import signal
import time

import pytest
import runs
from optuna.trial import TrialState
from processes import Cluster, open_mpi
from small_studies import Setting, curves, stores_in
from test_tune import told

from train.exits import START_AGAIN
from train.metrics import read_metrics
from train.tuning.command import check_devices

MESH = {'mesh.data': 2, 'mesh.fsdp': 2}
# What is quick to compile.
QUICK = {
  'batch_size': 4,
  'evaluation.batch_size': 4,
  'steps': 4,
  'model.scan_layers': False,
  'model.positions': 'learned',
  'model.mlp': 'gelu',
  'optimizer.name': 'sgd',
  'optimizer.weight_decay': 0.0,
}


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
  return stores_in(tmp_path_factory.mktemp('data'))


def test_a_study_on_a_mesh_finds_what_one_on_a_device_finds(tmp_path, stores):
  found = {}
  for devices, mesh in ((1, {}), (4, MESH)):
    setting = Setting(
      tmp_path / str(devices), stores, fields=QUICK | mesh, trials=2
    )
    worker, found[devices] = setting.run(devices=devices, population=1)
    assert worker.compiled == 1
  assert [t.params for t in found[4]] == [t.params for t in found[1]]
  assert [t.state for t in found[4]] == [TrialState.COMPLETE] * 2
  for mesh, alone in zip(curves(found[4]), curves(found[1]), strict=True):
    assert mesh == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize(
  ('fields', 'search', 'words'),
  [
    ({'mesh.fsdp': 8}, {'population': 4}, 'search.population = 4'),
    ({'mesh.fsdp': 3}, {}, 'mesh'),
    ({'mesh.fsdp': 8, 'batch_size': 4}, {}, 'batch_size'),
  ],
)
def test_what_does_not_fit_the_mesh_is_an_error_before_the_first_trial(
  tmp_path, stores, fields, search, words
):
  setting = Setting(tmp_path, stores, fields=fields, **search)
  with pytest.raises(ValueError, match=words):
    check_devices(setting.search)


# Two trials are suggested at random, and both run again with another seed.
SEARCH = {
  'trials': 2,
  'sampler': 'random',
  'pruner': 'none',
  # Its learning rates are low: at high ones rounding grows to what can be seen.
  'seed': 6,
  'confirm.top': 1,
  'confirm.seeds': 1,
}
FIELDS = {
  'steps': 60,
  'evaluation__every': 15,
  'checkpoint__every': 15,
  'data__validation_split': 'validation[:2%]',
  'model__compute_dtype': 'float32',
}


def command(folder, workdir, **fields):
  return runs.command(
    'tune',
    folder,
    workdir,
    *(f'--search.{name}={value}' for name, value in SEARCH.items()),
    config='tune_tiny',
    **FIELDS | fields,
  )


@pytest.mark.slow
def test_processes_that_train_together_are_one_worker(tmp_path):
  """One gets a signal on the way, and all go on by the same command."""
  runs.run(tmp_path, command(tmp_path, 'alone'))
  together = [command(tmp_path, 'both', mesh__data=2)] * 2
  workdir = tmp_path / 'both'
  with Cluster(together, open_mpi(2), tmp_path) as cluster:
    while not runs.last_step(workdir / 'trials/0001'):
      cluster.check_time()
      time.sleep(0.01)
    cluster.signal(1, signal.SIGTERM)
    outputs = cluster.wait([START_AGAIN] * 2)
  assert all('SIGTERM ended the study' in output for output in outputs)
  with Cluster(together, open_mpi(2), tmp_path) as cluster:
    outputs = cluster.wait([0, 0])
  # Process 0 alone speaks.
  assert '2 trials went to their end' in outputs[0]
  assert 'trial' not in outputs[1]
  found, wanted = told(tmp_path, 'both'), told(tmp_path, 'alone')
  assert [len(part) for part in found] == [2, 2]
  for trials, others in zip(found, wanted, strict=True):
    for (state, params, values, curve), other in zip(
      trials, others, strict=True
    ):
      assert (state, params) == other[:2]
      assert values == pytest.approx(other[2], rel=1e-3)
      assert curve == pytest.approx(other[3], rel=1e-3)
  for trial in ('trials/0000', 'trials/0001', 'confirm/0000', 'confirm/0001'):
    records = read_metrics(workdir / trial)
    assert [r['step'] for r in records if r['kind'] == 'train'] == [
      *range(1, 61)
    ]
