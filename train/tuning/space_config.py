"""The space of a search, from a config file's to a checked one."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from train.tuning.constraint import Constraint, parse
from train.tuning.parameters import Choice, Parameter
from train.tuning.ranges import KINDS, Field, Law, read_range
from train.tuning.space import Space

_NO_NUMBER = 'it changes no number of a trial'
# Fields, and sections with their fields, that are not searched, and why.
_NOT_SEARCHED = {
  'data': 'trials on other data have losses that cannot be compared',
  'evaluation': 'trials that are measured in other ways cannot be compared',
  'steps': 'the longest trial would win; search.proxy sets it for all of them',
  'seed': 'luck is no hyper-parameter; search.confirm.seeds repeats the best',
  'search': 'a search does not search itself',
  'planning': _NO_NUMBER,
  'runtime': _NO_NUMBER,
  'log': _NO_NUMBER,
  'checkpoint': _NO_NUMBER,
  'watchdog': _NO_NUMBER,
  'device_check': _NO_NUMBER,
}


# Random points that a space is looked at by, and how many must be allowed.
_LOOKS, _FEWEST_ALLOWED = 8_192, 8


def read_space(
  entries: Sequence[Any],
  texts: Sequence[str],
  defaults: Mapping[str, Any],
  law: Law,
) -> Space:
  """Reads what is searched.

  Args:
    entries: `space` of configs/search.py.
    texts: `constraints` of it.
    defaults: the configuration's values by dotted name.
    law: what a published law says of a field.

  Raises:
    ValueError: a part is wrong, or the parts do not fit together.
  """
  if not entries:
    raise ValueError(
      'search.space is empty; give it ranges such as '
      "log('optimizer.learning_rate', 1e-4, 1e-1)."
    )
  entries = [_entry(entry) for entry in entries]
  check_once('search.space', [entry['field'] for entry in entries])
  parameters = [_parameter(entry, defaults, law) for entry in entries]
  by_field = {parameter.field: parameter for parameter in parameters}
  for parameter in parameters:
    _check_condition(parameter, by_field)
  space = Space(
    parameters=tuple(_parents_first(by_field)),
    constraints=tuple(_constraint(text, by_field) for text in texts),
    defaults={field: defaults[field] for field in by_field},
    laws={
      field: float(value)
      for field in (e['field'] for e in entries if e.get('around') == 'law')
      if (value := law(field)) is not None
    },
  )
  _check_constraints(space)
  return space


def check_once(name: str, values: Iterable[str]) -> None:
  """Raises ValueError if a value is there twice."""
  values = list(values)
  for value in values:
    if values.count(value) > 1:
      raise ValueError(f'{name} has {value!r} twice.')


def check_field(name: str, field: str, defaults: Mapping[str, Any]) -> None:
  """Raises ValueError unless the configuration has a field."""
  if field in defaults:
    return
  if any(known.startswith(f'{field}.') for known in defaults):
    raise ValueError(f'{name}: {field} is a section; name one of its fields.')
  # A mistake in the section is as likely as one in the field's own name.
  last = {known.rpartition('.')[2]: known for known in defaults}
  near = difflib.get_close_matches(field, list(defaults), n=1) or [
    last[match]
    for match in difflib.get_close_matches(
      field.rpartition('.')[2], list(last), n=1
    )
  ]
  hint = f' Did you mean {near[0]}?' if near else ''
  raise ValueError(f'{name}: there is no field {field}.{hint}')


def _entry(entry: Any) -> dict[str, Any]:
  """A range as a dict, whatever mapping it is."""
  try:
    found = {key: entry[key] for key in entry}
    _, names = KINDS[found['kind']]
    complete = found.keys() == {'kind', 'field', 'when', *names}
  except (TypeError, KeyError):
    complete = False
  if not complete:
    raise ValueError(
      f'search.space has {entry!r}; it takes what log(...), octaves(...), '
      'one_minus_log(...), real(...), integer(...) and choice(...) of '
      'configs/search.py make, in a tuple.'
    )
  return found


def _parameter(
  entry: dict[str, Any], defaults: Mapping[str, Any], law: Law
) -> Parameter:
  field = entry['field']
  for name in (field, field.partition('.')[0]):
    if name in _NOT_SEARCHED:
      raise ValueError(
        f'search.space: {field} is not searched: {_NOT_SEARCHED[name]}.'
      )
  check_field('search.space', field, defaults)
  return read_range(entry, Field(name=field, default=defaults[field], law=law))


def _check_condition(
  parameter: Parameter, by_field: Mapping[str, Parameter]
) -> None:
  if parameter.when is None:
    return
  above, wanted = parameter.when
  choice = by_field.get(above)
  if not isinstance(choice, Choice) or choice is parameter:
    raise ValueError(
      f'search.space: {parameter.field} is searched when {above} has some '
      f'values, and {above} must be another field of the space, a choice(...).'
    )
  unknown = [value for value in wanted if value not in choice.choices]
  if unknown or not wanted:
    raise ValueError(
      f'search.space: {parameter.field} is searched when {above} is one of '
      f'{wanted}, and it chooses among {choice.choices}.'
    )


def _parents_first(by_field: Mapping[str, Parameter]) -> list[Parameter]:
  """The parameters in their order, but each after the choice it hangs on."""
  ordered: dict[str, Parameter] = {}

  def add(parameter: Parameter, below: tuple[str, ...]) -> None:
    if parameter.field in below:
      raise ValueError(
        f'search.space: the conditions of {", ".join(below)} go in a circle.'
      )
    if parameter.when is not None:
      add(by_field[parameter.when[0]], (*below, parameter.field))
    ordered[parameter.field] = parameter

  for parameter in by_field.values():
    add(parameter, ())
  return list(ordered.values())


def _constraint(text: str, by_field: Mapping[str, Parameter]) -> Constraint:
  constraint = parse(text)
  for field in constraint.fields:
    parameter = by_field.get(field)
    if parameter is None:
      raise ValueError(
        f'The constraint {text!r} names {field}, which is not in search.space.'
      )
    if isinstance(parameter, Choice) and not all(
      type(value) in (int, float) for value in parameter.choices
    ):
      raise ValueError(
        f'The constraint {text!r} names {field}, which chooses among '
        f'{parameter.choices}: not all of them are numbers.'
      )
  return constraint


def _check_constraints(space: Space) -> None:
  points = {'The configuration': space.default_point()}
  law_point = space.law_point()
  if law_point is not None:
    points["The laws' point"] = law_point
  for name, point in points.items():
    values = dict(space.defaults) | point
    for constraint in space.constraints:
      if not constraint.holds(values):
        given = ', '.join(f'{f} = {values[f]!r}' for f in constraint.fields)
        raise ValueError(
          f'{name} breaks the constraint {constraint.text!r}: '
          f'{constraint.explain(values)} is false ({given}), and it is where '
          'the search begins.'
        )
  unit_ND = np.random.default_rng(0).random((_LOOKS, len(space.parameters)))
  allowed = int(space.allowed_at(unit_ND).sum())
  if allowed < _FEWEST_ALLOWED and space.grid_size is None:
    raise ValueError(
      f'search.constraints allow {allowed} of {_LOOKS:,} random points of '
      'search.space; narrow the ranges to where they hold.'
    )
