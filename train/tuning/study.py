"""A study: its trials in a database, and what a worker does with them.

All that a study knows is in the database and in the folders of its trials. A
worker that is killed loses nothing else: who starts next finds its trials.
"""

import dataclasses
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from etils import epath
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from train.lock import one_at_a_time
from train.tuning.leases import GONE, Leases, patiently
from train.tuning.pruners import make_pruner
from train.tuning.samplers import ExhaustedError, ask, make_sampler
from train.tuning.search_config import SearchConfig
from train.tuning.space import Point, difference
from train.workdir import ChangedRunError, differences, write_json

STUDY_FILE, _NAMING_LOCK = 'study.json', 'study.lock'
DATABASE_FILE = 'study.db'
TRIALS = 'trials'
_DIRECTIONS = {
  'min': StudyDirection.MINIMIZE,
  'max': StudyDirection.MAXIMIZE,
}
# Attributes of a trial in the database.
_REASON, _TOKENS, _SECONDS = 'reason', 'tokens', 'seconds'


@dataclasses.dataclass(frozen=True)
class Trial:
  """A trial that this worker holds.

  Attributes:
    number: in the study.
    point: values of the fields that are searched.
    seconds: that workers have spent on it.
  """

  number: int
  point: Point
  seconds: float = 0.0


class Study:
  """The trials of a search; several workers may have it open.

  Args:
    workdir: of the study, which all workers share.
    search: what is searched.
    storage: the database, as SQLAlchemy writes its address; None: a file in
      the workdir.
    config: that all trials start from, as JSON holds it.
    data_fingerprint: of the prepared data.
    warmup_steps, steps: of the configuration.
    said: is told what a person should know.
    part: '' for the search itself; of what follows it, its name.

  Raises:
    ChangedRunError: the workdir holds a study of another search, configuration
      or data.
  """

  def __init__(
    self,
    workdir: epath.Path,
    search: SearchConfig,
    *,
    storage: str | None,
    config: dict[str, Any],
    data_fingerprint: str,
    steps: int,
    warmup_steps: int,
    said: Callable[[str], None],
    part: str = '',
  ):
    self._search, self._said = search, said
    self.workdir = workdir
    self._part = part
    self._storage = open_storage(workdir, storage)
    self._study: optuna.Study = self._patiently(
      lambda: optuna.create_study(
        storage=self._storage,
        study_name=study_name(workdir, said) + (part and f'-{part}'),
        sampler=make_sampler(search),
        pruner=make_pruner(search, steps, warmup_steps),
        directions=[_DIRECTIONS[mode] for mode in search.modes],
        load_if_exists=True,
      )
    )
    self.leases = Leases(self._storage.engine, self._study.study_name)
    with self.leases.asking():
      self._patiently(lambda: self._check_same(config, data_fingerprint))

  def _check_same(self, config: dict[str, Any], data_fingerprint: str) -> None:
    facts = {
      'search': fixed_part(self._search),
      'config': config,
      'data_fingerprint': data_fingerprint,
    }
    saved = self._study.user_attrs.get('facts')
    if saved is None:
      self._study.set_user_attr('facts', facts)
      self._enqueue()
      return
    changes = changed(saved, json.loads(json.dumps(facts)))
    if changes:
      raise ChangedRunError(
        f'{self.workdir} holds a study that differs (saved -> given):\n  '
        + '\n  '.join(changes)
        + '\nTake the change back, or start in another --workdir. The budget '
        '(search.trials, tokens, hours), workers and population may change.'
      )

  def _enqueue(self) -> None:
    """The points that are tried first: the default, and where the laws point.

    A grid has its own points, each once.
    """
    space = self._search.space
    if self._search.sampler == 'grid':
      return
    for point in (space.default_point(), space.law_point()):
      if point is not None:
        self._study.enqueue_trial(space.params(point), skip_if_exists=True)

  def next_trial(self) -> Trial | None:
    """A trial that a dead worker left behind, else a new one.

    Returns:
      The trial, which this worker holds; None: there is none to be had now.
    """
    with self.leases.asking():
      for trial in self.trials():
        if trial.state == TrialState.RUNNING:
          left = self._take_over(trial.number)
          if left is not None:
            return left
      while not self._spent(self.trials()):
        try:
          begun = self._begin()
        except ExhaustedError:
          break
        if begun is not None:
          return begun
    return None

  def _begin(self) -> Trial | None:
    """A new trial; None: others took it for one that was left behind.

    They do so where this worker was silent for longer than a lease lasts.
    """
    try:
      asked, point = self._patiently(
        lambda: ask(self._study, self._search.space)
      )
    except UpdateFinishedTrialError:
      return None
    taken = self._patiently(lambda: self.leases.take(asked.number))
    return Trial(asked.number, point) if taken else None

  def _take_over(self, number: int) -> Trial | None:
    """A trial that seems to be left behind; None: it is not to be had."""
    if not self._patiently(lambda: self.leases.take(number)):
      return None
    # Only who holds a trial changes it. What was read before may be over: its
    # worker may have ended the trial, and given the lease back, since.
    trial = self._patiently(lambda: self._frozen(number))
    if trial.state.is_finished():
      self.give_back(number)
      return None
    space = self._search.space
    if space.is_complete(trial.params):
      seconds = trial.user_attrs.get(_SECONDS, 0.0)
      return Trial(number, space.point(trial.params), seconds)
    # Its worker ended between two lines of the database.
    self.fail(number, 'It was killed before it was given a point.')
    return None

  def _spent(self, trials: Sequence[FrozenTrial]) -> bool:
    """Whether the budget leaves no further trial."""
    search = self._search
    begun = [t for t in trials if t.state != TrialState.WAITING]
    if len(begun) >= search.trials:
      return True
    tokens = sum(t.user_attrs.get(_TOKENS, 0) for t in trials)
    if search.tokens is not None and tokens >= search.tokens:
      return True
    return search.hours is not None and self.hours() >= search.hours

  def hours(self) -> float:
    """Hours of all workers' time that trials took."""
    seconds = (t.user_attrs.get(_SECONDS, 0.0) for t in self.trials())
    return sum(seconds) / 3600

  def trials(self) -> list[FrozenTrial]:
    """All trials, in their order."""
    return self._patiently(lambda: self._study.get_trials(deepcopy=False))

  def renew(self, numbers: set[int]) -> set[int]:
    """Renews the leases of trials; returns those that others have now.

    A database that is gone is no reason to end what is being computed.
    """
    try:
      return self.leases.renew(numbers)
    except GONE as error:
      self._said(f'The database of the study does not answer: {error}')
      return set()

  def holds(self, number: int) -> bool:
    """Whether this worker still has a trial, whose lease it renews.

    Who was silent for too long has lost it to another, and saves nothing in its
    folder.
    """
    return not self._patiently(lambda: self.leases.renew([number]))

  def give_back(self, number: int) -> None:
    """Lets another worker take a trial that is not done."""
    self._patiently(lambda: self.leases.release(number))

  def unfinished(self) -> int:
    """Trials that other workers hold."""
    return sum(t.state == TrialState.RUNNING for t in self.trials())

  def folder(self, number: int) -> epath.Path:
    """The folder of a trial: that of a run."""
    return trial_folder(self.workdir, self._part, number)

  @property
  def lease_seconds(self) -> float:
    """How long a trial is held without a renewal."""
    return self.leases.seconds

  def report(self, number: int, step: int, value: float) -> bool:
    """Records the first metric at a step; returns whether the trial ends."""

    def work() -> bool:
      trial = self._frozen(number)
      if step not in trial.intermediate_values:
        self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
      return self._study.pruner.prune(self._study, self._frozen(number))

    if len(self._search.metrics) > 1:
      return False
    return self._patiently(work)

  def note(self, number: int, **values: Any) -> None:
    """Keeps facts of a trial: tokens, seconds."""
    for name, value in values.items():
      self._attribute(number, name, value)

  def complete(self, number: int, values: Sequence[float]) -> None:
    """Ends a trial that went its way."""
    self._tell(number, TrialState.COMPLETE, values)

  def prune(self, number: int) -> None:
    """Ends a trial that others are better than."""
    self._tell(number, TrialState.PRUNED, None)

  def fail(self, number: int, reason: str) -> None:
    """Ends a trial that went wrong; it counts as a bad one."""
    if self.holds(number):
      self._attribute(number, _REASON, reason)
    self._tell(number, TrialState.FAIL, None)

  def _attribute(self, number: int, name: str, value: Any) -> None:
    self._patiently(
      lambda: self._storage.set_trial_user_attr(
        self._frozen(number)._trial_id, name, value
      )
    )

  def _tell(
    self, number: int, state: TrialState, values: Sequence[float] | None
  ) -> None:
    def work() -> None:
      # It may have been told before the database was lost.
      if not self._frozen(number).state.is_finished():
        if self.leases.renew([number]):
          self._said(
            f'Trial {number} has another worker by now: that it ended here as '
            f'{state.name} does not count.'
          )
          return
        self._study.tell(number, values, state=state)
      self.leases.release(number)

    self._patiently(work)

  def _frozen(self, number: int) -> FrozenTrial:
    return self._study.get_trials(deepcopy=False)[number]

  def _patiently(self, work: Callable[[], Any]) -> Any:
    return patiently(work, said=self._said)


def trial_folder(workdir: epath.Path, part: str, number: int) -> epath.Path:
  """The folder of a trial of a study, or of a part of it."""
  return workdir / (part or TRIALS) / f'{number:04}'


def open_storage(
  workdir: epath.Path, storage: str | None
) -> optuna.storages.RDBStorage:
  """The study's database."""
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  if storage is not None:
    return patiently(
      lambda: optuna.storages.RDBStorage(
        storage, engine_kwargs={'pool_pre_ping': True}
      )
    )
  workdir.mkdir(parents=True, exist_ok=True)
  file = (workdir / DATABASE_FILE).resolve()
  return optuna.storages.RDBStorage(
    f'sqlite:///{file}', engine_kwargs={'connect_args': {'timeout': 60}}
  )


def study_name(
  workdir: epath.Path, said: Callable[[str], None] = lambda text: None
) -> str:
  """The name of the workdir's study in its database; given once.

  Args:
    workdir: of the study, which all workers share.
    said: is told when this worker has to wait.
  """
  file = workdir / STUDY_FILE
  # Hosts that start at once would each give one.
  with one_at_a_time(workdir / _NAMING_LOCK, said):
    if not file.exists():
      write_json(file, {'name': f'{workdir.name}-{uuid.uuid4().hex[:8]}'})
  return json.loads(file.read_text())['name']


def fixed_part(search: SearchConfig) -> dict[str, Any]:
  """What a study may not change between two starts."""
  return {
    'space': search.space.to_json(),
    'proxy': [[field, value] for field, value in search.proxy],
  } | {
    name: getattr(search, name)
    for name in (
      'metrics', 'modes', 'sampler', 'startup', 'pruner', 'rungs', 'keep',
      'seed',
    )
  }  # fmt: skip


def changed(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
  """What two studies differ in, a line each."""
  before, after = dict(saved['search']), dict(given['search'])
  lines = difference(before.pop('space'), after.pop('space'))
  lines += [
    f'search.{name}: {before[name]} -> {after[name]}'
    for name in before
    if before[name] != after[name]
  ]
  lines += differences(saved['config'], given['config'])
  if saved['data_fingerprint'] != given['data_fingerprint']:
    lines.append(
      f'data fingerprint: {saved["data_fingerprint"]} -> '
      f'{given["data_fingerprint"]}'
    )
  return lines
