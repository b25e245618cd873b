"""Leases: one worker a trial, and a dead one loses it."""

import os
import subprocess
import sys
import time

import pytest
import sqlalchemy as sql
from optuna.exceptions import StorageInternalError

from train.tuning import leases
from train.tuning.leases import Leases, patiently, worker_name


@pytest.fixture
def engine(tmp_path):
  return sql.create_engine(f'sqlite:///{tmp_path}/study.db')


def worker(engine, name, seconds=60.0):
  made = Leases(engine, 'study', seconds)
  made.worker = name
  return made


def test_one_worker_holds_a_trial_until_it_gives_it_back(engine):
  one, two = worker(engine, 'a:1:1'), worker(engine, 'b:1:1')
  assert one.take(3)
  assert not two.take(3)
  # What it holds is no trial that it could begin.
  assert not one.take(3)
  assert two.take(4)
  one.release(3)
  assert two.take(3)
  # Another study in the same database has trials of its own.
  other = Leases(engine, 'another')
  assert other.take(3)


def test_a_worker_that_is_silent_loses_its_trials_and_is_told(engine):
  one = worker(engine, 'a:1:1', seconds=0.2)
  two = worker(engine, 'b:1:1')
  assert one.take(0)
  assert one.take(1)
  assert one.renew({0, 1}) == set()
  time.sleep(0.4)
  assert two.take(0)
  assert one.renew({0, 1}) == {0}
  # A release of what others have does them no harm.
  one.release(0)
  assert two.renew({0}) == set()


def test_a_worker_of_this_host_that_has_ended_loses_its_trials_at_once(engine):
  code = 'from train.tuning.leases import worker_name; print(worker_name())'
  name = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout.strip()
  assert worker(engine, name).take(0)
  assert worker(engine, 'a:1:1').take(0)
  # Its number may belong to another process by now.
  host, pid, began = worker_name().rsplit(':', 2)
  assert int(pid) == os.getpid()
  assert worker(engine, f'{host}:{pid}:{int(began) - 1}').take(1)
  assert worker(engine, 'a:1:1').take(1)
  # This one lives.
  assert Leases(engine, 'study').take(2)
  assert not worker(engine, 'a:1:1').take(2)


def test_asking_is_exclusive_and_ends_with_its_worker(engine):
  one, two = worker(engine, 'a:1:1', seconds=0.2), worker(engine, 'b:1:1')
  with one.asking():
    begin = time.monotonic()
    # The first one is silent for too long.
    with two.asking():
      assert time.monotonic() - begin > 0.1


@pytest.mark.parametrize(
  'error',
  [
    sql.exc.OperationalError('select', {}, Exception('database is locked')),
    StorageInternalError('An exception is raised during the commit.'),
  ],
)
def test_a_database_that_comes_back_is_waited_for(monkeypatch, error):
  monkeypatch.setattr(leases.time, 'sleep', lambda seconds: None)
  tries, said = [], []

  def work():
    tries.append(1)
    if len(tries) < 4:
      raise error
    return 'done'

  assert patiently(work, said=said.append) == 'done'
  assert len(tries) == 4
  assert 'does not answer' in said[0]
  tries.clear()
  with pytest.raises(type(error)):
    patiently(work, seconds=-1.0)


def test_other_errors_are_not_waited_for():
  def work():
    raise sql.exc.IntegrityError('insert', {}, Exception('twice'))

  with pytest.raises(sql.exc.IntegrityError):
    patiently(work)
