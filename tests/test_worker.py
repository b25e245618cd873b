"""A worker computes a study, whatever becomes of its trials and of others."""

import math
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from optuna.trial import TrialState
from small_studies import EVERY, RATE, STEPS, Setting, curves, stores_in

from configs.search import choice, integer, log
from train.metrics import read_metrics
from train.signals import StopRequest
from train.tuning.size import OutOfMemoryError
from train.tuning.study import Study
from train.tuning.trial_run import TrialRun
from train.tuning.worker import StudyStopped
from train.workdir import ChangedRunError


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
  """Programs of one test serve the others; workers count them all the same."""
  before = jax.config.jax_compilation_cache_dir
  shortest = jax.config.jax_persistent_cache_min_compile_time_secs
  folder = str(tmp_path_factory.mktemp('compiled'))
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  compilation_cache.reset_cache()
  yield
  jax.config.update('jax_compilation_cache_dir', before)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', shortest)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
  return stores_in(tmp_path_factory.mktemp('data'))


def test_one_program_computes_all_trials_as_if_each_were_alone(
  tmp_path, stores
):
  together, trials = Setting(tmp_path / 'two', stores).run(population=2)
  assert together.compiled == 1
  assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
  one_by_one, alone = Setting(tmp_path / 'one', stores).run(population=1)
  assert one_by_one.compiled == 1
  # The first is the default; the sampler learns nothing from the others.
  assert [t.params for t in trials] == [t.params for t in alone]
  for a, b in zip(curves(trials), curves(alone), strict=True):
    assert len(a) == STEPS // EVERY
    assert a == pytest.approx(b, rel=1e-3)
  # The study is done: who starts it again does nothing.
  again, same = Setting(tmp_path / 'two', stores).run()
  assert again.compiled == 0
  assert [t.values for t in same] == [t.values for t in trials]


@pytest.mark.slow
def test_what_changes_the_program_opens_a_bucket(tmp_path, stores):
  space = (RATE, choice('model.mlp_dim', (64, 96)))
  worker, trials = Setting(
    tmp_path, stores, space=space, fields={'model.mlp_dim': 64}, trials=6
  ).run()
  widths = {t.params['model.mlp_dim'] for t in trials}
  assert widths == {64, 96}
  assert all(t.state == TrialState.COMPLETE for t in trials)
  assert 2 <= worker.compiled <= 3


def test_a_trial_that_goes_wrong_fails_with_its_reason_and_the_study_goes_on(
  tmp_path, stores
):
  space = (
    log('optimizer.learning_rate', 1e-3, 1e9),
    integer('optimizer.warmup_steps', 1, 3 * STEPS),
  )
  setting = Setting(tmp_path, stores, space=space, trials=8)
  _, trials = setting.run()
  reasons = [
    t.user_attrs['reason'] for t in trials if t.state == TrialState.FAIL
  ]
  assert any('diverged' in reason for reason in reasons)
  assert any('optimizer.warmup_steps' in reason for reason in reasons)
  assert len(trials) == 8
  assert all(t.state.is_finished() for t in trials)
  # The default is a good one.
  assert trials[0].state == TrialState.COMPLETE


class StopAfter(StopRequest):
  """Asks the worker to end after some steps."""

  def __init__(self, steps):
    super().__init__()
    self._left = steps

  @property
  def signum(self):
    self._left -= 1
    return self.look()

  @signum.setter
  def signum(self, value):
    pass

  def look(self):
    return 15 if self._left < 0 else None


@pytest.mark.slow
def test_a_study_that_is_stopped_loses_no_step(tmp_path, stores):
  _, whole = Setting(tmp_path / 'whole', stores).run()
  setting = Setting(tmp_path / 'stopped', stores)
  with pytest.raises(StudyStopped):
    setting.run(request=StopAfter(3))
  setting = Setting(tmp_path / 'stopped', stores)
  with pytest.raises(StudyStopped):
    setting.run(request=StopAfter(9))
  _, trials = Setting(tmp_path / 'stopped', stores).run()
  assert [t.params for t in trials] == [t.params for t in whole]
  assert curves(trials) == curves(whole)
  assert [t.user_attrs['tokens'] for t in trials] == [STEPS * 2 * 16] * 4


# Fields of early stopping; how trials end, at what step, and by which rule.
ENDS = [
  ({'target': 100.0}, TrialState.COMPLETE, 2, 'target'),
  ({'max_tokens': 5 * 2 * 16}, TrialState.COMPLETE, 5, 'budget'),
  ({'max_hours': 1e-9}, TrialState.COMPLETE, 2, 'budget'),
  ({'divergence': 1e-9, 'divergence_patience': 1, 'min_delta': 100.0},
   TrialState.FAIL, None, 'divergence'),
  ({'enabled': True, 'patience': 1, 'min_delta': 100.0}, TrialState.COMPLETE,
   6, 'plateau'),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(('fields', 'state', 'end', 'rule'), ENDS)
def test_trials_end_by_the_rules_that_end_a_run(
  tmp_path, stores, monkeypatch, fields, state, end, rule
):
  # It would speak first.
  monkeypatch.setattr('train.tuning.worker.why_diverged', lambda *told: None)
  fields = {f'early_stopping.{name}': value for name, value in fields.items()}
  fields |= {'optimizer.schedule': 'wsd', 'optimizer.decay_steps': 2}
  # So large that the loss goes up.
  space = (log('optimizer.learning_rate', 1e-2, 3.0),)
  options = {'fields': fields, 'space': space, 'trials': 2}
  worker, trials = Setting(tmp_path / 'whole', stores, **options).run()
  assert worker.compiled == 1
  ended = [t for t in trials if t.state == state]
  assert ended
  for trial in ended:
    records = read_metrics(tmp_path / f'whole/trials/{trial.number:04}')
    events = [r for r in records if r['kind'] == 'event']
    if state == TrialState.FAIL:
      assert f'({rule})' in trial.user_attrs['reason']
      continue
    assert (events[-1]['step'], events[-1]['rule']) == (end, rule)
    if rule == 'plateau':
      assert [event['step'] for event in events] == [4, 6]
      (last,) = (r for r in records if r['kind'] == 'train' and r['step'] == 6)
      rate = trial.params['optimizer.learning_rate']
      # Half way from the peak to the tenth of it.
      assert last['learning_rate'] == pytest.approx(rate * 0.55)
  if rule == 'plateau':
    stopped = Setting(tmp_path / 'stopped', stores, **options)
    with pytest.raises(StudyStopped):
      stopped.run(request=StopAfter(5))
    _, again = Setting(tmp_path / 'stopped', stores, **options).run()
    assert curves(again) == curves(trials)


class Killed(BaseException):
  """The end of a worker that nobody sees coming."""


class KillAfter(StopAfter):
  """Ends the worker after some steps, without a word."""

  def look(self):
    if self._left < 0:
      raise Killed


@pytest.mark.slow
def test_trials_of_a_worker_that_died_go_on_from_their_checkpoints(
  tmp_path, stores, monkeypatch
):
  _, whole = Setting(tmp_path / 'whole', stores).run()
  setting = Setting(tmp_path / 'died', stores)
  worker = setting.worker(request=KillAfter(5))
  leases = worker._study.leases
  leases.worker, leases.seconds = 'elsewhere:1:1', 1.0
  monkeypatch.setattr(Study, 'give_back', lambda self, number: None)
  with pytest.raises(Killed):
    worker.run()
  monkeypatch.undo()
  study = Setting(tmp_path / 'died', stores).study()
  assert study.unfinished() == 2
  # Until its leases end, its trials are its own.
  assert study.next_trial().number == 2
  study.give_back(2)
  time.sleep(1.5)
  _, trials = Setting(tmp_path / 'died', stores).run()
  assert [t.params for t in trials] == [t.params for t in whole]
  assert curves(trials) == curves(whole)
  begun = [
    record['step']
    for record in read_metrics(tmp_path / 'died/trials/0000')
    if record['kind'] == 'session'
  ]
  assert begun == [0, 4]


class LoseAfter(StopAfter):
  """Lets another worker take, and end, the first trial after some steps."""

  def __init__(self, steps, mine, other):
    super().__init__(steps)
    self._leases, self._other = mine.leases, other

  def look(self):
    if self._left == 0:
      # As if it had been silent for a minute.
      self._leases.seconds = -1.0
      self._leases.renew([0])
      assert self._other.next_trial().number == 0
      self._leases.seconds = 60.0
      self._other.complete(0, [3.0])


@pytest.mark.slow
def test_a_worker_that_lost_a_trial_saves_and_tells_nothing_of_it(
  tmp_path, stores
):
  setting = Setting(tmp_path, stores, trials=2)
  worker, other = setting.worker(population=1), setting.study()
  worker._study.leases.worker, other.leases.worker = 'a:1:1', 'b:1:1'
  worker._request = LoseAfter(2, worker._study, other)
  worker.run()
  assert 'Trial 0 was given to another worker.' in setting.said
  lost, mine = setting.study().trials()
  assert (lost.values, lost.intermediate_values) == ([3.0], {})
  assert not list((tmp_path / 'trials/0000/checkpoints').iterdir())
  assert mine.state == TrialState.COMPLETE
  assert list((tmp_path / 'trials/0001/checkpoints').iterdir())


@pytest.mark.slow
def test_two_workers_share_a_study_and_do_nothing_twice(
  tmp_path, stores, monkeypatch
):
  save, one_at_a_time = TrialRun.save, threading.Lock()

  def save_alone(run, state):
    # Orbax mixes up what threads of a process save at the same time.
    with one_at_a_time:
      save(run, state)

  monkeypatch.setattr(TrialRun, 'save', save_alone)
  _, whole = Setting(tmp_path / 'one', stores).run()
  setting = Setting(tmp_path / 'two', stores)
  first, second = setting.worker(population=1), setting.worker(population=1)
  second._study.leases.worker = 'elsewhere:1:1'
  with ThreadPoolExecutor(2) as pool:
    for done in [pool.submit(w.run) for w in (first, second)]:
      done.result()
  trials = setting.study().trials()
  assert [t.params for t in trials] == [t.params for t in whole]
  for a, b in zip(curves(trials), curves(whole), strict=True):
    assert a == pytest.approx(b, rel=1e-3)
  for number in range(4):
    records = read_metrics(tmp_path / f'two/trials/{number:04}')
    assert [r['kind'] for r in records].count('session') == 1
  assert first.compiled == second.compiled == 1


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'space': (log('optimizer.learning_rate', 1e-5, 1e-1),)},
     'optimizer.learning_rate: low 0.0001 -> 1e-05'),
    ({'sampler': 'qmc'}, 'search.sampler: random -> qmc'),
    ({'fields': {'batch_size': 4}}, 'batch_size: 2 -> 4'),
  ],
)  # fmt: skip
def test_a_study_that_changed_is_refused_and_named(
  tmp_path, stores, changes, line
):
  study = Setting(tmp_path, stores).study()
  assert study.next_trial().number == 0
  with pytest.raises(ChangedRunError, match=re.escape(line)):
    Setting(tmp_path, stores, **changes).study()
  # The budget may grow.
  Setting(tmp_path, stores, trials=10).study()


@pytest.mark.slow
def test_the_budget_ends_the_study(tmp_path, stores):
  # Two trials at a time, and each takes 256 tokens.
  _, trials = Setting(tmp_path, stores, trials=9, tokens=700).run()
  assert len(trials) == 4


@pytest.mark.slow
def test_others_do_better_and_a_trial_is_pruned(tmp_path, stores):
  setting = Setting(
    tmp_path, stores, trials=8, pruner='asha', rungs=(0.25, 0.5)
  )
  _, trials = setting.run()
  pruned = [t for t in trials if t.state == TrialState.PRUNED]
  assert pruned
  best = min(t.values[0] for t in trials if t.state == TrialState.COMPLETE)
  for trial in pruned:
    assert trial.last_step < STEPS
    assert min(trial.intermediate_values.values()) > best


@pytest.mark.slow
def test_several_metrics_are_told(tmp_path, stores):
  setting = Setting(
    tmp_path,
    stores,
    metrics=('loss', 'parameters'),
    modes=('min', 'min'),
  )
  _, trials = setting.run()
  assert all(t.values[1] > 10_000 for t in trials)
  assert all(math.isfinite(t.values[0]) for t in trials)


@pytest.mark.slow
def test_where_memory_runs_out_fewer_trials_are_computed_at_a_time(
  tmp_path, stores, monkeypatch
):
  def check(needed, device):
    sizes.append(sum(needed.values()))
    if len(sizes) == 1:
      raise OutOfMemoryError('A step needs more than there is.')

  sizes = []
  monkeypatch.setattr('train.tuning.worker.check_memory', check)
  setting = Setting(tmp_path, stores)
  worker, trials = setting.run(population=2)
  assert worker.compiled == 2
  assert sizes[1] < sizes[0]
  assert all(t.state == TrialState.COMPLETE for t in trials)
  assert any('Now 1 trials at a time' in text for text in setting.said)
