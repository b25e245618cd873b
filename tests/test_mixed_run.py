"""A run on a mixture, started as a user starts it."""

import json
import pathlib
import signal
import sys

import pytest
import runs

CONFIG = """
from configs import tiny

def get_config():
  config = tiny.get_config()
  weights = {'code': ('0: 1', '10..20: 1 -> 4'), 'prose': ('2',)}
  for name in weights:
    config.data.mixture[name] = tiny.base.dataset()
    dataset = config.data.mixture[name]
    dataset.source = 'text'
    dataset.files = (f'{name}/*.txt',)
    dataset.validation_fraction = 0.25
    dataset.weights = weights[name]
  config.data.validation_split = 'validation'
  return config
"""
TINY = {
  key: value for key, value in runs.TINY.items() if 'split' not in key
} | {'steps': 120, 'evaluation.every': 60, 'model.num_layers': 1}


def command(
  name: str, folder: pathlib.Path, *flags: str, workdir: str = 'whole', **fields
) -> list[str]:
  values = TINY | {'runtime.compilation_cache': folder / 'compiled'} | fields
  return [
    sys.executable,
    str(runs.ROOT / 'main.py'),
    name,
    f'--config={folder}/mixed.py',
    f'--workdir={workdir}',
    *(f'--config.{key}={value}' for key, value in values.items()),
    *flags,
  ]


# A run of the whole program; what it is made of has tests in the default suite.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """Holds two datasets, and the run `whole`, which nothing disturbed."""
  folder = tmp_path_factory.mktemp('mixed_run')
  (folder / 'mixed.py').write_text(CONFIG)
  for name, times in (('code', 6), ('prose', 40)):
    (folder / name).mkdir()
    for n in range(12):
      text = f'{name} {n}: ' + f'the {n + 1} quick foxes of {name}\n' * times
      (folder / name / f'{n}.txt').write_text(text)
  done = runs.run(folder, command('train', folder))
  (folder / 'log.txt').write_text(done.stderr)
  return folder


def test_an_interrupted_run_goes_on_with_the_same_batches(folder):
  arguments = command('train', folder, workdir='stopped')
  workdir = folder / 'stopped'
  runs.run_until(arguments, workdir, 12, signal.SIGTERM)
  assert runs.last_step(workdir) < 120
  runs.run(folder, arguments)
  assert runs.numbers(workdir) == runs.numbers(folder / 'whole')
  last = [runs.records(w, 'train')[120] for w in (workdir, folder / 'whole')]
  assert last[0]['epoch/code'] == last[1]['epoch/code']


def test_losses_and_epochs_of_each_dataset_are_recorded(folder):
  result = runs.records(folder / 'whole', 'evaluation')[120]
  losses = sorted([result['loss/code'], result['loss/prose']])
  assert losses[0] < result['loss'] < losses[1]
  facts = runs.records(folder / 'whole', 'session')[0]['dataset']['mixture']
  assert facts['code']['weights'] == '0: 1, 10..20: 1 -> 4'
  last = runs.records(folder / 'whole', 'train')[120]
  assert last['epoch/code'] == facts['code']['epochs'] > 4
  assert last['epoch/prose'] == facts['prose']['epochs'] < 4
  log = (folder / 'log.txt').read_text()
  warning = log.index('Dataset code will be read')
  assert warning < log.index('step   1/120')
  assert log.count('will be read') == 1
  assert f'code {result["loss/code"]:.3f}' in log


def test_documents_need_only_the_workdir(folder):
  program = [sys.executable, str(runs.ROOT / 'main.py'), 'documents']
  arguments = [*program, '--workdir=whole', '--step=120']
  table = runs.run(folder, arguments).stdout.splitlines()
  lines = runs.run(folder, [*arguments, '--json']).stdout.splitlines()
  assert len(table) == len(lines) + 1
  found = [json.loads(line) for line in lines]
  assert [seen['row'] for seen in found] == sorted(
    seen['row'] for seen in found
  )
  assert {seen['row'] for seen in found} == {0, 1, 2, 3}
  for seen in found:
    assert (folder / seen['document']).exists()
  one = runs.run(folder, [*arguments, '--json', '--row=2']).stdout.splitlines()
  assert one == [line for line in lines if json.loads(line)['row'] == 2]
  for step in (0, 121):
    done = runs.run(
      folder, [*program, '--workdir=whole', f'--step={step}'], code=64
    )
    assert f'to config.steps = 120: --step=1, not {step}' in done.stderr
  unprepared = command(
    'documents', folder, '--step=1', **{'data.directory': 'x'}
  )
  done = runs.run(folder, unprepared, code=64)
  assert 'is no complete store' in done.stderr
