"""The winner of a study as a configuration file, ready to fork."""

import textwrap
from collections.abc import Mapping
from typing import Any


def config_file(
  origin: str, values: Mapping[str, Any], defaults: Mapping[str, Any], why: str
) -> str:
  """A file that starts from another one and assigns what was found.

  Args:
    origin: path of the file, such as configs/tiny.py.
    values: of the fields that differ from it.
    defaults: what they are in it.
    why: how the values were found, for the docstring.
  """
  module = origin.removesuffix('.py').rpartition('/')[2]
  changed = {f: v for f, v in values.items() if v != defaults[f]}
  lines = [
    f'"""{module}.py with hyper-parameters that were searched for.',
    '',
    *textwrap.wrap(why, 80),
    '"""',
    '',
    'from ml_collections import ConfigDict',
    '',
    f'from configs import {module}',
    '',
    '',
    'def get_config() -> ConfigDict:',
    '  """Returns the configuration."""',
    f'  config = {module}.get_config()',
  ]
  for field, value in changed.items():
    lines += [
      f'  # {defaults[field]!r} before.',
      f'  config.{field} = {rounded(value)!r}',
    ]
  return '\n'.join([*lines, '  return config', ''])


def difference(
  values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
  """Lines 'field: default -> value' for fields that differ."""
  return [
    f'{field}: {defaults[field]} -> {rounded(value)}'
    for field, value in values.items()
    if value != defaults[field]
  ]


def rounded(value: Any) -> Any:
  """A float in few digits; nobody knows more of it."""
  return float(f'{value:.4g}') if isinstance(value, float) else value
