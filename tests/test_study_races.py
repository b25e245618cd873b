"""Whatever two workers do between each other's lines, a trial has one of them.

The second worker acts inside of a call of the first, so that every run of these
tests takes the same way.
"""

import contextlib
import threading

import pytest
from etils import epath
from optuna.trial import TrialState
from postgres import server
from searches import random_study

from train.tuning import study as studies
from train.tuning.leases import ASK
from train.tuning.study import study_name


@pytest.fixture(
  scope='module',
  params=['sqlite', pytest.param('postgres', marks=pytest.mark.slow)],
)
def database(request):
  with contextlib.ExitStack() as stack:
    made = request.param == 'postgres' and stack.enter_context(server())
    yield made.url if made else None


@pytest.fixture
def workers(tmp_path, database):
  """Two workers of a study, on different hosts as far as they know."""
  made = [random_study(tmp_path, database, trials=4) for _ in range(2)]
  for number, worker in enumerate(made):
    worker.leases.worker = f'host{number}:1:1'
  return made


def after_the_next(monkeypatch, owner, name, act):
  """Lets something happen between a call and what the caller does with it."""
  call = getattr(owner, name)

  def once(*args, **kwargs):
    monkeypatch.setattr(owner, name, call)
    result = call(*args, **kwargs)
    act()
    return result

  monkeypatch.setattr(owner, name, once)


def before_the_next(monkeypatch, owner, name, act):
  """Lets something happen before a call."""
  call = getattr(owner, name)

  def once(*args, **kwargs):
    monkeypatch.setattr(owner, name, call)
    act()
    return call(*args, **kwargs)

  monkeypatch.setattr(owner, name, once)


def test_a_trial_that_ends_while_another_worker_looks_is_not_begun_again(
  workers, monkeypatch
):
  one, two = workers
  assert two.next_trial().number == 0
  after_the_next(monkeypatch, one, 'trials', lambda: two.complete(0, [3.0]))
  assert one.next_trial().number == 1
  assert one.trials()[0].values == [3.0]
  # It is nobody's, and 1 is the first worker's.
  assert not one.holds(0)
  assert not two.holds(0)
  assert one.holds(1)
  assert two.next_trial().number == 2


def test_a_trial_that_is_given_back_meanwhile_goes_on_from_what_it_took(
  workers, monkeypatch
):
  one, two = workers
  assert two.next_trial().number == 0

  def work():
    two.note(0, seconds=7.0)
    two.give_back(0)

  after_the_next(monkeypatch, one, 'trials', work)
  found = one.next_trial()
  assert (found.number, found.seconds) == (0, 7.0)
  assert one.holds(0)
  assert not two.holds(0)


@pytest.mark.parametrize('place', ['complete', 'no point'])
def test_a_worker_that_is_silent_while_it_asks_leaves_what_others_took(
  workers, monkeypatch, place
):
  one, two = workers
  taken = []
  # The right to ask has ended when the other one looks.
  one.leases.seconds = -1.0

  def act():
    taken.append(two.next_trial().number)
    one.leases.seconds = 60.0

  if place == 'complete':
    # The trial has its point, and no lease yet.
    after_the_next(monkeypatch, studies, 'ask', act)
    expected = [0]
  else:
    # To others it is one of a worker that has died: it fails.
    after_the_next(monkeypatch, one._study, 'ask', act)
    expected = [1]
  mine = one.next_trial().number
  assert taken == expected
  assert mine == taken[0] + 1
  assert one.holds(mine)
  assert two.holds(taken[0])
  states = [trial.state for trial in one.trials()]
  assert states[-2:] == [TrialState.RUNNING] * 2
  assert states[:-2] == [TrialState.FAIL] * expected[0]


def test_a_worker_that_lives_keeps_the_right_to_ask(workers):
  one, two = workers
  one.leases.seconds = -1.0
  with one.leases.asking():
    one.leases.seconds = 60.0
    # As the thread does that renews what its worker holds.
    one.renew(set())
    assert not two.leases.take(ASK)
  assert two.leases.take(ASK)


def test_what_a_worker_tells_that_lost_its_trial_does_not_count(workers):
  one, two = workers
  one.leases.seconds = -1.0
  assert one.next_trial().number == 0
  one.leases.seconds = 60.0
  assert two.next_trial().number == 0
  assert not one.holds(0)
  for tell in (
    lambda: one.complete(0, [1.0]),
    lambda: one.prune(0),
    lambda: one.fail(0, 'It is gone.'),
  ):
    tell()
    assert one.trials()[0].state == TrialState.RUNNING
  assert two.holds(0)
  two.complete(0, [3.0])
  (trial,) = one.trials()[:1]
  assert trial.values == [3.0]
  assert 'reason' not in trial.user_attrs


def test_hosts_that_start_at_once_have_the_same_study(tmp_path, monkeypatch):
  workdir, names = epath.Path(tmp_path), []
  other = threading.Thread(target=lambda: names.append(study_name(workdir)))

  def act():
    other.start()
    # It waits for the first, or has given a name of its own by then.
    other.join(timeout=0.5)

  before_the_next(monkeypatch, studies, 'write_json', act)
  names.append(study_name(workdir))
  other.join()
  assert len(set(names)) == 1
