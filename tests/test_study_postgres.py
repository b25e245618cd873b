"""A study in PostgreSQL: several hosts, and a server that goes away."""

import threading
import time

import pytest
import sqlalchemy as sql
from optuna.trial import TrialState
from postgres import server
from searches import random_study

from train.tuning.leases import Leases

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def database():
  with server() as made:
    yield made


def study(folder, database, said=lambda text: None):
  return random_study(folder, database.url, trials=6, said=said)


def test_hosts_that_join_get_different_trials(tmp_path, database):
  one, two = study(tmp_path, database), study(tmp_path, database)
  two.leases.worker = 'elsewhere:1:1'
  numbers = []

  def work(mine):
    while (trial := mine.next_trial()) is not None:
      numbers.append(trial.number)
      mine.report(trial.number, 4, 3.0)
      mine.complete(trial.number, [float(trial.number)])

  threads = [threading.Thread(target=work, args=(s,)) for s in (one, two)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(numbers) == list(range(6))
  assert all(t.state == TrialState.COMPLETE for t in one.trials())


def test_leases_end_by_the_clock_of_the_server(database):
  engine = sql.create_engine(database.url)
  one, two = Leases(engine, 'clock', 0.5), Leases(engine, 'clock')
  one.worker = 'a:1:1'
  two.worker = 'b:1:1'
  assert one.take(0)
  assert not two.take(0)
  time.sleep(0.8)
  assert two.take(0)
  assert one.renew({0}) == {0}


def test_a_server_that_is_gone_for_a_while_is_waited_for(tmp_path, database):
  said = []
  mine = study(tmp_path, database, said.append)
  trial = mine.next_trial()
  database.stop()
  # What renews the leases meanwhile does not end the worker.
  assert mine.renew({trial.number}) == set()
  threading.Timer(2.0, database.start).start()
  assert not mine.report(trial.number, 4, 3.0)
  mine.complete(trial.number, [2.5])
  assert mine.trials()[trial.number].values == [2.5]
  assert any('does not answer' in text for text in said)
