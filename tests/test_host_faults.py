"""One of two processes dies, freezes, hangs, fails or runs something else."""

import re
import signal
import time

import pytest
import runs
from processes import ROOT, Cluster, slurm

from train.exits import HANG, START_AGAIN, USAGE_ERROR

pytestmark = pytest.mark.slow

FIELDS = {
  'steps': 3000,
  'model__compute_dtype': 'float32',
  'evaluation__every': 3000,
  'checkpoint__every': 5,
  'mesh__data': 2,
}
FAULTY = str(ROOT / 'tests' / 'faulty_main.py')
OUT_SECONDS = 15


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('faults')
  runs.run(folder, runs.command('prepare', folder, 'none'))
  return folder


def pair(folder, workdir, fault=None, *flags, **fields):
  """Two processes of a run; with a fault in one of them or both."""
  command = runs.command('train', folder, workdir, *flags, **FIELDS | fields)
  environments = slurm(2)
  if fault is not None:
    command[1] = FAULTY
    environments = [e | {'FAULT': repr(fault)} for e in environments]
  return Cluster([command] * 2, environments, folder, seconds=180)


def check_seconds(begin, limit, record_property):
  """The others were out in time; how long it took is a figure of the docs."""
  seconds = time.monotonic() - begin
  record_property('seconds until all had ended', round(seconds, 1))
  assert seconds < limit


def wait_for_step(cluster, workdir, step):
  while runs.last_step(workdir) < step:
    cluster.check_time()
    time.sleep(0.01)


# Where process 0 is gone, JAX itself aborts the others 0.2 s later: they say
# what happened in time, and not always with the status that belongs to it.
@pytest.mark.parametrize(
  ('victim', 'status'),
  [(0, (START_AGAIN, -signal.SIGABRT)), (1, START_AGAIN)],
)
def test_the_others_of_a_killed_process_are_out_soon(
  folder, victim, status, record_property
):
  workdir = folder / f'killed{victim}'
  with pair(folder, workdir.name) as cluster:
    wait_for_step(cluster, workdir, 6)
    cluster.signal(victim, signal.SIGKILL)
    begin = time.monotonic()
    codes = [status, status]
    codes[victim] = -signal.SIGKILL
    outputs = cluster.wait(codes)
    check_seconds(begin, OUT_SECONDS, record_property)
  if victim:
    assert ' is lost: ' in outputs[0]
  # Both go on from the newest checkpoint.
  before = runs.last_step(workdir)
  more = {'steps': before + 10}
  with pair(folder, workdir.name, None, '--allow_change', **more) as cluster:
    cluster.wait([0, 0])
  assert runs.last_step(workdir) == before + 10


# While libraries are loaded a living process gives no sign of life either.
@pytest.mark.parametrize(
  'moment', ['Joined 2 processes', 'devices     2 x cpu, 2 process(es)']
)
@pytest.mark.parametrize(
  ('victim', 'status'),
  [(0, (START_AGAIN, -signal.SIGABRT)), (1, START_AGAIN)],
)
def test_the_other_of_one_killed_in_its_start_is_out_soon(
  folder, moment, victim, status, record_property
):
  workdir = folder / f'start{victim}{moment[:6]}'
  with pair(folder, workdir.name) as cluster:
    cluster.wait_for_text(0, moment)
    cluster.signal(victim, signal.SIGKILL)
    begin = time.monotonic()
    codes = [status, status]
    codes[victim] = -signal.SIGKILL
    outputs = cluster.wait(codes)
    check_seconds(begin, OUT_SECONDS, record_property)
  assert runs.last_step(workdir) == 0
  if victim:
    assert 'Process 1 is lost: the connection was cut.' in outputs[0]


def test_the_others_of_a_frozen_process_are_out_soon(folder, record_property):
  workdir = folder / 'frozen'
  with pair(folder, workdir.name) as cluster:
    wait_for_step(cluster, workdir, 6)
    cluster.signal(1, signal.SIGSTOP)
    begin = time.monotonic()
    outputs = cluster.wait([START_AGAIN, None])
    check_seconds(begin, OUT_SECONDS, record_property)
  assert 'Process 1 is lost: no sign of life for 10 s' in outputs[0]


def test_a_process_that_is_stuck_ends_all_with_their_stacks(
  folder, record_property
):
  seconds = 12
  fault = {'kind': 'hang', 'process': 1, 'step': 6}
  with pair(folder, 'stuck', fault, watchdog__minutes=seconds / 60) as cluster:
    cluster.wait_for_text(1, 'stuck')
    begin = time.monotonic()
    # The watchdog of the other may find it gone before its own time is up.
    outputs = cluster.wait([(HANG, START_AGAIN), HANG])
    check_seconds(begin, seconds + 5, record_property)
  assert re.search(r'No progress for 1[2-7] s while waiting for', outputs[1])
  # The innermost function of the stuck thread.
  assert 'in hang\n' in outputs[1]
  assert 'in hang\n' not in outputs[0]


@pytest.mark.parametrize(
  ('faulty', 'statuses', 'told'),
  [
    (0, [1, START_AGAIN], 'Process 0 has ended: '),
    (1, [START_AGAIN, 1], 'The first cause: process 1: '),
  ],
)
def test_an_error_in_one_process_ends_all_and_is_named_by_all(
  folder, faulty, statuses, told, record_property
):
  fault = {'kind': 'raise', 'process': faulty, 'step': 6}
  workdir = folder / f'error{faulty}'
  with pair(folder, workdir.name, fault) as cluster:
    wait_for_step(cluster, workdir, 5)
    begin = time.monotonic()
    outputs = cluster.wait(statuses)
    check_seconds(begin, OUT_SECONDS, record_property)
  assert f'{told}RuntimeError: an injected' in outputs[1 - faulty]
  assert 'in fail\n' in outputs[faulty]


def test_another_program_on_one_host_is_refused_before_step_1(folder):
  fault = {'kind': 'program', 'process': 1}
  with pair(folder, 'program', fault) as cluster:
    outputs = cluster.wait([USAGE_ERROR] * 2)
  for output in outputs:
    assert 'Processes 1 differ from process 0 in the program' in output
  assert runs.last_step(folder / 'program') == 0
