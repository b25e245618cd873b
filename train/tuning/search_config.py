"""The configuration of a search, checked before its first trial."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.config import METRICS, check_choice
from train.tuning.pruners import EARLIEST, PRUNERS
from train.tuning.ranges import Law
from train.tuning.samplers import SAMPLERS
from train.tuning.space import Space
from train.tuning.space_config import check_field, check_once, read_space

MODES = ('min', 'max')
# Metrics of a trial that are no losses.
_OTHER_METRICS = ('parameters', 'step_seconds')
# A Gaussian process takes time that grows with the cube of the trials.
_MOST_FOR_GP = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfirmConfig:
  """Fields of `confirm` in configs/search.py."""

  top: int
  seeds: int
  scale: float | None

  def __post_init__(self):
    _check_least('search.confirm.top', self.top, 0)
    _check_least('search.confirm.seeds', self.seeds, 1)
    _check_above_0('search.confirm.scale', self.scale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """Fields of configs/search.py; `space` has the constraints.

  `sampler` is one of the table, and never 'auto'; a `population` of None is
  chosen by the program.
  """

  space: Space
  metrics: tuple[str, ...]
  modes: tuple[str, ...]
  sampler: str
  startup: int
  pruner: str
  rungs: tuple[float, ...]
  keep: float
  trials: int
  tokens: int | None
  hours: float | None
  seed: int
  population: int | None
  workers: int
  proxy: tuple[tuple[str, Any], ...]
  confirm: ConfirmConfig
  seed_noise: float | None

  def __post_init__(self):
    for name in ('startup', 'trials', 'workers'):
      _check_least(f'search.{name}', getattr(self, name), 1)
    _check_least('search.seed', self.seed, 0)
    if self.tokens is not None:
      _check_least('search.tokens', self.tokens, 1)
    if self.population is not None:
      _check_least('search.population', self.population, 1)
    _check_above_0('search.hours', self.hours)
    if self.seed_noise is not None and not 0 <= self.seed_noise < math.inf:
      raise ValueError(
        f'search.seed_noise is {self.seed_noise}; it must be at least 0.'
      )
    self._check_metrics()
    self._check_rungs()
    self._check_sampler()

  def _check_metrics(self) -> None:
    if not self.metrics or len(self.metrics) != len(self.modes):
      raise ValueError(
        f'search.metrics has {len(self.metrics)} entries and search.modes '
        f'{len(self.modes)}; give a mode for each metric, and at least one.'
      )
    for mode in self.modes:
      check_choice('search.modes', mode, MODES)
    check_once('search.metrics', self.metrics)
    check_choice('search.pruner', self.pruner, tuple(PRUNERS))
    if self.pruner == 'none':
      return
    if len(self.metrics) > 1 or self.metrics[0] in _OTHER_METRICS:
      raise ValueError(
        f'search.pruner = {self.pruner!r} compares trials by one loss on their '
        f'way, and search.metrics is {self.metrics}; set it to '
        "'none'."
      )

  def _check_rungs(self) -> None:
    if self.pruner != 'none' and not self.rungs:
      raise ValueError(
        f'search.pruner = {self.pruner!r} compares at search.rungs, and there '
        "are none; set it to 'none' or give some."
      )
    for rung in self.rungs:
      number = type(rung) in (int, float)
      if not number or not EARLIEST <= rung < 1:
        raise ValueError(
          f'search.rungs has {rung!r}; they lie at {EARLIEST} of the steps or '
          'later, for ranks are noise before, and below 1.'
        )
    if list(self.rungs) != sorted(set(self.rungs)):
      raise ValueError(f'search.rungs = {self.rungs} must rise.')
    if not 0 < self.keep < 1:
      raise ValueError(
        f'search.keep is {self.keep}; it must lie between 0 and 1.'
      )

  def _check_sampler(self) -> None:
    check_choice('search.sampler', self.sampler, tuple(SAMPLERS))
    fault = SAMPLERS[self.sampler].fault(self.space, len(self.metrics))
    if fault is not None:
      raise ValueError(f'search.sampler = {self.sampler!r} {fault}.')
    points = self.space.grid_size
    if self.sampler == 'grid' and points is not None and points > self.trials:
      raise ValueError(
        f"search.sampler = 'grid' visits {points} points, and search.trials "
        f'= {self.trials}; set it to {points}, or take another sampler.'
      )


def search_config(
  mapping: Mapping[str, Any], defaults: Mapping[str, Any], law: Law
) -> SearchConfig:
  """Reads a search.

  Args:
    mapping: what `configs.search.get_search` makes.
    defaults: the configuration's values by dotted name.
    law: what a published law says of a field for this configuration; None:
      there is no law of it.

  Raises:
    ValueError: a field is not there or not to be searched, a range does not
      fit it or leaves its own value out, or two entries contradict each other.
  """
  names = {field.name for field in dataclasses.fields(SearchConfig)}
  search = _fields('search', mapping, names | {'constraints'})
  space = read_space(
    search.pop('space'), tuple(search.pop('constraints')), defaults, law
  )
  metrics = tuple(search['metrics'])
  for metric in metrics:
    check_choice('search.metrics', metric, _metrics(defaults))
  sampler = search['sampler']
  if sampler == 'auto':
    sampler = _automatic(space, search['trials'])
  population = search['population']
  if population == 'auto':
    population = None
  elif type(population) is not int:
    raise ValueError(
      f"search.population is {population!r}; it must be an int or 'auto'."
    )
  confirm = _fields(
    'search.confirm',
    search['confirm'],
    {field.name for field in dataclasses.fields(ConfirmConfig)},
  )
  return SearchConfig(
    **search
    | {
      'space': space,
      'metrics': metrics,
      'modes': tuple(search['modes']),
      'sampler': sampler,
      'rungs': tuple(search['rungs']),
      'population': population,
      'proxy': _proxy(search['proxy'], space, defaults),
      'confirm': ConfirmConfig(**confirm),
    }
  )


def _fields(
  section: str, mapping: Mapping[str, Any], wanted: set[str]
) -> dict[str, Any]:
  """A section as a dict that has the fields it should have."""
  found = {name: mapping[name] for name in mapping}
  for name in found.keys() - wanted:
    near = difflib.get_close_matches(name, wanted, n=1)
    hint = f' Did you mean {section}.{near[0]}?' if near else ''
    raise ValueError(f'There is no field {section}.{name}.{hint}')
  if wanted - found.keys():
    raise ValueError(
      f'{section} lacks {", ".join(sorted(wanted - found.keys()))}; start from '
      'configs/search.py.'
    )
  return found


def _automatic(space: Space, trials: int) -> str:
  """The sampler where the search leaves the choice."""
  if space.grid_size is not None and space.grid_size <= trials:
    return 'grid'
  return 'gp' if trials <= _MOST_FOR_GP else 'tpe'


def _metrics(defaults: Mapping[str, Any]) -> tuple[str, ...]:
  """What an evaluation and a trial will tell."""
  names = [
    field.split('.')[2]
    for field in defaults
    if field.startswith('data.mixture.')
  ]
  losses = (f'loss/{name}' for name in dict.fromkeys(names))
  return (*METRICS, *losses, *_OTHER_METRICS)


def _proxy(
  pairs: Sequence[Any], space: Space, defaults: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
  """Reads the fields that the search sets."""
  for pair in pairs:
    if len(pair) != 2 or not isinstance(pair[0], str):
      raise ValueError(
        f"search.proxy has {pair!r}; it takes pairs such as ('steps', 1_000)."
      )
  proxy = tuple((field, value) for field, value in pairs)
  check_once('search.proxy', [field for field, _ in proxy])
  searched = {parameter.field for parameter in space.parameters}
  for field, value in proxy:
    check_field('search.proxy', field, defaults)
    if field in searched:
      raise ValueError(
        f'search.proxy sets {field} to {value!r}, and search.space searches '
        'it; drop one of them.'
      )
    default = defaults[field]
    as_float = isinstance(default, float) and type(value) is int
    fits = as_float or None in (default, value)
    if not fits and type(value) is not type(default):
      raise ValueError(
        f'search.proxy sets {field} to {value!r}, a {type(value).__name__}; '
        f'it takes {type(default).__name__}.'
      )
  return proxy


def _check_least(field: str, value: int, least: int) -> None:
  if value < least:
    raise ValueError(f'{field} is {value}; it must be at least {least}.')


def _check_above_0(field: str, value: float | None) -> None:
  if value is not None and not 0 < value < math.inf:
    raise ValueError(f'{field} is {value}; it must be above 0, or None.')
