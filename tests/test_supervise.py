"""Restarts: when, how often, and when no more."""

import signal
import sys
import threading
import time

import pytest

from train.exits import (
  BY_HAND,
  CHECKPOINT_ERROR,
  DATA_ERROR,
  HANG,
  HARDWARE_SUSPECT,
  START_AGAIN,
  USAGE_ERROR,
)
from train.supervise import Attempt, delay, supervise

FAULTS = (1, HANG, CHECKPOINT_ERROR, START_AGAIN, -signal.SIGKILL, 134)


@pytest.mark.parametrize('status', FAULTS)
def test_a_fault_is_worth_another_attempt(status):
  assert delay([Attempt(status, None)], 20) == 5
  assert delay([Attempt(1, 10), Attempt(status, 20)], 20) == 0


@pytest.mark.parametrize(
  'status', [USAGE_ERROR, DATA_ERROR, HARDWARE_SUSPECT, BY_HAND]
)
def test_what_would_only_repeat_is_not(status):
  assert 'same way' in delay([Attempt(status, 10)], 20)


def test_failures_at_one_step_wait_longer_and_then_end():
  loop = [Attempt(1, 10), Attempt(1, 20), Attempt(1, 20)]
  assert delay(loop, 20) == 10
  assert '3 failures in a row' in delay([*loop, Attempt(1, 20)], 20)
  assert 'at 20' in delay([*loop, Attempt(1, 20)], 20)
  # A new checkpoint begins a new count.
  assert delay([*loop, Attempt(1, 30)], 20) == 0


def test_the_budget_is_of_the_whole_run():
  attempts = [Attempt(1, step) for step in range(4)]
  assert delay(attempts, 4) == 0
  assert '3 restarts' in delay(attempts, 3)


def child(body: str) -> list[str]:
  return [sys.executable, '-c', body]


def steps_of(folder):
  return lambda: sorted(int(p.name) for p in folder.glob('[0-9]*'))


MAKES_A_STEP = """
import pathlib, os, sys
here = pathlib.Path({folder!r})
step = len(list(here.iterdir()))
(here / str(step)).touch()
if step == 3: sys.exit(0)
os.kill(os.getpid(), 9)
"""


def test_a_run_that_dies_at_every_step_comes_to_its_end(tmp_path, capsys):
  waits = []
  status = supervise(
    child(MAKES_A_STEP.format(folder=str(tmp_path))),
    steps_of(tmp_path),
    max_restarts=5,
    wait=waits.append,
  )
  assert status == 0
  assert waits == [5, 0, 0]
  told = capsys.readouterr().err
  assert 'Ended by SIGKILL, step 2 is saved; restart 3 of 5 in 0 s' in told


def test_a_crash_loop_ends_with_the_status_of_the_run(tmp_path, capsys):
  waits = []
  status = supervise(
    child('import sys; sys.exit(70)'),
    steps_of(tmp_path),
    max_restarts=9,
    wait=waits.append,
  )
  assert status == HANG
  assert waits == [5, 10]
  assert 'without a new checkpoint' in capsys.readouterr().err


SAVES_ON_A_SIGNAL = """
import pathlib, signal, sys, time
here = pathlib.Path({folder!r})
def end(*_):
  (here / 'saved').touch()
  sys.exit(75)
signal.signal(signal.SIGTERM, end)
(here / 'ready').touch()
time.sleep(60)
"""


def test_a_signal_is_passed_on_and_ends_all(tmp_path):
  def send():
    while not (tmp_path / 'ready').exists():
      time.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)

  # The main thread gets the signal while it waits for the child.
  threading.Thread(target=send).start()
  status = supervise(
    child(SAVES_ON_A_SIGNAL.format(folder=str(tmp_path))),
    steps_of(tmp_path / 'none'),
    max_restarts=5,
  )
  assert status == START_AGAIN
  assert (tmp_path / 'saved').exists()
