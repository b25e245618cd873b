"""From the point of a trial to its configuration."""

import copy
from collections.abc import Iterable
from typing import Any


def with_values(
  resolved: dict[str, Any], values: Iterable[tuple[str, Any]]
) -> dict[str, Any]:
  """A copy of a configuration with other values.

  Args:
    resolved: the configuration, as JSON holds it.
    values: pairs of dotted field and value.
  """
  changed = copy.deepcopy(resolved)
  for field, value in values:
    *sections, name = field.split('.')
    section = changed
    for part in sections:
      section = section[part]
    assert name in section, field
    section[name] = value
  return changed
