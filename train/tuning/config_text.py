"""A whole configuration as a file that starts from base.py."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from train.workdir import flatten

_WIDTH = 80


def config_text(
  config: dict[str, Any],
  base: dict[str, Any],
  *,
  title: str,
  why: Mapping[str, str],
  notes: Sequence[str],
) -> str:
  """A file that assigns what differs from base.py, ready to run and to fork.

  Args:
    config: as JSON holds it.
    base: base.py's configuration with a mixture of the same names, as JSON
      holds it.
    title: first line of its docstring.
    why: what is said of a field, above its line; these come first.
    notes: further paragraphs of the docstring.
  """
  default, values = flatten(base), flatten(config)
  mixture = config['data']['mixture']
  fields = [f for f in why if f in values]
  fields += [
    f for f in values if f not in why and values[f] != default.get(f, ...)
  ]
  lines = [
    f'"""{title}', *_paragraphs(notes), '"""', '',
    'from ml_collections import ConfigDict', '', 'from configs import base',
    '', '', 'def get_config() -> ConfigDict:',
    '  """Returns the configuration."""', '  config = base.get_config()',
  ]  # fmt: skip
  lines += [f'  config.data.mixture.{n} = base.dataset()' for n in mixture]
  for field in fields:
    if field in why:
      lines += [f'  # {line}' for line in textwrap.wrap(why[field], _WIDTH - 4)]
    lines += _assignment(field, values[field])
  return '\n'.join([*lines, '  return config', ''])


def _paragraphs(notes: Sequence[str]) -> list[str]:
  return [line for text in notes for line in ('', *textwrap.wrap(text, _WIDTH))]


def _assignment(field: str, value: Any) -> list[str]:
  text = _literal(value)
  line = f'  config.{field} = {text}'
  if len(line) <= _WIDTH or not isinstance(value, list):
    return [line]
  return [
    f'  config.{field} = (',
    *(f'    {_literal(item)},' for item in value),
    '  )',
  ]


def _literal(value: Any) -> str:
  """As it is typed: JSON has lists where a configuration has tuples."""
  if isinstance(value, list):
    items = ', '.join(map(_literal, value))
    return f'({items},)' if len(value) == 1 else f'({items})'
  if isinstance(value, int) and not isinstance(value, bool):
    return f'{value:_}' if abs(value) >= 1_000 else str(value)
  return repr(value)
