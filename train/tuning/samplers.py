"""Who suggests the next trial.

A sampler is a generator of params; to add one, write it and enter it in
`SAMPLERS`. What it yields is a function of the space, of the other trials, of
the search's seed and of the trial's number: a search that is resumed goes on as
if it had never stopped, and suggests nothing twice.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy.stats import qmc

from train.tuning.history import History, key, params_of, read_history
from train.tuning.parameters import Choice
from train.tuning.sampler_cmaes import suggest_cmaes
from train.tuning.sampler_gp import suggest_gp
from train.tuning.sampler_tpe import suggest_tpe
from train.tuning.space import LARGEST_GRID, Params, Point, Space

if TYPE_CHECKING:
  from train.tuning.search_config import SearchConfig

# Suggestions of a sampler that are looked at, and then random ones, before
# none is found that meets the constraints and was not tried.
_TRIES, _DRAWS = 16, 16_384
_BLOCK = 256


class ExhaustedError(ValueError):
  """All points of the space have been tried."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """What a suggestion depends on.

  Attributes:
    space: of the search.
    seed: of the search.
    number: of the trial.
    before: the trials with lower numbers, in their order.
    history: all other trials.
    rng: derived from seed and number.
  """

  space: Space
  seed: int
  number: int
  before: tuple[FrozenTrial, ...]
  history: History
  rng: np.random.Generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
  """An entry of the table.

  Attributes:
    suggest: yields params, the best first.
    learns: whether it needs finished trials; those before are random.
    fault: why it cannot search a space by so many metrics; None: it can.
  """

  suggest: Callable[[Question], Iterator[Params]]
  learns: bool = False
  fault: Callable[[Space, int], str | None] = lambda space, metrics: None


def _random(question: Question) -> Iterator[Params]:
  """Points that are equally likely everywhere."""
  space = question.space
  for _ in range(_DRAWS // _BLOCK):
    unit_ND = question.rng.random((_BLOCK, len(space.parameters)))
    yield from map(space.from_units, unit_ND[space.allowed_at(unit_ND)])


def _grid(question: Question) -> Iterator[Params]:
  """All points of a finite space, in an order that the seed gives."""
  points = list(question.space.grid())
  order_N = np.random.default_rng(question.seed).permutation(len(points))
  return _untaken(question, (points[i] for i in order_N))


def _qmc(question: Question) -> Iterator[Params]:
  """A scrambled Sobol sequence, without what the constraints leave out."""
  space = question.space
  engine = qmc.Sobol(
    len(space.parameters),
    scramble=True,
    rng=np.random.default_rng(question.seed),
  )
  blocks = (engine.random(_BLOCK) for _ in range(_DRAWS // _BLOCK))
  allowed = (unit_ND[space.allowed_at(unit_ND)] for unit_ND in blocks)
  return _untaken(
    question, map(space.from_units, itertools.chain.from_iterable(allowed))
  )


def _untaken(
  question: Question, sequence: Iterator[Params]
) -> Iterator[Params]:
  """What is left of a sequence that each trial takes the first free one of.

  Another process may have made trials that have no params yet. They will take
  what is first for them, and are numbered: no lock is needed.
  """
  taken = set()
  for trial in question.before:
    params = params_of(trial, question.space)
    if params is not None:
      taken.add(key(params))
    elif not trial.state.is_finished():
      first = next((p for p in sequence if key(p) not in taken), None)
      taken |= set() if first is None else {key(first)}
  return (params for params in sequence if key(params) not in taken)


def _grid_fault(space: Space, metrics: int) -> str | None:
  del metrics
  if space.grid_size is not None:
    return None
  endless = [p.field for p in space.parameters if p.levels is None]
  if endless:
    return (
      f'needs a finite space, and {", ".join(endless)} may have any value '
      'between two: give real(..., step=...) or choice(...)'
    )
  return f'lists up to {LARGEST_GRID:,} points, and the space has more'


def _cmaes_fault(space: Space, metrics: int) -> str | None:
  if metrics > 1:
    return f'makes one metric best, and there are {metrics}'
  if all(isinstance(parameter, Choice) for parameter in space.parameters):
    return 'needs a range of numbers, and the space is made of choices'
  return None


def _learning(
  suggest: Callable[[Space, History, np.random.Generator], Iterator[Params]],
  **rest: Any,
) -> Sampler:
  return Sampler(
    suggest=lambda q: suggest(q.space, q.history, q.rng), learns=True, **rest
  )


SAMPLERS: dict[str, Sampler] = {
  'random': Sampler(suggest=_random),
  'grid': Sampler(suggest=_grid, fault=_grid_fault),
  'qmc': Sampler(suggest=_qmc),
  'tpe': _learning(suggest_tpe),
  'cmaes': _learning(suggest_cmaes, fault=_cmaes_fault),
  'gp': _learning(suggest_gp),
}


def suggest(sampler: Sampler, question: Question, startup: int) -> Params:
  """The next params: allowed by the constraints, and not tried before.

  Args:
    sampler: who suggests.
    question: what it is told.
    startup: trials at random before it learns.

  Raises:
    ExhaustedError: the space is finite and has no other point.
    ValueError: none was found that meets the constraints.
  """
  space, history = question.space, question.history
  known = len(history.finished) + len(history.pending)
  early = known < startup or not history.finished
  suggested = (
    iter(())
    if sampler.learns and early
    else itertools.islice(sampler.suggest(question), _TRIES)
  )
  # Random ones where all are taken that the sampler thinks of.
  for params in itertools.chain(suggested, _random(question)):
    if key(params) not in history.tried and space.allows(params):
      return params
  if space.grid_size is not None:
    for params in space.grid():
      if key(params) not in history.tried:
        return params
    raise ExhaustedError(_exhausted(space))
  raise ValueError(
    f'None of {_DRAWS:,} random points of search.space is new and meets '
    'search.constraints; narrow the ranges to where they hold.'
  )


class StudySampler(optuna.samplers.BaseSampler):
  """A sampler of the table, for studies of Optuna.

  Args:
    name: in the table.
    space: of the search.
    modes: 'min' or 'max' for each metric of the study.
    seed: of the search.
    startup: trials at random before it learns.
  """

  def __init__(
    self,
    name: str,
    space: Space,
    modes: Sequence[str],
    *,
    seed: int,
    startup: int,
  ):
    # Optuna tells of each study and trial, and the search does so itself.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    self._sampler = SAMPLERS[name]
    self._space, self._modes = space, tuple(modes)
    self._seed, self._startup = seed, startup

  def infer_relative_search_space(
    self, study: optuna.Study, trial: FrozenTrial
  ) -> dict[str, BaseDistribution]:
    """All parameters: a point is suggested as a whole."""
    return self._space.distributions()

  def sample_relative(
    self,
    study: optuna.Study,
    trial: FrozenTrial,
    search_space: dict[str, BaseDistribution],
  ) -> dict[str, Any]:
    """The params of a trial."""
    if fixed := trial.system_attrs.get('fixed_params'):
      raise ValueError(
        f'Trial {trial.number} was enqueued with {sorted(fixed)} only; give all'
        ' params of the point.'
      )
    others = [
      t for t in study.get_trials(deepcopy=False) if t.number != trial.number
    ]
    return suggest(
      self._sampler,
      Question(
        space=self._space,
        seed=self._seed,
        number=trial.number,
        before=tuple(t for t in others if t.number < trial.number),
        history=read_history(others, self._space, self._modes),
        rng=np.random.default_rng([self._seed, trial.number]),
      ),
      self._startup,
    )

  def sample_independent(
    self,
    study: optuna.Study,
    trial: FrozenTrial,
    param_name: str,
    param_distribution: BaseDistribution,
  ) -> Any:
    """Refuses: a parameter outside the space, or not searched at this point."""
    raise ValueError(
      f'Trial {trial.number} has no {param_name!r}: it is not searched there.'
    )


def ask(study: optuna.Study, space: Space) -> tuple[Trial, Point]:
  """Makes the next trial of a study that has a `StudySampler`.

  Args:
    study: the study.
    space: of the search.

  Returns:
    The trial, which runs now, and the values of the fields it is searched at.

  Raises:
    ExhaustedError: all points of a finite space have been tried; no trial is
      made then.
    ValueError: there is no point that meets the constraints.
  """
  trials = study.get_trials(deepcopy=False)
  waiting = any(trial.state == TrialState.WAITING for trial in trials)
  if not waiting and _is_exhausted(space, trials):
    raise ExhaustedError(_exhausted(space))
  trial = study.ask()
  try:
    params = space.ask(trial)
  except ValueError:
    # Nobody else would end it.
    study.tell(trial, state=TrialState.FAIL)
    raise
  return trial, space.point(params)


def _is_exhausted(space: Space, trials: Sequence[FrozenTrial]) -> bool:
  if space.grid_size is None:
    return False
  tried = {
    key(params)
    for params in (params_of(trial, space) for trial in trials)
    if params is not None
  }
  return len(tried) >= space.grid_size


def _exhausted(space: Space) -> str:
  return f'All {space.grid_size} points of search.space have been tried.'


def make_sampler(search: 'SearchConfig') -> StudySampler:
  """The sampler that a search asks for."""
  return StudySampler(
    search.sampler,
    search.space,
    search.modes,
    seed=search.seed,
    startup=search.startup,
  )
