"""Where the time of a run went: every second once, lost ones as lost."""

import random
import re
import signal

import pytest
from clocked_run import Machine

import train.metrics
from train.console import format_goodput
from train.goodput import NAMES, goodput
from train.journal import Journal
from train.metrics import read_metrics
from train.report import write_report
from train.report_page import STYLE
from train.signals import Interrupted
from train.timing import PHASES, Stopwatch


@pytest.fixture
def machine(tmp_path, monkeypatch):
  return Machine(tmp_path / 'run', monkeypatch)


def parts(told) -> dict[str, float]:
  return {name: s for name, s in told.seconds.items() if s}


def test_one_session_loses_nothing(machine):
  machine.start(0, startup=4.0, compilation=8.0)
  machine.steps(3, data=0.5, seconds=2.0)
  machine.evaluate(3.0)
  machine.save(1.0)
  machine.passes(0.25)
  machine.end()
  told = machine.told()
  assert parts(told) == {
    'startup': 4.0,
    'compile': 8.0,
    'data_wait': 1.5,
    'step_time': 6.0,
    'evaluation': 3.0,
    'checkpoint': 1.0,
    'other': 0.25,
  }
  assert told.total == machine.wall - 1e9 == 23.75
  assert told.share == 6 / 23.75
  (session,) = told.sessions
  assert (session.ended, session.seconds) == ('done', 23.75)
  assert session.lost == session.down == 0


def killed_and_resumed(machine):
  """Steps 1 to 6, of which 5 and 6 are lost, then 5 to 8 by a second one."""
  machine.start(0, startup=4.0, compilation=8.0)
  machine.steps(4, data=0.5, seconds=2.0)
  machine.save(1.0)
  machine.steps(2, data=0.25, seconds=3.0)
  # A step that no record tells of counts as down time.
  machine.passes(2.0)
  machine.passes(60.0)
  machine.start(4, startup=5.0, compilation=1.0)
  machine.steps(4, data=0.5, seconds=2.0)
  machine.end()


def test_a_kill_counts_its_lost_steps_once(machine):
  killed_and_resumed(machine)
  told = machine.told()
  assert parts(told) == {
    'startup': 4.0,
    'compile': 8.0,
    'data_wait': 8 * 0.5,
    'step_time': 8 * 2.0,
    'checkpoint': 1.0,
    'restart': 6.0,
    'lost_steps': 2 * 3.25,
    'down': 62.0,
  }
  assert told.total == machine.wall - 1e9
  assert [s.ended for s in told.sessions] == [None, 'done']
  assert [s.lost for s in told.sessions] == [6.5, 0.0]
  assert [s.down for s in told.sessions] == [0.0, 62.0]
  assert format_goodput(told) == (
    'Goodput 14.9% of 1m 48s in 2 sessions: down time 57.7%, compilation 7.4%, '
    'lost steps 6.0%, restarts 5.6%, waiting for data 3.7%, start-up 3.7%, '
    'checkpoints 0.9%.'
  )


def test_steps_that_are_lost_twice_are_counted_twice_and_each_once(machine):
  killed_and_resumed(machine)
  # The save of step 4 is damaged: all is made again, but for what was spent.
  machine.start(0, startup=2.0, compilation=1.0)
  machine.steps(1, data=0.0, seconds=2.0)
  machine.end(ValueError())
  told = machine.told()
  assert parts(told) == {
    'startup': 4.0,
    'compile': 8.0,
    'step_time': 2.0,
    'restart': 6.0 + 3.0,
    'lost_steps': 4 * 2.5 + 1.0 + 6.5 + 4 * 2.5,
    'down': 62.0,
  }
  assert [s.ended for s in told.sessions] == [None, 'done', 'ValueError']


def test_a_rollback_loses_its_steps_and_the_time_to_go_back(machine):
  machine.start(0, startup=1.0, compilation=1.0)
  machine.steps(3, data=0.5, seconds=2.0)
  machine.save(1.0)
  machine.steps(2, data=0.5, seconds=2.0)
  machine.evaluate(3.0)
  machine.roll_back(3, seconds=7.0)
  machine.steps(4, data=0.5, seconds=2.0)
  machine.end()
  told = machine.told()
  assert parts(told) == {
    'startup': 1.0,
    'compile': 1.0,
    'data_wait': 7 * 0.5,
    'step_time': 7 * 2.0,
    'checkpoint': 1.0,
    'lost_steps': 2 * 2.5 + 3.0 + 2 * 7.0,
  }
  assert told.total == machine.wall - 1e9
  # The process itself knew the same.
  *_, record = read_metrics(machine.workdir)
  assert record['kind'] == 'goodput'
  assert record['lost_steps'] == 22.0
  assert record['goodput'] == told.share


def test_a_clock_that_is_set_back_makes_no_part_negative(machine):
  machine.start(0, startup=1.0, compilation=1.0)
  machine.steps(2, data=0.5, seconds=2.0)
  machine.wall -= 3600
  machine.steps(2, data=0.5, seconds=2.0)
  machine.passes(5.0)
  machine.wall -= 3600
  machine.start(0, startup=1.0, compilation=1.0)
  machine.steps(1, data=0.5, seconds=2.0)
  machine.end()
  told = machine.told()
  assert min(told.seconds.values()) == 0
  assert parts(told) == {
    'startup': 1.0,
    'compile': 1.0,
    'data_wait': 0.5,
    'step_time': 2.0,
    'restart': 2.0,
    'lost_steps': 4 * 2.5,
  }


def test_nothing_is_down_after_the_end_and_all_after_a_signal(machine):
  machine.start(0, startup=1.0, compilation=1.0)
  machine.steps(2, data=0.0, seconds=2.0)
  machine.end(Interrupted(signal.SIGTERM, 2))
  machine.passes(100.0)
  machine.start(2, startup=1.0, compilation=0.0)
  machine.steps(2, data=0.0, seconds=2.0)
  machine.end()
  machine.passes(1000.0)
  machine.start(4, startup=1.0, compilation=0.0)
  machine.end()
  told = machine.told()
  assert [s.ended for s in told.sessions] == ['SIGTERM', 'done', 'done']
  assert told.seconds['down'] == 100.0
  assert told.seconds['restart'] == 2.0
  assert told.total == machine.wall - 1e9 - 1000


def test_the_time_of_a_run_is_that_of_its_processes(machine):
  machine.start(0, startup=4.0, compilation=8.0)
  machine.steps(3, data=0.5, seconds=2.0)
  assert machine.journal.seconds() == 19.5
  machine.end(Interrupted(signal.SIGTERM, 3))
  machine.passes(1000.0)
  machine.start(3, startup=1.0, compilation=2.0)
  machine.roll_back(3, 5.0)
  assert machine.journal.seconds() == 19.5 + 3.0 + 10.0


@pytest.mark.parametrize('seed', range(8))
def test_every_second_is_counted_once_whatever_happens(
  tmp_path, monkeypatch, seed
):
  chance = random.Random(seed)

  def some():
    return chance.randrange(1, 64) / 16

  machine = Machine(tmp_path / 'run', monkeypatch)
  machine.start(0, some(), some())
  saved, down = [0], 0.0
  for _ in range(60):
    act = chance.choice(['steps'] * 4 + ['save', 'evaluate', 'kill', 'back'])
    if act == 'steps':
      machine.steps(chance.randrange(1, 5), some(), some())
    elif act == 'save' and machine.step not in saved:
      machine.save(some())
      saved.append(machine.step)
    elif act == 'evaluate':
      machine.evaluate(some())
    elif act == 'kill':
      down += (gap := some())
      machine.passes(gap)
      # Newer ones turn out to be damaged, now and then.
      saved = saved[: chance.randrange(1, len(saved) + 1)]
      machine.start(saved[-1], some(), some())
    elif act == 'back':
      saved = saved[: chance.randrange(1, len(saved) + 1)]
      machine.roll_back(saved[-1], some())
  machine.end()
  told = machine.told()
  assert set(told.seconds) == set(NAMES) == {
    *PHASES, 'other', 'restart', 'lost_steps', 'down',
  }  # fmt: skip
  assert min(told.seconds.values()) >= 0
  assert told.total == pytest.approx(machine.wall - 1e9, abs=0.02)
  assert told.seconds['lost_steps'] == pytest.approx(machine.lost, abs=1e-3)
  assert told.seconds['lost_steps'] > 0
  assert told.seconds['other'] == pytest.approx(0, abs=1e-3)
  kept = sum(seconds for _, seconds in machine.kept)
  counted = ('step_time', 'data_wait', 'evaluation', 'checkpoint')
  assert sum(told.seconds[n] for n in counted) == pytest.approx(kept, abs=1e-3)
  lost = sum(session.lost for session in told.sessions)
  assert lost == pytest.approx(machine.lost, abs=1e-3)


def test_steps_between_two_records_are_lost_in_proportion(
  tmp_path, monkeypatch
):
  machine = Machine(tmp_path / 'run', monkeypatch, log_every=5)
  machine.start(0, startup=1.0, compilation=1.0)
  machine.steps(13, data=0.5, seconds=1.5)
  # Of a save without a record.
  machine.passes(9.0)
  machine.start(8, startup=1.0, compilation=1.0)
  machine.end()
  seconds = machine.told().seconds
  assert seconds['lost_steps'] == pytest.approx(2 * 2.0)
  assert seconds['step_time'] == pytest.approx(8 * 1.5)
  # Steps 11 to 13 had no record yet.
  assert seconds['down'] == 3 * 2.0 + 9.0


def test_a_failed_disk_does_not_hide_what_failed_first(machine, monkeypatch):
  def full(self, line, *, urgent):
    raise OSError('no space left')

  machine.start(0, startup=1.0, compilation=1.0)
  monkeypatch.setattr(train.metrics._LocalLines, 'append', full)
  machine.end(ValueError('first'))
  with pytest.raises(OSError, match='no space left'):
    machine.end()


def test_a_process_that_fails_before_its_session_says_nothing(machine):
  killed_and_resumed(machine)
  before = read_metrics(machine.workdir)
  watch = Stopwatch(machine.steady)
  with (
    pytest.raises(ValueError, match='early'),
    Journal(machine.config, machine.workdir, watch, step=8, epochs=dict),
  ):
    raise ValueError('early')
  assert read_metrics(machine.workdir) == before


def old(records):
  """As they were before they told what was spent."""
  return [
    {k: v for k, v in record.items() if k != 'spent'}
    for record in records
    if record['kind'] != 'goodput'
  ]


def test_older_records_are_told_as_far_as_they_go(machine):
  machine.start(0, startup=4.0, compilation=8.0)
  machine.steps(2, data=0.5, seconds=2.0)
  machine.evaluate(3.0)
  machine.steps(2, data=0.5, seconds=2.0)
  told = goodput(old(read_metrics(machine.workdir)))
  assert parts(told) == {
    'startup': 4.0,
    'compile': 8.0,
    'data_wait': 1.0,
    'step_time': 4.0,
    'evaluation': 3.0,
    # After the last sum.
    'other': 5.0,
  }
  assert told.total == machine.wall - 1e9
  nothing = [r for r in read_metrics(machine.workdir) if r['kind'] == 'train']
  assert goodput(nothing).total == goodput([]).share == 0


def test_the_report_lists_how_sessions_ended_and_what_they_lost(machine):
  killed_and_resumed(machine)
  machine.start(8, startup=1.0, compilation=1.0)
  page = write_report(machine.workdir).read_text()
  (table,) = (t for t in page.split('<table') if 'Down before' in t)
  rows = [
    re.findall('<td[^>]*>([^<]*)</td>', row) for row in table.split('<tr>')[2:]
  ]
  assert [row[1:7] for row in rows] == [
    ['0', '6', '30s', 'cut off', '6.5s', '–'],
    ['4', '8', '16s', 'done', '–', '1m 02s'],
    ['8', '8', '0.50s', 'at work, or cut off', '–', '–'],
  ]
  for name in ('lost_steps', 'down', 'restart'):
    assert f'fill="var(--{name})"' in page


def test_each_part_has_a_colour_of_its_own():
  colours = {re.search(f'--{name}: (#[0-9a-f]*);', STYLE)[1] for name in NAMES}
  assert len(colours) == len(NAMES)
