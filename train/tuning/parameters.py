"""One searched field each: its range, and how points of it are written.

A value is written in four ways: as the field's own ('value'), as the study
stores it ('param'), as a number ('code': the param itself, or the index of a
choice) and in the unit interval, where samplers work ('unit').
"""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from optuna.distributions import BaseDistribution
  from optuna.trial import Trial

# Sums of steps and 1 - beta are written with this many digits: 0.95, and not
# 0.9500000000000001.
_DIGITS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
  """What the kinds below share.

  Attributes:
    field: dotted name in the configuration.
    when: a field that is a choice, and the values of it for which this one is
      searched; None: always.
  """

  field: str
  when: tuple[str, tuple[Any, ...]] | None = None

  @property
  def name(self) -> str:
    """The parameter's name in the study."""
    return self.field

  @property
  def levels(self) -> int | None:
    """How many values there are; None: a continuum."""
    raise NotImplementedError

  def distribution(self) -> 'BaseDistribution':
    """The range, as Optuna has it."""
    raise NotImplementedError

  def ask(self, trial: 'Trial') -> Any:
    """The param that a trial of a study has been given."""
    raise NotImplementedError

  def to_value(self, param: Any) -> Any:
    """The field's value for a param of a study."""
    return param

  def to_param(self, value: Any) -> Any:
    """The param of a study for a value of the field."""
    return value

  def fault(self, value: Any) -> str | None:
    """Why a value of the field is none of the range; None: it is one."""
    raise NotImplementedError

  def codes(self, unit_N: np.ndarray) -> np.ndarray:
    """Codes of points of the unit interval."""
    raise NotImplementedError

  def units(self, code_N: np.ndarray) -> np.ndarray:
    """Points of the unit interval: of a level, the middle of its share."""
    raise NotImplementedError

  def values(self, unit_N: np.ndarray) -> np.ndarray:
    """The field's values, as numbers, at points of the unit interval."""
    return self.codes(unit_N)

  def grid_codes(self) -> np.ndarray:
    """The codes of all levels."""
    assert self.levels is not None
    return self.codes((np.arange(self.levels) + 0.5) / self.levels)

  def from_code(self, code: float) -> Any:
    """The param that has this code."""
    raise NotImplementedError

  def to_code(self, param: Any) -> float:
    """The code of a param."""
    return float(param)

  def to_json(self) -> dict[str, Any]:
    """The range in plain values, to be compared with another."""
    plain = json.loads(json.dumps(dataclasses.asdict(self)))
    return {'kind': type(self).__name__.lower()} | plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Real(Parameter):
  """A float between two bounds.

  Attributes:
    low: lowest value of the param.
    high: highest.
    log: whether octaves of it, and not units, are equally likely.
    one_minus: whether the param is one minus the field's value.
    step: distance of the values; None: a continuum.
  """

  low: float
  high: float
  log: bool = False
  one_minus: bool = False
  step: float | None = None

  @property
  def name(self) -> str:
    """The parameter's name in the study."""
    return f'1 - {self.field}' if self.one_minus else self.field

  @property
  def levels(self) -> int | None:
    """How many values there are; None: a continuum."""
    if self.step is None:
      return None
    return 1 + round((self.high - self.low) / self.step)

  def distribution(self) -> 'BaseDistribution':
    """The range, as Optuna has it."""
    from optuna.distributions import FloatDistribution

    return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

  def ask(self, trial: 'Trial') -> Any:
    """The param that a trial of a study has been given."""
    return trial.suggest_float(
      self.name, self.low, self.high, step=self.step, log=self.log
    )

  def to_value(self, param: float) -> float:
    """The field's value for a param of a study."""
    return _rounded(1 - param) if self.one_minus else param

  def to_param(self, value: float) -> float:
    """The param of a study for a value of the field."""
    return _rounded(1 - value) if self.one_minus else float(value)

  def fault(self, value: Any) -> str | None:
    """Why a value of the field is none of the range; None: it is one."""
    param = self.to_param(value)
    if not self.low <= param <= self.high:
      low, high = sorted(map(self.to_value, (self.low, self.high)))
      return f'{value!r} lies outside {low:.6g} to {high:.6g}'
    if self.step is not None:
      steps = (param - self.low) / self.step
      if abs(steps - round(steps)) > 1e-8:
        return (
          f'{value!r} lies between the steps {self.low!r} + k * {self.step!r}'
        )
    return None

  def codes(self, unit_N: np.ndarray) -> np.ndarray:
    """Codes of points of the unit interval."""
    if self.step is not None and self.levels is not None:
      level_N = _levels(unit_N, self.levels)
      return np.round(self.low + level_N * self.step, _DIGITS)
    if self.log:
      code_N = self.low * (self.high / self.low) ** unit_N
    else:
      code_N = self.low + (self.high - self.low) * unit_N
    return np.clip(code_N, self.low, self.high)

  def units(self, code_N: np.ndarray) -> np.ndarray:
    """Points of the unit interval: of a level, the middle of its share."""
    if self.step is not None and self.levels is not None:
      level_N = np.round((code_N - self.low) / self.step)
      return (level_N + 0.5) / self.levels
    if self.log:
      return np.log(code_N / self.low) / np.log(self.high / self.low)
    return (code_N - self.low) / (self.high - self.low)

  def values(self, unit_N: np.ndarray) -> np.ndarray:
    """The field's values, as numbers, at points of the unit interval."""
    code_N = self.codes(unit_N)
    return 1 - code_N if self.one_minus else code_N

  def from_code(self, code: float) -> float:
    """The param that has this code."""
    return float(code)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Integer(Parameter):
  """An int between two bounds.

  Attributes:
    low: lowest value.
    high: highest.
    log: whether octaves, and not numbers, are equally likely.
    step: distance of the values; 1 with `log`.
  """

  low: int
  high: int
  log: bool = False
  step: int = 1

  @property
  def levels(self) -> int:
    """How many values there are."""
    return 1 + (self.high - self.low) // self.step

  def distribution(self) -> 'BaseDistribution':
    """The range, as Optuna has it."""
    from optuna.distributions import IntDistribution

    return IntDistribution(self.low, self.high, log=self.log, step=self.step)

  def ask(self, trial: 'Trial') -> Any:
    """The param that a trial of a study has been given."""
    return trial.suggest_int(
      self.name, self.low, self.high, step=self.step, log=self.log
    )

  def fault(self, value: Any) -> str | None:
    """Why a value of the field is none of the range; None: it is one."""
    if not self.low <= value <= self.high:
      return f'{value} lies outside {self.low} to {self.high}'
    if (value - self.low) % self.step:
      return f'{value} lies between the steps {self.low} + k * {self.step}'
    return None

  def codes(self, unit_N: np.ndarray) -> np.ndarray:
    """Codes of points of the unit interval."""
    if not self.log:
      return self.low + self.step * _levels(unit_N, self.levels)
    # Half a number beyond the bounds, so that they too are rounded to from
    # both sides.
    low, high = np.log(self.low - 0.5), np.log(self.high + 0.5)
    code_N = np.floor(np.exp(low + (high - low) * unit_N) + 0.5)
    return np.clip(code_N, self.low, self.high).astype(np.int64)

  def units(self, code_N: np.ndarray) -> np.ndarray:
    """Points of the unit interval: of a level, the middle of its share."""
    if not self.log:
      return ((code_N - self.low) // self.step + 0.5) / self.levels
    low, high = np.log(self.low - 0.5), np.log(self.high + 0.5)
    return (np.log(code_N) - low) / (high - low)

  def grid_codes(self) -> np.ndarray:
    """The codes of all levels."""
    return np.arange(self.low, self.high + 1, self.step)

  def from_code(self, code: float) -> int:
    """The param that has this code."""
    return int(code)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
  """One of some values, in no order.

  Attributes:
    choices: None, bools, ints, floats, strings, or tuples of strings.
  """

  choices: tuple[Any, ...]

  @property
  def levels(self) -> int:
    """How many values there are."""
    return len(self.choices)

  @property
  def params(self) -> tuple[Any, ...]:
    """The choices as a study stores them: a tuple is a list in JSON."""
    return tuple(
      json.dumps(choice) if isinstance(choice, tuple) else choice
      for choice in self.choices
    )

  def distribution(self) -> 'BaseDistribution':
    """The range, as Optuna has it."""
    from optuna.distributions import CategoricalDistribution

    return CategoricalDistribution(self.params)

  def ask(self, trial: 'Trial') -> Any:
    """The param that a trial of a study has been given."""
    return trial.suggest_categorical(self.name, self.params)

  def to_value(self, param: Any) -> Any:
    """The field's value for a param of a study."""
    return self.choices[self.params.index(param)]

  def to_param(self, value: Any) -> Any:
    """The param of a study for a value of the field."""
    return self.params[self.choices.index(value)]

  def fault(self, value: Any) -> str | None:
    """Why a value of the field is none of the range; None: it is one."""
    if value in self.choices:
      return None
    return f'{value!r} is none of {self.choices}'

  def codes(self, unit_N: np.ndarray) -> np.ndarray:
    """Codes of points of the unit interval."""
    return _levels(unit_N, self.levels)

  def units(self, code_N: np.ndarray) -> np.ndarray:
    """Points of the unit interval: of a level, the middle of its share."""
    return (code_N + 0.5) / self.levels

  def values(self, unit_N: np.ndarray) -> np.ndarray:
    """The field's values, as numbers, at points of the unit interval."""
    return np.array(self.choices, np.float64)[self.codes(unit_N)]

  def from_code(self, code: float) -> Any:
    """The param that has this code."""
    return self.params[int(code)]

  def to_code(self, param: Any) -> float:
    """The code of a param."""
    return float(self.params.index(param))


def _levels(unit_N: np.ndarray, count: int) -> np.ndarray:
  """Which of so many equal shares of the unit interval each point is in."""
  return np.clip(np.floor(unit_N * count), 0, count - 1).astype(np.int64)


def _rounded(value: float) -> float:
  return float(f'{value:.{_DIGITS}g}')
