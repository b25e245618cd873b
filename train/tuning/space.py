"""The space of a search: its parameters, conditions and constraints.

A point is a dict from the fields that are searched there to their values;
params are the same as a study stores them, by the names of the parameters.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from train.tuning.constraint import Constraint
from train.tuning.parameters import Choice, Parameter

if TYPE_CHECKING:
  from optuna.distributions import BaseDistribution
  from optuna.trial import Trial

Params = dict[str, Any]
Point = dict[str, Any]

# A larger grid is not listed.
LARGEST_GRID = 10_000

# Where an inactive parameter lies in the unit cube. Points in which it is
# inactive do not differ by it.
_INACTIVE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
  """What is searched.

  Attributes:
    parameters: a choice stands before what is searched for some of its values.
    constraints: on fields of the parameters.
    defaults: value of each field where it is not searched, and of the point
      that a search starts from.
    laws: values that a published law gives, of fields searched around it.
  """

  parameters: tuple[Parameter, ...]
  constraints: tuple[Constraint, ...]
  defaults: Mapping[str, Any]
  laws: Mapping[str, float]

  @property
  def names(self) -> tuple[str, ...]:
    """Of the parameters, in a study."""
    return tuple(parameter.name for parameter in self.parameters)

  def distributions(self) -> dict[str, 'BaseDistribution']:
    """Optuna's distribution of each parameter, by name."""
    return {p.name: p.distribution() for p in self.parameters}

  def ask(self, trial: 'Trial') -> Params:
    """The params that a trial of a study has been given."""
    params: Params = {}
    for parameter in self.parameters:
      if self.is_active(parameter, params):
        params[parameter.name] = parameter.ask(trial)
    return params

  def point(self, params: Mapping[str, Any]) -> Point:
    """Values of the fields that are searched at a trial's params."""
    return {
      parameter.field: parameter.to_value(params[parameter.name])
      for parameter in self.active(params)
    }

  def params(self, point: Mapping[str, Any]) -> Params:
    """A trial's params for values of the fields; others are left out."""
    every = {
      parameter.name: parameter.to_param(point[parameter.field])
      for parameter in self.parameters
      if parameter.field in point
    }
    return self.only_active(every)

  def is_active(self, parameter: Parameter, params: Mapping[str, Any]) -> bool:
    """Whether a parameter is searched, given the choices among the params."""
    if parameter.when is None:
      return True
    field, wanted = parameter.when
    choice = self.parameters[self._places[field]]
    return (
      self.is_active(choice, params)
      and choice.name in params
      and choice.to_value(params[choice.name]) in wanted
    )

  def active(self, params: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that are searched, given the choices among the params."""
    return [p for p in self.parameters if self.is_active(p, params)]

  def only_active(self, params: Mapping[str, Any]) -> Params:
    """The params without those of parameters that are not searched there."""
    return {p.name: params[p.name] for p in self.active(params)}

  def is_complete(self, params: Mapping[str, Any]) -> bool:
    """Whether a trial has all params that are searched there."""
    return all(p.name in params for p in self.active(params))

  def default_point(self) -> Point:
    """The configuration's own values."""
    return self.point(
      {p.name: p.to_param(self.defaults[p.field]) for p in self.parameters}
    )

  def law_point(self) -> Point | None:
    """The default point with the laws' values; None where there are none."""
    if not self.laws:
      return None
    point = self.default_point()
    return point | {k: v for k, v in self.laws.items() if k in point}

  def allows(self, params: Mapping[str, Any]) -> bool:
    """Whether params meet all constraints."""
    values = dict(self.defaults) | self.point(params)
    return all(constraint.holds(values) for constraint in self.constraints)

  def units(self, params: Mapping[str, Any]) -> np.ndarray:
    """The place of a trial in the unit cube, unit_D."""
    unit_D = np.full(len(self.parameters), _INACTIVE)
    for place, parameter in enumerate(self.parameters):
      if self.is_active(parameter, params):
        code = parameter.to_code(params[parameter.name])
        unit_D[place] = parameter.units(np.array([code]))[0]
    return unit_D

  def from_units(self, unit_D: np.ndarray) -> Params:
    """The params at a place in the unit cube."""
    return self.only_active(
      {
        p.name: p.from_code(p.codes(unit_D[i : i + 1])[0])
        for i, p in enumerate(self.parameters)
      }
    )

  def snapped(self, unit_ND: np.ndarray) -> np.ndarray:
    """The places that the params at these have; `units(from_units(...))`."""
    snapped_ND = np.stack(
      [p.units(p.codes(u_N)) for p, u_N in self._columns(unit_ND)], axis=1
    )
    return np.where(self.active_at(snapped_ND), snapped_ND, _INACTIVE)

  def active_at(self, unit_ND: np.ndarray) -> np.ndarray:
    """Which parameters are searched at places in the unit cube."""
    active_ND = np.ones(unit_ND.shape, bool)
    for i, parameter in enumerate(self.parameters):
      if parameter.when is None:
        continue
      field, wanted = parameter.when
      above = self._places[field]
      choice = self.parameters[above]
      assert isinstance(choice, Choice)
      code_N = choice.codes(unit_ND[:, above])
      wanted_codes = [choice.choices.index(value) for value in wanted]
      active_ND[:, i] = active_ND[:, above] & np.isin(code_N, wanted_codes)
    return active_ND

  def allowed_at(self, unit_ND: np.ndarray) -> np.ndarray:
    """Which places in the unit cube meet all constraints."""
    allowed_N = np.ones(len(unit_ND), bool)
    if not self.constraints:
      return allowed_N
    active_ND = self.active_at(unit_ND)
    read = {f for constraint in self.constraints for f in constraint.fields}
    values = {
      p.field: np.where(active_ND[:, i], p.values(u_N), self.defaults[p.field])
      for i, (p, u_N) in enumerate(self._columns(unit_ND))
      if p.field in read
    }
    for constraint in self.constraints:
      allowed_N &= constraint.holds(values)
    return allowed_N

  @functools.cached_property
  def _places(self) -> dict[str, int]:
    return {p.field: place for place, p in enumerate(self.parameters)}

  def _columns(
    self, unit_ND: np.ndarray
  ) -> Iterator[tuple[Parameter, np.ndarray]]:
    return zip(self.parameters, unit_ND.T, strict=True)

  @functools.cached_property
  def grid_size(self) -> int | None:
    """Points of the grid; None: it is not finite, or too large to list."""
    bound = math.prod(
      math.inf if p.levels is None else p.levels for p in self.parameters
    )
    if bound > LARGEST_GRID:
      return None
    return sum(1 for _ in self.grid())

  def grid(self) -> Iterator[Params]:
    """All points of a finite space that meet the constraints, each once."""

    def grow(params: Params, rest: tuple[Parameter, ...]) -> Iterator[Params]:
      if not rest:
        yield params
      elif not self.is_active(rest[0], params):
        yield from grow(params, rest[1:])
      else:
        for code in rest[0].grid_codes():
          param = rest[0].from_code(code)
          yield from grow(params | {rest[0].name: param}, rest[1:])

    return filter(self.allows, grow({}, self.parameters))

  def to_json(self) -> dict[str, Any]:
    """The space in plain values, to be kept and compared."""
    return {
      'parameters': {p.field: p.to_json() for p in self.parameters},
      'constraints': sorted(c.text for c in self.constraints),
    }

  def fingerprint(self) -> str:
    """A hash that two spaces share only if they are the same."""
    text = json.dumps(self.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """What `to_json` of two spaces differs in, a line each.

  Args:
    old: of the first space.
    new: of the second.

  Returns:
    Lines such as 'optimizer.learning_rate: low 0.001 -> 0.0001'; none where
    the spaces are equal.
  """
  before, after = old['parameters'], new['parameters']
  lines = []
  for field in sorted(before.keys() | after.keys()):
    if field not in after:
      lines.append(f'{field}: no longer searched')
    elif field not in before:
      lines.append(f'{field}: not searched before')
    elif before[field]['kind'] != after[field]['kind']:
      kinds = f'{before[field]["kind"]} -> {after[field]["kind"]}'
      lines.append(f'{field}: {kinds}')
    else:
      lines += [
        f'{field}: {key} {value} -> {after[field][key]}'
        for key, value in before[field].items()
        if value != after[field][key]
      ]
  earlier, later = old['constraints'], new['constraints']
  lines += [f'constraint dropped: {t}' for t in earlier if t not in later]
  lines += [f'constraint added: {t}' for t in later if t not in earlier]
  return lines
