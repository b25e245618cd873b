"""Where the time of real runs went that were cut off or went back."""

import signal
from pathlib import Path

import pytest
import runs

from train.console import format_goodput
from train.exits import DATA_ERROR
from train.goodput import goodput
from train.metrics import read_metrics


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp('goodput')
  runs.run(folder, runs.command('prepare', folder, 'unused'))
  return folder


def work(record) -> float | None:
  """Seconds that a process had spent on what may be lost, if it tells."""
  spent = record if record['kind'] == 'time' else record.get('spent')
  return spent and spent['total'] - spent['startup'] - spent['compile']


@pytest.mark.slow
def test_a_run_that_is_killed_and_goes_on_tells_all_its_time(folder):
  arguments = runs.command('train', folder, 'killed', checkpoint__every=20)
  workdir = folder / 'killed'
  for step in (5, 33):
    runs.run_until(arguments, workdir, step, signal.SIGKILL)
  last = [r for r in read_metrics(workdir) if work(r) is not None][-1]
  done = runs.run(folder, arguments)
  records = read_metrics(workdir)
  told = goodput(records)
  assert f'\n{format_goodput(told)}\n' in done.stderr
  assert [s.ended for s in told.sessions] == [None, None, 'done']
  # The second process lost its work after the newest save that was complete.
  resumed = [r['step'] for r in records if r['kind'] == 'session'][-1]
  saved = [
    work(r)
    for r in records
    if r['kind'] == 'checkpoint' and r['step'] == resumed > 0
  ]
  assert told.sessions[0].lost > 0
  assert told.sessions[1].lost == pytest.approx(
    work(last) - sum(saved), abs=1e-3
  )
  assert told.sessions[2].lost == 0
  first = records[0]
  wall = records[-1]['time'] - (first['time'] - first['spent']['total'])
  assert told.total == pytest.approx(wall, abs=0.1)


@pytest.mark.slow
def test_a_rollback_of_a_real_run_is_lost(folder, monkeypatch):
  arguments = runs.command(
    'train', folder, 'back', checkpoint__every=10,
    bad_steps__action='roll_back', bad_steps__max_rollbacks=1,
  )  # fmt: skip
  arguments[1] = str(runs.ROOT / 'tests/faulty_main.py')
  fault = {'kind': 'gradients', 'factors': {16: 1e39}}
  monkeypatch.setenv('FAULT', repr(fault))
  runs.run(folder, arguments, code=DATA_ERROR)
  records = read_metrics(folder / 'back')
  told = goodput(records)
  (session,) = told.sessions
  assert session.ended == 'BadNumbersError'
  steps = [r['step'] for r in records if r['kind'] == 'train']
  assert steps == list(range(1, 16))
  # Steps 11 to 16 were made twice, and the first time is lost.
  (saved,) = (r for r in records if r['kind'] == 'checkpoint')
  times = [r for r in records if r['kind'] == 'time']
  back = next(r for r in times if r['step'] == 10)
  before, after = saved['spent']['step_time'], back['step_time']
  assert after > before
  kept = before + times[-1]['step_time'] - after
  assert told.seconds['step_time'] == pytest.approx(kept, abs=1e-3)
  assert session.lost > after - before
