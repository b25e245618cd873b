"""Compares a configuration with base.py, field by field, and saves it as JSON.

The two are one subject: what comes back from JSON is checked like what comes
from a file.
"""

import difflib
import json
import math
from typing import Any

from ml_collections import ConfigDict

from configs import base

# Fields that have a default, and that None switches off.
_MAY_BE_NONE = (
  'optimizer.clip_norm', 'watchdog.minutes', 'watchdog.startup_minutes',
)  # fmt: skip
_MAX_INT = (1 << 63) - 1


def check(config: Any) -> ConfigDict:
  """Returns the configuration if it has base.py's fields and types.

  Raises:
    ValueError: a field is unknown, missing or of another type.
  """
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f'get_config() returned a {type(config).__name__}; return the ConfigDict '
      'that configs.base.get_config() makes.'
    )
  known, given = fields(default_of(config.to_dict())), fields(config)
  for name in given:
    if name not in known:
      raise ValueError(unknown_field(name, known))
  for name in known:
    if name not in given:
      raise ValueError(f'config.{name} is missing; start from configs/base.py.')
  for name, (value, wanted) in known.items():
    _check_type(name, given[name][0], value, wanted)
  _check_mixture(known, given)
  return config


def default_of(config: dict[str, Any]) -> ConfigDict:
  """base.py's configuration, with a mixture of the same names."""
  default = base.get_config()
  data = config.get('data')
  mixture = data.get('mixture') if isinstance(data, dict) else None
  for name, dataset in (mixture if isinstance(mixture, dict) else {}).items():
    if not isinstance(dataset, dict):
      raise ValueError(
        f'config.data.mixture.{name} is {dataset!r}; it takes what'
        ' configs.base.dataset() makes.'
      )
    default.data.mixture[name] = base.dataset()
  return default


def _check_mixture(known: dict[str, Any], given: dict[str, Any]) -> None:
  """Refuses fields of the one dataset where there are several."""
  names = {
    name.split('.')[2] for name in given if name.startswith('data.mixture.')
  }
  if not names:
    return
  for field in fields(base.dataset()):
    name = f'data.{field}'
    if name in given and given[name][0] != known[name][0]:
      raise ValueError(
        f'config.{name} is {given[name][0]!r}, and config.data.mixture says'
        ' what to train on: set config.data.mixture.NAME.'
        f'{field} for {", ".join(sorted(names))}, or empty the mixture.'
      )


def unknown_field(name: str, known: Any, flag: str = 'config') -> str:
  """An error message that names the field most like the unknown one."""
  last = name.rpartition('.')[2]
  by_last = {k.rpartition('.')[2]: k for k in known}
  near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6) or [
    by_last[match]
    for match in difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.6)
  ]
  hint = f' Did you mean {flag}.{near[0]}?' if near else ''
  return f'There is no field {flag}.{name}.{hint}'


def fields(
  config: ConfigDict, prefix: str = ''
) -> dict[str, tuple[Any, type | None]]:
  """Dotted name of each field, with its value and declared type."""
  flat: dict[str, tuple[Any, type | None]] = {}
  for name in config:
    value = config[name]
    if isinstance(value, ConfigDict):
      flat |= fields(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = (value, config.get_type(name))
  return flat


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """The configuration as JSON holds it: lists in place of tuples."""
  return json.loads(json.dumps(config.to_dict()))


def from_json(text: bytes, name: str) -> ConfigDict:
  """The configuration that a run saved.

  Args:
    text: of the file.
    name: of the file, for messages.

  Raises:
    ValueError: it is no configuration, or does not fit base.py any more.
  """
  try:
    saved = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{name} is not JSON: {error}') from None
  if not isinstance(saved, dict):
    raise ValueError(f'{name} holds no configuration.')
  return from_dict(saved)


def from_dict(saved: dict[str, Any]) -> ConfigDict:
  """The configuration that `to_dict` made a dict of.

  Raises:
    ValueError: it does not fit base.py any more.
  """
  config = default_of(saved)
  known = fields(config)
  try:
    given = ConfigDict(saved)
  except (ValueError, TypeError, AttributeError) as error:
    raise ValueError(f'This is no configuration: {error}') from None
  for name, (value, _) in fields(given).items():
    if name not in known:
      raise ValueError(unknown_field(name, known))
    value = tuple(value) if isinstance(value, list) else value
    _check_type(name, value, *known[name])
    config.update_from_flattened_dict({name: value})
  return check(config)


def _check_type(name: str, value: Any, default: Any, wanted: Any) -> None:
  if value is None and (default is None or name in _MAY_BE_NONE):
    return
  # A bool is an int to Python, and not to a reader; an int is a fine float.
  fits = isinstance(value, wanted) and (
    isinstance(value, bool) == (wanted is bool)
  )
  if not fits and not (wanted is float and type(value) is int):
    raise ValueError(
      f'config.{name} is {value!r}, a {type(value).__name__}; it takes '
      f'{wanted.__name__}.'
    )
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError(f'config.{name} is {value}; it takes a finite number.')
  if type(value) is int and abs(value) > _MAX_INT:
    raise ValueError(f'config.{name} has more than 64 bits.')
  if wanted is tuple and not all(isinstance(item, str) for item in value):
    raise ValueError(f'config.{name} is {value!r}; it takes strings.')
