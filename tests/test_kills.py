"""SIGKILL at random moments: what comes out is what would have come out."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import runs
from etils import epath
from processes import Cluster, open_mpi

from train.checkpoint import Checkpoints

pytestmark = pytest.mark.slow

# As many as KILLS says; the figure in docs/faults.md is that of 100.
KILLS = int(os.environ.get('KILLS', '10'))
SEED = 7
# Every step is saved, so that most kills meet a save.
FIELDS = {'steps': 60, 'checkpoint__every': 1, 'evaluation__every': 20}


def final_bits(folder):
  """What the last checkpoint says of the bits of every array."""
  with Checkpoints(
    epath.Path(folder / 'run/checkpoints'), keep_last=None
  ) as checkpoints:
    step = checkpoints.steps()[-1]
    checkpoints.check(step)
    _, _, prints = checkpoints._read(step)
  assert step == 60
  return prints


def steps_made(folder):
  return runs.last_step(folder / 'run')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run from no data to its end that nobody killed; and its seconds."""
  folder = tmp_path_factory.mktemp('whole')
  arguments = runs.command('train', folder, 'run', **FIELDS)
  runs.run(folder, arguments)
  shutil.rmtree(folder / 'run')
  shutil.rmtree(folder / 'data')
  begin = time.monotonic()
  runs.run(folder, arguments)
  return folder, time.monotonic() - begin


def test_kills_change_no_bit_of_the_result(
  whole, tmp_path_factory, record_property
):
  folder, seconds = whole
  wanted, moments = final_bits(folder), random.Random(SEED)
  kills, finished, before = 0, 0, {'data': 0, 'steps': 0, 'the end': 0}
  while kills < KILLS:
    here = tmp_path_factory.mktemp('killed')
    # The compiler is not what is tested.
    shutil.copytree(folder / 'compiled', here / 'compiled')
    done = False
    while not done:
      with subprocess.Popen(
        runs.command('train', here, 'run', **FIELDS),
        cwd=here,
        env=runs.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      ) as process:
        try:
          if kills < KILLS:
            process.wait(moments.uniform(0, seconds))
          errors = process.communicate(timeout=300)[1]
          assert process.returncode == 0, errors
          done = True
        except subprocess.TimeoutExpired:
          process.send_signal(signal.SIGKILL)
          process.communicate()
          kills += 1
          prepared = list((here / 'data').rglob('manifest.json'))
          made = steps_made(here)
          before['the end' if made else 'steps' if prepared else 'data'] += 1
    assert final_bits(here) == wanted
    assert sorted(runs.numbers(here / 'run')) == list(range(1, 61))
    finished += 1
    shutil.rmtree(here)
  record_property('kills', f'{kills} in {finished} runs, all bits the same')
  for what, count in before.items():
    record_property(f'kills before {what}', count)


def test_kills_of_one_of_two_processes(whole, tmp_path, record_property):
  """Both processes end soon, and the run goes on from the last save."""
  folder, seconds = whole
  shutil.copytree(folder / 'data', tmp_path / 'data')
  moments, rounds, slowest = random.Random(SEED), -(-KILLS // 5), 0.0
  command = runs.command('train', tmp_path, 'run', **FIELDS, mesh__data=2)
  for _ in range(rounds):
    with Cluster([command] * 2, open_mpi(2), tmp_path, seconds=200) as cluster:
      cluster.wait_for_text(0, 'devices     2 x cpu, 2 process(es)')
      time.sleep(moments.uniform(0, seconds / 2))
      victim = moments.randrange(2)
      cluster.signal(victim, signal.SIGKILL)
      begin = time.monotonic()
      cluster.wait_for_all()
      slowest = max(slowest, time.monotonic() - begin)
  with Cluster([command] * 2, open_mpi(2), tmp_path, seconds=200) as cluster:
    cluster.wait([0, 0])
  assert sorted(runs.numbers(tmp_path / 'run')) == list(range(1, 61))
  with Checkpoints(
    epath.Path(tmp_path / 'run/checkpoints'), keep_last=None
  ) as checkpoints:
    for step in checkpoints.steps():
      checkpoints.check(step)
    assert checkpoints.steps()[-1] == 60
  record_property('rounds', rounds)
  record_property('slowest survivor, s', round(slowest, 1))
  assert slowest < 15
