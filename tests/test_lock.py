"""Who holds a lock keeps others out, and a dead holder keeps nobody out."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import threading

import pytest
from etils import epath
from processes import child

from input_pipeline import lock
from train.lock import LOCK_FILE, LockedError, alone_in, one_run_at_a_time

HOLDER = """
import sys, time
from etils import epath
from input_pipeline import lock

with lock.locked(epath.Path(sys.argv[1]), print, wait=False):
  print('held')
  time.sleep(600)
"""


def holding(path):
  """A process that holds the lock."""
  process = child(HOLDER, path)
  assert process.stdout.readline() == 'held\n'
  return process


def test_the_second_is_told_who_was_first_and_a_dead_one_holds_nothing(
  tmp_path,
):
  path = tmp_path / LOCK_FILE
  process = holding(path)
  try:
    with pytest.raises(LockedError) as error, alone_in(epath.Path(tmp_path)):
      pytest.fail('it has two holders')
    for part in (
      f'process {process.pid} on {socket.gethostname()}, since 2',
      str(tmp_path),
      'choose another --workdir',
    ):
      assert part in str(error.value)
    assert process.poll() is None
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert str(process.pid) in path.read_text()
  with alone_in(epath.Path(tmp_path)):
    assert f'process {os.getpid()} on' in path.read_text()
  assert path.read_text() == ''


def test_a_run_lets_go_however_it_ends(tmp_path):
  @one_run_at_a_time
  def run(number, *, workdir):
    with pytest.raises(LockedError), alone_in(workdir):
      pytest.fail('it has two holders')
    return 1 // number

  workdir = epath.Path(tmp_path / 'run')
  with pytest.raises(ZeroDivisionError):
    run(0, workdir=workdir)
  assert run(1, workdir=workdir) == 1


def no_lock(*arguments):
  raise OSError(errno.ENOLCK, 'No locks available')


def test_a_disk_without_locks_is_watched_instead(tmp_path, monkeypatch):
  monkeypatch.setattr(fcntl, 'flock', no_lock)
  monkeypatch.setattr(lock, 'BEAT_SECONDS', 0.02)
  path = epath.Path(tmp_path / LOCK_FILE)
  with lock.locked(path, print):
    assert f'process {os.getpid()} on' in path.read_text()
  assert not path.exists()


def beating(path, *, wait=False, quiet=600.0, lost=print, log=print):
  return lock.beating(
    epath.Path(path), log, wait=wait, lost=lost, beat=0.02, quiet=quiet
  )


def test_a_holder_that_gives_signs_of_life_is_left_alone(tmp_path):
  path = tmp_path / LOCK_FILE
  with beating(path):
    with (
      pytest.raises(lock.HeldError, match=f'process {os.getpid()} on'),
      beating(path),
    ):
      pytest.fail('it has two holders')
    assert path.exists()
  assert not path.exists()
  with beating(path):
    pass


def test_a_holder_without_a_sign_of_life_holds_nothing(tmp_path):
  path = tmp_path / LOCK_FILE
  path.write_text('process 1 on elsewhere, since long ago\nabc 7\n')
  said = []
  with beating(path, quiet=0.1, log=said.append):
    assert 'abc' not in path.read_text()
  assert said == [
    'Waiting for a sign of life of process 1 on elsewhere, since long ago,'
    f' which holds {path}'
  ]


def test_one_that_waits_gets_it_in_the_end(tmp_path):
  path = tmp_path / LOCK_FILE
  waiting = threading.Event()
  got = threading.Event()

  def second():
    with beating(path, wait=True, log=lambda line: waiting.set()):
      got.set()

  thread = threading.Thread(target=second)
  with beating(path):
    thread.start()
    assert waiting.wait(60)
    assert not got.is_set()
  assert got.wait(60)
  thread.join()


def test_one_whose_lock_was_taken_is_told_and_leaves_it(tmp_path):
  path = tmp_path / LOCK_FILE
  said, told = [], threading.Event()

  def lost(text):
    said.append(text)
    told.set()

  with contextlib.ExitStack() as stack:
    stack.enter_context(beating(path, lost=lost))
    path.write_text('process 2 on elsewhere, since now\nother 0\n')
    # A beat that had begun may have written once more.
    while not told.wait(0.1):
      path.write_text('process 2 on elsewhere, since now\nother 0\n')
  assert said == [
    f'process 2 on elsewhere, since now took {path} from this process'
  ]
  assert 'other 0' in path.read_text()
