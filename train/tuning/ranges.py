"""Ranges of a search, from a config file's to checked ones.

To add a kind, write how it is read and enter it in `KINDS`.
"""

import dataclasses
import decimal
import math
from collections.abc import Callable, Mapping
from typing import Any

from train.tuning.parameters import Choice, Integer, Parameter, Real

Law = Callable[[str], float | None]
# More values than this are a continuum, or a mistake in the step.
_MOST_LEVELS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """What is known of a field that is to be searched.

  Attributes:
    name: dotted name.
    default: its value in the configuration.
    law: what published laws say of a field.
  """

  name: str
  default: Any
  law: Law


def read_range(entry: Mapping[str, Any], field: Field) -> Parameter:
  """Reads a range.

  Args:
    entry: what the functions of configs/search.py make.
    field: the field that it names.

  Raises:
    ValueError: it does not fit the field, or is none.
  """
  read, names = KINDS[entry['kind']]
  parameter = read(field, **{name: entry[name] for name in names})
  if entry['when'] is not None:
    parameter = dataclasses.replace(parameter, when=_when(entry, field))
  if field.default is None and not isinstance(parameter, Choice):
    fault: str | None = (
      'None is no number; give the field one, or use choice(...)'
    )
  else:
    fault = parameter.fault(field.default)
  if fault is not None:
    raise ValueError(
      f'search.space: {field.name} has the value {field.default!r} in the '
      f'configuration, which a search starts from, and {fault}.'
    )
  return parameter


def _when(
  entry: Mapping[str, Any], field: Field
) -> tuple[str, tuple[Any, ...]]:
  when = entry['when']
  if (
    not isinstance(when, tuple | list)
    or len(when) != 2
    or not isinstance(when[1], tuple | list)
  ):
    raise ValueError(
      f'search.space: {field.name} has when={when!r}; it takes a field and a '
      "tuple of its values, such as ('optimizer.name', ('muon',))."
    )
  return when[0], tuple(when[1])


def _log(field: Field, low: Any, high: Any) -> Real:
  low, high = _floats(field, low, high)
  _check_positive(field, low)
  return Real(field=field.name, low=low, high=high, log=True)


def _octaves(field: Field, width: Any, around: Any) -> Real:
  _check_number(field, 'width', width)
  if width <= 0:
    raise ValueError(
      f'search.space: {field.name} is searched {width} octaves around its '
      'centre; the width must be above 0.'
    )
  if around == 'law':
    centre = field.law(field.name)
    if centre is None:
      raise ValueError(
        f'search.space: no law gives a value of {field.name}; take octaves '
        "around 'default' or a number."
      )
  else:
    centre = field.default if around == 'default' else around
  if isinstance(centre, bool) or not isinstance(centre, (int, float)):
    raise ValueError(
      f'search.space: octaves of {field.name} lie around {centre!r}; take '
      "'law', 'default' or a number."
    )
  _check_positive(field, centre)
  low, high = _floats(field, centre * 2.0**-width, centre * 2.0**width)
  return Real(field=field.name, low=low, high=high, log=True)


def _one_minus_log(field: Field, low: Any, high: Any) -> Real:
  low, high = _floats(field, low, high)
  _check_positive(field, low)
  if high >= 1:
    raise ValueError(
      f'search.space: 1 - {field.name} is searched up to {high}; it must stay '
      'below 1.'
    )
  return Real(field=field.name, low=low, high=high, log=True, one_minus=True)


def _real(field: Field, low: Any, high: Any, step: Any) -> Real:
  low, high = _floats(field, low, high)
  if step is not None:
    _check_number(field, 'step', step)
    step = float(step)
    _check_step(field, low, high, step)
  return Real(field=field.name, low=low, high=high, step=step)


def _integer(field: Field, low: Any, high: Any, step: Any, log: Any) -> Integer:
  for name, value in (('low', low), ('high', high), ('step', step)):
    if type(value) is not int:
      raise ValueError(
        f'search.space: {name} of {field.name} is {value!r}; it must be an int.'
      )
  if isinstance(field.default, float):
    raise ValueError(
      f'search.space: {field.name} is a float ({field.default}) and has a '
      'range of ints; use real(..., step=1.0).'
    )
  _check_kind(field, int)
  _check_order(field, low, high)
  if log and step != 1:
    raise ValueError(
      f'search.space: {field.name} has log=True and step={step}; octaves have '
      'no steps, so drop one of them.'
    )
  if log:
    _check_positive(field, low)
  _check_step(field, low, high, step)
  return Integer(field=field.name, low=low, high=high, step=step, log=bool(log))


def _choice(field: Field, values: Any) -> Choice:
  choices = tuple(_choice_value(field, value) for value in values)
  if len(choices) < 2 or len(set(choices)) < len(choices):
    raise ValueError(
      f'search.space: {field.name} chooses among {choices}; give two values or '
      'more, each once.'
    )
  return Choice(field=field.name, choices=choices)


def _choice_value(field: Field, value: Any) -> Any:
  value = tuple(value) if isinstance(value, list) else value
  if value is None or field.default is None:
    return value
  wanted = type(field.default)
  if wanted is float and type(value) is int:
    return float(value)
  if type(value) is not wanted:
    raise ValueError(
      f'search.space: {field.name} chooses {value!r}, a '
      f'{type(value).__name__}; the field takes {wanted.__name__}.'
    )
  return value


# How each kind is read, and what a range of it says beside field and condition.
KINDS: dict[str, tuple[Callable[..., Parameter], tuple[str, ...]]] = {
  'log': (_log, ('low', 'high')),
  'octaves': (_octaves, ('width', 'around')),
  'one_minus_log': (_one_minus_log, ('low', 'high')),
  'real': (_real, ('low', 'high', 'step')),
  'integer': (_integer, ('low', 'high', 'step', 'log')),
  'choice': (_choice, ('values',)),
}


def _floats(field: Field, low: Any, high: Any) -> tuple[float, float]:
  """Both bounds of a range of a field that is a float."""
  _check_number(field, 'low', low)
  _check_number(field, 'high', high)
  if type(field.default) is int:
    raise ValueError(
      f'search.space: {field.name} is an int ({field.default}) and has a range '
      'of floats; use integer(...) or choice(...).'
    )
  _check_kind(field, float)
  _check_order(field, low, high)
  return float(low), float(high)


def _check_kind(field: Field, wanted: type) -> None:
  if field.default is not None and type(field.default) is not wanted:
    kind = type(field.default).__name__
    raise ValueError(
      f'search.space: {field.name} is a {kind} ({field.default!r}) and has a '
      'range of numbers; use choice(...).'
    )


def _check_number(field: Field, name: str, value: Any) -> None:
  if type(value) not in (int, float) or not math.isfinite(value):
    raise ValueError(
      f'search.space: {name} of {field.name} is {value!r}; it must be a finite '
      'number.'
    )


def _check_positive(field: Field, low: float) -> None:
  if low <= 0:
    raise ValueError(
      f'search.space: {field.name} is searched by octaves from {low} on; they '
      'begin above 0.'
    )


def _check_order(field: Field, low: float, high: float) -> None:
  if low >= high:
    raise ValueError(
      f'search.space: {field.name} goes from {low} to {high}; low must be less '
      'than high.'
    )


def _check_step(field: Field, low: float, high: float, step: float) -> None:
  if step <= 0:
    raise ValueError(
      f'search.space: the step of {field.name} is {step}; it must be above 0.'
    )
  # In decimal digits, as they were written: 0.3 is three times 0.1.
  first, last, by = (decimal.Decimal(str(value)) for value in (low, high, step))
  if (last - first) % by:
    raise ValueError(
      f'search.space: {field.name} goes from {low} to {high} by {step}, and '
      f'{last - first} is no multiple of {step}; the last value would be '
      f'{last - (last - first) % by}.'
    )
  if (last - first) / by >= _MOST_LEVELS:
    raise ValueError(
      f'search.space: {field.name} has {(last - first) / by:,.0f} steps; give '
      f'fewer than {_MOST_LEVELS:,}, or none.'
    )
